"""A1, WAE's convolutional net with BatchNorm in every layer (37.07 M parameters at 32x32, 44.99 M at 64x64, d 128).

Encoder: four 5x5 stride-2 convolutions, the last with 1024 maps. Decoder: a linear layer to 1024 maps of an eighth of
the side, three 5x5 stride-2 deconvolutions and one of stride 1 (tolstikhin/wae, models.py, commit 6351565). Appendix A
adds "BN in every layer"; we put it after the decoder's linear layer too, but not on latents or pixels. Padding is
symmetric, as TensorFlow's "SAME" would shift every map by a pixel. Initialisation is PyTorch's default.
"""

from itertools import pairwise

from torch import nn

from mocalib.models.layers import Pixels


def build(channels: int, size: int, latent_dim: int, width: int, heads: int) -> tuple[nn.Module, nn.Module]:
    """Return A1's encoder and decoder; the side is a multiple of 16 pixels, and WAE's width is 64."""
    return encoder(channels, size, heads * latent_dim, width), decoder(channels, size, latent_dim, width)


def encoder(channels: int, size: int, outputs: int, width: int) -> nn.Sequential:
    """B C H W -> B outputs."""
    widths = [channels, 2 * width, 4 * width, 8 * width, 16 * width]
    layers = []
    for before, after in pairwise(widths):
        layers += [nn.Conv2d(before, after, 5, stride=2, padding=2), nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(widths[-1] * (size // 16) ** 2, outputs))


def decoder(channels: int, size: int, latent_dim: int, width: int) -> nn.Sequential:
    """B d -> B C H W in [0, 1]."""
    widths, side = [16 * width, 8 * width, 4 * width, 2 * width], size // 8
    layers = [
        nn.Linear(latent_dim, widths[0] * side**2),
        nn.Unflatten(1, (widths[0], side, side)),
        nn.BatchNorm2d(widths[0]),
        nn.ReLU(inplace=True),
    ]
    for before, after in pairwise(widths):
        up = nn.ConvTranspose2d(before, after, 5, stride=2, padding=2, output_padding=1)
        layers += [up, nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.ConvTranspose2d(widths[-1], channels, 5, padding=2), Pixels())
