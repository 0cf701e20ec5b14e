"""MoCA and the baselines, a module for each; `config.methods` has their settings."""

import torch

from mocalib import models
from mocalib.config import methods as settings
from mocalib.config.run import RunConfig
from mocalib.methods import ae, dcvae, moca, rae, two_stage_vae, vae, wae
from mocalib.methods.base import Group, Objective, StepLoss, Turn

__all__ = ["Group", "Objective", "StepLoss", "Turn", "build"]

METHODS = {  # the only place that maps the settings' type to a method
    settings.MoCA: moca.MoCA,
    settings.AE: ae.AE,
    settings.VAE: vae.VAE,
    settings.WAEMMD: wae.WAEMMD,
    settings.WAEGAN: wae.WAEGAN,
    settings.RAE: rae.RAE,
    settings.TwoStageVAE: two_stage_vae.TwoStageVAE,
    settings.DCVAE: dcvae.DCVAE,
}


def build(run: RunConfig, image_shape: tuple[int, int, int]) -> Objective:
    """The method of a run with its nets, on the CPU. A seed gives the same initial weights on every machine."""
    method = METHODS[type(run.objective)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        encoder, decoder = models.build(
            run.model, image_shape, run.latent_dim, run.width, run.blocks, method.heads, run.objective.spherical
        )
        made = method(run, image_shape, encoder, decoder)
    return made.double() if run.precision == "float64" else made
