"""The state of a grid's runs, and their estimated cost from a few real steps of each distinct net and method."""

import math
import statistics
import time
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from mocalib import methods
from mocalib.config.compute import Compute
from mocalib.config.parameters import flat
from mocalib.config.run import RunConfig
from mocalib.data import builtin, cache, catalogue, datasets
from mocalib.data.batches import ResidentImages
from mocalib.storage import environment
from mocalib.storage.run import Run
from mocalib.training.device import check_device, check_threads, compiled, place, threads, tuned
from mocalib.training.loop import learning_rate
from mocalib.training.step import Trainer, check_turns

RECORD = 60_000  # bytes of a finished run without its weights; laptop runs have 58 kB on average
FREE = (  # fields that do not change the cost of a step
    *("seed", "limit", "skip_broken", "epochs", "stop_at", "learning_rate", "decay_every", "decay_until"),
    *("keep_epochs", "objective.weight", "objective.temperature", "objective.momentum"),
)


def state(config: RunConfig, folder: Path) -> str:
    """Whether a run is "finished", "begun", "new" or "damaged" in a folder of runs."""
    try:
        run = Run(folder / config.name, config)
    except ValueError:  # `verify` gives the reason
        return "damaged"
    return "finished" if run.finished else "begun" if run.begun else "new"


class Cost(NamedTuple):
    """The measured cost of a run."""

    images: int  # training images
    seconds: float  # per step, averaged over training
    weights: int  # bytes of a weights file: nets, key encoder, queue
    checkpoint: int  # bytes, with Adam's two moments
    random: bool  # whether the images were random, because the run's are missing

    def hours(self, config: RunConfig) -> float:
        """Hours of training; an upper bound, since `stop_at` may end it earlier."""
        return config.epochs * ((config.limit or self.images) // config.batch_size) * self.seconds / 3600

    def kept(self, config: RunConfig) -> int:
        """Bytes of a finished run: the weights of its last and kept epochs, and its records."""
        return (1 + sum(epoch < config.epochs for epoch in config.keep_epochs)) * self.weights + RECORD


def measured(todo: list[RunConfig], compute: Compute) -> int:
    """Measure runs and print their cost. Returns 1 if some of them would fail, else 0."""
    check_threads(compute.threads)  # raise once, not for every run
    check_device(compute.device)
    kinds, costs = {config: _kind(config) for config in todo}, {}
    for config, kind in kinds.items():
        if kind in costs:
            continue
        try:
            cost = costs[kind] = measure(config, compute)
            random = " (random pixels: its images are missing)" if cost.random else ""
            print(f"{config.name}: {cost.seconds:.3g} s a step{random}", flush=True)
        except (ValueError, OSError, RuntimeError, ArithmeticError) as error:
            costs[kind] = None
            print(f"{config.name}: {error}", flush=True)
    found = [(config, cost) for config, kind in kinds.items() if (cost := costs[kind])]
    hours, kept = sum(cost.hours(config) for config, cost in found), sum(cost.kept(config) for config, cost in found)
    working = max((3 * cost.checkpoint for _, cost in found), default=0)  # two on the disk and one being written
    print(f"{hours:.3g} hours of training, one run at a time, without start-up and scoring")
    print(f"{kept / 1e9:.3g} GB of weights and records; {working / 1e9:.3g} GB of checkpoints while a run trains")
    if failed := [config.name for config, kind in kinds.items() if not costs[kind]]:
        print(f"{len(failed)} runs would fail: {', '.join(failed)}")
    return 1 if failed else 0


def _kind(config: RunConfig) -> tuple:
    """All fields that a step's cost depends on."""
    return tuple((name, str(value)) for name, value in flat(config).items() if name not in FREE)


def measure(config: RunConfig, compute: Compute) -> Cost:
    """Measure some steps of each part of a run's training. Raises as `train`; ArithmeticError for a loss not finite."""
    device = check_device(compute.device)
    images, n, random = _images(config)
    with tuned(threads(config, compute.threads), device):
        objective = methods.build(config, tuple(images.shape[1:]))
        place(objective, device, environment.net_precision(config.precision, device)).train()
        batches = ResidentImages(images, config.batch_size, config.seed, device, objective.dtype)
        steps = config.epochs * (n // config.batch_size)
        check_turns(objective, steps)
        trainer = Trainer(objective, steps, device, compiled(compute.compile, device), config.seed)
        seconds = _seconds(config, trainer, batches)
    weights = sum(value.nbytes for value in objective.state_dict().values())
    moments = sum(2 * p.nbytes for p in objective.parameters() if p.requires_grad)
    return Cost(n, seconds, weights, weights + moments, random)


def _images(config: RunConfig) -> tuple[Tensor, int, bool]:
    """A run's training images (random ones if they are missing), the dataset's size, and whether they are random."""
    try:
        source = datasets.source(config)
        if source.here:  # a plan downloads nothing
            images = cache.cached(config.dataset, source.key, source.write).train.images
            return images, len(images), False
    except FileNotFoundError:
        if config.dataset not in catalogue.TRAINING_IMAGES:
            raise
    return builtin.random_images(config), catalogue.TRAINING_IMAGES[config.dataset], True


def _seconds(config: RunConfig, trainer: Trainer, batches: ResidentImages) -> float:
    """Seconds per step, averaged over training. Each stretch between starts and ends of turns is measured alone."""
    turns, steps, total = trainer.objective.turns, trainer.steps, 0.0
    period = max(turn.every for turn in turns)  # steps until every turn has been taken
    edges = sorted({0.0, 1.0} | {edge for turn in turns for edge in (turn.start, turn.stop)})
    for start, stop in pairwise(edges):
        first = math.ceil(start * steps)
        taken = [_step(config, trainer, batches, step) for step in range(first, min(first + period + 1, steps))]
        timed = taken[1:] or taken  # the first step is a warm-up
        total += (stop - start) * statistics.fmean(timed or [0.0])
    return total


def _step(config: RunConfig, trainer: Trainer, batches: ResidentImages, step: int) -> float:
    """Take a step and return its seconds."""
    started = time.monotonic()
    rate = learning_rate(config, step // batches.steps_per_epoch)
    for _, terms in trainer.step(step, batches.batch(step), rate):
        if wrong := [name for name, value in terms.items() if not torch.isfinite(value)]:  # waits for the device
            raise ArithmeticError(f"{', '.join(wrong)} not finite at step {step}")
    return time.monotonic() - started
