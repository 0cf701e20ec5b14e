"""Means of loss terms between log lines, and the first step that went wrong, without waiting for the device."""

import torch
from torch import Tensor


class NotFinite(RuntimeError):
    """A loss became NaN or infinite."""


class Meter:
    """Accumulates 0-dim terms on the device; reads them only when asked.

    Each turn has its own sums and count, so that the means are right for turns that are not due at every step. `state`
    travels in the checkpoint.
    """

    def __init__(self) -> None:
        self.names: dict[str, list[str]] = {}  # turn -> terms
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}
        self.bad: dict[str, Tensor] = {}  # turn -> first step whose terms are not finite (-1: none), then those terms

    def add(self, turn: str, terms: dict[str, Tensor], step: int) -> None:
        """Add the terms of one step."""
        values = torch.stack([value.double() for value in terms.values()])
        if turn not in self.names:
            self.names[turn], self.counts[turn] = list(terms), 0
            self.sums[turn] = torch.zeros_like(values)
            self.bad[turn] = values.new_full((1 + len(values),), -1.0)
        self.sums[turn] += values
        self.counts[turn] += 1
        here = torch.cat([values.new_full((1,), step), values])
        first = ~torch.isfinite(values).all() & (self.bad[turn][0] < 0)
        self.bad[turn] = torch.where(first, here, self.bad[turn])

    def check(self) -> None:
        """Raise NotFinite with step and terms if any step so far was not finite."""
        for turn, record in self.bad.items():
            step, *values = record.tolist()
            if step >= 0:
                terms = ", ".join(f"{name} {value:.6g}" for name, value in zip(self.names[turn], values))
                raise NotFinite(f"the loss is not finite at step {int(step)} ({turn}): {terms}")

    def read(self) -> dict[str, float]:
        """Means since the last read."""
        means = {}
        for turn, sums in self.sums.items():
            if self.counts[turn]:
                means |= dict(zip(self.names[turn], (sums / self.counts[turn]).tolist()))
            self.sums[turn], self.counts[turn] = torch.zeros_like(sums), 0
        return means

    def state(self) -> dict:
        """Everything `load` needs."""
        return {"names": self.names, "sums": self.sums, "counts": self.counts, "bad": self.bad}

    def load(self, state: dict) -> None:
        """Continue from a checkpoint."""
        self.names, self.sums = dict(state["names"]), dict(state["sums"])
        self.counts, self.bad = dict(state["counts"]), dict(state["bad"])
