"""Find image files in a folder or a zip, and each file's split and class. Decodes no pixel and unpacks no zip.

Files may be hostile: links that lead out of the folder are refused, and files too large for an image.
"""

import hashlib
import os
import stat
import threading
import zipfile
from collections.abc import Callable, Iterable, Sequence
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

import numpy as np

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"}
SPLITS = ("train", "test")
LIKE_SPLITS = (*SPLITS, "val", "valid", "validation", "training", "testing")
HELD_OUT = 0.1  # share of test images in a folder without train/ and test/
LARGEST = 500_000_000  # bytes; a file in a small zip can unpack to more than memory holds


class Files(NamedTuple):
    """The image files in a folder or zip."""

    place: Path
    names: list[str]  # with `/`
    key: str  # sha256 over names, sizes and times or CRCs: hashing the content of 200,000 files is slow
    read: Callable[[str], bytes]


class Listing(NamedTuple):
    """Files by split, with class names if each class has its own folder."""

    files: Files
    train: list[str]
    test: list[str]
    classes: list[str] | None = None
    official: bool = False  # the splits are published, so we do not change them

    @property
    def key(self) -> str:
        """The sha256 of the files' key and their splits."""
        return _digest(f"{self.files.key} {self.train} {self.test}")

    def without(self, names: Iterable[str]) -> "Listing":
        """The same listing without some files."""
        left_out = set(names)
        splits = ([name for name in split if name not in left_out] for split in (self.train, self.test))
        return self._replace(train=next(splits), test=next(splits))


def find(place: Path) -> Files:
    """The image files in a folder, nested or flat, or in a zip.

    Raises ValueError for a broken zip, a file that is too large, and links as `_walk` does.
    """
    if place.is_dir():
        found, read = sorted(_walk(place)), lambda name: (place / name).read_bytes()
        key = f"{place.resolve()} {found}"
    else:
        found, read = _zip(place)
        key = str(found)
    if large := [(name, size) for name, size, _ in found if size > LARGEST]:
        raise ValueError(
            f"{large[0][0]} in {place} has {large[0][1] / 1e9:.2g} GB; an image file has at most {LARGEST / 1e9:g} GB: "
            "remove it"
        )
    return Files(place, [name for name, *_ in found], _digest(key), read)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()  # names may not be UTF-8


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith(".")


