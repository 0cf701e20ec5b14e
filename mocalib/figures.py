"""Figures, drawn from records alone: no model, no dataset, no device. One pure function a figure; one `save`.

R rows, n images, C H W image.
"""

import io
import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid

from mocalib import experiments, files, latent, paths
from mocalib.config import flat
from mocalib.runs import Run, open_run

plt.style.use(Path(__file__).with_name("moca.mplstyle"))  # one look for every figure, and for what users draw beside

CURVES = {  # logged term -> axis label
    "reconstruction": "reconstruction loss\n(sum of squares an image)",
    "contrastive": "contrastive loss (nats)",
    "negative": "Eq. 4 (nats)",
    "positive_probability": "probability of\nthe positive",
}


def tiles(run: Run, name: str) -> Tensor:
    """Images of a recorded grid, uint8 R columns C H W, cut up by the run's image shape.

    Raises FileNotFoundError if the run was not scored.
    """
    path = run.directory / name
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there; score the run first: python -m mocalib {run.directory}")
    channels, height, width = run.environment["data"]["image_shape"]
    pixels = torch.from_numpy(np.array(Image.open(path).convert("L" if channels == 1 else "RGB")))
    pixels = pixels.reshape(len(pixels) // height, height, -1, width, channels)  # R H columns W C
    return pixels.permute(0, 2, 4, 1, 3)


def show(ax: Axes, images: Tensor, title: str = "", gap: int = 1) -> None:
    """Draw images (uint8 R columns C H W) as a grid with white gaps."""
    grid = make_grid(images.flatten(0, 1), nrow=images.shape[1], padding=gap, pad_value=255)
    ax.imshow(grid.permute(1, 2, 0).numpy())
    ax.set_title(title)
    ax.axis("off")


def _row(*counts: tuple[int, int], inch: float = 0.36) -> tuple[Figure, np.ndarray]:
    """Axes side by side for grids of (rows, columns) images."""
    widths = [columns for _, columns in counts]
    height = inch * max(rows for rows, _ in counts) + 0.4
    return plt.subplots(1, len(counts), figsize=(inch * sum(widths) + 0.3, height), width_ratios=widths, squeeze=False)


def samples(run: Run) -> Figure:
    """New images from uniform points of the sphere beside the nearest training image of each, in pixels."""
    images, near = tiles(run, "samples.png"), tiles(run, "neighbours.png")
    figure, axes = _row(images.shape[:2], near.shape[:2])
    show(axes[0, 0], images, "samples")
    show(axes[0, 1], near, "nearest training image of each")
    return figure


def reconstructions(run: Run) -> Figure:
    """Test images (odd columns) and their reconstructions (even columns), as in rows 1-2 of Figure 2."""
    images = tiles(run, "reconstructions.png")
    figure, axes = _row(images.shape[:2], inch=0.5)
    show(axes[0, 0], images, "test image | reconstruction")
    return figure


def interpolations(run: Run) -> Figure:
    """Between two test images (outer columns) along the sphere, as in rows 3-4 of Figure 2."""
    images = tiles(run, "interpolations.png")
    figure, axes = _row(images.shape[:2], inch=0.5)
    show(axes[0, 0], images, "original | decoded points between the two codes | original")
    return figure


def singular_values(runs: dict[str, Run]) -> Figure:
    """Singular values of training codes (Figure 5), a line a run, with as many uniform codes as the first has."""
    figure, ax = plt.subplots(figsize=(4.2, 2.8))
    for label, run in runs.items():
        values = _singular_values(run)["singular_values"]
        ax.plot(np.arange(1, len(values) + 1), values, marker="o", markersize=3, label=label)
    uniform = _singular_values(next(iter(runs.values())))["uniform"]
    ax.plot(np.arange(1, len(uniform) + 1), uniform, "k--", linewidth=1, label="uniform on the sphere")
    ax.set(xlabel="singular value index", ylabel="singular value", ylim=(0, None))
    ax.legend()
    return figure


def _singular_values(run: Run) -> dict[str, np.ndarray]:
    with np.load(run.directory / "latents.npz") as found:
        return dict(found)


def training_curves(runs: dict[str, Run]) -> Figure:
    """Logged terms against training images, a line a labelled run; Eq. 4 with its value for the uniform sphere."""
    frames = [pd.DataFrame(run.metrics).assign(run=label, batch=run.config.batch_size) for label, run in runs.items()]
    lines = pd.concat(frames, ignore_index=True)
    lines["images"] = lines["step"] * lines["batch"]
    figure, axes = plt.subplots(2, 2, figsize=(6.4, 4.2), sharex=True)
    for ax, (term, label) in zip(axes.flat, CURVES.items()):
        sns.lineplot(lines, x="images", y=term, hue="run", errorbar=None, legend=ax is axes[0, 0], ax=ax)
        ax.set(ylabel=label, xlabel="training images")
    axes[0, 0].set(yscale="log")
    axes[0, 0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))  # the range is often about a decade
    axes[0, 0].yaxis.set_major_formatter(ScalarFormatter())
    axes[0, 0].yaxis.set_minor_formatter(NullFormatter())
    axes[0, 0].legend(title=None)
    config = next(iter(runs.values())).config
    exact = latent.uniform_negative(config.latent_dim, config.objective.temperature)
    axes[1, 0].axhline(exact, color="black", linestyle="--", linewidth=1, label="uniform on the sphere")
    axes[1, 0].legend()
    return figure


