"""Figures, drawn from records alone, without models or datasets: one pure function for each figure, and `save`."""

from mocalib.figures.base import caption, save, show, tiles
from mocalib.figures.curves import directions, scores_by_size, scores_by_weight, singular_values, training_curves
from mocalib.figures.pictures import (
    figure1,
    figure2,
    interpolations,
    many_samples,
    quickstart,
    reconstructions,
    samples,
)
