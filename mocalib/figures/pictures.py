"""Grids of images that several notebooks draw: samples, reconstructions and interpolations."""

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from mocalib.figures.base import row, show, tiles
from mocalib.storage.run import Run, samples_file

INCH = 0.42  # side of an image in the paper's figures


def samples(run: Run) -> Figure:
    """New images, and the nearest training image of each, by pixels."""
    near = tiles(run, "neighbours.png")
    images = tiles(run, "samples.png")[: len(near)]
    figure, axes = row(images.shape[:2], near.shape[:2])
    show(axes[0, 0], images, "samples")
    show(axes[0, 1], near, "nearest training image of each")
    return figure


def reconstructions(run: Run) -> Figure:
    """Test images (odd columns) and their reconstructions (even columns), as in rows 1-2 of Figure 2."""
    images = tiles(run, "reconstructions.png")
    figure, axes = row(images.shape[:2], inch=0.5)
    show(axes[0, 0], images, "test image | reconstruction")
    return figure


def interpolations(run: Run) -> Figure:
    """Interpolations between two test images (outer columns), as in rows 3-4 of Figure 2."""
    images = tiles(run, "interpolations.png")
    figure, axes = row(images.shape[:2], inch=0.5)
    show(axes[0, 0], images, "original | decoded points between the two latents | original")
    return figure


def many_samples(run: Run, epoch: int | None = None) -> Figure:
    """A page of random samples, of the last weights or of those kept at an epoch (Figures 6, 9 and 10)."""
    images = tiles(run, "samples.png" if epoch is None else samples_file(epoch))
    figure, axes = row(images.shape[:2], inch=INCH)
    show(axes[0, 0], images)
    return figure


def side_by_side(runs: dict[str, Run], rows: int = 2, columns: int = 3) -> Figure:
    """Rows of random samples of each labelled run, some runs side by side."""
    columns = max(1, min(columns, len(runs)))
    down = max(1, -(-len(runs) // columns))
    figure, axes = plt.subplots(down, columns, figsize=(columns * 2.9, down * (0.36 * rows + 0.3)), squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    for ax, (title, run) in zip(axes.flat, runs.items()):
        show(ax, tiles(run, "samples.png")[:rows], title)
    return figure
