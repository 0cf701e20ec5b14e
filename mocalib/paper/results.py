"""Records of finished runs as one table, and the paper's own numbers. Needs no model, dataset or device."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd

from mocalib.config import paths
from mocalib.config.methods import OBJECTIVES
from mocalib.config.parameters import flat
from mocalib.config.run import FEATURES, MIXTURE, PRIOR, RunConfig
from mocalib.evaluation.metrics import CLASS_SCORES, distance_name
from mocalib.paper import experiments
from mocalib.storage import files
from mocalib.storage.run import Run, open_run

SCORES = {  # column -> metric, what was scored, split
    "reconstruction": ("reconstruction", "reconstruction", "test"),
    "reconstruction_train": ("reconstruction", "reconstruction", "train"),
    "pca": ("reconstruction", "pca", "train"),
    "effective_rank": ("effective_rank", "train_codes", "train"),
    "mmd": ("mmd", "train_codes", "train"),
    "uniformity": ("uniformity", "train_codes", "train"),
    "nearest_cosine": ("nearest_cosine", "train_codes", "train"),
    "nearest_cosine_uniform": ("nearest_cosine", "uniform", "train"),
    "linear_error": ("linear_error", "latents", "test"),
    "linear_error_pca": ("linear_error", "pca", "test"),
    "linear_error_pixels": ("linear_error", "pixels", "test"),
    "knn_error": ("knn_error", "latents", "test"),
    "knn_error_pixels": ("knn_error", "pixels", "test"),
    "knn_error_pca": ("knn_error", "pca", "test"),
}
DISTANCES = {  # column -> metric, what was scored, for scores that depend on an extractor
    "fd": ("fd", PRIOR),
    "fd_gmm": ("fd", MIXTURE),
    "fd_reconstruction": ("fd", "reconstruction"),
    "fd_latents": ("fd", "train_codes"),  # of decoded training latents
    "fd_floor": ("fd", "real"),
    "kd": ("kd", "prior"),
    "precision": ("precision", "prior"),
    "precision_floor": ("precision", "real"),
    "recall": ("recall", "prior"),
    "class_score": ("class_score", PRIOR),
    "class_score_reconstruction": ("class_score", "reconstruction"),
    "perceptual": ("perceptual_classifier", "reconstruction"),
    "sharpness": ("sharpness", PRIOR),
    "sharpness_floor": ("sharpness", "real"),
    "ppl": ("ppl_classifier", PRIOR),
}
METRICS = {  # recorded name -> name in DISTANCES: "fid" and "fd_classifier" are both "fd"
    distance_name(kind, extractor): column for extractor in FEATURES for kind, column in (("fd", "fd"), ("kid", "kd"))
} | dict.fromkeys(CLASS_SCORES.values(), "class_score")
NUMBERS = dict.fromkeys(("epoch", "parameters", "seen", "seconds", "n", *SCORES, *DISTANCES, "lost_between"), float)
SETTINGS = dict.fromkeys(f.name for kind in (RunConfig, *OBJECTIVES.values()) for f in dataclasses.fields(kind))
PROBES = ["linear_error", "knn_error"]
INSIDE = [  # the scores that notebooks show along an axis
    "fd", "fd_latents", "fd_reconstruction", "reconstruction", "uniformity", "effective_rank",
    *PROBES, "nearest_cosine", "nearest_cosine_uniform",
]  # fmt: skip
LISTED = ("features", "n", "fd", "reconstruction", "effective_rank")
COLUMNS = list(dict.fromkeys(["run", "features", *SETTINGS, "digest", *NUMBERS]))  # two have the name precision


def frame(runs: list[Run], epoch: int | None = None, extractor: str | None = None) -> pd.DataFrame:
    """One row for each scored run: its config, its parameters, and its scores at an epoch (default: the last).

    Distances are those of `extractor`; by default, of the first of `FEATURES` that all runs of a dataset were scored
    with at that epoch. The column `features` names it, or is "". Of several evaluations the one with most samples
    counts. `lost_between` says how much farther samples are than decoded training latents; 0 if they are no farther.
    Raises ValueError if runs of one dataset were scored with different weights of an extractor.
    """
    of = {
        dataset: common_features([run for run in runs if run.config.dataset == dataset], epoch)
        for dataset in {run.config.dataset for run in runs}
    }
    return _table([_row(run, of[run.config.dataset] if extractor is None else extractor, epoch) for run in runs])


def history(runs: list[Run]) -> pd.DataFrame:
    """One row for each run and scored epoch: as in `frame`, with training images and seconds so far."""
    extractor, rows = common_features(runs, along=True), []
    for run in runs:
        steps, batch = run.environment["data"]["train"] // run.config.batch_size, run.config.batch_size
        timing = pd.DataFrame(run.timing)
        for epoch in run.epochs:
            seconds = np.interp(epoch * steps, [0, *timing["step"]], [0, *timing["seconds"]])
            rows.append(_row(run, extractor, epoch) | {"seen": epoch * steps * batch, "seconds": seconds})
    return _table(rows)


def listed(folder: Path) -> pd.DataFrame:
    """One row for each run in a folder, or in the folders in it: state, the fields that differ, and scores.

    Raises FileNotFoundError for a folder without runs.
    """
    found = sorted(path.parent for pattern in ("*/config.json", "*/*/config.json") for path in folder.glob(pattern))
    if not found:
        raise FileNotFoundError(f"{folder} has no runs; pass a folder of run directories")
    table = pd.DataFrame(map(_line, found), index=[path.relative_to(folder).as_posix() for path in found])
    same = [name for name in SETTINGS if name in table and table[name].astype(str).nunique() == 1]
    return table.drop(columns=same).rename_axis("run")


def _line(directory: Path) -> dict:
    """A run's state, config and last scores."""
    try:
        run = open_run(directory)
        row = _row(run, common_features([run]), None) if run.finished else {}
    except ValueError:  # `verify` gives the reason
        return {"state": "damaged"}
    state = "finished" if run.finished else "begun" if run.begun else "new"
    return {"state": state} | _settings(run.config) | {name: row[name] for name in LISTED if name in row}


