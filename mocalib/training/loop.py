"""The only training loop. It knows no method by name, no file and no dataset."""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from mocalib.config.run import RunConfig
from mocalib.training.step import Trainer

LOG_LINES = 20  # at most, so that the record of a long run stays small


class NotFinite(RuntimeError):
    """A loss became NaN or infinite."""


class AverageMeter:
    """Means of loss terms, and the first step that was not finite. Adding never waits for the device.

    Each turn has its own sums and count, as not every turn is due at every step.
    """

    def __init__(self) -> None:
        self.names: dict[str, list[str]] = {}  # turn -> terms
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}
        self.bad: dict[str, Tensor] = {}  # turn -> first step that was not finite (-1: none), then its terms

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
        """Raise NotFinite with the step and its terms if any step so far was not finite."""
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
        """Everything that `load` needs."""
        return {"names": self.names, "sums": self.sums, "counts": self.counts, "bad": self.bad}

    def load(self, state: dict) -> None:
        """Continue from another meter's state."""
        self.names, self.sums = dict(state["names"]), dict(state["sums"])
        self.counts, self.bad = dict(state["counts"]), dict(state["bad"])


class Callbacks:
    """What a caller does during training; a subclass overrides what it needs."""

    def on_step(self, step: int, state: Callable[[], dict]) -> None:
        """After a step; `state()` is all that `fit` needs to resume there, or raises NotFinite."""

    def on_line(self, line: dict[str, float]) -> None:
        """A line of the log: step, epoch, the means of all terms since the last line, and the learning rate."""

    def on_epoch(self, step: int, epoch: int) -> None:
        """At the end of an epoch, and at step 0 as epoch 0; every loss so far is finite."""


def fit(
    trainer: Trainer,
    batch: Callable[[int], Tensor],
    config: RunConfig,
    steps_per_epoch: int,
    callbacks: Callbacks,
    resumed: dict | None = None,
) -> tuple[int, int]:
    """Train for `config.epochs`, or until an epoch's mean reconstruction loss is at most `config.stop_at`.

    `batch(step)` gives images B C H W; `resumed` is a state from `Callbacks.on_step`. Returns how many steps and epochs
    were taken in all. Raises NotFinite once a loss is not finite.
    """
    steps = config.epochs * steps_per_epoch
    log_every = -(-steps // LOG_LINES)
    meters = {"line": AverageMeter(), "epoch": AverageMeter()}  # since the last log line; in this epoch, for stop_at
    start = _resume(trainer, meters, resumed)
    step, epoch = start - 1, (start - 1) // steps_per_epoch
    rate = learning_rate(config, max(epoch, 0))  # for the last line, if no step is left
    if start == 0:
        callbacks.on_epoch(0, 0)
    trainer.objective.train()
    for step in range(start, steps):
        epoch = step // steps_per_epoch
        rate = learning_rate(config, epoch)
        for turn, terms in trainer.step(step, batch(step), rate):
            for meter in meters.values() if config.stop_at else [meters["line"]]:
                meter.add(turn, terms, step)
        if (step + 1) % log_every == 0:
            callbacks.on_line(_line(meters["line"], step + 1, epoch + 1, rate))
        if (step + 1) % steps_per_epoch == 0:
            meters["line"].check()
            callbacks.on_epoch(step + 1, epoch + 1)
            if config.stop_at and meters["epoch"].read().get("reconstruction", math.inf) <= config.stop_at:
                break
        callbacks.on_step(step + 1, partial(_state, trainer, meters, step + 1))
    if any(meters["line"].counts.values()):  # steps since the last line
        callbacks.on_line(_line(meters["line"], step + 1, epoch + 1, rate))
    return step + 1, epoch + 1


def _line(meter: AverageMeter, step: int, epoch: int, rate: float) -> dict[str, float]:
    meter.check()
    return {"step": step, "epoch": epoch, **meter.read(), "learning_rate": rate}


def _state(trainer: Trainer, meters: dict[str, AverageMeter], step: int) -> dict:
    meters["line"].check()
    return trainer.state() | {"step": step, "meters": {name: meter.state() for name, meter in meters.items()}}


def _resume(trainer: Trainer, meters: dict[str, AverageMeter], state: dict | None) -> int:
    """Load a state, if there is one; return the step to continue from."""
    if state is None:
        return 0
    trainer.load(state)
    for name, meter in meters.items():
        meter.load(state["meters"][name])
    return state["step"]


def learning_rate(config: RunConfig, epoch: int) -> float:
    """Halved every `decay_every` epochs, for the last time at epoch `decay_until`; epochs count from 0."""
    last = min(epoch, config.decay_until) if config.decay_until else epoch
    return config.learning_rate * 0.5 ** (last // config.decay_every if config.decay_every else 0)
