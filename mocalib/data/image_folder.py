"""Image files below a folder or inside a zip: what lies there, and each file's split and class. No pixel is decoded.

Nothing is trusted: links that lead out of a folder, names that would, and files too large for an image are refused. A
zip is read by name and never unpacked.
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
HELD_OUT = 0.1  # of a folder without train/ and test/
LARGEST = 500_000_000  # bytes of a file: a small zip can hold a file that no memory does


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
    official: bool = False  # splits that are not ours to change

    @property
    def key(self) -> str:
        """sha256 that follows from the files and their splits."""
        return _digest(f"{self.files.key} {self.train} {self.test}")

    def without(self, names: Iterable[str]) -> "Listing":
        """The same listing with some files left out."""
        left_out = set(names)
        splits = ([name for name in split if name not in left_out] for split in (self.train, self.test))
        return self._replace(train=next(splits), test=next(splits))


def find(place: Path) -> Files:
    """Image files of a folder, nested or flat, or of a zip.

    Raises ValueError for a link to a folder, which would be left out, for a link to nothing or out of the folder, for a
    file that is no zip, names in a zip that lead out of it, and files that are too large.
    """
    if place.is_dir():
        found = sorted(_walk(place))
        key, read = f"{place.resolve()} {found}", _reader(place)
    else:
        found, read = _zip(place)
        key = str(found)
    if large := [(name, size) for name, size, _ in found if size > LARGEST]:
        raise ValueError(
            f"{large[0][0]} in {place} has {large[0][1] / 1e9:.2g} GB; no image needs more than {LARGEST / 1e9:g}: "
            "remove it"
        )
    return Files(place, [name for name, *_ in found], _digest(key), read)


def _reader(folder: Path) -> Callable[[str], bytes]:
    return lambda name: (folder / name).read_bytes()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()  # names need not be UTF-8


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith(".")


def _walk(root: Path) -> Iterable[tuple[str, int, int]]:
    """(relative path, bytes, time of change) of every image file that is not hidden; 60,000 take half a second."""
    inside = root.resolve()
    for folder, folders, names in os.walk(root, onerror=_refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        below = Path(folder).relative_to(root).as_posix() + "/"
        below = "" if below == "./" else below
        if links := [name for name in folders if os.path.islink(f"{folder}/{name}")]:
            raise ValueError(f"{below}{links[0]} in {root} is a link to a folder; put the folder itself there")
        for name in filter(_is_image, names):
            if not os.path.exists(f"{folder}/{name}"):
                raise ValueError(f"{below}{name} in {root} is a link to nothing; remove it")
            if os.path.islink(f"{folder}/{name}") and not Path(folder, name).resolve().is_relative_to(inside):
                raise ValueError(f"{below}{name} in {root} is a link out of it; put the file itself there (cp -L)")
            found = os.stat(f"{folder}/{name}")
            if not stat.S_ISREG(found.st_mode):
                raise ValueError(f"{below}{name} in {root} is no plain file, and reading it may never end; remove it")
            yield below + name, found.st_size, found.st_mtime_ns


def _refuse(error: OSError) -> None:
    raise ValueError(f"{error.filename} cannot be listed ({error.strerror}), and would be left out") from None


def _zip(path: Path) -> tuple[list[tuple[str, int, int]], Callable[[str], bytes]]:
    """(name, bytes, CRC) of every image in a zip, below its top folder if it has one, and a reader for threads."""
    try:
        archive, lock = zipfile.ZipFile(path), threading.Lock()  # one handle must not open two files at a time
    except (zipfile.BadZipFile, NotImplementedError, EOFError) as error:
        raise ValueError(f"{path} is no folder and no zip that can be read ({error}); unpack or replace it") from None
    _refuse_hostile(path, archive.infolist())
    entries = {entry.filename.removeprefix("./").lstrip("/"): entry for entry in archive.infolist()}
    entries = {name: entry for name, entry in entries.items() if not _hidden(name) and _is_image(name)}
    top = _top(entries)
    entries = {name.removeprefix(top): entry for name, entry in entries.items()}

    def read(name: str) -> bytes:
        with lock:
            return archive.read(entries[name])

    return sorted((name, entry.file_size, entry.CRC) for name, entry in entries.items()), read


def _refuse_hostile(path: Path, entries: list[zipfile.ZipInfo]) -> None:
    """Names that lead out of a zip, and links, have no place in a set of images."""
    for entry in entries:
        if ".." in entry.filename.replace("\\", "/").split("/"):
            raise ValueError(
                f"{entry.filename} in {path} leads out of it; a zip of images has no such names: remove it"
            )
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise ValueError(
                f"{entry.filename} in {path} is a link; pack the file itself (zip follows links by default)"
            )


def _hidden(name: str) -> bool:
    return name.startswith("__MACOSX/") or any(part.startswith(".") for part in name.split("/"))


def _top(names: Iterable[str]) -> str:
    """The folder that a zip packs everything into, down to its splits: "photos/", or ""."""
    folders = [os.path.dirname(name) for name in names]
    common = os.path.commonpath(folders) if folders else ""
    return "".join(f"{part}/" for part in takewhile(lambda part: part and part not in SPLITS, common.split("/")))


def scan(place: Path) -> Listing:
    """List the images below a folder or in a zip.

    With `train/` and `test/` in it those are the splits; with neither, a fixed tenth of the files is held out. Raises
    ValueError if there is only one of the two, if they have other names or lie deeper, or if a split is empty.
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
        if other := sorted({name.split("/")[0] for name in files.names if name.split("/")[0].lower() in LIKE_SPLITS}):
            raise ValueError(f"{place} has {other[0]}/; name its splits train/ and test/, or other folders differently")
        if deeper := next((name for name in files.names if set(SPLITS) & set(name.split("/")[1:-1])), None):
            raise ValueError(f"{place} has its splits further down ({deeper}); pass the folder that holds them as root")
        train, test = _hold_out(files.names)
    if not train or not test:
        raise ValueError(
            f"{place} has {len(train)} training and {len(test)} test images; it needs some of each "
            f"({', '.join(sorted(SUFFIXES))}, in train/ and test/ or in one folder)"
        )
    if unused := sorted(set(files.names) - set(train) - set(test)):
        print(f"{place}: {len(unused)} images beside train/ and test/ are not used, for example {unused[0]}")
    classes = _classes([*train, *test], depth)
    if classes and (new := {name.split("/")[-2] for name in test} - {name.split("/")[-2] for name in train}):
        raise ValueError(f"{place}: test images are of classes that no training image has: {', '.join(sorted(new))}")
    return Listing(files, shuffled(train), shuffled(test), classes)


def shuffled(names: Sequence) -> list:
    """A fixed order in which the first n images are a fair sample: file names are sorted by class or by subject."""
    return [names[i] for i in np.random.default_rng(0).permutation(len(names))]


def _hold_out(names: list[str]) -> tuple[list[str], list[str]]:
    held = set(shuffled(names)[: round(HELD_OUT * len(names))])
    return [name for name in names if name not in held], [name for name in names if name in held]


def _classes(names: list[str], depth: int) -> list[str] | None:
    """Class folders, if every file lies in exactly one below its split and there are at least two."""
    parts = [name.split("/")[depth:] for name in names]
    if any(len(part) != 2 for part in parts):
        return None
    classes = sorted({part[0] for part in parts})
    return classes if len(classes) > 1 else None