def _settings(config: RunConfig) -> dict:
    """A config's fields, without the prefix of its objective's."""
    about = flat(config)
    about["objective"] = about.pop("objective.name")
    return {name.removeprefix("objective."): value for name, value in about.items()}


def _table(rows: list[dict]) -> pd.DataFrame:
    table = pd.DataFrame(rows) if rows else pd.DataFrame(columns=COLUMNS).astype(NUMBERS)
    for dataset, digests in table.groupby("dataset")["digest"].unique().items():
        if len(digests) > 1:
            listed = ", ".join(digests)
            raise ValueError(f"runs on {dataset} were scored with different weights: {listed}; score them again")
    return table


def scored(run: Run) -> bool:
    """Whether a run is finished, and its last weights and all that it kept on the way are scored."""
    return run.finished and set(run.epochs) <= {row["epoch"] for row in run.scores if row["sampler"] != MIXTURE}


def common_features(runs: list[Run], epoch: int | None = None, along: bool = False) -> str:
    """The first of `FEATURES` with which the prior of every run was scored, or "".

    It must have been scored at `epoch`, by default each run's last; or, if `along`, at all epochs that a run is scored
    at.
    """
    used = []
    for run in runs:
        own = run.epochs if along else [run.manifest["epoch"] if epoch is None else epoch]
        rows = [row for row in run.scores if row["sampler"] == PRIOR]
        used += [{row["features"] for row in rows if row["epoch"] == at} for at in own]
    return next((name for name in FEATURES if used and all(name in found for found in used)), "")


def _row(run: Run, extractor: str, epoch: int | None) -> dict:
    about = {"run": run.directory.name, "features": extractor} | _settings(run.config)
    about["epoch"] = run.manifest["epoch"] if epoch is None else epoch
    about["parameters"] = run.environment["parameters"]
    rows = sorted((row for row in run.scores if row["epoch"] == about["epoch"]), key=lambda row: row["n_generated"])
    found = {(row["metric"], row["sampler"], row["split"]): row["value"] for row in rows if not row["features"]}
    scores = {column: found.get(key, float("nan")) for column, key in SCORES.items()}
    of = [row for row in rows if extractor and row["features"] == extractor]
    distances = {(METRICS.get(row["metric"], row["metric"]), row["sampler"]): row["value"] for row in of}
    about["digest"] = of[-1]["digest"][:8] if of else ""
    about["n"] = max((row["n_generated"] for row in of if row["sampler"] == PRIOR), default=float("nan"))
    scores |= {column: distances.get(key, float("nan")) for column, key in DISTANCES.items()}
    return about | scores | {"lost_between": max(scores["fd"] - scores["fd_latents"], 0.0)}


def values(configs: list[RunConfig]) -> dict[str, str]:
    """Each field's values among some runs. If lambda depends on another field, it has a row for each of its values."""
    table = pd.DataFrame([flat(config) for config in configs]).drop(columns="seed").astype(object)
    table = table.rename(columns=lambda field: field.replace("objective.name", "method").removeprefix("objective."))
    rows = {field: _joined(table[field]) for field in table}
    axes = [field for field in table if field != "weight" and table[field].astype(str).nunique() > 1]
    if len(axes) == 1 and "weight" in table:
        found = table.groupby(axes[0], sort=False)["weight"]
        if found.nunique().max() > 1 and pd.api.types.is_number(table[axes[0]].iloc[0]):
            del rows["weight"]
            rows |= {f"weight at {axes[0]} {value:g}": _joined(part) for value, part in found}
    return rows


def _joined(values: pd.Series) -> str:
    shown = (f"{value:g}" if isinstance(value, float) else str(value) for value in values.dropna())
    return ", ".join(dict.fromkeys(shown))


def paper(name: str) -> pd.DataFrame:
    """The paper's numbers of a table ("table1" to "table4"): one row for each number, with its source."""
    return pd.read_csv(paths.ROOT / "data" / "paper" / f"{name}.csv")


def committed(scale: str) -> dict[str, list[str]]:
    """The runs of the committed evidence: for each experiment their names with its first seed; {} if there are none.

    Runs that were added to a grid later are not in it, so no claim counts them.
    """
    path = paths.RECORDS / scale / "grid.json"
    return json.loads(path.read_text("utf-8")) if path.exists() else {}


def commit(scale: str) -> Path:
    """Write the names of the scale's present grid to its grid.json, which `committed` reads."""
    names = {name: [config.name for config in experiments.configs(name, scale)] for name in experiments.NAMES}
    files.write_json(path := paths.RECORDS / scale / "grid.json", names)
    return path
