"""What a grid of runs will take before any is run: operations, hours and bytes."""

import json
import math
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from mocalib import data, objectives, paths
from mocalib.config import OWN_SIZES, RunConfig
from mocalib.contenders import ENGINE, image_shape
from mocalib.runs import Run
from mocalib.sources import TRAINING_IMAGES

RECORD = 60_000  # bytes of a finished run beside its weights: those of the 178 at laptop scale are 58 kB on average
NEUTRAL = {"weight": 0.5, "temperature": 0.5, "momentum": 0.5}  # settings that no operation depends on


def images(config: RunConfig) -> int:
    """Training images of a run; data of one's own are opened to know."""
    return config.limit or TRAINING_IMAGES.get(config.dataset) or len(data.load(config).train.images)


def weight(config: RunConfig) -> float:
    """Cost of a run relative to others, to first order and at once: images seen, pixels, squared width."""
    side = config.size or OWN_SIZES.get(config.dataset, 1)
    seen = config.epochs * (config.limit or TRAINING_IMAGES.get(config.dataset, 1))
    return float(seen * (side * config.width) ** 2)


def steps(config: RunConfig) -> int:
    """Training steps of a run, at most: `stop_at` may end it earlier."""
    return config.epochs * (images(config) // config.batch_size)


class Needs(NamedTuple):
    """What a run's nets and method take."""

    operations: float  # floating-point, of a step: of all turns as often as they are due, as torch counts them
    weights: int  # bytes of a weights file: nets, key encoder, queue
    checkpoint: int  # bytes, with Adam's two moments


def needs(config: RunConfig) -> Needs:
    """Operations and bytes of a run's nets, counted on tensors that have shapes and no memory."""
    method = replace(config.objective, **{name: v for name, v in NEUTRAL.items() if hasattr(config.objective, name)})
    shape = ("dataset", "size", "model", "width", "blocks", "latent_dim", "batch_size", "root", "crop")
    return _needs(RunConfig(objective=method, **{name: getattr(config, name) for name in shape}))


@cache
def _needs(config: RunConfig) -> Needs:
    with torch.device("meta"):
        objective, total = objectives.build(config, image_shape(config)).train(), 0.0
        x = torch.zeros(config.batch_size, *image_shape(config))
        noise = torch.zeros(config.batch_size, objective.noise)
        for turn in objective.turns:
            with FlopCounterMode(display=False) as counter:
                objective.loss(turn.name, x, noise).total.backward()
            total += counter.get_total_flops() * (turn.stop - turn.start) / turn.every
    state = sum(value.nbytes for value in objective.state_dict().values())
    moments = sum(2 * p.nbytes for p in objective.parameters() if p.requires_grad)
    return Needs(total, state, state + moments)


def speed(config: RunConfig, device: str) -> float | None:
    """Operations a second of the engine on "cpu" or "cuda", as measured for the most similar net; None if never.

    Similar: of the nearest operations an image. Speeds are those of data/throughput/.
    """
    found = {}
    for path in sorted(paths.THROUGHPUT.glob(f"*-{device}.json")):
        for case in json.loads(path.read_text())["cases"]:
            per_image = case["operations"][ENGINE] / case["config"]["batch_size"]
            found[per_image] = case["operations"][ENGINE] / case["contenders"][ENGINE]["seconds"]
    if not found:
        return None
    here = needs(config).operations / config.batch_size
    return found[min(found, key=lambda there: abs(math.log(there / here)))]


@dataclass
class Forecast:
    """Runs of a grid by their state, and what the unfinished ones will take."""

    finished: int = 0
    begun: int = 0
    new: int = 0
    operations: float = 0.0
    hours: float | None = 0.0  # of training on one device; None where no such device was measured
    kept: int = 0  # bytes of weights and records once they are finished
    working: int = 0  # bytes of checkpoints of one run while it trains, at most

    def __str__(self) -> str:
        runs = self.finished + self.begun + self.new
        measure = "not known until `python -m mocalib throughput --scale workstation --device cuda` has measured one"
        hours = measure if self.hours is None else f"{self.hours:,.3g} of training; start-up and scoring come on top"
        return (
            f"runs          {runs}: {self.finished} finished, {self.begun} begun, {self.new} new\n"
            f"operations    {self.operations:.3g}\n"
            f"device-hours  {hours}\n"
            f"disk          {self.kept / 1e9:.3g} GB of weights and records in the end; "
            f"while it trains, each run has up to {self.working / 1e9:.3g} GB of checkpoints"
        )


def forecast(configs: list[RunConfig], runs: Path, device: str) -> Forecast:
    """What the runs of `configs` that are not finished in `runs` will take on a device, "cpu" or "cuda"."""
    found, kind = Forecast(), torch.device(device).type
    for config in dict.fromkeys(configs):
        run = Run(runs / config.name, config)
        if run.finished:
            found.finished += 1
            continue
        found.begun, found.new = found.begun + run.begun, found.new + (not run.begun)
        taken = needs(config)
        total = steps(config) * taken.operations
        found.operations += total
        fast = speed(config, kind)
        found.hours = None if fast is None or found.hours is None else found.hours + total / fast / 3600
        kept = 1 + sum(epoch < config.epochs for epoch in config.keep_epochs)
        found.kept += kept * taken.weights + RECORD
        found.working = max(
            found.working, 3 * taken.checkpoint
        )  # two are kept, and a third is there while it is written
    return found
