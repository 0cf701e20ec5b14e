"""HQ, the residual net of CelebA-HQ and Appendix C (38.8, 13.7 and 4.0 M parameters at 256, 64 and 32 pixels, d 128).

The encoder has "6 residual blocks", each of "2 conv layers + an additional conv layer that downsamples" by two. They
take 256 pixels to 4x4, which is flattened and projected. The decoder mirrors this with deconvolutions. Appendix C drops
a block for every halving of the side, so every size ends at 4x4. The paper gives no widths and no stem. Ours is a 3x3
stem of `width` channels. The first block keeps them, and the next ones double them, up to 8 * width.
"""

from functools import partial
from itertools import pairwise

from torch import nn
from torchvision.models.resnet import conv3x3

from mocalib.models.layers import Pixels, UpBlock, down_block

LAST = 4  # side of the flattened maps, in pixels
SCALES = (1, 1, 2, 4, 8, 8, 8)  # channels of the stem and of the six blocks, in units of the width


def build(channels: int, size: int, latent_dim: int, width: int, heads: int) -> tuple[nn.Module, nn.Module]:
    """Return HQ's encoder and decoder for square images of 8, 16, ..., 256 pixels; the side sets the blocks."""
    widths = [scale * width for scale in SCALES[: (size // LAST).bit_length()]]  # log2(size / 4) blocks after the stem
    return encoder(channels, heads * latent_dim, widths), decoder(channels, latent_dim, widths)


def encoder(channels: int, outputs: int, widths: list[int]) -> nn.Sequential:
    """B C H W -> B outputs."""
    return nn.Sequential(
        conv3x3(channels, widths[0]),
        nn.BatchNorm2d(widths[0]),
        nn.ReLU(inplace=True),
        *(down_block(before, after) for before, after in pairwise(widths)),
        nn.Flatten(),
        nn.Linear(widths[-1] * LAST**2, outputs),
    )


def decoder(channels: int, latent_dim: int, widths: list[int]) -> nn.Sequential:
    """B d -> B C H W in [0, 1]."""
    return nn.Sequential(
        nn.Linear(latent_dim, widths[-1] * LAST**2),
        nn.Unflatten(1, (widths[-1], LAST, LAST)),
        *(_up(before, after) for before, after in pairwise(widths[::-1])),
        nn.Conv2d(widths[0], channels, 3, padding=1),
        Pixels(),
    )


def _up(before: int, after: int) -> UpBlock:
    double = partial(nn.ConvTranspose2d, stride=2, bias=False)
    return UpBlock(before, after, partial(double, kernel_size=4, padding=1), partial(double, kernel_size=2))
