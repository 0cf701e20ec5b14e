"""Whether what lies on the disk is what was written: decoded images, features, weights, checkpoints and records."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from mocalib.config import paths
from mocalib.data import cache
from mocalib.evaluation import features
from mocalib.storage import files, manifest
from mocalib.storage.run import open_run


def verify(directories: list[Path] | None = None) -> Iterator[tuple[Path, str | None]]:
    """Read each thing whole; its path, and what is wrong with it, or None.

    Run directories, or folders of them; where none are given, all in its usual place: runs, decoded images, extractors'
    files. Raises FileNotFoundError for a directory without runs.
    """
    checks = []
    if not directories:
        checks += [(cache.verify, path.parent) for path in sorted(paths.CACHE.glob("*/cache.json"))]
        checks += [(files.read_tensors, path) for path in sorted((paths.CACHE / "features").glob("*.pt"))]
        checks += [(features.committed_digest, path) for path in sorted(paths.FEATURES.glob("*.pt"))]
    for place in directories or sorted({*paths.RECORDS.glob("*"), *paths.RUNS.glob("*")}):
        runs = _runs(place)
        if directories and not runs:
            raise FileNotFoundError(f"{place} is no run directory and no folder of them")
        checks += [(_run, run) for run in runs]
    return ((path, _wrong(check, path)) for check, path in checks)


def _runs(place: Path) -> list[Path]:
    """A run directory, or those in a folder: what holds a config or a manifest."""
    names = ("config.json", "manifest.json")
    return sorted({path.parent for name in names for path in (*place.glob(name), *place.glob(f"*/{name}"))})


def _run(directory: Path) -> None:
    """A finished run's records, all weights and checkpoints that it has."""
    if open_run(directory).finished:
        manifest.verify(directory)
    elif (directory / "scores.json").exists():
        raise ValueError(f"{directory} has scores and no manifest.json; restore it, or start the run again")
    for path in sorted(directory.glob("*.pt")):
        with contextlib.suppress(FileNotFoundError):  # it trains: a checkpoint has gone since
            files.read_tensors(path)


def _wrong(check: Callable[[Path], object], path: Path) -> str | None:
    try:
        check(path)
    except Exception as error:  # torch raises RuntimeError, EOFError, UnpicklingError and more
        return f"{error}" if str(path) in str(error) else f"{path}: {error}"
    return None
