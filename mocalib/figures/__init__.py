"""Figures, drawn from records alone: no model, no dataset, no device. One pure function a figure; one `save`."""

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
