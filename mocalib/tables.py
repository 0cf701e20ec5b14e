"""The paper's tables: our numbers from records, the paper's own beside them. Distances are means over seeds."""

import numbers

import pandas as pd

from mocalib import records
from mocalib.runs import Run
from mocalib.scales import CELEBA, CIFAR, Scale

BAD = {0: "untrained net", 1: "one training step"}  # epochs of the scale's one-step run: what bad looks like


def table1_runs(runs: list[Run], scale: Scale) -> pd.DataFrame:
    """One row a run of Table 1 with `of`, the paper's dataset ("": what bad looks like), and `net`, its name there."""
    frame = records.frame(runs)
    labels = [*scale.table1, *([("", BAD[1])] if scale.one_step else [])]  # in the order of `experiments.configs`
    names = [label for label in labels for _ in range(frame["seed"].nunique())]
    return frame.assign(of=[of for of, _ in names], net=[net for _, net in names])


def table1(runs: list[Run], scale: Scale) -> pd.DataFrame:
    """Table 1 with a row a dataset and method: ours where we ran it, the paper's FID, and what bad looks like."""
    frame = table1_runs(runs, scale)
    ours = frame[frame["of"] != ""]
    cited = records.paper("table1").rename(columns={"method": "net", "dataset": "of", "fid": "paper_fid"})
    table = cited.merge(_means(ours, ["of", "net"], "parameters"), "left", on=["of", "net"])
    bad = [run for run, of in zip(runs, frame["of"]) if not of]
    for epoch, name in BAD.items() if bad else ():
        named = records.frame(bad, epoch).assign(of=CIFAR, net=name)
        table = pd.concat([table, _means(named, ["of", "net"], "parameters")])
    here = {of: records.data_name(row) for of, row in ours.groupby("of", sort=False).first().iterrows()}
    table.insert(1, "here", table["of"].map(here))
    table = table.sort_values("of", key=lambda of: of.map({CIFAR: 0, CELEBA: 1}), kind="stable", ignore_index=True)
    return table.rename(columns={"of": "dataset", "net": "method"})[
        ["dataset", "here", "method", "parameters", "fd", "sd", "seeds", "paper_fid", "source"]
    ]


def _means(frame: pd.DataFrame, by: list[str], *kept: str) -> pd.DataFrame:
    """Mean and standard deviation of `fd` over seeds, with columns that do not change between them."""
    named = {column: (column, "first") for column in kept}
    return frame.groupby(by, sort=False).agg(fd=("fd", "mean"), sd=("fd", "std"), seeds=("seed", "nunique"), **named)\
        .reset_index()  # fmt: skip


def along(frame: pd.DataFrame, axis: str, name: str) -> pd.DataFrame:
    """Tables 3 and 4: our mean distance for each value of an axis, the paper's FID at its own values."""
    ours = _means(frame, [axis])
    paper = records.paper(name).rename(columns={"fid": "paper_fid"})
    return ours.merge(paper, "outer", on=axis).sort_values(axis, ignore_index=True)


def table2(frame: pd.DataFrame) -> pd.DataFrame:
    """Best weight for each input size, from mean distances, with that of each seed; the paper's at its own sizes."""
    rows = []
    for size, part in frame.dropna(subset="fd").groupby("size"):
        found = _means(part, ["weight"])
        best = found.loc[found["fd"].idxmin()]
        each = part.loc[part.groupby("seed")["fd"].idxmin(), "weight"]
        rows.append({
            "size": size, "best_weight": best["weight"], "of_each_seed": " ".join(f"{w:g}" for w in each),
            "tried": " ".join(f"{w:g}" for w in found["weight"]), "fd": best["fd"], "sd": best["sd"],
            "seeds": int(best["seeds"]),
        })  # fmt: skip
    paper = records.paper("table2").rename(columns={"weight": "paper_weight"})
    columns = ["size", "best_weight", "of_each_seed", "tried", "fd", "sd", "seeds"]
    return pd.DataFrame(rows, columns=columns).merge(paper, "outer", on="size").sort_values("size", ignore_index=True)


def forms(frame: pd.DataFrame) -> pd.DataFrame:
    """The three forms of the contrastive loss at temperature .05, in the order of the paper."""
    return _means(frame, ["form"])


def best_weights(frame: pd.DataFrame, axis: str) -> pd.DataFrame:
    """The weight of least mean distance for each value of an axis: what Figures 3 and 4 are about."""
    found = _means(frame.dropna(subset="fd"), [axis, "weight"])
    return (
        found.loc[found.groupby(axis)["fd"].idxmin()].rename(columns={"weight": "best_weight"}).reset_index(drop=True)
    )


def quickstart(runs: list[Run]) -> pd.DataFrame:
    """One row a run: its weight and seed, distances of samples, reconstructions and the floor, and the spectrum."""
    columns = ["run", "weight", "seed", "fd", "fd_reconstruction", "fd_train_codes", "fd_floor", "singular_value_ratio"]
    return records.frame(runs)[columns].rename(columns={"fd": "fd_prior"}).round(4)


def throughput(record: dict) -> pd.DataFrame:
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


def markdown(table: pd.DataFrame) -> str:
    """A table in Markdown, as `text` shows it."""
    right = [pd.api.types.is_numeric_dtype(table[column]) for column in table.columns]
    shown = text(table)
    lines = [
        "| " + " | ".join(shown.columns) + " |",
        "| " + " | ".join("---:" if number else "---" for number in right) + " |",
    ]
    lines += ["| " + " | ".join(row) + " |" for row in shown.itertuples(index=False)]
    return "\n".join(lines) + "\n"


def text(table: pd.DataFrame) -> pd.DataFrame:
    """The same table for reading: three significant digits, nothing where there is no number."""
    return table.map(_cell).rename(columns=lambda name: str(name).replace("_", " "))


def _cell(value: object) -> str:
    if pd.isna(value):
        return ""
    if isinstance(value, float) and abs(value) < 1_000:
        return f"{value:.4g}" if value == round(value, 2) else f"{value:.3g}"
    return f"{value:,.0f}" if isinstance(value, numbers.Real) else str(value)
