"""Methods, each a dataclass in `config` and a module here."""

import torch

from mocalib import config, models
from mocalib.objectives import moca
from mocalib.objectives.base import Group, Objective, StepLoss, Turn

__all__ = ["Group", "Objective", "StepLoss", "Turn", "build"]

METHODS = {config.MoCA: moca.MoCA}  # dispatch on the config's type, here and nowhere else


def build(run: config.RunConfig, image_shape: tuple[int, int, int]) -> Objective:
    """Nets and method of a run on the CPU, with the weights that the config's seed gives on every machine."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        encoder, decoder = models.build(run.model, image_shape, run.latent_dim, run.width, run.blocks)
        method = METHODS[type(run.objective)]
        return method(run.objective, encoder, decoder, run.latent_dim, bfloat16=run.precision == "bfloat16")
