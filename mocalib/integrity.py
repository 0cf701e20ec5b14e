"""Whether what lies on the disk is what was written: decoded images, features, weights, checkpoints and records."""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

from mocalib import data, features, files, paths, seals
from mocalib.runs import open_run


def verify(directories: list[Path] | None = None) -> Iterator[tuple[Path, str | None]]:
    """Read each thing whole; its path, and what is wrong with it, or None.

    Run directories, or, where none are given, all in its usual place: runs, decoded images, extractors' files.
    """
    if directories:
        return ((directory, _wrong(_run, directory)) for directory in directories)
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


def _run(directory: Path) -> None:
    """A finished run's records, all weights and checkpoints that it has."""
    if open_run(directory).finished:
        seals.verify(directory)
    for path in sorted(directory.glob("*.pt")):
        with contextlib.suppress(FileNotFoundError):  # it trains: a checkpoint has gone since
            files.read_tensors(path)


def _wrong(check: Callable[[Path], object], path: Path) -> str | None:
    try:
        check(path)
    except Exception as error:  # torch raises RuntimeError, EOFError, UnpicklingError and more
        return f"{error}" if str(path) in str(error) else f"{path}: {error}"
    return None
