"""Records of finished runs as one table, and the paper's own numbers. Needs no model, dataset or device."""

from pathlib import Path

import pandas as pd

from mocalib.config import paths
from mocalib.config.run import FEATURES, MIXTURE, PRIOR, flat
from mocalib.evaluation.metrics import distance_name
from mocalib.storage.run import Run, open_run

SCORES = {  # column -> metric, what was scored, split
    "reconstruction": ("reconstruction", "reconstruction", "test"),
    "reconstruction_train": ("reconstruction", "reconstruction", "train"),
    "pca": ("reconstruction", "pca", "train"),
    "singular_value_ratio": ("singular_value_ratio", "train_codes", "train"),
    "uniformity": ("uniformity", "train_codes", "train"),
    "nearest_cosine": ("nearest_cosine", "train_codes", "train"),
    "nearest_cosine_uniform": ("nearest_cosine", "uniform", "train"),
}
DISTANCES = {  # column -> metric, what was scored, for scores that depend on an extractor
    "fd": ("fd", PRIOR),
    "fd_gmm": ("fd", MIXTURE),
    "fd_reconstruction": ("fd", "reconstruction"),
    "fd_train_codes": ("fd", "train_codes"),
    "fd_floor": ("fd", "real"),
    "kd": ("kd", "prior"),
    "precision": ("precision", "prior"),
    "precision_floor": ("precision", "real"),
    "recall": ("recall", "prior"),
}
METRICS = {  # recorded name -> name in DISTANCES: "fid" and "fd_classifier" are both "fd"
    distance_name(kind, extractor): column for extractor in FEATURES for kind, column in (("fd", "fd"), ("kid", "kd"))
}


def frame(runs: list[Run], epoch: int | None = None, extractor: str | None = None) -> pd.DataFrame:
    """One row for each scored run: its config, its parameters, and its scores at an epoch (default: the last).

    Distances are those of `extractor`; by default, of the first of `FEATURES` that all runs of a dataset were scored
    with at that epoch. The column `features` names it, or is "". Of several evaluations the one with most samples
    counts. Raises ValueError if runs of one dataset were scored with different weights of an extractor.
    """
    of = {
        dataset: common_features([run for run in runs if run.config.dataset == dataset], epoch)
        for dataset in {run.config.dataset for run in runs}
    }
    table = pd.DataFrame([_row(run, of[run.config.dataset] if extractor is None else extractor, epoch) for run in runs])
    for dataset, digests in table.groupby("dataset")["digest"].unique().items():
        if len(digests) > 1:
            raise ValueError(
                f"runs on {dataset} were scored with different weights: {', '.join(digests)}; score them again"
            )
    return table


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
    about = {"run": run.directory.name, "features": extractor} | flat(run.config.to_dict())
    about["objective"] = about.pop("objective.name")
    about = {name.removeprefix("objective."): value for name, value in about.items()}
    about["epoch"] = run.manifest["epoch"] if epoch is None else epoch
    about["parameters"] = run.environment["parameters"]
    rows = sorted((row for row in run.scores if row["epoch"] == about["epoch"]), key=lambda row: row["n_generated"])
    found = {(row["metric"], row["sampler"], row["split"]): row["value"] for row in rows if not row["features"]}
    scores = {column: found.get(key, float("nan")) for column, key in SCORES.items()}
    of = [row for row in rows if extractor and row["features"] == extractor]
    distances = {(METRICS.get(row["metric"], row["metric"]), row["sampler"]): row["value"] for row in of}
    about["digest"] = of[-1]["digest"][:8] if of else ""
    return about | scores | {column: distances.get(key, float("nan")) for column, key in DISTANCES.items()}


def data_name(row: pd.Series) -> str:
    """The images of a row of `frame`: "digits 16x16", or only the dataset if they have its own size."""
    return f"{row['dataset']} {row['size']}x{row['size']}" if row["size"] else row["dataset"]


def paper(name: str) -> pd.DataFrame:
    """The paper's numbers of a table ("table1" to "table4"): one row for each number, with its source."""
    return pd.read_csv(paths.ROOT / "data" / "paper" / f"{name}.csv")


HEADLINES = {  # metric -> what was scored, split
    "reconstruction": ("reconstruction", "test"),
    "singular_value_ratio": ("train_codes", "train"),
    "uniformity": ("train_codes", "train"),
    **{distance_name("fd", extractor): ("prior", "test") for extractor in reversed(FEATURES)},
    "precision": ("prior", "test"),
    "recall": ("prior", "test"),
}


def compare(folder: Path) -> pd.DataFrame:
    """One row for each finished run in a folder: the fields in which they differ, and scores at its last epoch.

    Distances compare samples of the prior with the test split. Precision and recall carry the name of their features.
    Of several evaluations (another n, another seed) the last one counts.
    """
    found = [open_run(path.parent) for path in sorted(Path(folder).glob("*/manifest.json"))]
    names = [run.directory.name for run in found]
    configs = pd.DataFrame([flat(run.config.to_dict()) for run in found], index=names)
    scores = pd.DataFrame([_headlines(run) for run in found], index=names)
    return configs.loc[:, configs.astype(str).nunique() > 1].join(scores.round(4))


def _headlines(run: Run) -> dict[str, float]:
    last = [row for row in run.scores if row["epoch"] == run.manifest["epoch"]]
    rows = [row for row in last if HEADLINES.get(row["metric"]) == (row["sampler"], row["split"])]
    rows.sort(key=lambda row: list(HEADLINES).index(row["metric"]))
    bare = ("precision", "recall")
    found = {f"{r['metric']}_{r['features']}" if r["metric"] in bare else r["metric"]: r["value"] for r in rows}
    mixed = [row for row in last if row["sampler"] == MIXTURE and METRICS.get(row["metric"]) == "fd"]
    return found | {f"{row['metric']}_{MIXTURE}": row["value"] for row in mixed}