def _walk(root: Path) -> Iterable[tuple[str, int, int]]:
    """(relative path, bytes, modification time) of every image file that is not hidden.

    Raises ValueError for a link to a folder or to nothing, a link that leads out, and anything that is not a file.
    """
    inside = root.resolve()
    for folder, folders, names in os.walk(root, onerror=_refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        below = Path(folder).relative_to(root).as_posix() + "/"
        below = "" if below == "./" else below
        if links := [name for name in folders if os.path.islink(f"{folder}/{name}")]:
            raise ValueError(f"{below}{links[0]} in {root} is a link to a folder; replace it by the folder itself")
        for name in filter(_is_image, names):
            if not os.path.exists(f"{folder}/{name}"):
                raise ValueError(f"{below}{name} in {root} is a link to nothing; remove it")
            if os.path.islink(f"{folder}/{name}") and not Path(folder, name).resolve().is_relative_to(inside):
                raise ValueError(f"{below}{name} in {root} is a link out of it; replace it by the file itself (cp -L)")
            found = os.stat(f"{folder}/{name}")
            if not stat.S_ISREG(found.st_mode):
                raise ValueError(f"{below}{name} in {root} is not a regular file; reading may never end: remove it")
            yield below + name, found.st_size, found.st_mtime_ns


def _refuse(error: OSError) -> None:
    reason = f"({error.strerror}) and would be left out; make it readable"
    raise ValueError(f"{error.filename} cannot be listed {reason}") from None


def _zip(path: Path) -> tuple[list[tuple[str, int, int]], Callable[[str], bytes]]:
    """(name, bytes, CRC) of every image in a zip, and a reader for threads. Names have no common top folder."""
    try:
        archive, lock = zipfile.ZipFile(path), threading.Lock()  # threads share one handle
    except (zipfile.BadZipFile, NotImplementedError, EOFError) as error:
        raise ValueError(f"{path} is not a folder or a readable zip ({error}); unpack or replace it") from None
    entries = {entry.filename.removeprefix("./").lstrip("/"): entry for entry in archive.infolist()}
    entries = {name: entry for name, entry in entries.items() if not _hidden(name) and _is_image(name)}
    top = _top(entries)
    entries = {name.removeprefix(top): entry for name, entry in entries.items()}

    def read(name: str) -> bytes:
        with lock:
            return archive.read(entries[name])

    return sorted((name, entry.file_size, entry.CRC) for name, entry in entries.items()), read


def _hidden(name: str) -> bool:  # also `../name`, which leads out of a zip
    return name.startswith("__MACOSX/") or any(part.startswith(".") for part in name.split("/"))


def _top(names: Iterable[str]) -> str:
    """The folder that holds all of a zip's images or splits: "photos/", or ""."""
    folders = [os.path.dirname(name) for name in names]
    common = os.path.commonpath(folders) if folders else ""
    return "".join(f"{part}/" for part in takewhile(lambda part: part and part not in SPLITS, common.split("/")))


def scan(place: Path) -> Listing:
    """List the images in a folder or a zip by split.

    The splits are `train/` and `test/`; without both, a fixed tenth of the files is the test split. Raises ValueError
    for one split without the other, splits with other names or deeper down, and an empty split.
    """
    files = find(place)
    train, test = ([name for name in files.names if name.startswith(f"{split}/")] for split in SPLITS)
    if bool(train) != bool(test):
        has, lacks = SPLITS if train else reversed(SPLITS)
        raise ValueError(
            f"{place} has images in {has}/ but none in {lacks}/; rename its other split to that, or pass a folder "
            f"without splits as root (a tenth is then held out)"
        )
    depth = 1 if train else 0
    if not train:
        if other := sorted({name.split("/")[0] for name in files.names if name.split("/")[0].lower() in LIKE_SPLITS}):
            raise ValueError(f"{place} has {other[0]}/; name splits train/ and test/, and no other folder like a split")
        if deeper := next((name for name in files.names if set(SPLITS) & set(name.split("/")[1:-1])), None):
            raise ValueError(f"{place} has its splits deeper down ({deeper}); pass the folder that has them as root")
        held = set(shuffled(files.names)[: round(HELD_OUT * len(files.names))])
        train, test = ([name for name in files.names if (name in held) == is_test] for is_test in (False, True))
    if not train or not test:
        raise ValueError(
            f"{place} has {len(train)} training and {len(test)} test images; it needs both "
            f"({', '.join(sorted(SUFFIXES))}, in train/ and test/ or in one folder)"
        )
    if unused := sorted(set(files.names) - set(train) - set(test)):
        print(f"{place}: {len(unused)} images outside train/ and test/ are not used, for example {unused[0]}")
    classes = _classes([*train, *test], depth)
    if classes and (new := {name.split("/")[-2] for name in test} - {name.split("/")[-2] for name in train}):
        raise ValueError(f"{place}: test/ has classes that train/ lacks: {', '.join(sorted(new))}; remove or add them")
    return Listing(files, shuffled(train), shuffled(test), classes)


def shuffled(names: Sequence) -> list:
    """A fixed random order, so that the first n images are a fair sample; file names are often sorted by class."""
    return [names[i] for i in np.random.default_rng(0).permutation(len(names))]


def _classes(names: list[str], depth: int) -> list[str] | None:
    """The class folders, if every file is in one and there are at least two; else None."""
    parts = [name.split("/")[depth:] for name in names]
    classes = sorted({part[0] for part in parts})
    return classes if len(classes) > 1 and all(len(part) == 2 for part in parts) else None
