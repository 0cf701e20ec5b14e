"""Speed from one record, as a table and a figure: our step beside Algorithm 1, its parts, and how its cost grows."""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mocalib.config import paths
from mocalib.figures.base import save

COLORS = {"Algorithm 1": "0.7", "engine, float32": "C5", "engine": "C0"}
PARTS = ("encoder", "key encoder", "decoder", "losses", "backward", "Adam", "EMA", "queue", "data", "log")
AXES = {
    "queue_size": "keys K",
    "latent_dim": "latent dimension d",
    "batch_size": "batch B",
    "size": "pixels a side",
    "width": "width",
}


def figure(record: dict) -> Figure:
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


def table(record: dict) -> pd.DataFrame:
    """One row a timed net: images/s of Algorithm 1 and of the engine, their ratio with its quartiles, memory, ceiling.

    Memory is what training takes beyond the imports. `of ceiling` is the engine's operations a second over the most
    that a large matrix product or convolution reached in the nets' precision.
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


FREE = ("data", "EMA", "queue", "log")  # parts of a step that should cost nothing


def free(record: dict) -> pd.Series:
    """What should cost nothing in the first timed net: shares of a step, and how its time grows with the queue."""
    parts = record["cases"][0]["parts"]
    shares = {f"{part}, share of a step": parts[part] / parts["step"] for part in FREE}
    found = shares | {"together": sum(shares.values())}
    of_engine = [row for row in record["growth"] if (row["axis"], row["contender"]) == ("queue_size", "engine")]
    taken = {row["value"]: row["seconds"] for row in of_engine}
    return pd.Series(found | {f"step at K {k:,} over K 5,000": taken[k] / taken[5_000] for k in list(taken)[-1:]})


def committed() -> list[dict]:
    """The committed records, one a scale and kind of device."""
    return [json.loads(path.read_text()) for path in sorted(paths.THROUGHPUT.glob("*.json"))]


def draw(record: dict) -> list[Path]:
    """Draw a throughput record into figures/<scale>/throughput-<cpu or cuda>.*; return the paths."""
    about = {key: record[key] for key in ("command", "environment", "repeats")}
    kind = "cpu" if record["environment"]["device"] == "cpu" else "cuda"
    caption = f"{machine(record)}; medians of {record['repeats']} repeats, interleaved; random pixels"
    drawn = figure(record)
    try:
        return save(drawn, f"throughput-{kind}", record["scale"], about, caption, table(record).round(4))
    finally:
        plt.close(drawn)


def machine(record: dict) -> str:
    """Where a throughput record was made."""
    where = record["environment"]
    device = where["processor"] if where["device"] == "cpu" else where["device"]
    threads = f"{where['threads']} thread{'s' if where['threads'] > 1 else ''}"
    return f"{device}, {threads}, torch {where['versions']['torch']}"
