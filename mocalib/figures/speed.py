"""Speed: the engine beside Algorithm 1, where a step's time goes, and how a step's cost grows; from one record."""

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLORS = {"Algorithm 1": "0.7", "engine, float32": "C5", "engine": "C0"}
PARTS = ("encoder", "key encoder", "decoder", "losses", "backward", "Adam", "EMA", "queue", "data", "log")
AXES = {
    "queue_size": "keys K",
    "latent_dim": "latent dimension d",
    "batch_size": "batch B",
    "size": "pixels a side",
    "width": "width",
}


def throughput(record: dict) -> Figure:
    """Above: speed as a multiple of Algorithm 1's, and the parts of a launched step; below: growth, if measured."""
    below = bool(record["growth"])
    figure = plt.figure(figsize=(9.6, 5.2 if below else 2.9))
    top, *rest = figure.subfigures(1 + below, 1, height_ratios=[1.25, 1][: 1 + below], squeeze=False).flat
    left, right = top.subplots(1, 2)
    _speeds(left, record["cases"])
    _parts(right, record["cases"])
    for part in rest:
        _growth(part.subplots(1, len(AXES), sharey=True), pd.DataFrame(record["growth"]))
    return figure


def label(case: dict) -> str:
    """What a case is, in two short lines."""
    config, (_, height, width) = case["config"], case["image_shape"]
    return f"{config['model'].upper()}, width {config['width']}\n{height}x{width}"


def _speeds(ax: Axes, cases: list[dict]) -> None:
    rows = [
        {"net": label(case), "contender": name, "speed": found["images_per_second"], "base": case["contenders"]}
        for case in cases
        for name, found in case["contenders"].items()
    ]
    frame = pd.DataFrame(rows)
    frame["ratio"] = frame["speed"] / [base["Algorithm 1"]["images_per_second"] for base in frame["base"]]
    sns.barplot(frame, x="net", y="ratio", hue="contender", palette=COLORS, ax=ax)
    for bars, (_, part) in zip(ax.containers, frame.groupby("contender", sort=False)):
        ax.bar_label(bars, [f"{speed:,.0f}" for speed in part["speed"]], fontsize=7, padding=1)
    ax.set(xlabel="", ylabel="speed, Algorithm 1 = 1", title="Images a second (above the bars)")
    ax.margins(y=0.25)
    ax.legend(title=None, ncols=3, loc="upper center", fontsize=7, columnspacing=1)
    ax.tick_params(axis="x", labelsize=7)


def _parts(ax: Axes, cases: list[dict]) -> None:
    colors = sns.color_palette("colorblind", len(PARTS))
    for row, case in enumerate(cases):
        whole, left = case["parts"]["step"], 0.0
        for part, color in zip(PARTS, colors):
            share = 100 * case["parts"][part] / whole
            ax.barh(row, share, left=left, color=color, label=part if row == 0 else None, height=0.7)
            left += share
    ax.set_yticks(range(len(cases)), [label(case) for case in cases], fontsize=7)
    ax.invert_yaxis()
    ax.set(xlabel="% of a step", title="Where a step goes, launched one by one", xlim=(0, 100))
    ax.legend(ncols=5, loc="upper center", bbox_to_anchor=(0.45, -0.22), fontsize=7, columnspacing=1, handlelength=1)


def _growth(axes: list[Axes], frame: pd.DataFrame) -> None:
    for ax, (axis, name) in zip(axes, AXES.items()):
        part = frame[frame["axis"] == axis]
        colors = {"palette": COLORS, "markers": ["o", "s"], "dashes": False}
        hues = {"hue": "contender", "style": "contender"}
        sns.lineplot(part, x="value", y="seconds", ax=ax, legend=ax is axes[0], **hues, **colors)
        ax.set(xscale="log", yscale="log", xlabel=name, ylabel="seconds a step")
        values = sorted(part["value"].unique())
        ax.set_xticks(values, [f"{value:,}" for value in values], fontsize=7, rotation=30 if values[-1] > 1_000 else 0)
        ax.minorticks_off()
    axes[0].legend(title=None, fontsize=7)
