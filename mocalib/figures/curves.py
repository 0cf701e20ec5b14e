"""Curves: training logs, spectra, and scores along an axis, as in Figures 3, 4, 5 and 15."""

from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

from mocalib.evaluation import metrics
from mocalib.storage.run import Run

LOGGED = {  # logged term -> axis label
    "reconstruction": "reconstruction loss\n(sum of squares an image)",
    "contrastive": "contrastive loss (nats)",
    "negative": "Eq. 4 (nats)",
    "positive_probability": "probability of\nthe positive",
}
PLACES = ("step", "epoch", "images", "batch", "run", "learning_rate", "loss", "momentum")  # columns other than terms
MARKERS = "osD^vPX"
DISTANCE = {"inception": "FID", "classifier": "Fréchet distance\n(classifier features)", "": "no score"}


def training_curves(runs: dict[str, Run]) -> Figure:
    """Four logged terms against training images, one line for each labelled run.

    They are MoCA's four, if logged, then others. A dashed line shows Eq. 4 on the uniform sphere.
    """
    frames = [pd.DataFrame(run.metrics).assign(run=label, batch=run.config.batch_size) for label, run in runs.items()]
    lines = pd.concat(frames, ignore_index=True)
    lines["images"] = lines["step"] * lines["batch"]
    figure, axes = plt.subplots(2, 2, figsize=(6.4, 4.2), sharex=True)
    other = [term for term in lines.columns if term not in (*LOGGED, *PLACES)]
    terms = [*(term for term in LOGGED if term in lines), *other][:4]
    for ax, term in zip(axes.flat, terms):
        sns.lineplot(
            lines.dropna(subset=term), x="images", y=term, hue="run", errorbar=None, legend=ax is axes[0, 0], ax=ax
        )
        ax.set(ylabel=LOGGED.get(term, term.replace("_", " ")), xlabel="training images")
    for ax in axes.flat[len(terms) :]:
        ax.axis("off")
    _logarithmic(axes[0, 0])
    axes[0, 0].legend(title=None)
    if "negative" in lines:
        _mark_uniform(axes[1, 0], runs)
    return figure


def _mark_uniform(ax: Axes, runs: dict[str, Run]) -> None:
    """Mark the exact value of Eq. 3 on the uniform sphere, once for each d and temperature of the runs."""
    configs = [run.config for run in runs.values() if hasattr(run.config.objective, "temperature")]
    for value in {metrics.uniform_negative(config.latent_dim, config.objective.temperature) for config in configs}:
        ax.axhline(value, color="black", linestyle="--", linewidth=1, label="uniform on the sphere")
    handles, labels = ax.get_legend_handles_labels()
    ax.legend(handles[:1], labels[:1])


def _logarithmic(ax: Axes) -> None:
    """A logarithmic y axis with plain numbers at 1, 2 and 5, as its range is often about a decade."""
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter(ScalarFormatter())
    ax.yaxis.set_minor_formatter(NullFormatter())


