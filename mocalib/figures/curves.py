"""Curves that several notebooks draw: training logs, singular values, and scores along an axis."""

import math
from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

from mocalib.config.run import FEATURES
from mocalib.evaluation import metrics
from mocalib.storage.run import Run

LOGGED = {  # logged term -> axis label
    "reconstruction": "reconstruction loss",
    "contrastive": "contrastive loss (nats)",
    "negative": "Eq. 4 with the\nqueue's keys (nats)",
    "positive_probability": "probability of the\npositive",
}
PLACES = ("step", "epoch", "images", "batch", "run", "learning_rate", "loss", "momentum")  # columns other than terms
MARKERS = "osD^vPX"
AXES = {"weight": "$\\lambda$", "momentum": "base momentum $m_0$", "queue_size": "queue size $K$ (keys)"}
DISTANCE = {name: f"fd ({name} features)" for name in FEATURES} | {"inception": "FID", "": "no score"}
STAR = "error bars: standard deviation over seeds; red star: least mean distance of a line; lines are shifted a little"
OPEN = "open mark: a run did not reach the loss at which training stops"


def training_curves(runs: dict[str, Run]) -> Figure:
    """Four logged terms against the number of images seen, one line for each labelled run.

    They are MoCA's four, if logged, then others. A dashed line shows Eq. 4 on the uniform sphere.
    """
    frames = [pd.DataFrame(run.metrics).assign(run=label, batch=run.config.batch_size) for label, run in runs.items()]
    lines = pd.concat(frames, ignore_index=True)
    lines["images"] = lines["step"] * lines["batch"]
    figure, axes = plt.subplots(2, 2, figsize=(6.4, 4.2), sharex=True)
    other = [term for term in lines.columns if term not in (*LOGGED, *PLACES)]
    terms = [*(term for term in LOGGED if term in lines), *other][:4]
    for ax, term in zip(axes.flat, terms):
        logged = lines.dropna(subset=term)
        sns.lineplot(logged, x="images", y=term, hue="run", errorbar=None, legend=ax is axes[0, 0], ax=ax)
        ax.set(ylabel=LOGGED.get(term, term.replace("_", " ")), xlabel="images seen")
    for ax in axes.flat[len(terms) :]:
        ax.axis("off")
    log_axis(axes[0, 0])
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


