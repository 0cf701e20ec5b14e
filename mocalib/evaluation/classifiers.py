"""A small classifier of a dataset's own labels; its pooled maps serve as features.

N images, B batch, C H W image, D features.
"""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mocalib.data.cache import Dataset, Split
from mocalib.storage import files
from mocalib.storage.progress import bar

BATCH = 250  # images a forward pass, outside of training
WIDTHS = (24, 40, 56, 64)  # 61,000 weights, 245 kB
TRAINING = {"steps": 3_000, "batch_size": 128, "learning_rate": 3.0e-3, "seed": 0}  # Adam


class Classifier(nn.Module):
    """Four 3x3 convolutions with BatchNorm and ReLU, the mean of the 64 maps, and a linear layer to the classes.

    It takes images of any size and of its number of channels.
    """

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
        """N D from N C H W in [0, 1], resized to the classifier's own size as Inception resizes to 299."""
        return self.trunk(self.resized(x))

    def maps(self, x: Tensor) -> list[Tensor]:
        """The maps after each ReLU, N C' H' W' for each of the four, from N C H W as for `features`."""
        x, found = self.resized(x), []
        for layer in self.trunk:
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                found.append(x)
        return found

    def resized(self, x: Tensor) -> Tensor:
        """N C H W at the classifier's own size, and with as many channels as it takes."""
        x = x[:, : self.channels]  # grey images come as three equal channels
        if x.shape[-1] == self.size:
            return x
        return F.interpolate(x, (self.size, self.size), mode="bilinear", antialias=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


def read(path: Path) -> Classifier:
    """Read a classifier, ready for use. Raises ValueError if the file does not load."""
    try:
        saved = files.read_tensors(path)
        net = Classifier(saved["channels"], saved["size"], saved["classes"])
        net.load_state_dict(saved["weights"])
    except Exception as error:  # as for checkpoints
        raise ValueError(f"{path} does not load ({error}); remove it, and it is trained again") from None
    return net.eval().requires_grad_(False)


def train(dataset: Dataset, path: Path) -> None:
    """Train a classifier on the training labels and write it to `path`, with a record of its test accuracy.

    Uses Adam with a one-cycle rate, and random shifts by up to an eighth of the side.
    """
    channels, size, _ = dataset.image_shape
    settings = {"channels": channels, "size": min(size, 32), "classes": int(dataset.train.labels.max()) + 1}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(TRAINING["seed"])
        net = Classifier(**settings)
        _fit(net, dataset.train)
    with torch.no_grad():
        guesses = torch.cat([net(images.float() / 255).argmax(1) for images in dataset.test.images.split(BATCH)])
    record = {
        "test_accuracy": (guesses == dataset.test.labels).double().mean().item(),
        "n_train": len(dataset.train.images),
        "n_test": len(dataset.test.images),
        "fingerprint": dataset.fingerprint,
        **TRAINING,
    }
    files.write_tensors(path, settings | {"weights": net.state_dict(), "record": record})


def _fit(net: Classifier, train: Split) -> None:
    rate, steps = TRAINING["learning_rate"], TRAINING["steps"]
    optimizer = torch.optim.Adam(net.parameters(), lr=rate, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    batches = islice(_shifted(net, train), steps)
    for x, labels in bar("training the classifier for features", steps, unit="step", items=batches):
        optimizer.zero_grad()
        F.cross_entropy(net(x), labels).backward()
        optimizer.step()
        schedule.step()
    net.eval()


def _shifted(net: Classifier, train: Split) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless random batches; one random shift for each batch."""
    batch, shift = min(TRAINING["batch_size"], len(train.images)), max(1, net.size // 8)
    while True:
        index = torch.randint(len(train.images), (batch,))
        x = net.resized(train.images[index].float() / 255)
        top, left = torch.randint(2 * shift + 1, (2,)).tolist()
        yield F.pad(x, [shift] * 4)[..., top : top + net.size, left : left + net.size], train.labels[index]
