"""What is timed: Algorithm 1 as printed, and our training step, on random pixels. B batch, C H W image."""

import itertools
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from mocalib import methods
from mocalib.config.run import RunConfig
from mocalib.data.batches import ResidentImages
from mocalib.data.builtin import image_shape, random_images
from mocalib.methods.algorithm1 import Settings, algorithm1
from mocalib.storage import environment
from mocalib.training.device import compiled, place
from mocalib.training.loop import AverageMeter
from mocalib.training.step import Trainer

ALGORITHM_1, OURS_FLOAT32, OURS = "Algorithm 1", "engine, float32", "engine"  # names in records


class Feed(Iterator[Tensor]):
    """Endless batches of a loader; while `held`, the last batch again, so that loading costs nothing."""

    def __init__(self, batches: Iterator[Tensor]) -> None:
        self.batches, self.held, self.last = batches, False, None

    def __next__(self) -> Tensor:
        if self.last is None or not self.held:
            self.last = next(self.batches)
        return self.last


class PrintedStep:
    """Algorithm 1 as a reader would run it: float32, NCHW, batches from a DataLoader without workers."""

    def __init__(self, config: RunConfig, device: torch.device) -> None:
        self.objective = methods.build(config, image_shape(config)).to(device).train()
        images = random_images(config).float() / 255
        loader = DataLoader(TensorDataset(images), config.batch_size, shuffle=True, drop_last=True)
        self.feed = Feed(x.to(device) for _ in itertools.count() for (x,) in loader)
        o, c = self.objective, config.objective
        nets, queue = (o.encoder, o.key_encoder, o.decoder), o.queue.keys.T.contiguous()
        del o.queue  # the listing has its own
        settings = Settings(c.momentum, 10**9, c.weight, c.temperature, config.learning_rate)
        self.steps = algorithm1(nets, queue, self.feed, settings)

    def __call__(self, held: bool = False) -> None:
        self.feed.held = held
        next(self.steps)


class OurStep:
    """The training loop's own step and meter, without files; compiled if training would be."""

    def __init__(self, config: RunConfig, device: torch.device, compile: bool | None = None) -> None:
        self.config = config
        self.objective = methods.build(config, image_shape(config)).train()
        place(self.objective, device, environment.net_precision(config.precision, device))
        self.images = ResidentImages(random_images(config), config.batch_size, config.seed, device)
        self.feed = Feed(self.images.batch(step) for step in itertools.count())
        self.trainer = Trainer(self.objective, 10**9, device, compiled(compile, device))
        self.meter = AverageMeter()
        self.count = itertools.count()

    def __call__(self, held: bool = False) -> None:
        self.feed.held = held
        step = next(self.count)
        for turn, terms in self.trainer.step(step, next(self.feed), self.config.learning_rate):
            self.meter.add(turn, terms, step)


def contender(name: str, config: RunConfig, device: torch.device) -> PrintedStep | OurStep:
    """Algorithm 1, our step in float32 without compilation, or our step as training takes it."""
    if name == ALGORITHM_1:
        return PrintedStep(config, device)
    if name == OURS_FLOAT32:
        return OurStep(replace(config, precision="float32"), device, compile=False)
    return OurStep(config, device)
