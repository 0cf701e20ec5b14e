"""Decode image files of any mode and size, in parallel, to uint8 arrays of squares of one size."""

import errno
import hashlib
import io
import os
import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL
from PIL import Image, ImageOps

from mocalib.data.image_folder import opened
from mocalib.data.splits import Listing, mended
from mocalib.storage import files
from mocalib.storage.progress import bar

GREY_MODES = {"1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "I;16N"}
WHITE = 2**16 - 1  # of an image that uses all of 16 bits
SHOWN = 20  # lines of a list in a message
LARGEST = Image.MAX_IMAGE_PIXELS  # 89 megapixels: a file of some kilobytes can unpack to more than memory holds
FORMAT = f"2, Pillow {PIL.__version__}"  # part of the cache's key, since pixels depend on Pillow's version


class Header(NamedTuple):
    """An image file's mode and size, a digest of its bytes, and of 16-bit images their largest value."""

    mode: str
    size: tuple[int, int]
    digest: bytes
    alpha: bool  # whether parts may be transparent
    largest: int = 0  # 0: the image has 8 bits


def decode(listing: Listing, size: int, crop: int, folder: Path, skip_broken: bool = False) -> dict[str, Any]:
    """Decode every image into `folder`/train.npy and test.npy, uint8 N C H W, with labels if there are classes.

    Crops the centred square of `crop` pixels (0: the largest) and resizes it to `size` with Pillow's antialiased
    Lanczos filter. Without either, images must have one square size. One channel if all files are grey, else RGB.
    Transparent images are drawn on white. 16-bit greys are scaled by the bits that they use together. A hold-out of our
    own is `mended`.

    Returns what a run records: files that were skipped (`left_out`), `notes` (printed, too), and what is `white` in
    16-bit images. Raises ValueError naming unreadable files, if they are not to be skipped; for a file in both splits
    (prints it if the splits are official); and for an image smaller than the crop.
    """
    headers, broken = _headers(listing)
    digests = {name: header.digest for name, header in headers.items()}
    rest = mended(listing.without(broken), digests)
    white = _white(listing.files.place, headers)
    if rest.train and rest.test:
        _look_for_shared(rest, headers)
        side = size or crop or _common_size(headers)
        _refuse_small(rest, headers, crop or (side if listing.official else 0))
    while rest.train and rest.test and (late := _write(rest, headers, side, crop, white, folder)):
        broken |= late
        rest = mended(rest.without(late), digests)
        if not skip_broken:
            break
    named = _lines(f"{name} ({reason})" for name, reason in broken.items())
    if broken and not skip_broken:
        raise ValueError(
            f"{len(broken)} files in {listing.files.place} cannot be read as images; remove or replace them, or pass "
            f"skip_broken = True to skip them:\n{named}"
        )
    if not rest.train or not rest.test:
        raise ValueError(
            f"{listing.files.place}: of the images that can be read, {len(rest.train)} are left to train and "
            f"{len(rest.test)} to test on (copies of one image count once); add some\n{named}"
        )
    notes = _notes(listing, rest, headers, white)
    skipped = [f"{len(broken)} files cannot be read and are skipped:\n{named}"] if broken else []
    for note in skipped + notes:
        print(f"{listing.files.place}: {note}")
    return {"left_out": sorted(broken), "notes": notes, "white": white}


def _white(place: Path, headers: dict[str, Header]) -> int:
    """What is white in 16-bit images: the largest value of as many bits as all of them use together; 0 without any.

    Raises ValueError for colours that use less than 16 bits: Pillow reads only their upper 8.
    """
    if not (deep := {name: header for name, header in headers.items() if header.largest}):
        return 0
    white = _white_of(max(header.largest for header in deep.values()))
    if white < WHITE and (colour := [name for name, header in deep.items() if header.mode not in GREY_MODES]):
        raise ValueError(
            f"{len(colour)} images of {place} have 16-bit colours that go up to {white} of {WHITE} only, for example "
            f"{colour[0]}, and would be nearly black; convert them to 8 bits (ImageMagick: mogrify -normalize -depth 8)"
        )
    return white


def _white_of(largest: int) -> int:
    """The largest value of as many bits as an image's largest value needs, at least 8."""
    return 2 ** max(8, largest.bit_length()) - 1


def _notes(listing: Listing, used: Listing, headers: dict[str, Header], white: int) -> list[str]:
    """What a person should know about how the files were used; a run records it."""
    names = {*used.train, *used.test}
    beside = sorted(set(listing.files.names) - {*listing.train, *listing.test})
    moved, alpha = len(set(listing.test) & set(used.train)), sum(headers[name].alpha for name in names)
    notes = {
        f"not used, as these are no images that can be read: {listing.files.unused}": listing.files.unused,
        f"not used, as they are not in train/ or test/: {len(beside)} images, such as {beside[:1]}": beside,
        f"{moved} images train instead of being held out: copies, or the only ones of a class": moved,
        "class folders are not used as labels, since no class has two images": listing.classes and not used.classes,
        f"{alpha} images may be transparent and are drawn on white": alpha,
        f"16-bit images: {white} is white, the most that their bits hold": white not in (0, WHITE),
    }
    return [note for note, applies in notes.items() if applies]


def _lines(lines: Iterable[str]) -> str:
    found = sorted(lines)
    more = [f"and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
    return "\n".join(f"  {line}" for line in [*found[:SHOWN], *more])


def _headers(listing: Listing) -> tuple[dict[str, Header], dict[str, str]]:
    """The headers of readable files, and the reasons why others are not."""
    names = [*listing.train, *listing.test]
    found = dict(zip(names, parallel("reading headers", lambda name: _header(listing.files.read, name), names)))
    broken = {name: header for name, header in found.items() if isinstance(header, str)}
    return {name: header for name, header in found.items() if name not in broken}, broken


def _header(read: Callable[[str], bytes], name: str) -> Header | str:
    try:
        content = read(name)
        with opened(io.BytesIO(content), name) as image:
            if image.width * image.height > LARGEST:
                return f"{image.width}x{image.height}: more than {LARGEST / 1e6:.0f} megapixels"
            if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")):
                return f"mode {image.mode}: 32-bit pixels have no fixed range; convert it to 8 or 16 bits"
            digest = hashlib.blake2b(content, digest_size=16).digest()
            return Header(image.mode, image.size, digest, image.has_transparency_data, _largest(image))
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError and more for a broken file
        return _reason(error)


def _largest(image: Image.Image) -> int:
    """The largest value of a 16-bit image, 0 if it has 8 bits. Of colours Pillow reads the upper 8 bits alone."""
    if image.mode.startswith("I"):
        return max(1, int(np.asarray(image).max()))
    how = str(getattr(image, "tile", ""))  # of a file; it says how its bytes are read
    if re.search("16[BLN]", how) or (image.format == "PPM" and "65535" in how):
        return 257 * max(1, int(np.asarray(image.convert("RGB")).max()))
    return 0


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


def _write(
    listing: Listing, headers: dict[str, Header], side: int, crop: int, white: int, folder: Path
) -> dict[str, str]:
    """Write the arrays and labels of both splits. Return files with a good header but broken pixels, and why."""
    broken, grey = {}, all(headers[name].mode in GREY_MODES for name in (*listing.train, *listing.test))
    for split, names in (("train", listing.train), ("test", listing.test)):
        shape = (len(names), 1 if grey else 3, side, side)
        array = files.create_array(folder / f"{split}.npy", shape)

        def decode_one(place: int, array: np.ndarray = array, names: list[str] = names) -> str | None:
            try:
                with opened(io.BytesIO(listing.files.read(names[place])), names[place]) as image:
                    array[place] = pixels(image, side, crop, grey, white)
            except Exception as error:
                return _reason(error)

        reasons = parallel(f"decoding {split}", decode_one, range(len(names)))
        broken |= {name: reason for name, reason in zip(names, reasons) if reason}
        array.flush()
        if listing.classes:
            labels = [listing.classes.index(name.split("/")[-2]) for name in names]
            files.write_array(folder / f"{split}-labels.npy", np.array(labels, dtype=np.int64))
    return broken


def parallel(description: str, work: Callable, items: Sequence) -> list[Any]:
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


def pixels(image: Image.Image, size: int, crop: int = 0, grey: bool = False, white: int = 0) -> np.ndarray:
    """One image as uint8 C H W, made as in `decode`, which raises the same. `white` 0: 16 bits by its own."""
    image = _visible(ImageOps.exif_transpose(image), white).convert("L" if grey else "RGB")
    square = crop or min(image.size)
    if square > min(image.size):
        raise ValueError(f"crop = {crop} is larger than the image, {image.width}x{image.height}")
    left, top = (image.width - square) // 2, (image.height - square) // 2
    image = image.crop((left, top, left + square, top + square))
    if square != size:
        image = image.resize((size, size), Image.Resampling.LANCZOS)
    array = np.asarray(image)
    return array[None] if grey else array.transpose(2, 0, 1)


def _visible(image: Image.Image, white: int) -> Image.Image:
    """What a person sees: 16-bit greys scaled to 8 bits, where Pillow would clip them at 255; transparency on white."""
    if image.mode.startswith("I"):
        values = np.asarray(image)
        scaled = values.astype(np.float64) * (255 / (white or _white_of(int(values.max()))))
        return Image.fromarray(scaled.round().clip(0, 255).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("mode F: 32-bit pixels have no fixed range; convert it to 8 or 16 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image
