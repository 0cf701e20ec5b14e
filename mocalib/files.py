"""Files that are either whole or not there: written under a temporary name, flushed, then renamed."""

import contextlib
import hashlib
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch


def write(path: Path, content: bytes) -> None:
    """Write atomically; readers see the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def json_bytes(value: Any) -> bytes:
    """Indented JSON; NaN is refused, as no strict reader takes it."""
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()


def write_json(path: Path, value: Any) -> None:
    """Write `json_bytes` atomically."""
    write(path, json_bytes(value))


def write_tensors(path: Path, value: Any) -> None:
    """Write tensors and plain Python values so that `read_tensors` loads them."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    write(path, buffer.getbuffer())


def read_tensors(path: Path, device: torch.device | str = "cpu") -> Any:
    """Load without running any code from the file."""
    return torch.load(path, map_location=device, weights_only=True)


def create_array(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """A new uint8 .npy file to write into, its space on the disk reserved: writing to a full one kills the process.

    Raises OSError with the size and the way out if there is not enough space.
    """
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
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
