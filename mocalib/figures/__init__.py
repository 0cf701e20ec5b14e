"""Figures that two notebooks or more draw, from records alone, and `save`. Needs no models and no datasets."""

from mocalib.figures.base import caption, markdown, save, save_csv, show, text, tiles
from mocalib.figures.curves import DISTANCE, OPEN, STAR, log_axis, scores_along, singular_values, training_curves
from mocalib.figures.pictures import interpolations, many_samples, reconstructions, samples, side_by_side
