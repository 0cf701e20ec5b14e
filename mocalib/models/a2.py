"""A2, the ResNet-18 autoencoder of the paper (about 24 M parameters at width 64, two blocks a stage, d 128).

Encoder: ResNet-18 with a 3x3 stride-2 stem and no max-pool. Decoder: its mirror with nearest-neighbour upsampling, from
VAE-ResNet18-PyTorch (julianstastny, commit 3e758ab7). No other public net fits the paper's description: "the final
convolutional layer uses an upscaling factor of 1 for CIFAR-10 and 2 for CelebA". Initialisation is PyTorch's default.
"""

from functools import partial
from itertools import pairwise

from torch import nn
from torchvision.models.resnet import BasicBlock, conv3x3

from mocalib.models.layers import Pixels, ResizeConv2d, UpBlock, down_block


def build(
    channels: int, size: int, latent_dim: int, width: int, blocks: int, heads: int
) -> tuple[nn.Module, nn.Module]:
    """Return A2's encoder and decoder for square images of 16, 32 or 64 pixels."""
    return encoder(channels, heads * latent_dim, width, blocks), decoder(channels, size, latent_dim, width, blocks)


def encoder(channels: int, outputs: int, width: int, blocks: int) -> nn.Sequential:
    """B C H W -> B outputs."""
    widths = [width, 2 * width, 4 * width, 8 * width]
    stages = []
    for before, after in zip([width, *widths], widths):
        stages.append(BasicBlock(before, after) if before == after else down_block(before, after))
        stages.extend(BasicBlock(after, after) for _ in range(blocks - 1))
    return nn.Sequential(
        conv3x3(channels, width, stride=2),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        *stages,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(widths[-1], outputs),
    )


def decoder(channels: int, size: int, latent_dim: int, width: int, blocks: int) -> nn.Sequential:
    """B d -> B C H W in [0, 1]."""
    widths = [8 * width, 4 * width, 2 * width, width, width]
    resize, stages = partial(ResizeConv2d, scale=2), []
    for before, after in pairwise(widths):
        stages.extend(UpBlock(before, before, conv3x3) for _ in range(blocks - 1))
        stages.append(UpBlock(before, after, conv3x3) if before == after else UpBlock(before, after, resize, resize))
    first = min(4, size // 8)  # 4x4 at 32 and 64 pixels, 2x2 at 16
    return nn.Sequential(
        nn.Linear(latent_dim, widths[0]),
        nn.Unflatten(1, (widths[0], 1, 1)),
        nn.Upsample(scale_factor=first),
        *stages,
        ResizeConv2d(width, channels, scale=max(1, size // 32)),
        Pixels(),
    )
