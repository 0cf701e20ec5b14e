"""Files that are either whole or not there, and that say so when they were damaged.

Written under a temporary name, flushed, then renamed; tensors lie in torch's own zip, which holds a checksum of each
part of it.
"""

import contextlib
import errno
import hashlib
import io
import json
import os
import secrets
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

FOLDER = 0x10  # the bit of a part's attributes, in a zip, that says it is one
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EEXIST)
MOVES = "MOCALIB_RUNS, MOCALIB_DATA and MOCALIB_FIGURES move what is written to another disk"


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Make a file's folder; say which file it is that a full or read-only disk does not take, and the way out."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        if error.errno not in FULL + REFUSED:
            raise
        free = "free some space and start again, which goes on from what is whole; or " if error.errno in FULL else ""
        way_out = f"{error.strerror}: {path} cannot be written; {free}{MOVES}"
        raise OSError(error.errno, way_out) from None


def write(path: Path, content: bytes, keep: Path | None = None) -> None:
    """Write atomically; readers see the old file or the new one. Raises OSError with the path and the way out.

    The old file takes the name `keep`, if given, once the new one is whole.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")  # nodes may share process numbers
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
    """Add text to a file's end. Raises OSError with the path and the way out."""
    with writing(path), path.open("a") as file:
        file.write(text)


def remove_partial(folder: Path) -> None:
    """Remove what a killed `write` has left; for whoever holds the folder's lock."""
    for partial in folder.glob("*.tmp"):
        partial.unlink(missing_ok=True)


def json_bytes(value: Any) -> bytes:
    """Indented JSON; NaN is refused, as no strict reader takes it."""
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()


def write_json(path: Path, value: Any) -> None:
    """Write `json_bytes` atomically."""
    write(path, json_bytes(value))


def write_tensors(path: Path, value: Any, keep: Path | None = None) -> None:
    """Write tensors and plain Python values as torch does, atomically."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    write(path, buffer.getbuffer(), keep)


def read_tensors(path: Path, device: torch.device | str = "cpu") -> Any:
    """Load without running any code from the file. Raises ValueError if it is not what was written.

    Bytes after the zip do not matter, such as the digest that this package once wrote there.
    """
    content = io.BytesIO(path.read_bytes())
    try:
        damaged = _damaged_part(zipfile.ZipFile(content))
        if damaged is None:
            content.seek(0)
            return torch.load(content, map_location=device, weights_only=True)
    except Exception as error:  # zipfile and torch raise BadZipFile, RuntimeError, EOFError, UnpicklingError and more
        raise ValueError(f"{path} is cut short or no file of tensors ({repr(error)[:200]})") from None
    raise ValueError(f"{path} is damaged: {damaged!r} in it is not what its checksum says")


def _damaged_part(archive: zipfile.ZipFile) -> str | None:
    """The first part that is not what its CRC-32 says, which torch does not check.

    Or that is marked as a folder, which zipfile does not mind: torch reads nothing of it, and gives what memory held.
    """
    folders = (part.filename for part in archive.infolist() if part.external_attr & FOLDER)
    return archive.testzip() or next(folders, None)


def kept(path: Path, make: Callable[[], Any]) -> Any:
    """What `make` returns, made once: read from `path` where it lies there whole, else made and written to it."""
    if path.exists():
        with contextlib.suppress(ValueError):  # a damaged one is made again
            return read_tensors(path)
    made = make()
    write_tensors(path, made)
    return made


def write_array(path: Path, array: np.ndarray) -> None:
    """Write a .npy file in a folder that nobody reads yet. Raises OSError as `create_array`."""
    file = create_array(path, array.shape, array.dtype)
    file[...] = array
    file.flush()


def create_array(path: Path, shape: tuple[int, ...], dtype: type = np.uint8) -> np.ndarray:
    """A new .npy file to write into, its space on the disk reserved: writing to a full one kills the process.

    Raises OSError with the size and the way out if there is not enough space.
    """
    with writing(path):
        array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    if hasattr(os, "posix_fallocate"):  # not on every system
        with path.open("r+b") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
            except OSError as error:
                needed = f"{path} needs {array.nbytes / 1e9:.2g} GB; MOCALIB_DATA moves data/ to another disk"
                raise OSError(error.errno, f"{error.strerror}: {needed}") from None
    return array


def download(url: str, path: Path, digits: str) -> None:
    """Fetch a file whose sha256 starts with the given digits; it is there whole and checked, or not at all.

    Raises OSError without a network, RuntimeError for another digest.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    print(f"downloading {url} to {path}", flush=True)
    try:  # torch renames the file only when it is whole and its digest is right
        torch.hub.download_url_to_file(url, str(path), hash_prefix=digits, progress=False)
    except BaseException:
        with contextlib.suppress(OSError):
            path.parent.rmdir()  # if nothing else lies there
        raise


def sha256(path: Path) -> str:
    """Hex digest of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
