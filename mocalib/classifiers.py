"""Small classifiers whose pooled maps are features: one for a dataset's own labels, a residual one for CIFAR-10.

N images, B batch, C H W image, D features.
"""

import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from mocalib import data, environment, files
from mocalib.config import RunConfig
from mocalib.progress import bar

BATCH = 250  # images at a time, where nothing is trained
WIDTHS = (24, 40, 56, 64)  # of the plain net: 61,000 weights, 245 kB
PLAIN = {"steps": 3_000, "batch_size": 128, "learning_rate": 3.0e-3, "seed": 0}  # Adam
CIFAR10_SIDE, CIFAR10_WIDTH = 32, 16  # of the residual net: 413,000 weights, 1.7 MB
RESIDUAL = {  # SGD with Nesterov's momentum
    "epochs": 24,
    "batch_size": 128,
    "learning_rate": 0.1,
    "momentum": 0.9,
    "weight_decay": 5.0e-4,
    "label_smoothing": 0.1,
    "seed": 0,
}
SHIFT, HOLE = 4, 8  # pixels that its training images are moved by, at most; side of the square that they lose


class Classifier(nn.Module):
    """A trunk to D features, and one linear layer to the classes; takes images of any size and of its channels."""

    def __init__(self, trunk: nn.Module, features: int, channels: int, size: int, classes: int) -> None:
        super().__init__()
        self.channels, self.size = channels, size
        self.trunk, self.head = trunk, nn.Linear(features, classes)

    def features(self, x: Tensor) -> Tensor:
        """N D from N C H W in [0, 1], resized to the classifier's own size as Inception resizes to 299."""
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


