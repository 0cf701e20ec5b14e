"""Feature extractors: torch-fidelity's Inception, and a classifier of the dataset's own labels.

Only distances of Inception features may be called FID. N images, B batch, C H W image, D features.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import filelock
import torch
import torch_fidelity
from torch import Tensor
from torch_fidelity.utils import create_feature_extractor

from mocalib.config import paths
from mocalib.config.run import FEATURES
from mocalib.data.cache import Dataset
from mocalib.evaluation import classifiers
from mocalib.evaluation.classifiers import BATCH
from mocalib.storage import files

INCEPTION = "weights-inception-2015-12-05-6726825d.pth"  # torch-fidelity's
INCEPTION_SHA256 = "6726825d"


class Extractor(NamedTuple):
    """A feature extractor, with the sha256 of its weights file."""

    name: str  # one of FEATURES
    digest: str
    device: torch.device | str
    batch_features: Callable[[Tensor], Tensor]  # uint8 B 3 H W to B D, on the device

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
    """Return an extractor on a device: "inception", or the dataset's own "classifier".

    `weights` is a file of Inception's weights; by default the one in torch's hub folder, else torch-fidelity's
    download. The classifier of digits is committed; others are trained once on the training labels. Raises as `check`.
    """
    check(name, dataset, weights)
    if name == "inception":
        path, digest = inception_weights(weights)
        inception = create_feature_extractor(
            "inception-v3-compat", ["2048"], cuda=False, feature_extractor_weights_path=str(path), verbose=False
        ).to(device)
        return Extractor(name, digest, device, lambda batch: inception(batch)[0])
    path, digest = classifier_weights(dataset, dataset_name)
    net = classifiers.read(path).to(device)
    return Extractor(name, digest, device, lambda batch: net.features(batch.float() / 255))


def check(name: str, dataset: Dataset, weights: Path | str | None = None) -> None:
    """Raise what `build` would raise, before hours of training.

    FileNotFoundError if Inception's weights are missing and cannot be downloaded; ValueError for a wrong file, or for a
    dataset without labels or with a single test image. "" and "none" need nothing.
    """
    if weights and name != "inception":
        raise ValueError(f"{weights} are weights for features 'inception', but features = {name!r}")
    if name in FEATURES and len(dataset.test.images) < 2:
        raise ValueError(f"features {name!r}: one test image has no covariance; use features 'none'")
    if name == "inception":
        inception_weights(weights)
    elif name == "classifier" and dataset.train.labels is None:
        raise ValueError("features 'classifier' need class labels; this dataset has none: use 'inception' or 'none'")


def inception_weights(given: Path | str | None = None) -> tuple[Path, str]:
    """Inception's checked weights and their sha256: the given file, the placed one, or torch-fidelity's download."""
    placed = Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION
    path = Path(given) if given else placed
    way_out = (
        f"Place {INCEPTION} (96 MB, from torch-fidelity's releases) at {placed}, or pass its path as weights "
        "(inception_weights in notebooks); features 'none', or 'classifier' for data with labels, need no such file"
    )
    if not path.exists() and not given:
        url = torch_fidelity.feature_extractor_inceptionv3.URL_INCEPTION_V3
        try:
            files.download(url, placed, INCEPTION_SHA256)
        except (OSError, RuntimeError) as error:
            raise FileNotFoundError(f"Inception's weights: {url}: {error}. {way_out}") from None
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist. {way_out}")
    if not (digest := files.sha256(path)).startswith(INCEPTION_SHA256):
        raise ValueError(
            f"{path} is not Inception's weights: its sha256 is {digest[:8]}..., not {INCEPTION_SHA256}.... {way_out}"
        )
    return path, digest


def classifier_weights(dataset: Dataset, dataset_name: str) -> tuple[Path, str]:
    """The dataset's own classifier and its sha256: the committed one, checked, or one trained now and kept."""
    if (committed := paths.FEATURES / f"{dataset_name}.pt").exists():
        return committed, committed_digest(committed)
    path = paths.CACHE / "features" / f"classifier-{dataset.fingerprint[:16]}.pt"
    with files.writing(path), filelock.FileLock(path.with_suffix(".lock")):  # only one of several processes trains it
        if not path.exists():
            classifiers.train(dataset, path)
    return path, files.sha256(path)


def committed_digest(path: Path) -> str:
    """sha256 of committed weights. ValueError if their record has another, FileNotFoundError if it is missing."""
    if not (record := path.with_suffix(".json")).exists():
        raise FileNotFoundError(f"{record}, the record of {path.name}, is missing; restore it with git")
    expected = json.loads(record.read_text("utf-8"))["sha256"]
    if (found := files.sha256(path)) != expected:
        raise ValueError(f"{path} is damaged: its sha256 is {found}, not {expected}; restore it with git")
    return found


def cached_features(extractor: Extractor, images: Tensor, fingerprint: str, split: str) -> Tensor:
    """Features of the first n real images of a split, kept under fingerprint, split, n and the extractor's digest."""
    name = f"{fingerprint[:16]}-{split}-{len(images)}-{extractor.name}-{extractor.digest[:16]}.pt"
    return files.kept(paths.CACHE / "features" / name, lambda: extractor(images))
