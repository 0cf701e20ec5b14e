"""Figures that two notebooks or more draw from records alone, a picture of a run while it trains, and `save`."""

from mocalib.figures.base import caption, save, save_csv, show, shown, tiles
from mocalib.figures.curves import DISTANCE, OPEN, STAR, log_axis, panels_along, scores_along, singular_values, training_curves
from mocalib.figures.live import Live
from mocalib.figures.pictures import interpolations, many_samples, reconstructions, samples, side_by_side
