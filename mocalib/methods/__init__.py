"""MoCA and the baselines: losses, the key queue, and one module a method; settings are in `config.methods`."""

import torch

from mocalib import models
from mocalib.config import methods as settings
from mocalib.config.run import RunConfig
from mocalib.methods import ae, moca, rae, two_stage_vae, vae, wae
from mocalib.methods.base import Group, Objective, StepLoss, Turn

__all__ = ["Group", "Objective", "StepLoss", "Turn", "build"]

METHODS = {  # dispatch on the settings' type, here and nowhere else
    settings.MoCA: moca.MoCA,
    settings.AE: ae.AE,
    settings.VAE: vae.VAE,
    settings.WAEMMD: wae.WAEMMD,
    settings.WAEGAN: wae.WAEGAN,
    settings.RAE: rae.RAE,
    settings.TwoStageVAE: two_stage_vae.TwoStageVAE,
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
