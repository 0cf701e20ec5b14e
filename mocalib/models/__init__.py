"""The nets. Each is a pair: an encoder to latents, on the unit sphere or not, and a decoder to images."""

from torch import nn

from mocalib.config.run import check_size
from mocalib.models import a1, a2, autogan, hq
from mocalib.models.layers import AsComputed, UnitNorm

NETS = {"a1": a1.build, "a2": a2.build, "hq": hq.build, "autogan": autogan.build}


def build(
    name: str,
    image_shape: tuple[int, int, int],
    latent_dim: int,
    width: int = 64,
    blocks: int = 2,
    heads: int = 1,
    spherical: bool = True,
) -> tuple[nn.Module, nn.Module]:
    """Return the encoder and decoder of the net `name`, for images of shape (C, H, W).

    The encoder maps images B C H W in [0, 1] to `heads` vectors each, B (heads d), of unit length if `spherical`. The
    decoder maps latents B d to images. `width` and `blocks` (only a2 has blocks) scale the net; the paper's are 64 and
    2. Raises ValueError for an unknown name or a shape that the net does not take.
    """
    if name not in NETS:
        raise ValueError(f"model = {name!r} is not one of {', '.join(map(repr, NETS))}")
    channels, height, width_pixels = image_shape
    if height != width_pixels or channels not in (1, 3):
        raise ValueError(f"image shape {image_shape}: nets take square images of 1 or 3 channels; pass a size")
    scale = (width, blocks) if name == "a2" else (width,)
    check_size(name, height)
    encoder, decoder = NETS[name](channels, height, latent_dim, *scale, heads)
    return encoder.append(UnitNorm() if spherical else AsComputed()), decoder
