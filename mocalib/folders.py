"""Folders of image files: what lies in them, each file's split and class, and decoding them in parallel."""

import hashlib
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL
from PIL import Image, ImageOps

from mocalib.progress import bar

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"}
GREY_MODES = {"1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "I;16N"}
HELD_OUT = 0.1  # of a folder without train/ and test/
FORMAT = f"1, Pillow {PIL.__version__}"  # decoding and resizing vary with Pillow: part of the cache's key


class Named(NamedTuple):
    """A folder with a name under data/raw/: its own size and crop (0: none), and where it comes from."""

    size: int
    crop: int
    source: str


NAMED = {
    "cifar10-jpeg": Named(
        32, 0, "CIFAR-10 as JPEG files: train/<class>/*.jpg (50,000) and test/<class>/*.jpg (10,000)"
    ),
    "faces10k": Named(64, 70, "10,000 CelebA faces at 89x109: train/000001.jpg-008000.jpg, test/008001.jpg-010000.jpg"),
}


class Listing(NamedTuple):
    """Files of a folder by split, with class names where every file lies in one folder a class."""

    root: Path
    train: list[str]
    test: list[str]
    classes: list[str] | None
    key: str  # sha256 over paths, sizes and times: a content hash of 200,000 files would be no instant start


def missing(dataset: str, root: Path) -> str:
    """The message for a folder that is not there."""
    if dataset not in NAMED:
        return f"root = {str(root)!r} is not a folder; pass the path of a folder of images"
    return (
        f"dataset {dataset!r} is not on this disk. Expected: {root}/ with {NAMED[dataset].source}. "
        f"Put it there, or pass its place as root, or use dataset 'digits', which needs no files; see data/README.md"
    )


def scan(root: Path) -> Listing:
    """List the images below `root`, flat or nested.

    With `train/` and `test/` below it those are the splits; with neither, a fixed tenth of the files is held out.
    Raises ValueError if there is only one of the two folders, or a split is empty.
    """
    found = sorted(_images(root))
    names = [name for name, *_ in found]
    splits = [name for name in ("train", "test") if (root / name).is_dir()]
    if len(splits) == 1:
        raise ValueError(f"{root} has {splits[0]}/ but not both train/ and test/; give its other split that name")
    if splits:
        train = [name for name in names if name.startswith("train/")]
        test = [name for name in names if name.startswith("test/")]
        depth = 1
    else:
        train, test, depth = *_hold_out(names), 0
    if not train or not test:
        raise ValueError(
            f"{root} has {len(train)} training and {len(test)} test images; it needs some of each "
            f"({', '.join(sorted(SUFFIXES))}, in train/ and test/ or in one folder)"
        )
    key = hashlib.sha256(f"{root.resolve()} {found}".encode()).hexdigest()
    return Listing(root, _shuffled(train), _shuffled(test), _classes([*train, *test], depth), key)


def _images(root: Path) -> Iterable[tuple[str, int, int]]:
    """(relative path, bytes, time of change) of every image file; 60,000 in half a second, as this runs at each start.

    Raises ValueError for a link to a folder, which would be left out, and for a link to nothing.
    """
    for folder, folders, names in os.walk(root):
        below = Path(folder).relative_to(root).as_posix() + "/"
        below = "" if below == "./" else below
        if links := [name for name in folders if os.path.islink(f"{folder}/{name}")]:
            raise ValueError(f"{below}{links[0]} in {root} is a link to a folder; put the folder itself there")
        for name in names:
            if os.path.splitext(name)[1].lower() in SUFFIXES:
                if not os.path.exists(f"{folder}/{name}"):
                    raise ValueError(f"{below}{name} in {root} is a link to nothing; remove it")
                found = os.stat(f"{folder}/{name}")
                yield below + name, found.st_size, found.st_mtime_ns


def _shuffled(names: list[str]) -> list[str]:
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


def decode(listing: Listing, size: int, crop: int, folder: Path) -> None:
    """Decode every image into `folder`/train.npy and test.npy, uint8 N C H W, with labels where there are classes.

    Crops the centred square of `crop` pixels (0: the largest) and resizes it to `size` with Pillow's antialiased
    Lanczos filter; without either, images must share one square size. One channel where all files are grey, else RGB.
    Raises ValueError naming every file that cannot be used; `folder` is then of no use.
    """
    names = [*listing.train, *listing.test]
    headers = dict(zip(names, _parallel("reading headers", lambda name: _header(listing.root / name), names)))
    broken = [f"{name} ({header})" for name, header in headers.items() if isinstance(header, str)]
    headers = {name: header for name, header in headers.items() if not isinstance(header, str)}
    if not headers:
        raise ValueError(_broken(listing.root, broken))
    side = size or crop or _common_size(headers)
    if small := [name for name, (_, shape) in headers.items() if crop and min(shape) < crop]:
        raise ValueError(f"crop = {crop} is larger than {len(small)} images, for example {small[0]}")
    grey = all(mode in GREY_MODES for mode, _ in headers.values())
    for split, chosen in (("train", listing.train), ("test", listing.test)):
        shape = (len(chosen), 1 if grey else 3, side, side)
        array = np.lib.format.open_memmap(folder / f"{split}.npy", mode="w+", dtype=np.uint8, shape=shape)

        def decode_one(place: int, array: np.ndarray = array, chosen: list[str] = chosen) -> str | None:
            try:
                if chosen[place] in headers:
                    array[place] = _pixels(listing.root / chosen[place], side, crop, grey)
            except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError and more for a broken file
                return f"{chosen[place]} ({error})"

        broken += filter(None, _parallel(f"decoding {split}", decode_one, range(len(chosen))))
        array.flush()
        if listing.classes:
            labels = [listing.classes.index(name.split("/")[-2]) for name in chosen]
            np.save(folder / f"{split}-labels.npy", np.array(labels, dtype=np.int64))
    if broken:
        raise ValueError(_broken(listing.root, broken))


def _parallel(description: str, work: Callable, items: Iterable) -> list[Any]:
    """Map in threads, in order: Pillow releases the interpreter lock while it decodes."""
    items = list(items)
    with ThreadPoolExecutor(os.cpu_count()) as pool, bar(description, len(items), unit="img") as progress:
        results = []
        for result in pool.map(work, items):
            results.append(result)
            progress.update()
    return results


def _header(path: Path) -> tuple[str, tuple[int, int]] | str:
    """(mode, (width, height)) without decoding, or what is wrong."""
    try:
        with Image.open(path) as image:
            if image.mode == "F" or (image.mode == "I" and image.format != "PNG"):
                return f"mode {image.mode}: 32-bit pixels have no fixed range; convert it to 8 or 16 bits"
            return image.mode, image.size
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def _common_size(headers: dict) -> int:
    sizes = {}
    for name, (_, shape) in headers.items():
        sizes.setdefault(shape, name)
    if len(sizes) > 1:
        (a, first), (b, second) = list(sizes.items())[:2]
        raise ValueError(
            f"images differ in size: {first} is {a[0]}x{a[1]}, {second} is {b[0]}x{b[1]}; pass size, "
            f"for example 64 (each is cropped to its largest centred square, or to `crop`, and resized)"
        )
    width, height = next(iter(sizes))
    if width != height:
        raise ValueError(f"images are {width}x{height}, not square; pass size (and crop) to make them so")
    return width


def _pixels(path: Path, size: int, crop: int, grey: bool) -> np.ndarray:
    """One image as uint8 C H W."""
    with Image.open(path) as opened:
        image = _eight_bit(ImageOps.exif_transpose(opened)).convert("L" if grey else "RGB")
    square = crop or min(image.size)
    left, top = (image.width - square) // 2, (image.height - square) // 2
    image = image.crop((left, top, left + square, top + square))
    if square != size:
        image = image.resize((size, size), Image.Resampling.LANCZOS)
    array = np.asarray(image)
    return array[None] if grey else array.transpose(2, 0, 1)


def _eight_bit(image: Image.Image) -> Image.Image:
    """16-bit greys scaled to 8 bits, which Pillow would clip at 255."""
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image).astype(np.float64) / 257).round().clip(0, 255).astype(np.uint8))
    return image


def _broken(root: Path, broken: list[str]) -> str:
    broken = sorted(broken)
    shown = "\n  ".join(broken[:20]) + (f"\n  and {len(broken) - 20} more" if len(broken) > 20 else "")
    return f"{len(broken)} files in {root} cannot be read as images; remove or replace them:\n  {shown}"
