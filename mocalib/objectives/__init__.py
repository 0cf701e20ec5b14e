"""Methods: the settings of each are a dataclass in `methods`, its losses a module here."""

import torch

from mocalib import models
from mocalib.config import methods
from mocalib.config.run import RunConfig
from mocalib.objectives import ae, moca, rae, two_stage_vae, vae, wae
from mocalib.objectives.base import Group, Objective, StepLoss, Turn

__all__ = ["Group", "Objective", "StepLoss", "Turn", "build"]

METHODS = {  # dispatch on the settings' type, here and nowhere else
    methods.MoCA: moca.MoCA,
    methods.AE: ae.AE,
    methods.VAE: vae.VAE,
    methods.WAEMMD: wae.WAEMMD,
    methods.WAEGAN: wae.WAEGAN,
    methods.RAE: rae.RAE,
    methods.TwoStageVAE: two_stage_vae.TwoStageVAE,
}


def build(run: RunConfig, image_shape: tuple[int, int, int]) -> Objective:
    """Nets and method of a run on the CPU, with the weights that the config's seed gives on every machine."""
    method = METHODS[type(run.objective)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        encoder, decoder = models.build(
            run.model, image_shape, run.latent_dim, run.width, run.blocks, method.heads, run.objective.spherical
        )
        made = method(run.objective, encoder, decoder, run.latent_dim, bfloat16=run.precision == "bfloat16")
    return made.double() if run.precision == "float64" else made
