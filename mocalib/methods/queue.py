"""What makes the contrast cheap: a queue of keys, an averaged key encoder, and the paper's schedule for it."""

import math

import torch
from torch import Tensor, nn


class KeyQueue(nn.Module):
    """The K most recent keys in a ring buffer; starts as random unit vectors.

    `keys` (K d) is a buffer, as is the place of the next write, so the queue travels with `state_dict`. Nothing waits
    for the device. Raises ValueError for an empty queue.
    """

    def __init__(self, size: int, dim: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        if size < 1 or dim < 1:
            raise ValueError(f"KeyQueue({size}, {dim}): size and dim must be at least 1")
        self.register_buffer("keys", nn.functional.normalize(torch.randn(size, dim, generator=generator), dim=1))  # K d
        self.register_buffer("head", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def push(self, keys: Tensor) -> None:
        """Write keys (B d) over the oldest; of more than K, only the last K stay. K need not be a multiple of B."""
        size, batch = self.keys.shape[0], keys.shape[0]
        skip = max(batch - size, 0)  # without it two keys would race for one slot
        slots = (self.head + skip + torch.arange(batch - skip, device=keys.device)) % size
        self.keys.index_copy_(0, slots, keys[skip:].to(self.keys.dtype))
        self.head.add_(batch).remainder_(size)


def momentum_schedule(m0: float, step: float | Tensor, total: float | Tensor) -> float | Tensor:
    """`m = 1 - (1 - m0) (cos(pi t / T) + 1) / 2` (section 3): m0 at step 0, 1 at step T; numbers or 0-dim tensors."""
    angle = math.pi * step / total
    cosine = torch.cos(angle) if isinstance(angle, Tensor) else math.cos(angle)
    return 1 - (1 - m0) * (cosine + 1) / 2


@torch.no_grad()
def ema_update_(target: nn.Module, source: nn.Module, m: float | Tensor) -> None:
    """`target <- m target + (1 - m) source`, over parameters only: BatchNorm statistics stay the target's own."""
    targets, sources = list(target.parameters()), list(source.parameters())
    m = torch.as_tensor(m, dtype=targets[0].dtype, device=targets[0].device)
    torch._foreach_mul_(targets, m)
    torch._foreach_add_(targets, torch._foreach_mul(sources, 1 - m))
