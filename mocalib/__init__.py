"""Momentum Contrastive Autoencoder: train, load and score runs; figures are drawn from their records."""

from mocalib.autoencoder import load
from mocalib.config import RunConfig
from mocalib.evaluation import evaluate
from mocalib.methods import AE, RAE, VAE, WAEGAN, WAEMMD, MoCA, TwoStageVAE
from mocalib.runs import Run, open_run
from mocalib.training import train

__all__ = [
    "AE",
    "RAE",
    "VAE",
    "WAEGAN",
    "WAEMMD",
    "MoCA",
    "Run",
    "RunConfig",
    "TwoStageVAE",
    "evaluate",
    "load",
    "open_run",
    "train",
]