def quickstart(moca: Run, twin: Run) -> Figure:
    """Samples of MoCA beside those of the same autoencoder trained with weight 0."""
    images = {
        "uniform points decoded, weight 0": tiles(twin, "samples.png")[:5],
        f"MoCA, weight {moca.config.objective.weight:g}": tiles(moca, "samples.png")[:5],
    }
    figure, axes = _row(*(grid.shape[:2] for grid in images.values()))
    for ax, (title, grid) in zip(axes[0], images.items()):
        show(ax, grid, title)
    return figure


def quickstart_table(runs: list[Run]) -> pd.DataFrame:
    """One row a run: its weight and seed, distances of samples, reconstructions and the floor, and the spectrum."""
    columns = {
        "fd_prior": ("fd_classifier", "prior"),
        "fd_reconstruction": ("fd_classifier", "reconstruction"),
        "fd_train_codes": ("fd_classifier", "train_codes"),
        "fd_floor": ("fd_classifier", "real"),
        "singular_value_ratio": ("singular_value_ratio", "train_codes"),
    }
    rows = []
    for run in runs:
        values = {(row["metric"], row["sampler"]): row["value"] for row in run.scores}
        about = {"run": run.directory.name, "weight": run.config.objective.weight, "seed": run.config.seed}
        rows.append(about | {column: round(values[key], 4) for column, key in columns.items()})
    return pd.DataFrame(rows)


