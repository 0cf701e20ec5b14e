"""Check files on the disk for damage: decoded images, features, weights, checkpoints and records."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from mocalib.config import paths
from mocalib.data import cache
from mocalib.storage import files, manifest
from mocalib.storage.run import open_run


def verify(directories: list[Path] | None = None) -> Iterator[tuple[Path, str | None]]:
    """Check the given run directories, or folders of them; yield each path and its error, or None.

    Without arguments, checks everything in its usual place. Raises FileNotFoundError for a directory without runs.
    """
    checks = []
    if not directories:
        for place in (paths.CACHE, paths.RUNS / "cache"):
            checks += [(cache.verify, path.parent) for path in sorted(place.glob("*/cache.json"))]
            checks += [(files.read_tensors, path) for path in sorted((place / "features").glob("*.pt"))]
        committed = sorted([*paths.FEATURES.glob("*.pt"), *paths.WEIGHTS.glob("*/*.pt")])
        checks += [(files.committed_digest, path) for path in committed]
    for place in directories or sorted({paths.WEIGHTS, *paths.RECORDS.glob("*"), *paths.RUNS.glob("*")}):
        runs = _runs(place)
        if directories and not runs:
            raise FileNotFoundError(f"{place} has no runs; pass a run directory, or a folder of them")
        checks += [(_run, run) for run in runs]
    return ((path, _wrong(check, path)) for check, path in checks)


def _runs(place: Path) -> list[Path]:
    """The run directory itself, or those in a folder: each has a config or a manifest."""
    names = ("config.json", "manifest.json")
    return sorted({path.parent for name in names for path in (*place.glob(name), *place.glob(f"*/{name}"))})


def _run(directory: Path) -> None:
    """Raise an error if a run's records, weights or checkpoints are damaged."""
    if open_run(directory).finished:
        manifest.verify(directory)
    elif (directory / "scores.json").exists():
        raise ValueError(f"{directory} has scores but no manifest.json; restore it, or start the run again")
    for path in sorted(directory.glob("*.pt")):
        with contextlib.suppress(FileNotFoundError):  # training removed a checkpoint meanwhile
            files.read_tensors(path)


def _wrong(check: Callable[[Path], object], path: Path) -> str | None:
    try:
        check(path)
    except Exception as error:  # torch raises RuntimeError, EOFError, UnpicklingError and more
        return f"{error}" if str(path) in str(error) else f"{path}: {error}"
    return None
