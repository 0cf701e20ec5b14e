"""Layers that several nets share."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, conv1x1, conv3x3

MakeLayer = Callable[[int, int], nn.Module]  # from the channels before and after


def at_least_float32(x: Tensor) -> Tensor:
    """Convert bfloat16 to float32: a sphere or a sigmoid needs more than its 8 bits."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class UnitNorm(nn.Module):
    """Projection onto the unit sphere, B d -> B d: "their outputs are L2 normalized" (Algorithm 1)."""

    def forward(self, z: Tensor) -> Tensor:
        return F.normalize(at_least_float32(z), dim=1, eps=1e-12)


class AsComputed(nn.Module):
    """Latents anywhere in R^d, B d -> B d."""

    def forward(self, z: Tensor) -> Tensor:
        return at_least_float32(z)


def perceptron(inputs: int, width: int, layers: int) -> nn.Sequential:
    """Fully connected layers with ReLU and no BatchNorm, B inputs -> B width."""
    widths = [inputs, *[width] * layers]
    return nn.Sequential(*(m for i in range(layers) for m in (nn.Linear(widths[i], widths[i + 1]), nn.ReLU())))


class Pixels(nn.Module):
    """Sigmoid of `gain` times the input, to [0, 1]."""

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.gain * at_least_float32(x))


def down_block(before: int, after: int) -> BasicBlock:
    """ResNet's basic block that halves the side; its shortcut takes every second pixel, then convolves.

    A strided 1x1 convolution would be equal. But with few channels, stored last, on a CPU its weight gradient writes
    past its buffer (oneDNN issue 6035). That crashes from 48 pixels on, and is wrong on some processors.
    """
    shortcut = nn.Sequential(nn.AvgPool2d(1, stride=2), conv1x1(before, after), nn.BatchNorm2d(after))
    return BasicBlock(before, after, stride=2, downsample=shortcut)


class UpBlock(nn.Module):
    """Residual block of a decoder: a 3x3 convolution, then `up` to the new width, plus the `shortcut`.

    Without a shortcut the input itself is added.
    """

    def __init__(self, before: int, after: int, up: MakeLayer, shortcut: MakeLayer | None = None) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv3x3(before, before), nn.BatchNorm2d(before)
        self.conv2, self.bn2 = up(before, after), nn.BatchNorm2d(after)
        layers = [shortcut(before, after), nn.BatchNorm2d(after)] if shortcut else []
        self.shortcut = nn.Sequential(*layers)  # empty: the identity
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        h = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(h)) + self.shortcut(x))


class ResizeConv2d(nn.Sequential):
    """Nearest-neighbour upsampling by 1 or 2, then a 3x3 convolution with bias.

    A doubled map holds each pixel four times. So the two layers equal one stride-2 transposed convolution with the 4x4
    kernel of `folded`: 16 products a small pixel instead of 36, and no large map in memory. bfloat16 uses this fast
    form; float32 and float64, the reference, use the two layers as written.
    """

    def __init__(self, before: int, after: int, scale: int) -> None:
        layers = [nn.Upsample(scale_factor=scale)] if scale > 1 else []
        super().__init__(*layers, nn.Conv2d(before, after, 3, padding=1))
        # Row i of the 4x4 kernel sums the rows of the 3x3 kernel that meet the same row of the small map.
        rows = torch.tensor([[0.0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]])
        self.register_buffer("fold", torch.kron(rows, rows), persistent=False)  # (16, 9)

    def forward(self, x: Tensor) -> Tensor:
        if len(self) == 1 or x.dtype != torch.bfloat16:
            return super().forward(x)
        return F.conv_transpose2d(x, self.folded(), self[-1].bias, stride=2, padding=1)

    def folded(self) -> Tensor:
        """The kernel of the transposed convolution, (before, after, 4, 4)."""
        kernel = self[-1].weight.permute(0, 2, 3, 1).flatten(1, 2)  # (after, 9, before): a view if channels are last
        return (self.fold @ kernel).unflatten(1, (4, 4)).permute(3, 0, 1, 2)
