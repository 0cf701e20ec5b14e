"""Finished runs scored once more with other features: Inception's, say, wherever its weights and theirs are."""

from collections.abc import Iterator
from pathlib import Path

import torch

from mocalib.config import SAMPLERS
from mocalib.evaluation import evaluate
from mocalib.runs import Run, epoch_file, open_run


def rescore(
    folder: Path, features: str, weights: Path | str | None = None, device: torch.device | str = "cpu"
) -> Iterator[tuple[Path, list[dict], str]]:
    """Score every finished run of a folder with other features, wherever it was scored before; rows are only added.

    The same epochs, samplers, seeds and numbers of samples. Yields each run's directory, the rows of these features and
    "", or why there are none, such as weights that are not here. Raises FileNotFoundError for a folder without runs,
    and at the end RuntimeError if a run could not be scored though its weights are here.
    """
    found = sorted(path.parent for path in folder.glob("*/manifest.json"))
    if not found:
        raise FileNotFoundError(f"{folder} holds no finished run")
    failed = []
    for directory in found:
        try:
            rows, reason = _rescored(open_run(directory), features, weights, device)
        except (ValueError, OSError, RuntimeError) as error:  # of this run: the others are wanted all the same
            failed.append(directory.name)
            rows, reason = [], str(error)
        yield directory, rows, reason
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(found)} runs could not be scored: {', '.join(failed)}")


def _rescored(
    run: Run, features: str, weights: Path | str | None, device: torch.device | str
) -> tuple[list[dict], str]:
    asked = evaluations(run)
    names = dict.fromkeys(_weights(run, epoch) for epoch, *_ in asked)
    if missing := [name for name in names if not (run.directory / name).exists()]:
        return [], f"no {', '.join(missing)} here: weights are not committed"
    rows = []
    for epoch, seed, sampler, n in asked:
        rows += evaluate(run, features, n, epoch, seed, weights, device, sampler)
    return rows, "" if asked else "not scored with any features yet"


def evaluations(run: Run) -> list[tuple[int, int, str, int]]:
    """What a run was scored at, whatever the features: epoch (the last first), seed, sampler, samples; each once."""
    rows = [row for row in run.scores if row["features"] and row["sampler"] in SAMPLERS]
    found = dict.fromkeys((row["epoch"], row["seed"], row["sampler"], row["n_generated"]) for row in rows)
    return sorted(found, key=lambda asked: -asked[0])


def _weights(run: Run, epoch: int) -> str:
    return "weights.pt" if epoch == run.manifest["epoch"] else epoch_file(epoch)