def quickstart_summary(table: pd.DataFrame) -> str:
    """`quickstart_table` as README shows it: a row a quantity and method, a column a seed, and the mean."""
    quantities = {
        "fd_prior": "`fd` of samples",
        "fd_reconstruction": "`fd` of reconstructed test images",
        "singular_value_ratio": "singular-value ratio",
    }
    seeds = sorted(table["seed"].unique())
    lines = [
        "| | " + " | ".join(f"seed {seed}" for seed in seeds) + " | mean |",
        "| --- |" + " ---: |" * (len(seeds) + 1),
    ]
    for column, quantity in quantities.items():
        for weight in sorted(table["weight"].unique(), reverse=True):
            values = table[table["weight"] == weight].set_index("seed")[column][seeds]
            method = f"MoCA, weight {weight:g}" if weight else "twin, weight 0"
            cells = [f"{value:.2f}" for value in [*values, values.mean()]]
            lines.append(f"| {quantity}, {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


HEADLINES = {  # metric -> what it is taken of, against which split
    "reconstruction": ("reconstruction", "test"),
    "singular_value_ratio": ("train_codes", "train"),
    "uniformity": ("train_codes", "train"),
    "fd_classifier": ("prior", "test"),
    "fid": ("prior", "test"),
    "precision": ("prior", "test"),
    "recall": ("prior", "test"),
}


def compare(folder: Path) -> pd.DataFrame:
    """One row a finished run in a folder: the fields in which they differ, and its headline scores at its last epoch.

    Distances are those of samples from the prior to the test split; precision and recall bear their features' name. Of
    several evaluations (another n, another seed) the last one's.
    """
    found = [open_run(path.parent) for path in sorted(Path(folder).glob("*/manifest.json"))]
    names = [run.directory.name for run in found]
    configs = pd.DataFrame([flat(run.config.to_dict()) for run in found], index=names)
    scores = pd.DataFrame([_headlines(run) for run in found], index=names)
    return configs.loc[:, configs.astype(str).nunique() > 1].join(scores.round(4))


def _headlines(run: Run) -> dict[str, float]:
    rows = [row for row in run.scores if row["epoch"] == run.manifest["epoch"]]
    rows = [row for row in rows if HEADLINES.get(row["metric"]) == (row["sampler"], row["split"])]
    rows.sort(key=lambda row: list(HEADLINES).index(row["metric"]))
    bare = ("precision", "recall")
    return {f"{r['metric']}_{r['features']}" if r["metric"] in bare else r["metric"]: r["value"] for r in rows}


def caption(run: Run) -> str:
    """What a picture of one run is of, in a line."""
    c, (_, height, width) = run.config, run.environment["data"]["image_shape"]
    epochs = run.manifest.get("epoch", c.epochs)  # fewer where `stop_at` ended it
    return (
        f"{c.dataset} {height}x{width}, {c.model} of width {c.width}, d {c.latent_dim}, weight {c.objective.weight:g}, "
        f"{epochs} epoch{'s' if epochs > 1 else ''}, seed {c.seed}"
    )


def draw(scale: str = "laptop", seeds: int = 3) -> list[Path]:
    """Draw every figure of a scale from its committed records; nothing is trained. Return the paths."""
    found = [open_run(paths.RECORDS / scale / c.name) for c in experiments.configs("quickstart", scale, seeds)]
    for run in found:
        run.verify()
    moca, twin = found[0], found[seeds]
    table = quickstart_table(found)
    about = "{dataset} {size}x{size}, d {latent_dim}, {epochs} epochs, seed {seed}".format(**moca.config.to_dict())
    spectrum = singular_values({f"MoCA, weight {moca.config.objective.weight:g}": moca, "weight 0": twin})
    summary = paths.FIGURES / scale / "quickstart.md"
    files.write(summary, quickstart_summary(table).encode())
    return [
        summary,
        *save(quickstart(moca, twin), "quickstart", scale, [moca, twin], f"{about}; random, not chosen", table),
        *save(spectrum, "quickstart_singular_values", scale, [moca, twin], f"training codes; {about}"),
    ]


def save(
    figure: Figure, name: str, scale: str, runs: list[Run], caption: str, table: pd.DataFrame | None = None
) -> list[Path]:
    """Write figures/<scale>/<name>.png and .pdf, and the numbers behind it as .csv if given; return the paths.

    The scale is said in the caption below the picture; run names, seeds, n and command go into its metadata. Files are
    byte for byte the same from the same records and library versions, and replace older ones only when they are whole.
    """
    figure.supxlabel(f"{caption} [{scale} scale]", fontsize=7, color="0.35")
    names = [run.directory.name for run in runs]
    about = {
        "runs": names,
        "seeds": sorted({run.config.seed for run in runs}),
        "n_train": [run.environment["data"]["train"] for run in runs],
        "command": " ".join(["python -m mocalib", *(_place(run) for run in runs)]),
    }
    note = json.dumps(about | {"caption": caption, "scale": scale})
    folder = paths.FIGURES / scale
    written = []
    for kind, metadata in (
        ("png", {"Title": name, "Description": note, "Software": None}),
        ("pdf", {"Title": name, "Subject": note, "CreationDate": None, "Producer": None, "Creator": None}),
    ):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, metadata=metadata)
        files.write(folder / f"{name}.{kind}", buffer.getvalue())
        written.append(folder / f"{name}.{kind}")
    if table is not None:
        files.write(folder / f"{name}.csv", table.to_csv(index=False, lineterminator="\n").encode())
        written.append(folder / f"{name}.csv")
    return written


def _place(run: Run) -> str:
    directory = run.directory.resolve()
    return (directory.relative_to(paths.ROOT) if directory.is_relative_to(paths.ROOT) else directory).as_posix()
