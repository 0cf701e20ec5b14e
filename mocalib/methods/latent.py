"""Latent spaces: priors, and paths between latents. n latents, d dimensions."""

import torch
import torch.nn.functional as F
from torch import Tensor


def sphere_prior(n: int, d: int, generator: torch.Generator | None = None) -> Tensor:
    """n uniform points on the unit sphere in R^d, n d float32: normalised Gaussians (section 3, inference)."""
    return F.normalize(torch.randn(n, d, generator=generator), dim=1)


def normal_prior(n: int, d: int, generator: torch.Generator | None = None) -> Tensor:
    """n points of N(0, I) in R^d, n d float32."""
    return torch.randn(n, d, generator=generator)


def line(z0: Tensor, z1: Tensor, steps: int) -> Tensor:
    """Equally spaced points from z0 to z1 (both ... d): ... steps d."""
    a = torch.linspace(0, 1, steps, dtype=z0.dtype, device=z0.device).unsqueeze(1)  # steps 1
    return (1 - a) * z0.unsqueeze(-2) + a * z1.unsqueeze(-2)


def interpolate(z0: Tensor, z1: Tensor, steps: int) -> Tensor:
    """Points on the great circle from z0 to z1 (both ... d): the projected chord `(1 - a) z0 + a z1` (section 4).

    Returns ... steps d, with a equally spaced. Raises ValueError if a point of the chord is at the centre.
    """
    chord = line(z0, z1, steps)  # ... steps d
    length = chord.norm(dim=-1, keepdim=True)
    if (length < 1e-8).any():
        raise ValueError("interpolate: the chord between opposite latents passes through the centre; move one of them")
    return chord / length
