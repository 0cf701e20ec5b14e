"""The paper's tables: our numbers from records, the paper's own beside them. Distances are means over seeds."""

import math
import numbers

import numpy as np
import pandas as pd

from mocalib.paper import results
from mocalib.paper.baselines import MOCA
from mocalib.paper.experiments import named
from mocalib.paper.grids import CELEBA, CIFAR, Scale
from mocalib.storage.run import Run

BAD = {0: "untrained net", 1: "one training step"}  # epochs of the scale's one-step run: what bad looks like


def table1_runs(runs: list[Run], scale: Scale) -> pd.DataFrame:
    """One row a run of Table 1 with `of`, the paper's dataset ("": what bad looks like), and `net`, its name there."""
    known = dict(scale.table1) | {
        (of, name): run for of, found in scale.baselines.items() for name, run in found.items()
    }
    if scale.one_step:
        known["", BAD[1]] = scale.one_step
    names = [named(run.config, known) for run in runs]
    return results.frame(runs).assign(of=[of for of, _ in names], net=[net for _, net in names])


def table1(runs: list[Run], scale: Scale) -> pd.DataFrame:
    """Table 1, for each dataset and method a row re-run here and one as printed, and what bad looks like.

    `fd` is of samples of the method's prior, `fd_gmm` of ten Gaussians fitted to its training codes; `paper_fid` is the
    paper's own number or the one it cites.
    """
    frame = table1_runs(runs, scale)
    ours = frame[frame["of"] != ""]
    again = _again(ours).merge(_gmm(ours), on=["of", "net"])
    printed = results.paper("table1").merge(results.paper("protocols"), on="source")
    printed = printed.rename(columns={"method": "net", "dataset": "of", "fid": "paper_fid"})
    printed["row"] = np.where(printed["source"] == "Table 1", "printed", "cited")
    order = list(dict.fromkeys([*again["net"], *printed["net"]]))
    table = pd.concat([again, printed[printed["of"].isin(ours["of"])], *_bad(runs, frame)])
    ranks = {"of": {CIFAR: 0, CELEBA: 1}, "net": {net: i for i, net in enumerate(order)}, "row": {"re-run": 0}}
    table = table.sort_values(list(ranks), key=lambda column: column.map(ranks[column.name]).fillna(math.inf))
    return table.rename(columns={"of": "dataset", "net": "method"}).reset_index(drop=True)[
        ["dataset", "method", "row", "parameters", "fd", "sd", "fd_gmm", "sd_gmm", "seeds", "paper_fid", "protocol"]
    ]


def _again(frame: pd.DataFrame) -> pd.DataFrame:
    return _means(frame, ["of", "net"], "parameters").assign(row="re-run", protocol="ours")


def _gmm(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.groupby(["of", "net"], as_index=False).agg(fd_gmm=("fd_gmm", "mean"), sd_gmm=("fd_gmm", "std"))


def protocols(runs: list[Run], scale: Scale) -> dict[str, str]:
    """What Table 1's protocols mean: ours, and those of the papers that its numbers come from."""
    frame = table1_runs(runs, scale)
    nets = [
        f"{of}: {results.data_name(part.iloc[0])}, width {part['width'].iloc[0]}, d {part['latent_dim'].iloc[0]}, "
        f"{' or '.join(f'{epochs} epochs' for epochs in part['epochs'].unique())}"
        for of, part in frame[frame["of"] != ""].groupby("of", sort=False)
    ]
    features = [f"{name} features" if name else "no distances" for name in frame["features"].unique()]
    of_features = " or ".join(features)
    ours = f"{'; '.join(nets)}; {scale.n_generated:,} samples against the test split, rounded to uint8, {of_features}"
    return {"ours": ours} | results.paper("protocols").set_index("protocol")["meaning"].to_dict()


def _bad(runs: list[Run], frame: pd.DataFrame) -> list[pd.DataFrame]:
    """What bad looks like: a net before training and after one step, in the place of the first dataset."""
    bad = [run for run, of in zip(runs, frame["of"]) if not of]
    return [_again(results.frame(bad, epoch).assign(of=CIFAR, net=name)) for epoch, name in BAD.items() if bad]


def convergence(runs: list[Run], scale: Scale) -> pd.DataFrame:
    """One row a run and scored epoch: its method, training images and seconds so far, and its scores."""
    rows, extractor = [], results.common_features(runs, along=True)
    for run in runs:
        about, batch = run.environment["data"], run.config.batch_size
        steps = about["train"] // batch
        timing = pd.DataFrame(run.timing)
        for epoch in run.epochs:
            seconds = np.interp(epoch * steps, [0, *timing["step"]], [0, *timing["seconds"]])
            [row] = results.frame([run], epoch, extractor).to_dict("records")
            scores = {name: row[name] for name in ("fd", "reconstruction", "uniformity", "latent_dim", "features")}
            method = named(run.config, scale.convergence)
            rows.append({"run": row["run"], "method": method, "seed": row["seed"], "epoch": epoch,
                         "images": epoch * steps * batch, "seconds": seconds} | scores)  # fmt: skip
    return pd.DataFrame(rows)


def reached(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a rival of `convergence`'s rows: where it ends, and when MoCA comes as far; means over seeds.

    Between scored epochs MoCA's distance is interpolated in logarithms: where its first is less already, that one is
    shown. NaN where it never comes as far.
    """
    columns = ["fd", "images", "seconds"]
    mean = frame.dropna(subset="fd").groupby(["method", "epoch"], sort=False)[columns].mean()
    rows = []
    for method in mean.index.unique("method").drop(MOCA, errors="ignore"):
        last, moca = mean.loc[method].iloc[-1], mean.loc[MOCA]
        least = moca["fd"].cummin()  # so that it falls: the first crossing counts
        needed = {
            f"moca_{name}": math.exp(np.interp(-math.log(last["fd"]), -np.log(least), np.log(moca[name]), right=np.nan))
            for name in ("images", "seconds")
        }
        rows.append({"method": method, **last.to_dict(), **needed})
    return pd.DataFrame(rows)


def _means(frame: pd.DataFrame, by: list[str], *kept: str) -> pd.DataFrame:
    """Mean and standard deviation of `fd` over seeds, with columns that do not change between them."""
    named = {column: (column, "first") for column in kept}
    return frame.groupby(by, sort=False).agg(fd=("fd", "mean"), sd=("fd", "std"), seeds=("seed", "nunique"), **named)\
        .reset_index()  # fmt: skip


def along(frame: pd.DataFrame, axis: str, name: str) -> pd.DataFrame:
    """Tables 3 and 4: our mean distance for each value of an axis, the paper's FID at its own values."""
    ours = _means(frame, [axis])
    paper = results.paper(name).rename(columns={"fid": "paper_fid"})
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
    paper = results.paper("table2").rename(columns={"weight": "paper_weight"})
    columns = ["size", "best_weight", "of_each_seed", "tried", "fd", "sd", "seeds"]
    return pd.DataFrame(rows, columns=columns).merge(paper, "outer", on="size").sort_values("size", ignore_index=True)


def methods(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a method: mean distances with their spread over seeds, and test reconstruction errors."""
    means = {"fd": "mean", "sd": "std", "fd_gmm": "mean", "sd_gmm": "std", "reconstruction": "mean", "seeds": "nunique"}
    of = {"sd": "fd", "sd_gmm": "fd_gmm", "seeds": "seed"}
    return frame.groupby("method", sort=False).agg(**{k: (of.get(k, k), how) for k, how in means.items()}).reset_index()


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
    return results.frame(runs)[columns].rename(columns={"fd": "fd_prior"}).round(4)


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
