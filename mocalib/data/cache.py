"""Datasets as uint8 arrays that are decoded once. Shapes: N images, C H W image.

The arrays are memory-mapped from the folder `<name>-<key>` of a cache (see `files.cache`), so a dataset may be larger
than memory. Each start checks all bytes of small datasets; `verify` checks those of any.
"""

import contextlib
import functools
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import filelock
import numpy as np
import torch
from torch import Tensor

from mocalib.data.image_folder import digest
from mocalib.storage import files

LAYOUT = 2  # version of the folder's layout; part of the key
RECORDED = ("left_out", "notes", "white")  # see `decode`
READ_WHOLE = 500_000_000  # bytes; up to this size each process checks the fingerprint once, in under a second


class Split(NamedTuple):
    """Images of one split, uint8 N C H W, and their class labels, int64 N, if there are any."""

    images: Tensor
    labels: Tensor | None


class Dataset(NamedTuple):
    """Both splits, the sha256 of all decoded pixels and labels, and what else a run records of how they were made."""

    train: Split
    test: Split
    fingerprint: str
    about: dict

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return tuple(self.train.images.shape[1:])

    @property
    def description(self) -> dict:
        """What a run records: fingerprint, numbers of images, their shape, whether they have labels, and `about`."""
        counts = {"train": len(self.train.images), "test": len(self.test.images)}
        known = {"labels": self.train.labels is not None, "image_shape": list(self.image_shape)}
        return {"fingerprint": self.fingerprint} | known | counts | self.about


def cached(name: str, key: dict, write: Callable[[Path], dict | None]) -> Dataset:
    """Open the decoded arrays of `key`. If there are none yet, `write(folder)` makes them.

    One process writes and renames the finished folder; others wait. Raises ValueError for damaged arrays, OSError
    without space on the disk.
    """
    whole = key | {"layout": LAYOUT}
    folder = files.cache(f"{name.replace(':', '-')}-{digest(json.dumps(whole, sort_keys=True))[:16]}")
    if not folder.is_dir():
        partial = folder.with_suffix(".partial")
        lock = filelock.FileLock(folder.with_suffix(".lock"))
        with files.writing(folder):
            _sweep(folder.parent)
            held = lock.acquire()
        with held:
            if not folder.is_dir():
                _write(partial, key, write)
                partial.rename(folder)
    about, arrays = _about(folder), sorted(folder.glob("*.npy"))
    if sum(path.stat().st_size for path in arrays) <= READ_WHOLE:
        _verify_once(folder, tuple(path.stat().st_mtime_ns for path in arrays))
    splits = [Split(_open(folder / f"{s}.npy"), _open(folder / f"{s}-labels.npy")) for s in ("train", "test")]
    return Dataset(*splits, about["fingerprint"], {name: about[name] for name in RECORDED if about.get(name)})


def verify(folder: Path) -> None:
    """Raise ValueError if any byte of a decoded dataset has changed."""
    expected = _about(folder)["fingerprint"]
    if (found := fingerprint(folder)) != expected:
        raise _damaged(folder, f"its fingerprint is {found[:12]}..., not {expected[:12]}...")


@functools.cache
def _verify_once(folder: Path, changed: tuple[int, ...]) -> None:
    """`verify`, once in this process for each time that the arrays were changed."""
    verify(folder)


def _damaged(folder: Path, reason: object) -> ValueError:
    return ValueError(
        f"the decoded images in {folder} are damaged ({reason}); remove them to decode them again, and also remove "
        f"{folder.parent / 'features'}, which may hold their features"
    )


def _about(folder: Path) -> dict:
    """What cache.json says of the arrays."""
    try:
        about = json.loads((folder / "cache.json").read_bytes())
        if not isinstance(about, dict) or "fingerprint" not in about:
            raise ValueError("it has no fingerprint")
        return about
    except (ValueError, FileNotFoundError) as error:
        raise _damaged(folder, f"cache.json: {error!r}") from None


def _sweep(place: Path) -> None:
    """Remove what killed processes left: partial folders that no process has locked."""
    for partial in place.glob("*.partial"):
        with contextlib.suppress(filelock.Timeout), filelock.FileLock(partial.with_suffix(".lock"), timeout=0):
            shutil.rmtree(partial, ignore_errors=True)


def _write(partial: Path, key: dict, write: Callable[[Path], dict | None]) -> None:
    shutil.rmtree(partial, ignore_errors=True)  # left by a process that was killed while this one waited for the lock
    partial.mkdir()
    try:
        about = write(partial) or {}
        files.write_json(partial / "cache.json", about | {"key": key, "fingerprint": fingerprint(partial)})
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def fingerprint(folder: Path) -> str:
    """The sha256 of a decoded dataset's shapes, pixels and labels."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.npy")):
        array = _load(path, "r")
        digest.update(f"{path.name} {array.shape} {array.dtype}".encode())
        for start in range(0, len(array), 4096):  # in pieces, as it may be larger than memory
            digest.update(np.ascontiguousarray(array[start : start + 4096]))
    return digest.hexdigest()


def _open(path: Path) -> Tensor | None:
    """Memory-map an array as a tensor, copy-on-write since torch has no read-only tensors; None without a file."""
    return torch.from_numpy(_load(path, "c")) if path.exists() else None


def _load(path: Path, mode: str) -> np.ndarray:
    try:
        return np.load(path, mmap_mode=mode)
    except Exception as error:  # numpy's header parser raises many types
        raise _damaged(path.parent, f"{path.name}: {error}") from None
