"""Image files below a folder or inside a zip: what lies there, and each file's split and class. No pixel is decoded."""

import hashlib
import os
import threading
import zipfile
from collections.abc import Callable, Iterable
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

import numpy as np

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"}
SPLITS = ("train", "test")
HELD_OUT = 0.1  # of a folder without train/ and test/


class Files(NamedTuple):
    """Image files of one place: their names (with `/`), a key of what they hold, and how to read one."""

    place: Path
    names: list[str]
    key: str  # sha256 over names, sizes and times or CRCs: hashing 200,000 files would be no instant start
    read: Callable[[str], bytes]


class Listing(NamedTuple):
    """Files by split, with class names where every file lies in one folder a class."""

    files: Files
    train: list[str]
    test: list[str]
    classes: list[str] | None = None

    @property
    def key(self) -> str:
        """sha256 that follows from the files and their splits."""
        return hashlib.sha256(f"{self.files.key} {self.train} {self.test}".encode()).hexdigest()

    def without(self, names: Iterable[str]) -> "Listing":
        """The same listing with some files left out."""
        left_out = set(names)
        splits = ([name for name in split if name not in left_out] for split in (self.train, self.test))
        return Listing(self.files, *splits, self.classes)


def find(place: Path) -> Files:
    """Image files of a folder, nested or flat, or of a zip.

    Raises ValueError for a link to a folder, which would be left out, for a link to nothing, and for a file that is no
    zip.
    """
    if place.is_dir():
        found = sorted(_walk(place))
        key = f"{place.resolve()} {found}"
        read = lambda name: (place / name).read_bytes()  # noqa: E731
    else:
        found, read = _zip(place)
        key = str(found)
    return Files(place, [name for name, *_ in found], hashlib.sha256(key.encode()).hexdigest(), read)


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES


def _walk(root: Path) -> Iterable[tuple[str, int, int]]:
    """(relative path, bytes, time of change) of every image file; runs at each start: 60,000 take half a second."""
    for folder, folders, names in os.walk(root):
        below = Path(folder).relative_to(root).as_posix() + "/"
        below = "" if below == "./" else below
        if links := [name for name in folders if os.path.islink(f"{folder}/{name}")]:
            raise ValueError(f"{below}{links[0]} in {root} is a link to a folder; put the folder itself there")
        for name in filter(_is_image, names):
            if not os.path.exists(f"{folder}/{name}"):
                raise ValueError(f"{below}{name} in {root} is a link to nothing; remove it")
            found = os.stat(f"{folder}/{name}")
            yield below + name, found.st_size, found.st_mtime_ns


def _zip(path: Path) -> tuple[list[tuple[str, int, int]], Callable[[str], bytes]]:
    """(name, bytes, CRC) of every image in a zip, below its top folder if it has one, and a reader for threads."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [entry for entry in archive.infolist() if _is_image(entry.filename)]
    except (zipfile.BadZipFile, EOFError) as error:
        raise ValueError(
            f"{path} is no folder and no zip that can be read ({error}); unpack it or get it anew"
        ) from None
    entries = [entry for entry in entries if not entry.filename.startswith("__MACOSX/")]
    top = _top(entry.filename for entry in entries)
    inner = {entry.filename.removeprefix(top): entry for entry in entries}
    local = threading.local()  # a handle a thread: one handle must not open two files at a time

    def read(name: str) -> bytes:
        if not hasattr(local, "archive"):
            local.archive = zipfile.ZipFile(path)
        return local.archive.read(inner[name])

    return sorted((name, entry.file_size, entry.CRC) for name, entry in inner.items()), read


def _top(names: Iterable[str]) -> str:
    """The folder that a zip packs everything into, down to its splits: "photos/", or ""."""
    folders = [os.path.dirname(name) for name in names]
    common = os.path.commonpath(folders) if folders else ""
    return "".join(f"{part}/" for part in takewhile(lambda part: part and part not in SPLITS, common.split("/")))


def scan(place: Path) -> Listing:
    """List the images below a folder or in a zip.

    With `train/` and `test/` in it those are the splits; with neither, a fixed tenth of the files is held out. Raises
    ValueError if there is only one of the two, if they lie deeper, or if a split is empty.
    """
    files = find(place)
    train, test = ([name for name in files.names if name.startswith(f"{split}/")] for split in SPLITS)
    if bool(train) != bool(test):
        has, lacks = SPLITS if train else reversed(SPLITS)
        raise ValueError(
            f"{place} has images in {has}/ but none in {lacks}/; give its other split that name, or pass as root a "
            f"folder with neither, of which a tenth is held out"
        )
    depth = 1 if train else 0
    if not train:
        if deeper := next((name for name in files.names if set(SPLITS) & set(name.split("/")[1:-1])), None):
            raise ValueError(f"{place} has its splits further down ({deeper}); pass the folder that holds them as root")
        train, test = _hold_out(files.names)
    if not train or not test:
        raise ValueError(
            f"{place} has {len(train)} training and {len(test)} test images; it needs some of each "
            f"({', '.join(sorted(SUFFIXES))}, in train/ and test/ or in one folder)"
        )
    return Listing(files, shuffled(train), shuffled(test), _classes([*train, *test], depth))


def shuffled(names: list[str]) -> list[str]:
    """A fixed order in which the first n images are a fair sample: file names are sorted by class or by subject."""
    return [names[i] for i in np.random.default_rng(0).permutation(len(names))]


def _hold_out(names: list[str]) -> tuple[list[str], list[str]]:
    order = np.random.default_rng(0).permutation(len(names))
    held = set(order[: round(HELD_OUT * len(names))].tolist())
    train = [name for i, name in enumerate(names) if i not in held]
    return train, [names[i] for i in sorted(held)]


def _classes(names: list[str], depth: int) -> list[str] | None:
    """Class folders, if every file lies in exactly one below its split and there are at least two."""
    parts = [name.split("/")[depth:] for name in names]
    if any(len(part) != 2 for part in parts):
        return None
    classes = sorted({part[0] for part in parts})
    return classes if len(classes) > 1 else None
