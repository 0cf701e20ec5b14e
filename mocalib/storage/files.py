"""Atomic file writes, and reads that detect damage by the checksums in torch's zip format."""

import contextlib
import errno
import hashlib
import io
import json
import os
import secrets
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mocalib.config import paths

FOLDER = 0x10  # the bit in a zip entry's attributes that marks a folder
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EEXIST)
MOVES = "set MOCALIB_RUNS, MOCALIB_DATA or MOCALIB_FIGURES to write to another disk"


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Make a file's folder. If the disk is full or read-only, raise OSError with the path and the way out."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        if error.errno not in FULL + REFUSED:
            raise
        free = "free some space and start again to resume, or " if error.errno in FULL else ""
        raise OSError(error.errno, f"{error.strerror}: {path} cannot be written; {free}{MOVES}") from None


def write(path: Path, content: bytes, keep: Path | None = None) -> None:
    """Write atomically: readers see the old file or the new one. The old one is renamed to `keep`, if given.

    Raises OSError with the path and the way out.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")  # two nodes can share a pid
    with writing(path):
        try:
            with partial.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            if keep is not None and path.exists():
                path.replace(keep)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def append(path: Path, text: str) -> None:
    """Append text to a file. Raises OSError with the path and the way out."""
    with writing(path), path.open("a", encoding="utf-8") as file:
        file.write(text)


def json_bytes(value: Any) -> bytes:
    """Indented JSON. Raises ValueError for NaN, which strict readers reject."""
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()


def write_json(path: Path, value: Any) -> None:
    """Write `json_bytes` atomically."""
    write(path, json_bytes(value))


def write_tensors(path: Path, value: Any, keep: Path | None = None) -> None:
    """Write tensors and plain Python values atomically, in torch's format."""
    torch.save(value, buffer := io.BytesIO())
    write(path, buffer.getbuffer(), keep)


def read_tensors(path: Path, device: torch.device | str = "cpu") -> Any:
    """Load a file of `write_tensors` without running code from it. Raises ValueError if it is damaged."""
    content = io.BytesIO(path.read_bytes())
    try:
        damaged = _damaged_part(zipfile.ZipFile(content))  # ignores bytes after the zip: old files have a digest there
        if damaged is None:
            content.seek(0)
            return torch.load(content, map_location=device, weights_only=True)
    except Exception as error:  # zipfile and torch raise BadZipFile, RuntimeError, EOFError, UnpicklingError and more
        raise ValueError(f"{path} is cut short or not a file of tensors ({repr(error)[:200]})") from None
    raise ValueError(f"{path} is damaged: its part {damaged!r} does not match its checksum")


def _damaged_part(archive: zipfile.ZipFile) -> str | None:
    """The first part that fails its CRC-32, which torch does not check, or that is marked as a folder.

    zipfile accepts such a mark, but torch then reads nothing and returns uninitialised memory.
    """
    folders = (part.filename for part in archive.infolist() if part.external_attr & FOLDER)
    return archive.testzip() or next(folders, None)


def check_state(state: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Raise ValueError naming the first tensor that is missing, unknown, or of another shape or dtype."""
    for name in dict.fromkeys([*expected, *state]):
        there, here = (f"{tuple(s[name].shape)} {s[name].dtype}" if name in s else "missing" for s in (state, expected))
        if there != here:
            raise ValueError(f"{name} is {there} in the file and {here} in this config's nets")


def cache(name: str) -> Path:
    """data/cache/<name> if it is there or can be written, else <runs>/cache/<name>: shared data may be read-only."""
    if not (path := paths.CACHE / name).exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=path.parent).close()
        except OSError:
            return paths.RUNS / "cache" / name
    return path


def kept(path: Path, make: Callable[[], Any]) -> Any:
    """The value stored at `path`; if it is missing or damaged, that of `make`, which is stored if it can be."""
    if path.exists():
        with contextlib.suppress(ValueError):  # damaged
            return read_tensors(path)
    made = make()
    with contextlib.suppress(OSError):  # no reason to fail after hours
        write_tensors(path, made)
    return made


def write_array(path: Path, array: np.ndarray) -> None:
    """Write a .npy file, not atomically. Raises OSError as `create_array`."""
    file = create_array(path, array.shape, array.dtype)
    file[...] = array
    file.flush()


def create_array(path: Path, shape: tuple[int, ...], dtype: type = np.uint8) -> np.ndarray:
    """A new memory-mapped .npy file. Raises OSError with the size and the way out if the disk lacks the space.

    The space is reserved first, because writing to a mapped file on a full disk kills the process.
    """
    with writing(path):
        array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    if hasattr(os, "posix_fallocate"):  # not on every system
        with path.open("r+b") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
            except OSError as error:
                needed = f"{path} needs {array.nbytes / 1e9:.2g} GB; set MOCALIB_DATA to use another disk"
                raise OSError(error.errno, f"{error.strerror}: {needed}") from None
    return array


def download(url: str, path: Path, digits: str) -> None:
    """Download a file whose sha256 starts with `digits`. OSError without a network, RuntimeError for another digest."""
    path.parent.mkdir(parents=True, exist_ok=True)
    print(f"downloading {url} to {path}", flush=True)
    torch.hub.download_url_to_file(url, str(path), hash_prefix=digits, progress=False)  # renames it once it is right


def sha256(path: Path) -> str:
    """The hex digest of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def committed_digest(path: Path) -> str:
    """sha256 of committed weights. ValueError if their record has another, FileNotFoundError if it is missing."""
    if not (record := path.with_suffix(".json")).exists():
        raise FileNotFoundError(f"{record}, the record of {path.name}, is missing; restore it with git")
    expected = json.loads(record.read_text("utf-8"))["sha256"]
    if (found := sha256(path)) != expected:
        raise ValueError(f"{path} is damaged: its sha256 is {found}, not {expected}; restore it with git")
    return found
