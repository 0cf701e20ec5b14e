"""Layers that several nets share."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def at_least_float32(x: Tensor) -> Tensor:
    """Leave reduced precision behind: a sphere or a sigmoid in bfloat16 has 8 bits."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class UnitNorm(nn.Module):
    """Projection onto the unit sphere, B d -> B d: "their outputs are L2 normalized" (Algorithm 1)."""

    def forward(self, z: Tensor) -> Tensor:
        return F.normalize(at_least_float32(z), dim=1, eps=1e-12)


class Pixels(nn.Module):
    """Sigmoid to [0, 1]."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(at_least_float32(x))