def plain(channels: int, size: int, classes: int) -> Classifier:
    """Four 3x3 convolutions with BatchNorm; the mean of 64 ReLU maps."""
    layers, before = [], channels
    for width, stride in zip(WIDTHS, (max(1, size // 16), 2, 2, 1)):
        layers += [nn.Conv2d(before, width, 3, stride, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        before = width
    trunk = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Classifier(trunk, before, channels, size, classes)


def residual(channels: int, size: int, classes: int) -> Classifier:
    """ResNet-9 (Page, "How to train your ResNet", 2018) at a quarter of its width; the mean of 128 maps.

    Pixels are centred, three stages halve the side, and residual blocks follow the first and the last.
    """
    w, conv = CIFAR10_WIDTH, Conv2dNormActivation
    trunk = nn.Sequential(
        Centred(),
        conv(channels, w),
        *(conv(w, 2 * w), nn.MaxPool2d(2), Residual(2 * w)),
        *(conv(2 * w, 4 * w), nn.MaxPool2d(2)),
        *(conv(4 * w, 8 * w), nn.MaxPool2d(2), Residual(8 * w)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    return Classifier(trunk, 8 * w, channels, size, classes)


class Centred(nn.Module):
    """[0, 1] to [-2, 2], about the spread of natural images."""

    def forward(self, x: Tensor) -> Tensor:
        return 4 * x - 2


class Residual(nn.Sequential):
    """Two 3x3 convolutions with BatchNorm and ReLU, added to what goes in."""

    def __init__(self, width: int) -> None:
        super().__init__(Conv2dNormActivation(width, width), Conv2dNormActivation(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


NETS = {"plain": plain, "residual": residual}


def read(path: Path) -> Classifier:
    """The classifier of a file, for use. Raises ValueError if the file does not load."""
    try:
        saved = files.read_tensors(path)
        build = NETS[saved.get("net", "plain")]
        net = build(saved["channels"], saved["size"], saved["classes"])
        net.load_state_dict(saved["weights"])
    except Exception as error:  # as for checkpoints
        raise ValueError(f"{path} does not load ({error}); remove it, to have it trained again") from None
    return net.eval().requires_grad_(False)


def train_plain(dataset: data.Dataset, path: Path) -> dict:
    """Train the plain net on the training labels and write it to `path`; return its record, test accuracy included.

    Adam with a one-cycle rate, random shifts by up to an eighth of the side.
    """
    channels, size, _ = dataset.image_shape
    settings = {"channels": channels, "size": min(size, 32), "classes": int(dataset.train.labels.max()) + 1}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(PLAIN["seed"])
        net = plain(**settings)
        optimizer = torch.optim.Adam(net.parameters(), lr=PLAIN["learning_rate"], fused=True)
        _fit(net, optimizer, PLAIN["learning_rate"], PLAIN["steps"], _shifted(net, dataset.train))
    return _save(path, net, dataset, settings, PLAIN)


def train_cifar10(path: Path, dataset: str = "cifar10-jpeg", device: torch.device | str = "cpu") -> dict:
    """Train the residual net on CIFAR-10 in bfloat16, write it to `path` and return its record, accuracy included.

    SGD with a one-cycle rate; images are mirrored, moved by up to 4 pixels, and lose a square of 8. Half an hour on
    one core, a minute or two on a GPU. Raises as `data.load`.
    """
    device, started = torch.device(device), time.monotonic()
    images = data.load(RunConfig(dataset=dataset))
    settings = {"channels": 3, "size": CIFAR10_SIDE, "classes": 10}
    nets = environment.net_precision("bfloat16", device)
    steps = RESIDUAL["epochs"] * (len(images.train.images) // RESIDUAL["batch_size"])
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(RESIDUAL["seed"])
        net = residual(**settings).to(device, memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(
            net.parameters(),
            lr=RESIDUAL["learning_rate"],
            momentum=RESIDUAL["momentum"],
            weight_decay=RESIDUAL["weight_decay"],
            nesterov=True,
        )
        batches = _augmented(images.train, device)
        smoothing = RESIDUAL["label_smoothing"]
        _fit(net, optimizer, RESIDUAL["learning_rate"], steps, batches, smoothing, bfloat16=nets == "bfloat16")
    where = {
        "device": environment.describe(device)["device"],
        "nets": nets,
        "seconds": round(time.monotonic() - started),
    }
    record = {"net": "residual", "dataset": dataset, **RESIDUAL, **where}
    return _save(path, net.cpu(), images, settings | {"net": "residual"}, record)


def _fit(
    net: Classifier,
    optimizer: torch.optim.Optimizer,
    rate: float,
    steps: int,
    batches: Iterator[tuple[Tensor, Tensor]],
    smoothing: float = 0.0,
    bfloat16: bool = False,
) -> None:
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    with bar("training the classifier for features", steps, unit="step") as shown:
        for _, (x, labels) in zip(range(steps), batches):
            optimizer.zero_grad()
            with torch.autocast(x.device.type, torch.bfloat16, enabled=bfloat16):  # not around all: it keeps its casts
                logits = net(x)
            F.cross_entropy(logits.float(), labels, label_smoothing=smoothing).backward()
            optimizer.step()
            schedule.step()
            shown.update()
    net.eval()


def _shifted(net: Classifier, train: data.Split) -> Iterator[tuple[Tensor, Tensor]]:
    """Random batches without end, each shifted as a whole."""
    batch, shift = min(PLAIN["batch_size"], len(train.images)), max(1, net.size // 8)
    while True:
        index = torch.randint(len(train.images), (batch,))
        x = net.resized(train.images[index].float() / 255)
        top, left = torch.randint(2 * shift + 1, (2,)).tolist()
        yield F.pad(x, [shift] * 4)[..., top : top + net.size, left : left + net.size], train.labels[index]


def _augmented(train: data.Split, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches in [0, 1]: an epoch is a permutation without its rest, and each image changes in a way of its own."""
    images, labels = train.images.to(device), train.labels.to(device)
    size = RESIDUAL["batch_size"]
    for _ in range(RESIDUAL["epochs"]):
        order = torch.randperm(len(images)).to(device)
        for index in order[: len(order) // size * size].split(size):
            x = augment(images[index]).float().div_(255)
            yield x.contiguous(memory_format=torch.channels_last), labels[index]


def augment(images: Tensor) -> Tensor:
    """Mirror each image or not, move it by up to `SHIFT` pixels over its reflection, and blank a square of it.

    uint8 B C H W to the same.
    """
    n, _, height, width = images.shape
    padded = F.pad(images.float(), [SHIFT] * 4, mode="reflect").to(images.dtype)

    def draw(high: int) -> Tensor:
        return torch.randint(high, (n, 1, 1, 1)).to(images.device)

    y, x = (torch.arange(side, device=images.device) for side in (height, width))
    y, x = y.view(1, 1, -1, 1), x.view(1, 1, 1, -1)
    mirrored = torch.where(draw(2) == 1, width - 1 - x, x)  # n 1 1 W
    each, channel = (torch.arange(k, device=images.device) for k in images.shape[:2])
    rows, columns = y + draw(2 * SHIFT + 1), mirrored + draw(2 * SHIFT + 1)
    moved = padded[each.view(-1, 1, 1, 1), channel.view(1, -1, 1, 1), rows, columns]
    top, left = draw(height - HOLE + 1), draw(width - HOLE + 1)
    hole = (y >= top) & (y < top + HOLE) & (x >= left) & (x < left + HOLE)  # n 1 H W
    return moved.masked_fill(hole, 128)


def _save(path: Path, net: Classifier, dataset: data.Dataset, settings: dict, how: dict) -> dict:
    record = {
        "test_accuracy": accuracy(net, dataset.test),
        "n_train": len(dataset.train.images),
        "n_test": len(dataset.test.images),
        "fingerprint": dataset.fingerprint,
        **how,
    }
    weights = {name: value.contiguous() for name, value in net.state_dict().items()}
    files.write_tensors(path, settings | {"weights": weights, "record": record})
    return record | {"sha256": files.sha256(path)}


@torch.no_grad()
def accuracy(net: Classifier, split: data.Split) -> float:
    """Part of a split's images whose class a net in evaluation mode names, in float32."""
    guesses = torch.cat([net(images.float() / 255).argmax(1) for images in split.images.split(BATCH)])
    return (guesses == split.labels).double().mean().item()
