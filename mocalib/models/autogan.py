"""AutoGAN's nets as in DC-VAE (1,086,464, 4,405,251 and 1,059,986 parameters at 32x32 pixels, d 128).

An encoder, a decoder, and a discriminator whose layers can be contrasted. Read in DC-VAE's code (mlpc-ucsd/DC-VAE,
commit 75c109c) and AutoGAN's (VITA-Group/AutoGAN, commit a5eeef0), which has three cells at every size, too. B batch,
C H W image in [0, 1], d latent, w width: 64 is theirs.
"""

from functools import partial
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from mocalib.config.methods import DCVAE
from mocalib.models.layers import Pixels, ResizeConv2d, at_least_float32


def build(channels: int, size: int, latent_dim: int, width: int, heads: int) -> tuple[nn.Module, nn.Module]:
    """Return the encoder and decoder for square images of a multiple of 8 pixels.

    The encoder sums its 2w last maps over all places, so latents use at most 2w directions, fewer with dead ReLUs.
    """
    layer = spectral_norm(nn.Linear(2 * width, heads * latent_dim, bias=False))
    encoder = nn.Sequential(*trunk(channels, width), Summed(), layer)
    return encoder, Decoder(channels, size, latent_dim, 4 * width)


def trunk(channels: int, width: int) -> list[nn.Module]:
    """Four residual blocks of 2w maps, B C H W -> B 2w H/4 W/4: the first two halve the side."""
    maps = 2 * width
    return [Block(channels, maps, first=True), Block(maps, maps), *(Block(maps, maps, pool=False) for _ in range(2))]


class Block(nn.Module):
    """Two 3x3 convolutions with spectral normalisation, a shortcut, and maps of half the side if `pool`.

    The first block of a net centres its images, and has no ReLU before its first convolution.
    """

    def __init__(self, before: int, after: int, first: bool = False, pool: bool = True) -> None:
        super().__init__()
        self.first, self.pool = first, nn.AvgPool2d(2) if pool else nn.Identity()
        self.conv1 = spectral_norm(nn.Conv2d(before, after, 3, padding=1))
        self.conv2 = spectral_norm(nn.Conv2d(after, after, 3, padding=1))
        self.shortcut = spectral_norm(nn.Conv2d(before, after, 1)) if pool else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = 2 * x - 1 if self.first else x
        h = self.conv2(F.relu(self.conv1(x if self.first else F.relu(x))))
        return self.pool(h) + self.shortcut(self.pool(x))  # pooling before a 1x1 convolution or after it is the same


class Summed(nn.Module):
    """ReLU, then each map's sum over all places: B C H W -> B C."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x).sum(dim=(2, 3))


class Seen(NamedTuple):
    """What the discriminator sees in B images."""

    maps: list[Tensor]  # of the four blocks, B 2w h w each
    embedding: Tensor  # of the last layer, B 16
    logits: Tensor | None  # the critic's, B 1; None without a critic


class Discriminator(nn.Module):
    """A trunk with a last layer of 16 numbers, which feed the critic; `heads` make as many of the maps of `layers`.

    `layers` are blocks, counted from 1. Only heads have no spectral normalisation.
    """

    def __init__(
        self, channels: int, size: int, width: int, layers: tuple[int, ...] = (1,), critic: bool = True
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(trunk(channels, width))
        self.summed, self.final = Summed(), spectral_norm(nn.Linear(2 * width, DCVAE.embedding, bias=False))
        self.critic = spectral_norm(nn.Linear(DCVAE.embedding, 1)) if critic else None
        sides = {layer: size // 2 if layer == 1 else size // 4 for layer in layers}
        self.heads = nn.ModuleDict({str(layer): _head(2 * width, side**2) for layer, side in sides.items()})

    def forward(self, x: Tensor) -> Seen:
        """B C H W -> what is seen of them."""
        maps = []
        for block in self.blocks:
            x = block(x)
            maps.append(x)
        embedding = self.final(self.summed(x))
        logits = None if self.critic is None else at_least_float32(self.critic(embedding))
        return Seen(maps, at_least_float32(embedding), logits)

    def embed(self, seen: Seen) -> dict[str, Tensor]:
        """The unit vectors that are contrasted, B 16 for each layer."""
        found = {name: at_least_float32(head(seen.maps[int(name) - 1])) for name, head in self.heads.items()}
        return {name: F.normalize(e, dim=1) for name, e in {**found, "final": seen.embedding}.items()}


def _head(maps: int, places: int) -> nn.Sequential:
    head = nn.Sequential(nn.Conv2d(maps, 1, 1), nn.Flatten(), nn.Linear(places, DCVAE.embedding, bias=False))
    nn.init.xavier_uniform_(head[0].weight)
    return head


class Decoder(nn.Module):
    """A linear layer to 4w maps of an eighth of the side, three cells that double it, and pixels: B d -> B C H W.

    As in DC-VAE's code, convolutions start by Xavier's rule and scales near one; pixels are (tanh(a) + 1) / 2.
    """

    def __init__(self, channels: int, size: int, latent_dim: int, maps: int) -> None:
        super().__init__()
        side = size // 8
        self.first = nn.Sequential(nn.Linear(latent_dim, maps * side**2), nn.Unflatten(1, (maps, side, side)))
        self.cells = nn.ModuleList(
            [Cell(maps, "nearest", 0), Cell(maps, "bilinear", 1), Cell(maps, "nearest", 2, shortcut=False)]
        )
        last = nn.Conv2d(maps, channels, 3, padding=1)
        self.to_rgb = nn.Sequential(nn.BatchNorm2d(maps), nn.ReLU(), last, Pixels(gain=2.0))
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.xavier_uniform_(layer.weight)
        nn.init.normal_(self.to_rgb[0].weight, 1.0, 0.02)

    def forward(self, z: Tensor) -> Tensor:
        x, skips = self.first(z), []
        for cell in self.cells:
            x, skip = cell(x, skips)
            skips.append(skip)
        return self.to_rgb(x)


class Cell(nn.Module):
    """Doubles the side of maps; adds 1x1 convolutions of the skips of all earlier cells, resized by its own `mode`.

    Its own skip is the sum, as in both codes; DC-VAE's figure takes it before the sum.
    """

    def __init__(self, maps: int, mode: str, skips: int, shortcut: bool = True) -> None:
        super().__init__()
        conv = partial(nn.Conv2d, maps, maps, 3, padding=1)
        double, self.resize = nn.Upsample(scale_factor=2, mode=mode), partial(F.interpolate, mode=mode)
        self.conv1 = ResizeConv2d(maps, maps, 2) if mode == "nearest" else nn.Sequential(double, conv())
        self.conv2 = conv()
        self.skips = nn.ModuleList(nn.Conv2d(maps, maps, 1) for _ in range(skips))
        self.shortcut = nn.Conv2d(maps, maps, 1) if shortcut else None

    def forward(self, x: Tensor, skips: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Maps B 4w h w and the earlier cells' skips -> maps B 4w 2h 2w, and this cell's skip."""
        h = self.conv1(F.relu(x))
        side = h.shape[-2:]  # a 1x1 convolution costs less before the resizing, and gives the same
        for conv, skip in zip(self.skips, skips):
            h = h + self.resize(conv(skip), side)
        y = self.conv2(F.relu(h))
        return (y if self.shortcut is None else y + self.resize(self.shortcut(x), side)), h
