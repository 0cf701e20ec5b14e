"""MoCA and the baselines, a module for each; `config.methods` has their settings."""

import torch

from mocalib import models
from mocalib.config.run import RunConfig
from mocalib.methods import ae, dcvae, moca, rae, two_stage_vae, vae, wae
from mocalib.methods.base import Group, Objective, StepLoss, Turn

__all__ = ["Group", "Objective", "StepLoss", "Turn", "build"]

METHODS = (moca.MoCA, ae.AE, vae.VAE, wae.WAEMMD, wae.WAEGAN, rae.RAE, two_stage_vae.TwoStageVAE, dcvae.DCVAE)
BY_NAME = {method.__name__: method for method in METHODS}  # a method and its settings have the same name


def build(run: RunConfig, image_shape: tuple[int, int, int]) -> Objective:
    """The method of a run with its nets, on the CPU. A seed gives the same initial weights on every machine."""
    method = BY_NAME[type(run.objective).__name__]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        encoder, decoder = models.build(
            run.model, image_shape, run.latent_dim, run.width, run.blocks, method.heads, run.objective.spherical
        )
        made = method(run, image_shape, encoder, decoder)
    return made.double() if run.precision == "float64" else made
