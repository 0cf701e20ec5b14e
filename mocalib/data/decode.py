"""Decode image files of any mode and size, in parallel, to uint8 arrays of squares of one size."""

import errno
import hashlib
import io
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL
from PIL import Image, ImageOps

from mocalib.data.image_folder import Listing
from mocalib.storage import files
from mocalib.storage.progress import bar

GREY_MODES = {"1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "I;16N"}
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "PPM")  # Pillow runs external programs for some others
LARGEST = Image.MAX_IMAGE_PIXELS  # 89 megapixels: a file of some kilobytes can unpack to more than memory holds
FORMAT = f"1, Pillow {PIL.__version__}"  # part of the cache's key, since pixels depend on Pillow's version


class Header(NamedTuple):
    """An image file's mode and size by its header, and a digest of its bytes."""

    mode: str
    size: tuple[int, int]
    digest: bytes


def decode(listing: Listing, size: int, crop: int, folder: Path, skip_broken: bool = False) -> list[str]:
    """Decode every image into `folder`/train.npy and test.npy, uint8 N C H W, with labels if there are classes.

    Crops the centred square of `crop` pixels (0: the largest) and resizes it to `size` with Pillow's antialiased
    Lanczos filter. Without either, images must have one square size. One channel if all files are grey, else RGB.
    Raises ValueError naming unreadable files, or with `skip_broken` skips and returns them. Raises ValueError for a
    file in both splits (prints it if the splits are official) and for an image smaller than the crop.
    """
    headers, broken = _headers(listing)
    rest = listing.without(broken)
    if rest.train and rest.test:
        _look_for_shared(rest, headers)
        side = size or crop or _common_size(headers)
        _refuse_small(rest, headers, crop or (side if listing.official else 0))
    while rest.train and rest.test and (late := _write(rest, headers, side, crop, folder)):
        broken |= late
        rest = rest.without(late)
        if not skip_broken:
            break
    if broken:
        _report(listing, broken, skip_broken)
    return sorted(broken)


def _report(listing: Listing, broken: dict[str, str], skip_broken: bool) -> None:
    """Print which files cannot be read. Raise ValueError unless they may be skipped and no split becomes empty."""
    place, rest = listing.files.place, listing.without(broken)
    named = _lines(f"{name} ({reason})" for name, reason in broken.items())
    if not skip_broken:
        raise ValueError(
            f"{len(broken)} files in {place} cannot be read as images; remove or replace them, or pass "
            f"skip_broken = True to skip them:\n{named}"
        )
    if not rest.train or not rest.test:
        raise ValueError(f"{len(broken)} files in {place} cannot be read, which leaves a split empty:\n{named}")
    print(f"{len(broken)} files in {place} cannot be read and are skipped:\n{named}")


def _lines(lines: Iterable[str]) -> str:
    return "\n".join(f"  {line}" for line in sorted(lines))


def _headers(listing: Listing) -> tuple[dict[str, Header], dict[str, str]]:
    """The headers of readable files, and the reasons why others are not."""
    names = [*listing.train, *listing.test]
    found = dict(zip(names, _parallel("reading headers", lambda name: _header(listing.files.read, name), names)))
    broken = {name: header for name, header in found.items() if isinstance(header, str)}
    return {name: header for name, header in found.items() if name not in broken}, broken


def _header(read: Callable[[str], bytes], name: str) -> Header | str:
    try:
        content = read(name)
        with _opened(content) as image:
            if image.width * image.height > LARGEST:
                return f"{image.width}x{image.height}: more than {LARGEST / 1e6:.0f} megapixels"
            if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")):
                return f"mode {image.mode}: 32-bit pixels have no fixed range; convert it to 8 or 16 bits"
            return Header(image.mode, image.size, hashlib.blake2b(content, digest_size=16).digest())
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError and more for a broken file
        return _reason(error)


def _opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content), formats=FORMATS)


def _reason(error: Exception) -> str:
    """Why a file is broken. Raises the error again if the machine is at fault, such as a failing disk."""
    if isinstance(error, MemoryError) or getattr(error, "errno", None) not in (None, errno.EACCES):
        raise error
    if isinstance(error, PIL.UnidentifiedImageError):
        return "not an image, or of a format that is not read"
    return f"{type(error).__name__}: {error}"


