"""Grids of images: samples, reconstructions and interpolations, as in Figures 1, 2 and 6 to 14."""

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
    show(axes[0, 0], images, "original | decoded points between the two codes | original")
    return figure


def many_samples(run: Run, epoch: int | None = None) -> Figure:
    """A page of random samples, of the last weights or of those kept at an epoch (Figures 6, 9 and 10)."""
    images = tiles(run, "samples.png" if epoch is None else samples_file(epoch))
    figure, axes = row(images.shape[:2], inch=INCH)
    show(axes[0, 0], images)
    return figure


def figure1(run: Run) -> Figure:
    """Random samples (rows 1-2) and interpolations between test images (rows 3-4)."""
    parts = [tiles(run, "samples.png")[:2], tiles(run, "interpolations.png")[:2]]
    figure, axes = plt.subplots(2, 1, figsize=(INCH * 10 + 0.3, INCH * 4.8 + 0.6), height_ratios=(10 / 8, 1))
    for ax, images, title in zip(axes, parts, ("random samples", "original | between the codes | original")):
        show(ax, images, title)
    return figure


def figure2(runs: dict[str, Run]) -> Figure:
    """One column for each dataset: test image and reconstruction, interpolations, and random samples."""
    figure, axes = plt.subplots(3, len(runs), figsize=(4.1 * len(runs), 4.1), squeeze=False)
    for column, (name, run) in zip(axes.T, runs.items()):
        grids = {
            "reconstructions.png": f"{name}\ntest image | reconstruction",
            "interpolations.png": "original | between the codes | original",
            "samples.png": "random samples",
        }
        for ax, (grid, title) in zip(column, grids.items()):
            show(ax, tiles(run, grid)[:2], title)
    return figure


def by_method(runs: dict[str, Run]) -> Figure:
    """Two rows of random samples of each labelled run, three runs side by side."""
    columns = min(3, len(runs))
    rows = -(-len(runs) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(columns * 2.9, rows * 0.98 + 0.3), squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    for ax, (title, run) in zip(axes.flat, runs.items()):
        show(ax, tiles(run, "samples.png")[:2], title)
    return figure


def quickstart(moca: Run, plain: Run) -> Figure:
    """Samples of MoCA, and of the same autoencoder trained with lambda 0."""
    images = {
        "uniform points decoded, weight 0": tiles(plain, "samples.png")[:5],
        f"MoCA, weight {moca.config.objective.weight:g}": tiles(moca, "samples.png")[:5],
    }
    figure, axes = row(*(grid.shape[:2] for grid in images.values()))
    for ax, (title, grid) in zip(axes[0], images.items()):
        show(ax, grid, title)
    return figure
