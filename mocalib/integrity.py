"""Whether what lies on the disk is what was written: decoded images, features, weights, checkpoints and records."""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

from mocalib import data, features, files, paths, seals
from mocalib.runs import open_run


def verify(directories: list[Path] | None = None) -> Iterator[tuple[Path, str | None]]:
    """Read each thing whole; its path, and what is wrong with it, or None.

    Run directories, or folders of them; where none are given, all in its usual place: runs, decoded images, extractors'
    files. Raises FileNotFoundError for a directory without runs.
    """
    if directories:
        return ((run, _wrong(_run, run)) for directory in directories for run in _runs(directory))
    checks = itertools.chain(
        ((data.verify, path.parent) for path in sorted(paths.CACHE.glob("*/cache.json"))),
        ((files.read_tensors, path) for path in sorted((paths.CACHE / "features").glob("*.pt"))),
        ((features.committed_digest, path) for path in sorted(paths.FEATURES.glob("*.pt"))),
        ((_run, path.parent) for path in _configs()),
    )
    return ((path, _wrong(check, path)) for check, path in checks)


def _configs() -> list[Path]:
    """Config or manifest of every run in a folder of runs, committed ones included."""
    found = (path for root in (paths.RECORDS, paths.RUNS) for path in root.glob("*/*/*.json"))
    return sorted({path.parent / "config.json" for path in found if path.name in ("config.json", "manifest.json")})


def _runs(directory: Path) -> list[Path]:
    if (directory / "config.json").exists() or (directory / "manifest.json").exists():
        return [directory]
    if not (found := sorted(path.parent for path in directory.glob("*/config.json"))):
        raise FileNotFoundError(f"{directory} is no run directory and no folder of them")
    return found


def _run(directory: Path) -> None:
    """A finished run's records, all weights and checkpoints that it has."""
    if open_run(directory).finished:
        seals.verify(directory)
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
