"""Feature extractors for torch-fidelity: Inception, and a small classifier trained on a dataset's own labels.

Only Inception's distance may be called FID. N images, C H W image, D features.
"""

import contextlib
import json
from pathlib import Path
from typing import NamedTuple

import filelock
import torch
import torch.nn.functional as F
import torch_fidelity
from torch import Tensor, nn
from torch_fidelity.utils import create_feature_extractor, get_featuresdict_from_dataset

from mocalib import files, paths
from mocalib.data import Dataset
from mocalib.progress import bar

INCEPTION = "weights-inception-2015-12-05-6726825d.pth"  # torch-fidelity's; the name ends in its sha256's first digits
INCEPTION_SHA256 = "6726825d"
NAMES = ("inception", "classifier")
BATCH = 250
WIDTHS = (24, 40, 56, 64)  # of the classifier: 61,000 weights, 245 kB
TRAINING = {"steps": 3_000, "batch_size": 128, "learning_rate": 3.0e-3, "seed": 0}


class Extractor(NamedTuple):
    """A torch-fidelity extractor with the layer it is read at and the sha256 of its weights file."""

    name: str  # "inception" or "classifier"
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
    """Return the extractor "inception" or "classifier" on a device.

    `weights` is a file of Inception's weights (default: the one in torch's hub folder, else torch-fidelity's
    download). The classifier's are committed for digits, else trained once on the training labels. Raises as `check`.
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
    if name in NAMES and len(dataset.test.images) < 2:
        raise ValueError(f"features {name!r}: one test image has no covariance; use features 'none'")
    if name == "inception":
        inception_weights(weights)
    elif name == "classifier" and dataset.train.labels is None:
        raise ValueError(
            "features 'classifier' need class labels, and this dataset has none; use features 'inception' or 'none'"
        )
    elif name not in ("", "none", *NAMES):
        raise ValueError(f"features = {name!r} is not one of {', '.join(map(repr, NAMES))}, 'none'")


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
        f"(inception_weights in notebooks); features 'classifier' needs none, where there are labels, nor does 'none'"
    )


class Classifier(nn.Module):
    """A small CNN: four 3x3 convolutions with BatchNorm, mean of 64 ReLU maps, one linear layer to the classes."""

    def __init__(self, channels: int, size: int, classes: int) -> None:
        super().__init__()
        self.channels, self.size = channels, size
        layers, before = [], channels
        for width, stride in zip(WIDTHS, (max(1, size // 16), 2, 2, 1)):
            layers += [nn.Conv2d(before, width, 3, stride, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            before = width
        self.trunk = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(before, classes)

    def features(self, x: Tensor) -> Tensor:
        """N 64 from N C H W in [0, 1], resized to the classifier's own size as Inception resizes to 299."""
        if x.shape[1] > self.channels:
            x = x[:, : self.channels]  # grey shown as RGB: three equal channels
        return self.trunk(self.resized(x))

    def resized(self, x: Tensor) -> Tensor:
        """N C H W at the classifier's own size."""
        if x.shape[-1] == self.size:
            return x
        return F.interpolate(x, (self.size, self.size), mode="bilinear", antialias=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class ClassifierFeatures(torch_fidelity.FeatureExtractorBase):
    """The classifier as torch-fidelity wants it: uint8 N 3 H W in, a tuple of features out."""

    def __init__(self, name: str, features_list: list[str], feature_extractor_weights_path: str, **kwargs) -> None:
        super().__init__(name, features_list)
        path = Path(feature_extractor_weights_path)
        try:
            saved = files.read_tensors(path)
        except Exception as error:  # as for checkpoints
            raise ValueError(f"{path} does not load ({error}); remove it, to have it trained again") from None
        self.net = Classifier(saved["channels"], saved["size"], saved["classes"])
        self.net.load_state_dict(saved["weights"])
        self.eval().requires_grad_(False)

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
    """The classifier's weights and their sha256: committed and checked ones, or ones trained now and kept."""
    committed = paths.FEATURES / f"{dataset_name}.pt"
    if committed.exists():
        return committed, committed_digest(committed)
    path = paths.CACHE / "features" / f"classifier-{dataset.fingerprint[:16]}.pt"
    with files.writing(path), filelock.FileLock(path.with_suffix(".lock")):  # of several processes one trains it
        if not path.exists():
            train_classifier(dataset, path)
    return path, files.sha256(path)


def committed_digest(path: Path) -> str:
    """sha256 of committed weights. Raises ValueError if it is not the one of the record beside them."""
    expected = json.loads(path.with_suffix(".json").read_text())["sha256"]
    if (found := files.sha256(path)) != expected:
        raise ValueError(f"{path} is damaged: its sha256 is {found}, not {expected}; restore it with git")
    return found


def train_classifier(dataset: Dataset, path: Path) -> dict:
    """Train the classifier on the training labels and write it to `path`; return its record, test accuracy included.

    Adam with a one-cycle rate, random shifts by up to an eighth of the side.
    """
    channels, size, _ = dataset.image_shape
    size, classes = min(size, 32), int(dataset.train.labels.max()) + 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(TRAINING["seed"])
        net = Classifier(channels, size, classes)
        _fit_classifier(net, dataset)
    with torch.no_grad():
        guesses = torch.cat([net(images.float() / 255).argmax(1) for images in dataset.test.images.split(BATCH)])
    record = {
        "test_accuracy": (guesses == dataset.test.labels).double().mean().item(),
        "n_train": len(dataset.train.images),
        "n_test": len(dataset.test.images),
        "fingerprint": dataset.fingerprint,
        **TRAINING,
    }
    arrays = {name: value.contiguous() for name, value in net.state_dict().items()}
    saved = {"channels": channels, "size": size, "classes": classes, "weights": arrays, "record": record}
    files.write_tensors(path, saved)
    return record | {"sha256": files.sha256(path)}


def _fit_classifier(net: Classifier, dataset: Dataset) -> None:
    steps, batch = TRAINING["steps"], min(TRAINING["batch_size"], len(dataset.train.images))
    optimizer = torch.optim.Adam(net.parameters(), lr=TRAINING["learning_rate"], fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, TRAINING["learning_rate"], total_steps=steps)
    shift = max(1, net.size // 8)
    with bar("training the classifier for features", steps, unit="step") as shown:
        for _ in range(steps):
            index = torch.randint(len(dataset.train.images), (batch,))
            x = net.resized(dataset.train.images[index].float() / 255)
            top, left = torch.randint(2 * shift + 1, (2,)).tolist()
            x = F.pad(x, [shift] * 4)[..., top : top + net.size, left : left + net.size]
            optimizer.zero_grad()
            F.cross_entropy(net(x), dataset.train.labels[index]).backward()
            optimizer.step()
            schedule.step()
            shown.update()
    net.eval()


def cached_features(extractor: Extractor, images: Tensor, fingerprint: str, split: str) -> Tensor:
    """Features of the first n real images of a split, kept under fingerprint, split, n and the extractor's digest."""
    name = f"{fingerprint[:16]}-{split}-{len(images)}-{extractor.name}-{extractor.digest[:16]}.pt"
    path = paths.CACHE / "features" / name
    if path.exists():
        with contextlib.suppress(Exception):  # a damaged one is made again
            return files.read_tensors(path)
    found = extractor(images)
    files.write_tensors(path, found)
    return found
