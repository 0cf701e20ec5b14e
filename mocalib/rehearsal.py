"""A few steps and scores of every run of a grid, before hours are spent on it: what is wrong is found in minutes."""

import math
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from mocalib import data, engine, environment, evaluation, features, forecast, objectives
from mocalib.autoencoder import Autoencoder
from mocalib.config import RunConfig
from mocalib.distances import frechet_distance
from mocalib.runs import dtype
from mocalib.training import learning_rate, tuned

STEPS = 2  # from the start of each turn; the last of them is timed


@dataclass(frozen=True)
class Rehearsed:
    """What a few steps of a run have shown."""

    config: RunConfig
    seconds: float  # of its slowest kind of step
    memory: int | None  # bytes that these steps allocated on a GPU; graphs and the allocator take more

    @property
    def hours(self) -> float:
        """Of training, were every step like that one: if not compiled, the most that it takes on a GPU."""
        return forecast.steps(self.config) * self.seconds / 3600

    def __str__(self) -> str:
        memory = "" if self.memory is None else f", {self.memory / 1e9:.3g} GB allocated"
        return f"{self.config.name}: {self.seconds:.3g} s a step, at most {self.hours:.3g} hours{memory}"


def rehearse(
    config: RunConfig,
    device: torch.device | str = "cpu",
    threads: int | None = None,
    extractor: str | None = None,
    weights: Path | str | None = None,
    compile: bool = False,
) -> Rehearsed:
    """Take some steps of each turn of a run on its own data, at its own batch size, and score a batch; keep no run.

    `compile`: as training does on a GPU, which takes its time for each run.

    Raises what `train` and `evaluate` would raise of such a run (missing data or weights, too little memory), and
    ArithmeticError for a loss that is not finite.
    """
    device = torch.device(device)
    dataset = data.load(config)
    evaluation.check(config, dataset, extractor, weights=weights)
    data.check_batch(len(dataset.train.images), config.batch_size)
    if device.type == "cuda":
        torch.cuda.empty_cache()  # of the run before
        torch.cuda.reset_peak_memory_stats(device)
    with tuned(threads or torch.get_num_threads(), device):
        objective = objectives.build(config, dataset.image_shape)
        objective.bfloat16 = environment.net_precision(config.precision, device) == "bfloat16"
        objective.to(device, dtype(config), memory_format=torch.channels_last).train()
        seconds = _steps(config, objective, dataset, device, compile)
        _score(config, objective, dataset, device, extractor, weights)
        memory = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    return Rehearsed(config, seconds, memory)


def _steps(
    config: RunConfig, objective: objectives.Objective, dataset: data.Dataset, device: torch.device, compile: bool
) -> float:
    """Take steps from the first of each turn on; seconds of the slowest, its first step aside."""
    images = data.ResidentImages(dataset.train.images, config.batch_size, config.seed, device, dtype(config))
    steps = config.epochs * images.steps_per_epoch
    engine.check_turns(objective, steps)
    trainer = engine.Trainer(objective, steps, device, compile, config.seed)

    def taken(step: int) -> float:
        started = time.monotonic()
        rate = learning_rate(config, step // images.steps_per_epoch)
        terms = {k: v for _, found in trainer.step(step, images.batch(step), rate) for k, v in found.items()}
        if wrong := [name for name, value in terms.items() if not torch.isfinite(value).all()]:  # waits for the device
            raise ArithmeticError(f"{', '.join(wrong)} not finite at step {step}")
        return time.monotonic() - started

    starts = {math.ceil(turn.start * steps) for turn in objective.turns}
    return max([taken(start + i) for i in range(min(STEPS, steps - start))][-1] for start in starts)


def _score(
    config: RunConfig,
    objective: objectives.Objective,
    dataset: data.Dataset,
    device: torch.device,
    extractor: str | None,
    weights: Path | str | None,
) -> None:
    """Score a batch of images instead of all: codes, grids, and the distance of samples."""
    n = max(config.batch_size, 2)
    small = dataset._replace(
        **{name: data.Split(getattr(dataset, name).images[:n], None) for name in ("train", "test")}
    )
    autoencoder = Autoencoder(objective.float(), 0, 0, device)
    evaluation.score(autoencoder, small, None, n)
    name = features.meant(extractor, config.dataset, dataset.train.labels is not None)
    if name != "none":
        whole = data.load(replace(config, limit=0))  # a classifier is of the dataset, not of a part of it
        built = features.build(name, whole, config.dataset, weights, device)
        samples = evaluation.decode(autoencoder, autoencoder.prior(n))
        frechet_distance(built(samples), built(small.test.images))
