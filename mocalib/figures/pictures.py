"""Grids of images that several notebooks draw: samples, reconstructions and interpolations."""

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor

from mocalib.figures.base import show, tiles
from mocalib.storage.run import Run, samples_file

NEAREST = "nearest training image of each"
BETWEEN = "original | decoded points between the two latents | original"


def samples(run: Run) -> Figure:
    """New images, and the nearest training image of each, by pixels, if the run's record may have them."""
    if not (run.directory / "neighbours.png").exists():
        return _panels({"samples": tiles(run, "samples.png")})
    near = tiles(run, "neighbours.png")
    return _panels({"samples": tiles(run, "samples.png")[: len(near)], NEAREST: near})


def reconstructions(run: Run) -> Figure:
    """Test images (odd columns) and their reconstructions (even columns), as in rows 1-2 of Figure 2."""
    return _panels({"test image | reconstruction": tiles(run, "reconstructions.png")})


def interpolations(run: Run) -> Figure:
    """Interpolations between two test images (outer columns), as in rows 3-4 of Figure 2."""
    return _panels({BETWEEN: tiles(run, "interpolations.png")})


def many_samples(run: Run, epoch: int | None = None) -> Figure:
    """A page of random samples, of the last weights or of those kept at an epoch (Figures 6, 9 and 10)."""
    return _panels({"": tiles(run, "samples.png" if epoch is None else samples_file(epoch))})


def _panels(grids: dict[str, Tensor], inch: float = 0.42) -> Figure:
    """Grids of images side by side, under their titles; an image has a side of `inch`."""
    rows, columns = max(len(grid) for grid in grids.values()), [grid.shape[1] for grid in grids.values()]
    size = (inch * sum(columns) + 0.3, inch * rows + 0.8)
    figure, axes = plt.subplots(1, len(grids), figsize=size, width_ratios=columns, squeeze=False)
    for ax, (title, images) in zip(axes[0], grids.items()):
        show(ax, images, title)
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
