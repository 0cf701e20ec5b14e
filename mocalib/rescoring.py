"""Finished runs scored once more with other features: Inception's, say, wherever its weights and theirs are."""

from collections.abc import Iterator
from pathlib import Path

import torch

from mocalib.config import SAMPLERS
from mocalib.evaluation import evaluate
from mocalib.runs import Run, epoch_file, open_run


def rescore(
    folder: Path, features: str, weights: Path | str | None = None, device: torch.device | str = "cpu"
) -> Iterator[tuple[Run, list[dict], str]]:
    """Score every finished run of a folder with other features, wherever it was scored before; rows are only added.

    The same epochs, samplers, seeds and numbers of samples. Yields each run with the rows of these features, and why
    there are none: "" or what is missing. Raises FileNotFoundError for a folder without finished runs, and as
    `evaluate` where features cannot be taken at all.
    """
    found = [open_run(path.parent) for path in sorted(folder.glob("*/manifest.json"))]
    if not found:
        raise FileNotFoundError(f"{folder} holds no finished run")
    for run in found:
        asked = evaluations(run)
        names = dict.fromkeys(_weights(run, epoch) for epoch, *_ in asked)
        if missing := [name for name in names if not (run.directory / name).exists()]:
            yield run, [], f"no {', '.join(missing)} here: weights are not committed"
        elif not asked:
            yield run, [], "never scored"
        else:
            rows = [
                row
                for epoch, seed, sampler, n in asked
                for row in evaluate(run, features, n, epoch, seed, weights, device, sampler)
            ]
            yield run, rows, ""


def evaluations(run: Run) -> list[tuple[int, int, str, int]]:
    """What a run was scored at, whatever the features: epoch, seed, sampler, number of samples; each once."""
    rows = [row for row in run.scores if row["features"] and row["sampler"] in SAMPLERS]
    return list(dict.fromkeys((row["epoch"], row["seed"], row["sampler"], row["n_generated"]) for row in rows))


def _weights(run: Run, epoch: int) -> str:
    return "weights.pt" if epoch == run.manifest["epoch"] else epoch_file(epoch)
