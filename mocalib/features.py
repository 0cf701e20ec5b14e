"""Feature extractors for torch-fidelity: Inception, and a classifier of a dataset's own labels.

Only Inception's distance may be called FID. N images, C H W image, D features.
"""

import json
from pathlib import Path
from typing import NamedTuple

import filelock
import torch
import torch_fidelity
from torch import Tensor, nn
from torch_fidelity.utils import create_feature_extractor, get_featuresdict_from_dataset

from mocalib import classifiers, files, paths
from mocalib.classifiers import BATCH
from mocalib.config import FEATURES
from mocalib.data import Dataset

INCEPTION = "weights-inception-2015-12-05-6726825d.pth"  # torch-fidelity's; the name ends in its sha256's first digits
INCEPTION_SHA256 = "6726825d"


class Extractor(NamedTuple):
    """A torch-fidelity extractor with the layer it is read at and the sha256 of its weights file."""

    name: str  # one of FEATURES
    digest: str
    layer: str
    module: nn.Module

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Features N D (float32, CPU) of images N C H W (uint8; one channel is shown as three equal ones)."""
        if images.dtype != torch.uint8:
            raise ValueError(f"features are taken of uint8 images, as files hold them, not of {images.dtype}")
        cuda = next(self.module.parameters()).is_cuda
        found = get_featuresdict_from_dataset(_RGB(images), self.module, BATCH, cuda, save_cpu_ram=True, verbose=False)
        return found[self.layer]


class _RGB(torch.utils.data.Dataset):
    """Bare uint8 C H W tensors of three channels, the only input that every extractor takes."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> Tensor:
        return self.images[i].expand(3, -1, -1)


def build(
    name: str, dataset: Dataset, dataset_name: str, weights: Path | None = None, device: torch.device | str = "cpu"
) -> Extractor:
    """Return an extractor on a device: "inception", or a dataset's own "classifier".

    `weights` is a file of Inception's weights (default: the one in torch's hub folder, else torch-fidelity's
    download). A classifier's are committed for digits, else trained once on the training labels. Raises as `check`.
    """
    check(name, dataset, weights)
    if name == "inception":
        path, digest = inception_weights(weights)
        registered, layer = "inception-v3-compat", "2048"
    else:
        path, digest = classifier_weights(dataset, dataset_name)
        registered, layer = f"mocalib-classifier-{digest[:16]}", "features"  # a name a file: the registry keeps names
        if registered not in torch_fidelity.registry.FEATURE_EXTRACTORS_REGISTRY:
            torch_fidelity.register_feature_extractor(registered, ClassifierFeatures)
    module = create_feature_extractor(
        registered,
        [layer],
        cuda=torch.device(device).type == "cuda",
        feature_extractor_weights_path=str(path),
        verbose=False,
    )
    return Extractor(name, digest, layer, module)


def check(name: str, dataset: Dataset, weights: Path | str | None = None) -> None:
    """Raise what `build` would raise for want of weights or labels: for use before hours of training.

    FileNotFoundError where Inception's weights are not to be had, ValueError for a wrong file, an unknown name, a
    dataset without labels or with a single test image. "" and "none" ask for no features.
    """
    if weights and name != "inception":
        raise ValueError(f"{weights} are weights for features 'inception', but features = {name!r}")
    if name in FEATURES and len(dataset.test.images) < 2:
        raise ValueError(f"features {name!r}: one test image has no covariance; use features 'none'")
    if name == "inception":
        inception_weights(weights)
    elif name == "classifier" and dataset.train.labels is None:
        raise ValueError(
            "features 'classifier' need class labels, and this dataset has none; use features 'inception' or 'none'"
        )
    elif name not in ("", "none", *FEATURES):
        raise ValueError(f"features = {name!r} is not one of {', '.join(map(repr, FEATURES))}, 'none'")


def meant(name: str | None, classes: bool) -> str:
    """The extractor that a name means; by default a dataset's own classifier, where it has classes."""
    return name or ("classifier" if classes else "none")


def inception_weights(given: Path | str | None = None) -> tuple[Path, str]:
    """Inception's checked weights and their sha256: the given file, the placed one, or torch-fidelity's download."""
    placed = Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION
    path = Path(given) if given else placed
    if not path.exists() and not given:
        url = torch_fidelity.feature_extractor_inceptionv3.URL_INCEPTION_V3
        try:
            files.download(url, placed, INCEPTION_SHA256)
        except (OSError, RuntimeError) as error:
            raise FileNotFoundError(f"Inception's weights: {url}: {error}. {_inception_help(placed)}") from None
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist. {_inception_help(placed)}")
    if not (digest := files.sha256(path)).startswith(INCEPTION_SHA256):
        raise ValueError(
            f"{path} is not Inception's weights: its sha256 is {digest[:8]}..., not {INCEPTION_SHA256}.... "
            f"{_inception_help(placed)}"
        )
    return path, digest


def _inception_help(placed: Path) -> str:
    return (
        f"Place {INCEPTION} (96 MB, from torch-fidelity's releases) at {placed}, or pass its path as weights "
        "(inception_weights in notebooks); features 'classifier' needs none, where there are labels, nor does 'none'"
    )


class ClassifierFeatures(torch_fidelity.FeatureExtractorBase):
    """The classifier as torch-fidelity wants it: uint8 N 3 H W in, a tuple of features out."""

    def __init__(self, name: str, features_list: list[str], feature_extractor_weights_path: str, **kwargs) -> None:
        super().__init__(name, features_list)
        self.net = classifiers.read(Path(feature_extractor_weights_path))
        self.eval()

    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (self.net.features(images.float() / 255),)

    @staticmethod
    def get_provided_features_list() -> tuple[str]:
        return ("features",)

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        return "features"

    @staticmethod
    def can_be_compiled() -> bool:
        return False

    @staticmethod
    def get_dummy_input_for_compile() -> Tensor:
        return torch.zeros(1, 3, 16, 16, dtype=torch.uint8)


def classifier_weights(dataset: Dataset, dataset_name: str) -> tuple[Path, str]:
    """A dataset's own classifier and its sha256: the committed and checked one, or one trained now and kept."""
    if (committed := paths.FEATURES / f"{dataset_name}.pt").exists():
        return committed, committed_digest(committed)
    path = paths.CACHE / "features" / f"classifier-{dataset.fingerprint[:16]}.pt"
    with files.writing(path), filelock.FileLock(path.with_suffix(".lock")):  # of several processes one trains it
        if not path.exists():
            classifiers.train(dataset, path)
    return path, files.sha256(path)


def committed_digest(path: Path) -> str:
    """sha256 of committed weights; ValueError if their record has another, FileNotFoundError if there is no record."""
    if not (record := path.with_suffix(".json")).exists():
        raise FileNotFoundError(f"{record}, the record of {path.name}, is missing; restore it with git")
    expected = json.loads(record.read_text())["sha256"]
    if (found := files.sha256(path)) != expected:
        raise ValueError(f"{path} is damaged: its sha256 is {found}, not {expected}; restore it with git")
    return found


def cached_features(extractor: Extractor, images: Tensor, fingerprint: str, split: str) -> Tensor:
    """Features of the first n real images of a split, kept under fingerprint, split, n and the extractor's digest."""
    name = f"{fingerprint[:16]}-{split}-{len(images)}-{extractor.name}-{extractor.digest[:16]}.pt"
    return files.kept(paths.CACHE / "features" / name, lambda: extractor(images))
