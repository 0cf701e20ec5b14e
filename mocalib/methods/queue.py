"""Momentum contrast: the queue of keys, the averaging of the key encoder, and the schedule of its momentum."""

import math

import torch
from torch import Tensor, nn


class KeyQueue(nn.Module):
    """The K most recent keys in a ring buffer, at first random unit vectors.

    `keys` (K d) and `head`, the place of the next write, are in `state_dict`. Raises ValueError for an empty queue.
    """

    def __init__(self, size: int, dim: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        if size < 1 or dim < 1:
            raise ValueError(f"KeyQueue({size}, {dim}): size and dim must be at least 1")
        self.register_buffer("keys", nn.functional.normalize(torch.randn(size, dim, generator=generator), dim=1))  # K d
        self.register_buffer("head", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def push(self, keys: Tensor) -> None:
        """Write keys (B d) over the oldest; of more than K, only the last K stay. B need not divide K."""
        slots, kept = self._places(keys)
        self.keys.index_copy_(0, slots, kept)
        self.head.add_(keys.shape[0]).remainder_(self.keys.shape[0])

    @torch.no_grad()
    def with_newest(self, keys: Tensor) -> Tensor:
        """What `self.keys` (K d) will be after `push(keys)`."""
        return self.keys.index_copy(0, *self._places(keys))

    def _places(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """The slots that are written next, and the keys that go there."""
        size, batch = self.keys.shape[0], keys.shape[0]
        skip = max(batch - size, 0)  # else two keys would be written to one slot
        slots = (self.head + skip + torch.arange(batch - skip, device=keys.device)) % size
        return slots, keys[skip:].to(self.keys.dtype)


def momentum_schedule(m0: float, step: float | Tensor, total: float | Tensor) -> float | Tensor:
    """`m = 1 - (1 - m0) (cos(pi t / T) + 1) / 2` (section 3), from m0 at step 0 to 1 at step T."""
    angle = math.pi * step / total
    cosine = torch.cos(angle) if isinstance(angle, Tensor) else math.cos(angle)
    return 1 - (1 - m0) * (cosine + 1) / 2


@torch.no_grad()
def ema_update_(target: nn.Module, source: nn.Module, m: float | Tensor, buffers: tuple[str, ...] = ()) -> None:
    """`target <- m target + (1 - m) source` for parameters, and for buffers of these names.

    Without `buffers` the target keeps its own BatchNorm statistics: of the forward passes that it takes itself.
    """

    named = ([x for name, x in net.named_buffers() if name.split(".")[-1] in buffers] for net in (target, source))
    targets, sources = ([*net.parameters(), *found] for net, found in zip((target, source), named))
    m = torch.as_tensor(m, dtype=targets[0].dtype, device=targets[0].device)
    torch._foreach_mul_(targets, m)
    torch._foreach_add_(targets, torch._foreach_mul(sources, 1 - m))
