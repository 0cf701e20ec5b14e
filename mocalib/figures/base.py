"""What every figure uses: images cut from recorded grids, axes, captions, and saving. R rows, C H W image."""

import io
import json
import os
import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from IPython import get_ipython
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid

from mocalib.config import paths
from mocalib.storage import files
from mocalib.storage.run import Run

LETTERS = 17  # of a caption on one inch

pd.set_option("display.max_colwidth", 100)  # of tables in notebooks: a grid's values fit
plt.style.use(Path(__file__).with_name("moca.mplstyle"))  # for every figure, and for users' own
_NAMED = os.environ.get("MPLBACKEND", "").lower()  # batch systems name one that shows nothing in notebooks
if hasattr(get_ipython(), "kernel") and "inline" not in _NAMED and plt.get_backend().lower() in (_NAMED, "agg"):
    get_ipython().run_line_magic("matplotlib", "inline")  # unless the notebook itself has chosen another


def tiles(run: Run, name: str) -> Tensor:
    """Images of a recorded grid, uint8 (R, columns, C, H, W). Raises FileNotFoundError if the run has no such grid."""
    if not (path := run.directory / name).exists():
        why = "of several seeds only the first has pictures" if run.scores else "the run is not scored yet"
        raise FileNotFoundError(f"{path} does not exist: {why}; to score it: {paths.SHELL} run {run.directory}")
    channels, height, width = run.environment["data"]["image_shape"]
    pixels = torch.from_numpy(np.array(Image.open(path).convert("L" if channels == 1 else "RGB")))
    pixels = pixels.reshape(len(pixels) // height, height, -1, width, channels)  # R H columns W C
    return pixels.permute(0, 2, 4, 1, 3)


def show(ax: Axes, images: Tensor, title: str = "", gap: int = 1) -> None:
    """Draw images (uint8, R columns C H W) as a grid with white gaps."""
    grid = make_grid(images.flatten(0, 1), nrow=images.shape[1], padding=gap, pad_value=255)
    ax.imshow(grid.permute(1, 2, 0).numpy())
    ax.set_title(title)
    ax.axis("off")


def caption(run: Run) -> str:
    """One line that describes a picture of one run."""
    c, (_, height, width) = run.config, run.environment["data"]["image_shape"]
    epochs = run.manifest.get("epoch", c.epochs)  # fewer where `stop_at` ended it
    return (
        f"{c.dataset} {height}x{width}, {c.model} of width {c.width}, d {c.latent_dim}, {c.objective}, "
        f"{epochs} epoch{'s' if epochs > 1 else ''}, seed {c.seed}"
    )


def save(
    figure: Figure, name: str, scale: str, source: list[Run] | dict, caption: str, table: pd.DataFrame | None = None
) -> list[Path]:
    """Write figures/<scale>/<name>.png and .pdf, and `table`, the numbers behind it, as .csv; return the paths.

    The caption below the picture names the scale. The metadata hold `source`: a dict, or runs, of which it names runs,
    seeds, n and command. The same records and library versions give the same bytes. A file is replaced only when the
    new one is whole.
    """
    below = textwrap.fill(f"{caption} [{scale} scale]", int(figure.get_figwidth() * LETTERS))
    figure.supxlabel(below, fontsize=7, color="0.35")
    about = source if isinstance(source, dict) else provenance(source)
    note = json.dumps(about | {"caption": caption, "scale": scale})
    metadata = {
        "png": {"Title": name, "Description": note, "Software": None},
        "pdf": {"Title": name, "Subject": note, "CreationDate": None, "Producer": None, "Creator": None},
    }
    written = []
    for kind, about in metadata.items():
        figure.savefig(picture := io.BytesIO(), format=kind, metadata=about)
        files.write(path := paths.FIGURES / scale / f"{name}.{kind}", picture.getvalue())
        written.append(path)
    return written + ([] if table is None else [save_csv(table, name, scale)])


def shown(figure: Figure) -> bytes:
    """A figure as a notebook shows it: PNG, or JPEG where that takes less than half, as it does for photographs."""
    png, jpeg = io.BytesIO(), io.BytesIO()
    figure.savefig(png, format="png", dpi="figure", metadata={"Software": None})
    Image.open(png).convert("RGB").save(jpeg, "JPEG", quality=90)
    png, jpeg = png.getvalue(), jpeg.getvalue()
    return jpeg if len(jpeg) < len(png) / 2 else png


def save_csv(table: pd.DataFrame, name: str, scale: str) -> Path:
    """Write figures/<scale>/<name>.csv, without the last digits, which differ between kinds of processor."""
    path = paths.FIGURES / scale / f"{name}.csv"
    files.write(path, table.to_csv(index=False, lineterminator="\n", float_format="%.7g").encode())
    return path


def provenance(runs: list[Run]) -> dict:
    """The source of a picture: runs, seeds, training images, and the command that makes the runs."""
    return {
        "runs": [run.directory.name for run in runs],
        "seeds": sorted({run.config.seed for run in runs}),
        "n_train": [run.environment["data"]["train"] for run in runs],
        "command": " ".join(["python -m mocalib run", *(_place(run) for run in runs)]),
    }


def _place(run: Run) -> str:
    directory = run.directory.resolve()
    return (directory.relative_to(paths.ROOT) if directory.is_relative_to(paths.ROOT) else directory).as_posix()
