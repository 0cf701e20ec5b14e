"""Momentum Contrastive Autoencoder: train, load and score runs; figures are drawn from their records."""

from mocalib.autoencoder import load
from mocalib.config import MoCA, RunConfig
from mocalib.evaluation import evaluate
from mocalib.runs import Run, open_run
from mocalib.training import train

__all__ = ["MoCA", "Run", "RunConfig", "evaluate", "load", "open_run", "train"]
