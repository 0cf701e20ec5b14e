"""A record of speed as a table and a figure: our step and Algorithm 1, parts of a step, and growth of cost."""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from mocalib.config import paths
from mocalib.figures.base import save

COLORS = {"Algorithm 1": "0.7", "engine, float32": "C5", "engine": "C0"}
PARTS = ("encoder", "key encoder", "decoder", "losses", "backward", "Adam", "EMA", "queue", "data", "log")
AXES = {  # of growth; committed records have all, newer ones the first
    "queue_size": "keys K",
    "latent_dim": "latent dimension d",
    "batch_size": "batch B",
    "size": "pixels a side",
    "width": "width",
}


def figure(record: dict) -> Figure:
    """Above: speed in multiples of Algorithm 1's, and the parts of a launched step. Below: growth, if measured."""
    below = bool(record["growth"])
    figure = plt.figure(figsize=(9.6, 5.2 if below else 2.9))
    top, *rest = figure.subfigures(1 + below, 1, height_ratios=[1.25, 1][: 1 + below], squeeze=False).flat
    left, right = top.subplots(1, 2)
    _speeds(left, record["cases"])
    _parts(right, record["cases"])
    for part in rest:
        _growth(part, pd.DataFrame(record["growth"]))
    return figure


def label(case: dict) -> str:
    """A case in two short lines."""
    config, (_, height, width) = case["config"], case["image_shape"]
    return f"{config['model'].upper()}, width {config['width']}\n{height}x{width}"


def _speeds(ax: Axes, cases: list[dict]) -> None:
    rows = []
    for case in cases:
        speeds = {name: found["images_per_second"] for name, found in case["contenders"].items()}
        rows += [(label(case), name, speed, speed / speeds["Algorithm 1"]) for name, speed in speeds.items()]
    frame = pd.DataFrame(rows, columns=["net", "contender", "speed", "ratio"])
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


def _growth(figure: SubFigure, frame: pd.DataFrame) -> None:
    names = {axis: name for axis, name in AXES.items() if axis in set(frame["axis"])}
    axes = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for ax, (axis, name) in zip(axes, names.items()):
        part = frame[frame["axis"] == axis]
        colors = {"palette": COLORS, "markers": ["o", "s"], "dashes": False}
        hues = {"hue": "contender", "style": "contender"}
        sns.lineplot(part, x="value", y="seconds", ax=ax, legend=ax is axes[0], **hues, **colors)
        ax.set(xscale="log", yscale="log", xlabel=name, ylabel="seconds a step")
        values = sorted(part["value"].unique())
        ax.set_xticks(values, [f"{value:,}" for value in values], fontsize=7, rotation=30 if values[-1] > 1_000 else 0)
        ax.minorticks_off()
    axes[0].legend(title=None, fontsize=7)


def table(record: dict) -> pd.DataFrame:
    """One row for each net: images/s of Algorithm 1 and of our step, their ratio with quartiles, memory, ceiling.

    Memory is what training needs beyond the imports. `of ceiling` is our step's operations a second over the most that
    a large matrix product or convolution reached in the nets' precision.
    """
    rows = []
    for case in record["cases"]:
        config, (_, height, width) = case["config"], case["image_shape"]
        plain, ours = case["contenders"]["Algorithm 1"], case["contenders"]["engine"]
        rows.append({
            "net": f"{config['model'].upper()}, width {config['width']}",
            "images": f"{height}x{width}",
            "K": config["objective"]["queue_size"],
            "d": config["latent_dim"],
            "batch": config["batch_size"],
            "nets in": case["nets"],
            "Algorithm 1, images/s": plain["images_per_second"],
            "engine, images/s": ours["images_per_second"],
            "ratio": case["ratio"]["median"],
            "quartiles": f"{case['ratio']['low']:.2f} to {case['ratio']['high']:.2f}",
            "ratio without data": case["ratio_without_data"]["median"],
            "memory, of Algorithm 1's": ours["peak_memory"] / plain["peak_memory"],
            "of ceiling": case["operations"]["engine"] / ours["seconds"] / record["ceiling"][case["nets"]],
        })  # fmt: skip
    return pd.DataFrame(rows)


def committed() -> list[dict]:
    """The committed records, one for each scale and kind of device."""
    return [json.loads(path.read_text()) for path in sorted(paths.THROUGHPUT.glob("*.json"))]


def draw(record: dict) -> list[Path]:
    """Draw a record into figures/<scale>/throughput-<cpu or cuda>.*; return the paths."""
    about = {key: record[key] for key in ("command", "environment", "repeats")}
    kind = "cpu" if record["environment"]["device"] == "cpu" else "cuda"
    caption = f"{machine(record)}; medians of {record['repeats']} repeats, interleaved; random pixels"
    drawn = figure(record)
    try:
        return save(drawn, f"throughput-{kind}", record["scale"], about, caption, table(record).round(4))
    finally:
        plt.close(drawn)


def machine(record: dict) -> str:
    """The machine that a record was made on."""
    where = record["environment"]
    device = where["processor"] if where["device"] == "cpu" else where["device"]
    threads = f"{where['threads']} thread{'s' if where['threads'] > 1 else ''}"
    return f"{device}, {threads}, torch {where['versions']['torch']}"