def _look_for_shared(listing: Listing, headers: dict[str, Header]) -> None:
    """Raise ValueError for test images that are also training images; print them if the splits are official."""
    trained = {headers[name].digest: name for name in listing.train}
    pairs = {name: trained.get(headers[name].digest) for name in listing.test}
    if not (shared := [f"{name} = {copy}" for name, copy in pairs.items() if copy]):
        return
    found = f"{len(shared)} test images of {listing.files.place} are training images too"
    if not listing.official:
        raise ValueError(f"{found}; remove one of each pair, or pass another folder as root:\n{_lines(shared)}")
    print(f"{found}, in the official splits:\n{_lines(shared)}")


def _refuse_small(listing: Listing, headers: dict[str, Header], least: int) -> None:
    if small := [name for name in (*listing.train, *listing.test) if min(headers[name].size) < least]:
        raise ValueError(
            f"{len(small)} images of {listing.files.place} are smaller than {least} pixels, for example {small[0]}; "
            f"pass a smaller crop or size"
        )


def _write(listing: Listing, headers: dict[str, Header], side: int, crop: int, folder: Path) -> dict[str, str]:
    """Write the arrays and labels of both splits. Return files with a good header but broken pixels, and why."""
    broken, grey = {}, all(headers[name].mode in GREY_MODES for name in (*listing.train, *listing.test))
    for split, names in (("train", listing.train), ("test", listing.test)):
        shape = (len(names), 1 if grey else 3, side, side)
        array = files.create_array(folder / f"{split}.npy", shape)

        def decode_one(place: int, array: np.ndarray = array, names: list[str] = names) -> str | None:
            try:
                with _opened(listing.files.read(names[place])) as image:
                    array[place] = pixels(image, side, crop, grey)
            except Exception as error:
                return _reason(error)

        reasons = _parallel(f"decoding {split}", decode_one, range(len(names)))
        broken |= {name: reason for name, reason in zip(names, reasons) if reason}
        array.flush()
        if listing.classes:
            labels = [listing.classes.index(name.split("/")[-2]) for name in names]
            files.write_array(folder / f"{split}-labels.npy", np.array(labels, dtype=np.int64))
    return broken


def _parallel(description: str, work: Callable, items: Sequence) -> list[Any]:
    """Map in threads, in order. Pillow releases the interpreter lock while it decodes."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(bar(description, len(items), unit="img", items=pool.map(work, items)))


def _common_size(headers: dict[str, Header]) -> int:
    sizes = {header.size: name for name, header in headers.items()}
    if len(sizes) > 1:
        (a, first), (b, second) = list(sizes.items())[:2]
        raise ValueError(
            f"images differ in size: {first} is {a[0]}x{a[1]}, {second} is {b[0]}x{b[1]}; pass size, "
            f"for example 64 (each image is cropped to its largest centred square, or to `crop`, and resized)"
        )
    width, height = next(iter(sizes))
    if width != height:
        raise ValueError(f"images are {width}x{height}, not square; pass size (and crop) to make them so")
    return width


def pixels(opened: Image.Image, size: int, crop: int = 0, grey: bool = False) -> np.ndarray:
    """One image as uint8 C H W: turned upright, cropped and resized as in `decode`. Raises ValueError as that does."""
    image = _eight_bit(ImageOps.exif_transpose(opened)).convert("L" if grey else "RGB")
    square = crop or min(image.size)
    if square > min(image.size):
        raise ValueError(f"crop = {crop} is larger than the image, {image.width}x{image.height}")
    left, top = (image.width - square) // 2, (image.height - square) // 2
    image = image.crop((left, top, left + square, top + square))
    if square != size:
        image = image.resize((size, size), Image.Resampling.LANCZOS)
    array = np.asarray(image)
    return array[None] if grey else array.transpose(2, 0, 1)


def _eight_bit(image: Image.Image) -> Image.Image:
    """Scale 16-bit greys to 8 bits; Pillow would clip them at 255."""
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image).astype(np.float64) / 257).round().clip(0, 255).astype(np.uint8))
    return image
