"""Layers that several nets share."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, conv1x1, conv3x3


def at_least_float32(x: Tensor) -> Tensor:
    """Leave reduced precision behind: a sphere or a sigmoid in bfloat16 has 8 bits."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class UnitNorm(nn.Module):
    """Projection onto the unit sphere, B d -> B d: "their outputs are L2 normalized" (Algorithm 1)."""

    def forward(self, z: Tensor) -> Tensor:
        return F.normalize(at_least_float32(z), dim=1, eps=1e-12)


class AsComputed(nn.Module):
    """Codes anywhere in R^d, B d -> B d."""

    def forward(self, z: Tensor) -> Tensor:
        return at_least_float32(z)


def perceptron(inputs: int, width: int, layers: int) -> nn.Sequential:
    """Fully connected layers with ReLU, B inputs -> B width; no BatchNorm."""
    widths = [inputs, *[width] * layers]
    return nn.Sequential(*(m for i in range(layers) for m in (nn.Linear(widths[i], widths[i + 1]), nn.ReLU())))


class Pixels(nn.Module):
    """Sigmoid to [0, 1]."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(at_least_float32(x))


def down_block(before: int, after: int) -> BasicBlock:
    """ResNet's basic block that halves the side, with a strided 1x1 convolution beside it.

    The stride is taken by itself: on a CPU, the weight gradient of a strided 1x1 convolution of few channels, channels
    last, writes past its buffer (oneDNN issue 6035): a crash from 48 pixels on, wrong gradients on some processors.
    """
    shortcut = nn.Sequential(nn.AvgPool2d(1, stride=2), conv1x1(before, after), nn.BatchNorm2d(after))
    return BasicBlock(before, after, stride=2, downsample=shortcut)


class UpBlock(nn.Module):
    """Residual block of a decoder: 3x3 at the old width, then `up` to the new one, beside a `shortcut`.

    `up` and `shortcut` make a layer from (channels before, channels after); without a shortcut the input is added.
    """

    def __init__(
        self,
        before: int,
        after: int,
        up: Callable[[int, int], nn.Module],
        shortcut: Callable[[int, int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv3x3(before, before), nn.BatchNorm2d(before)
        self.conv2, self.bn2 = up(before, after), nn.BatchNorm2d(after)
        beside = [shortcut(before, after), nn.BatchNorm2d(after)] if shortcut else []
        self.shortcut = nn.Sequential(*beside)  # empty: the identity
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        h = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(h)) + self.shortcut(x))
