"""Find image files in a folder or a zip. Decodes no pixel and unpacks no zip.

Files may be hostile: those too large for an image are refused, and pipes. Linked folders are read once each.
"""

import hashlib
import os
import stat
import threading
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import IO, NamedTuple

from PIL import Image

Image.init()  # loads all of Pillow's formats
FOREIGN = {"EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG"}  # Pillow has other programs read these
KINDS = {suffix: kind for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN.keys() - FOREIGN}
SUFFIXES = {*KINDS, ".mpo"}
RECOGNISED = [kind for kind in Image.OPEN if Image.OPEN[kind][1] and kind not in FOREIGN]  # by their first bytes
SPLITS = ("train", "test")
LARGEST = 500_000_000  # bytes; a file in a small zip can unpack to more than memory holds


class Files(NamedTuple):
    """The image files in a folder or zip."""

    place: Path
    names: list[str]  # with `/`
    key: str  # sha256 over names, sizes and times or CRCs: hashing the content of 200,000 files is slow
    read: Callable[[str], bytes]
    unused: str = ""  # how many files of which kind are no images, and linked folders that are read already


def find(place: Path) -> Files:
    """The image files in a folder, nested or flat, or in a zip.

    A file counts as an image by its suffix, or else by its first bytes. Raises ValueError for a broken zip, an image
    that is too large, and what `_walk` refuses.
    """
    if place.is_dir():
        found, unused = _walk(place)
        read, key = (lambda name: (place / name).read_bytes()), f"{place.resolve()} {found}"
    else:
        found, unused, read = _zip(place)
        key = str(found)
    for name, size, _ in found:
        if size > LARGEST:
            way_out = f"an image file has at most {LARGEST / 1e9:g} GB: remove it"
            raise ValueError(f"{name} in {place} has {size / 1e9:.2g} GB; {way_out}")
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(unused.items()))
    return Files(place, [name for name, *_ in found], digest(key), read, kinds)


def opened(content: IO[bytes] | Path, name: str) -> Image.Image:
    """Open an image file in any format that Pillow itself can read. Raises what Pillow raises."""
    return Image.open(content, formats=list(dict.fromkeys([*RECOGNISED, KINDS.get(suffix(name), "PNG")])))


def suffix(name: str) -> str:
    """The suffix of a file name in small letters, with its dot."""
    return os.path.splitext(name)[1].lower()


def digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()  # names may not be UTF-8


def _is_image(name: str, open_file: Callable[[], IO[bytes]]) -> bool:
    if suffix(name) in SUFFIXES:
        return True
    try:
        with open_file() as file, opened(file, name):
            return True
    except Exception:  # Pillow raises many types
        return False


def _kind(name: str) -> str:
    return suffix(name) or "without a suffix"


def _walk(root: Path) -> tuple[list[tuple[str, int, int]], Counter]:
    """(relative path, bytes, modification time) of every image that is not hidden; counts of other files by kind.

    Links are followed, and each folder is read once. Raises ValueError for an image that is a link to nothing, or no
    regular file, and for a folder that cannot be listed.
    """
    found, unused, seen = [], Counter(), set()
    for folder, folders, names in os.walk(root, onerror=_refuse, followlinks=True):
        if (real := os.path.realpath(folder)) in seen:
            unused["linked folders that are read already"] += 1
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        folders.sort(key=lambda name: (os.path.islink(f"{folder}/{name}"), name))
        below = Path(folder).relative_to(root).as_posix() + "/"
        for name in (name for name in names if not name.startswith(".")):
            path, relative = f"{folder}/{name}", ("" if below == "./" else below) + name
            about = _regular(path, f"{relative} in {root}")
            if about and _is_image(name, partial(open, path, "rb")):
                found.append((relative, about.st_size, about.st_mtime_ns))
            else:
                unused[_kind(name)] += 1
    return sorted(found), unused


def _regular(path: str, name: str) -> os.stat_result | None:
    """Size and time of a regular file, else None. Raises ValueError if it should be an image, by its suffix."""
    try:
        about = os.stat(path)
    except FileNotFoundError:
        wrong = "is a link to nothing"
    else:
        if stat.S_ISREG(about.st_mode):
            return about
        wrong = "is not a regular file; reading may never end"
    if suffix(path) in SUFFIXES:
        raise ValueError(f"{name} {wrong}: remove it")
    return None


def _refuse(error: OSError) -> None:
    reason = f"({error.strerror}) and would be left out; make it readable"
    raise ValueError(f"{error.filename} cannot be listed {reason}") from None


def _zip(path: Path) -> tuple[list[tuple[str, int, int]], Counter, Callable[[str], bytes]]:
    """(name, bytes, CRC) of every image in a zip, without a common top folder; counts of other kinds; a reader."""
    try:
        archive, lock = zipfile.ZipFile(path), threading.Lock()  # threads share one handle
    except (zipfile.BadZipFile, NotImplementedError, EOFError) as error:
        raise ValueError(f"{path} is not a folder or a readable zip ({error}); unpack or replace it") from None
    entries = {entry.filename.removeprefix("./").lstrip("/"): entry for entry in archive.infolist()}
    files = {name: entry for name, entry in entries.items() if not _hidden(name) and not entry.is_dir()}
    entries = {name: entry for name, entry in files.items() if _is_image(name, partial(archive.open, entry))}
    unused = Counter(_kind(name) for name in files.keys() - entries.keys())
    top = _top(entries)
    entries = {name.removeprefix(top): entry for name, entry in entries.items()}

    def read(name: str) -> bytes:
        with lock:
            return archive.read(entries[name])

    return sorted((name, entry.file_size, entry.CRC) for name, entry in entries.items()), unused, read


def _hidden(name: str) -> bool:  # also `../name`, which leads out of a zip
    return name.startswith("__MACOSX/") or any(part.startswith(".") for part in name.split("/"))


def _top(names: Iterable[str]) -> str:
    """The folder that holds all of a zip's images or splits: "photos/", or ""."""
    folders = [os.path.dirname(name) for name in names]
    common = os.path.commonpath(folders) if folders else ""
    return "".join(f"{part}/" for part in takewhile(lambda part: part and part not in SPLITS, common.split("/")))
