"""Datasets as uint8 arrays that are decoded once. N images, C H W image.

Decoded arrays lie in `data/cache/<name>-<key>/` and are memory-mapped, so the second
start is instant and data may be larger than memory. Each start compares their headers and sizes with cache.json, which
has a digest of its own, and reads whole what is small; `verify` reads all.
"""

import contextlib
import functools
import hashlib
import json
import mmap
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import filelock
import numpy as np
import torch
from torch import Tensor

from mocalib.config import paths
from mocalib.storage import files

LAYOUT = 2  # of a cache's folder; another one is decoded anew
READ_WHOLE = 500_000_000  # bytes of a dataset that are compared with its fingerprint once a process: below a second


class Split(NamedTuple):
    """Images of one split, uint8 N C H W, with their class labels (int64 N) where the dataset has any."""

    images: Tensor
    labels: Tensor | None


class Dataset(NamedTuple):
    """Training and test split, the sha256 of all decoded pixels and labels, and files that could not be read."""

    train: Split
    test: Split
    fingerprint: str
    left_out: list[str]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return tuple(self.train.images.shape[1:])


def cached(name: str, key: dict, write: Callable[[Path], list[str] | None]) -> Dataset:
    """Open the decoded arrays of `key`; have `write(folder)` make them first where they are not there yet.

    They are written beside their final place and renamed as a whole: no reader ever sees half of them. Of several
    processes one writes and the others wait; what killed ones have left is removed by the next. Raises ValueError for
    arrays that are not as they were written, OSError where there is no space for them.
    """
    digest = hashlib.sha256(json.dumps(key | {"layout": LAYOUT}, sort_keys=True).encode()).hexdigest()[:16]
    folder = paths.CACHE / f"{name}-{digest}"
    if not folder.is_dir():
        partial = folder.with_suffix(".partial")
        lock = filelock.FileLock(folder.with_suffix(".lock"))
        with files.writing(folder):
            _sweep()
            lock.acquire()
        try:
            if not folder.is_dir():
                _write(partial, key, write)
                partial.rename(folder)
        finally:
            lock.release()
    about = _about(folder)
    if sum(expected["bytes"] for expected in about["arrays"].values()) <= READ_WHOLE:
        _verify_once(folder, tuple((folder / name).stat().st_mtime_ns for name in about["arrays"]))
    splits = [Split(_open(folder / f"{s}.npy"), _labels(folder / f"{s}-labels.npy")) for s in ("train", "test")]
    return Dataset(*splits, about["fingerprint"], about["left_out"])


def verify(folder: Path) -> None:
    """Raise ValueError if a decoded dataset is not what was written, pixel by pixel."""
    about = _about(folder)
    if (found := fingerprint(folder)) != about["fingerprint"]:
        raise _damaged(folder, f"its fingerprint is {found[:12]}..., not {about['fingerprint'][:12]}...")


@functools.cache
def _verify_once(folder: Path, changed: tuple[int, ...]) -> None:
    """`verify`, unless this process has done so since the arrays were last changed."""
    verify(folder)


def _damaged(folder: Path, reason: object) -> ValueError:
    made = f"{paths.CACHE / 'features'}, whose files may be of them"
    return ValueError(
        f"the decoded images in {folder} are damaged ({reason}); remove it, to decode them again, and {made}"
    )


def _about(folder: Path) -> dict:
    """cache.json, checked by the digest that it holds of its other fields; the arrays' headers are as it says."""
    try:
        about = json.loads((folder / "cache.json").read_bytes())
        if about.pop("sha256") != _digest(about):
            raise ValueError("it is not what its digest says")
    except (ValueError, KeyError, AttributeError, FileNotFoundError) as error:
        raise _damaged(folder, f"cache.json: {error}") from None
    for name, expected in about["arrays"].items():
        _check(folder / name, expected)
    return about


def _digest(about: dict) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def _check(path: Path, expected: dict) -> None:
    """Compare an array's header and its size on the disk with what was written."""
    try:
        found = _header(path)
    except Exception as error:  # numpy raises whatever the parser of its headers does
        raise _damaged(path.parent, f"{path.name}: {error}") from None
    if found != expected:
        raise _damaged(path.parent, f"{path.name} is {found}, not {expected}")


def _header(path: Path) -> dict:
    """Shape, dtype, order and bytes of an array's file, without its content."""
    array = np.load(path, mmap_mode="r")
    return {
        "shape": list(array.shape),
        "dtype": array.dtype.str,
        "fortran_order": bool(array.flags.f_contiguous and not array.flags.c_contiguous),
        "bytes": path.stat().st_size,
    }


def _sweep() -> None:
    """Remove what killed processes have left: partial arrays whose lock nobody holds."""
    for partial in paths.CACHE.glob("*.partial"):
        with contextlib.suppress(filelock.Timeout), filelock.FileLock(partial.with_suffix(".lock"), timeout=0):
            shutil.rmtree(partial, ignore_errors=True)


def _write(partial: Path, key: dict, write: Callable[[Path], list[str] | None]) -> None:
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed while this one waited for its lock
    partial.mkdir()
    try:
        about = {"key": key, "left_out": write(partial) or [], "fingerprint": fingerprint(partial)}
        about["arrays"] = {path.name: _header(path) for path in sorted(partial.glob("*.npy"))}
        files.write_json(partial / "cache.json", about | {"sha256": _digest(about)})
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def fingerprint(folder: Path) -> str:
    """sha256 over shapes, pixels and labels of a decoded dataset."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.npy")):
        array = np.load(path, mmap_mode="r")
        digest.update(f"{path.name} {array.shape} {array.dtype}".encode())
        for start in range(0, len(array), 4096):  # in pieces: it may be larger than memory
            digest.update(np.ascontiguousarray(array[start : start + 4096]))
    return digest.hexdigest()


def _open(path: Path) -> Tensor:
    """Memory-map an array as a tensor; copy-on-write, as torch has no read-only tensors.

    What memory cannot hold is read again in every epoch, in random order: then reading ahead is for nothing.
    """
    array = np.load(path, mmap_mode="c")
    if hasattr(mmap, "MADV_RANDOM") and array.nbytes > _memory() / 2:
        array.base.madvise(mmap.MADV_RANDOM)
    return torch.from_numpy(array)


def _memory() -> int:
    """Bytes of this machine's memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _labels(path: Path) -> Tensor | None:
    return torch.from_numpy(np.load(path)) if path.exists() else None