def log_axis(ax: Axes) -> None:
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
    for i, ((label, found), color, marker) in enumerate(zip(grouped.items(), ordered(len(grouped)), cycle(MARKERS))):
        values = np.array([recorded_singular_values(run)["singular_values"] for run in found])
        index = np.arange(1, values.shape[1] + 1)
        every = max(1, len(index) // 12)
        places = (i * every // len(grouped), every)  # so that no mark hides another
        ax.plot(index, values.mean(0), marker=marker, markevery=places, markersize=3.5, label=label, color=color)
        if len(found) > 1:
            ax.fill_between(index, values.min(0), values.max(0), color=color, alpha=0.25, linewidth=0)
    first = next(iter(grouped.values()))[0]
    uniform = recorded_singular_values(first)["uniform"]
    name = "uniform on the sphere" if first.config.objective.spherical else "latents of the prior"
    ax.plot(np.arange(1, len(uniform) + 1), uniform, "k--", linewidth=1, label=name)
    ax.set(xlabel="singular value index", ylabel="singular value", ylim=(0, None))
    ax.legend()
    return figure


def recorded_singular_values(run: Run) -> dict[str, np.ndarray]:
    """Singular values of training latents, and of as many latents of the prior (`uniform`), descending."""
    with np.load(run.directory / "latents.npz") as found:
        return dict(found)


def ordered(n: int) -> list:
    """n colours for an ordered axis, from dark to light; they differ in grey and for the colour-blind."""
    return sns.color_palette("viridis", n_colors=n + 1)[:n] if n > 1 else sns.color_palette(n_colors=1)


def panels_along(frame: pd.DataFrame, columns: dict[str, str], width: float = 3.0, **options) -> Figure:
    """One panel of `scores_along` for each column, which has a label, and one legend above them all.

    A column without a value is left out: images without classes have no probes. `width` is a panel's, in inches.
    """
    found = {column: label for column, label in columns.items() if frame[column].notna().any()} or columns
    figure, axes = plt.subplots(1, len(found), figsize=(width * len(found), 3.0), squeeze=False)
    for ax, (column, label) in zip(axes[0], found.items()):
        scores_along(ax, frame, column=column, **options)
        ax.set_ylabel(label or ax.get_ylabel())
    if handles := axes[0, 0].get_legend_handles_labels()[0]:
        figure.legend(handles=handles, loc="outside upper center", ncols=4)
    return figure


def scores_along(
    ax: Axes, frame: pd.DataFrame, axis: str = "weight", by: str = "", symbol: str = "", column: str = "fd"
) -> None:
    """Draw a column along an axis, one line for each value of the column `by`, which `symbol` names in a legend.

    The caller draws the legend. Along lambda a red star is around the least distance of a line. Lines are shifted a
    little sideways, so that no mark hides another. The x axis is logarithmic, or has even steps if a value is not
    positive. The y axis is logarithmic if values differ more than fivefold, else a distance's starts at 0.
    """
    tried = sorted(frame[axis].unique())
    even = not tried or tried[0] <= 0
    place = {value: float(i) if even else math.log10(value) for i, value in enumerate(tried)}
    lines = [(f"{symbol} = {value:g}", part) for value, part in frame.groupby(by)] if by else [(None, frame)]
    step = 0.03 * (max(place.values(), default=0) - min(place.values(), default=0))
    for i, ((label, part), color, marker) in enumerate(zip(lines, ordered(len(lines)), cycle(MARKERS))):
        found = _means(part, axis, column)
        x = found[axis].map(place) + (i - (len(lines) - 1) / 2) * step
        _line(ax, x, found, label, color=color, marker=marker)
        if column == "fd" and axis == "weight" and found["mean"].notna().any():
            best = found["mean"].idxmin()
            ax.plot(x[best], found["mean"][best], "*", color="red", markersize=17, markerfacecolor="none", zorder=4)
    ax.set_xticks([*place.values()], [f"{value / 1000:g}k" if value >= 5_000 else f"{value:g}" for value in tried])
    ax.set_xlabel(AXES.get(axis, axis))
    ax.set_ylabel(DISTANCE[frame["features"].iloc[0]] if len(frame) else DISTANCE[""])
    if frame[column].max() > 5 * frame[column].min():
        log_axis(ax)
    elif column == "fd" and ax.get_yscale() == "linear":  # a panel that shares this axis may have a logarithmic one
        ax.set_ylim(bottom=0, auto=True)  # auto: such a panel may need a higher top
    if frame[column].isna().all():
        ax.text(0.5, 0.5, "no values: no labels, or no runs", transform=ax.transAxes, ha="center")


def _line(ax: Axes, x: pd.Series, found: pd.DataFrame, label: str | None, **style) -> None:
    """Means of `_means` with bars of one standard deviation. Open marks: one of the runs did not reach `stop_at`."""
    mean, short = found["mean"], found["short"]
    ax.errorbar(x, mean, found["sd"].fillna(0), capsize=2, linewidth=1.4, markersize=5, label=label, **style)
    ax.plot(x[short], mean[short], linestyle="", markersize=5, markerfacecolor="white", zorder=3, **style)


def _means(part: pd.DataFrame, axis: str, column: str) -> pd.DataFrame:
    """Mean and standard deviation at each value of an axis, and whether a run there did not reach `stop_at`."""
    short = (part["stop_at"] > 0) & (part["epoch"] == part["epochs"]) if "stop_at" in part else False
    found = part.assign(short=short).groupby(axis, as_index=False)
    return found.agg(mean=(column, "mean"), sd=(column, "std"), short=("short", "any"))
