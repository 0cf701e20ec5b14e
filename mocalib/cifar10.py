"""CIFAR-10 from its official archive of python batches (https://www.cs.toronto.edu/~kriz/cifar.html).

N images, C H W image.
"""

import hashlib
import pickle
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image
from torchvision.datasets import CIFAR10

from mocalib import decoding, files, folders

URL = CIFAR10.url
ARCHIVE = "cifar-10-python.tar.gz"
SHA256 = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"  # as Keras and torchdata check it
UNPACKED = CIFAR10.base_folder
BATCHES = {"train": CIFAR10.train_list, "test": CIFAR10.test_list}  # torchvision's table: [name, md5]


def write(root: Path, size: int, crop: int, folder: Path) -> None:
    """Write train.npy, test.npy (uint8 N 3 H W) and labels from the archive in `root`, or the folder unpacked from it.

    Every file is checked before it is read, since a pickle can run code. Raises FileNotFoundError if neither is there
    and ValueError for a file that is not the official one.
    """
    batches = _from_folder(root / UNPACKED) if (root / UNPACKED).is_dir() else _from_archive(root / ARCHIVE)
    for split, table in BATCHES.items():
        found = [_load(root, name, md5, batches.get(name, b"")) for name, md5 in table]
        images = np.concatenate([batch[b"data"] for batch in found]).reshape(-1, 3, 32, 32)
        if (size, crop) != (32, 0):
            images = np.stack([decoding.pixels(Image.fromarray(x.transpose(1, 2, 0)), size, crop) for x in images])
        labels = np.concatenate([batch[b"labels"] for batch in found])
        order = folders.shuffled(range(len(images)))
        files.write_array(folder / f"{split}.npy", images[order])
        files.write_array(folder / f"{split}-labels.npy", labels[order].astype(np.int64))


def _from_folder(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def _from_archive(path: Path) -> dict[str, bytes]:
    if (found := files.sha256(path)) != SHA256:
        raise ValueError(
            f"{path} is cut short or not the official file: its sha256 is {found}, not {SHA256}; remove it to have it "
            f"downloaded again, or get it anew (see data/README.md)"
        )
    with tarfile.open(path) as archive:
        return {Path(m.name).name: archive.extractfile(m).read() for m in archive if m.isfile()}


def _load(root: Path, name: str, md5: str, content: bytes) -> dict:
    if hashlib.md5(content).hexdigest() != md5:
        raise ValueError(
            f"{root}: {name} is missing or damaged: its md5 is not {md5}; get it anew (see data/README.md)"
        )
    return pickle.loads(content, encoding="bytes")