def singular_values(runs: dict[str, Run | list[Run]]) -> Figure:
    """Singular values of training latents (Figure 5), one line for each label, and of as many latents of the prior.

    If a label has several runs (seeds), the line is their mean and the band goes from the least to the greatest.
    """
    figure, ax = plt.subplots(figsize=(4.6, 3.0))
    grouped = {label: found if isinstance(found, list) else [found] for label, found in runs.items()}
    colors = ordered(len(grouped))
    for (label, found), color, marker in zip(grouped.items(), colors, cycle(MARKERS)):
        values = np.array([recorded_singular_values(run)["singular_values"] for run in found])
        index = np.arange(1, values.shape[1] + 1)
        every = max(1, len(index) // 12)
        ax.plot(index, values.mean(0), marker=marker, markevery=every, markersize=3.5, label=label, color=color)
        if len(found) > 1:
            ax.fill_between(index, values.min(0), values.max(0), color=color, alpha=0.25, linewidth=0)
    first = next(iter(grouped.values()))[0]
    uniform = recorded_singular_values(first)["uniform"]
    name = "uniform on the sphere" if first.config.objective.spherical else "codes of the prior"
    ax.plot(np.arange(1, len(uniform) + 1), uniform, "k--", linewidth=1, label=name)
    ax.set(xlabel="singular value index", ylabel="singular value", ylim=(0, None))
    ax.legend()
    return figure


def recorded_singular_values(run: Run) -> dict[str, np.ndarray]:
    """Singular values of training latents, and of as many latents of the prior (`uniform`), descending."""
    with np.load(run.directory / "latents.npz") as found:
        return dict(found)


def directions(run: Run) -> int:
    """How many directions training latents use: singular values of at least a tenth of the greatest."""
    values = recorded_singular_values(run)["singular_values"]
    return int((values >= 0.1 * values[0]).sum())


def ordered(n: int) -> list:
    """n colours for an ordered axis, from dark to light; they differ in grey and for the colour-blind."""
    return sns.color_palette("viridis", n_colors=n + 1)[:n] if n > 1 else sns.color_palette(n_colors=1)


MEASURES = {"fd": None, "reconstruction": "test reconstruction error", "uniformity": "uniformity of codes"}


def convergence(frame: pd.DataFrame) -> Figure:
    """Score, reconstruction and uniformity against training images and seconds, from rows of `tables.convergence`.

    Lines are means over seeds, bands go from the least to the greatest; seconds are means over seeds.
    """
    frame = frame.assign(seconds=frame.groupby(["method", "epoch"])["seconds"].transform("mean"))
    figure, axes = plt.subplots(2, len(MEASURES), figsize=(8.4, 4.6), sharey="col")
    for across, x in zip(axes, ("images", "seconds")):
        for ax, (measure, label) in zip(across, MEASURES.items()):
            shown = {"hue": "method", "style": "method", "markers": True, "dashes": False, "legend": ax is axes[0, 1]}
            if frame[measure].notna().any():
                sns.lineplot(frame, x=x, y=measure, errorbar=("pi", 100), **shown, ax=ax)
            ax.set(xscale="log", xlabel=f"training {x}", ylabel=label or DISTANCE[frame["features"].iloc[0]])
            ax.xaxis.set_minor_formatter(NullFormatter())  # within two decades they would overlap
    for ax, measure in zip(axes[0], MEASURES):
        if measure != "uniformity" and frame[measure].notna().any():
            _logarithmic(ax)
    least = metrics.uniform_uniformity(int(frame["latent_dim"].iloc[0]))
    lines = [ax.axhline(least, color="black", linestyle="--", linewidth=1) for ax in axes[:, 2]]
    axes[0, 2].legend(lines[:1], ["uniform directions"])
    handles, labels = axes[0, 1].get_legend_handles_labels()
    axes[0, 1].get_legend().remove()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
    return figure


def scores_by_weight(frame: pd.DataFrame, axis: str, symbol: str) -> Figure:
    """Distance against lambda, one line for each value of an axis: Figures 3 and 4.

    Points are means over seeds, bars their standard deviation, and a red star is the best mean of a line. An open mark
    is a mean with a run that did not reach `stop_at`.
    """
    figure, ax = plt.subplots(figsize=(4.6, 3.2))
    values = sorted(frame[axis].unique())
    for value, color, marker in zip(values, ordered(len(values)), cycle(MARKERS)):
        _line(ax, frame[frame[axis] == value], color, marker, f"{symbol} = {value:g}")
    _finish(ax, frame)
    ax.legend()
    return figure


def scores_by_size(frame: pd.DataFrame, shown: dict[int, str]) -> Figure:
    """Distance against lambda, one panel for each input size, with red stars at the best (Figure 15)."""
    sizes = sorted(frame["size"].unique())
    figure, axes = plt.subplots(1, len(sizes), figsize=(2.4 * len(sizes) + 0.4, 2.8), squeeze=False)
    for ax, size, color, marker in zip(axes[0], sizes, ordered(len(sizes)), cycle(MARKERS)):
        part = frame[frame["size"] == size]
        _line(ax, part, color, marker, None)
        _finish(ax, part)
        ax.set_title(shown.get(size, f"{size}x{size}"))
    for ax in axes[0, 1:]:
        ax.set_ylabel("")
    return figure


def _line(ax: Axes, part: pd.DataFrame, color: tuple, marker: str, label: str | None) -> None:
    short = part.assign(short=(part["stop_at"] > 0) & (part["epoch"] == part["epochs"]))
    found = short.groupby("weight").agg(fd=("fd", "mean"), sd=("fd", "std"), short=("short", "any")).reset_index()
    ax.errorbar(found["weight"], found["fd"], found["sd"].fillna(0), color=color, capsize=2, linewidth=1.4, label=label,
                marker=marker, markersize=5)  # fmt: skip
    opened = found[found["short"]]
    ax.plot(opened["weight"], opened["fd"], marker, markersize=5, markerfacecolor="white", color=color, zorder=3)
    if found["fd"].notna().all():
        best = found.loc[found["fd"].idxmin()]
        ax.plot(best["weight"], best["fd"], "*", color="red", markeredgecolor="white", markersize=13, zorder=4)


def _finish(ax: Axes, frame: pd.DataFrame) -> None:
    tried = sorted(frame["weight"].unique())
    ax.set(xscale="log", xlabel="weight $\\lambda$", ylabel=DISTANCE[frame["features"].iloc[0]])
    ax.set_xticks(tried, [f"{weight:g}" for weight in tried])
    ax.xaxis.set_minor_formatter(NullFormatter())
    if frame["fd"].isna().all():
        ax.text(0.5, 0.5, "no distances without labels", transform=ax.transAxes, ha="center")
    if frame["fd"].max() > 5 * frame["fd"].min():
        _logarithmic(ax)
