"""Images that a user has: files, Pillow images, NumPy arrays and tensors. N images, C H W image."""

import hashlib
import io
import itertools
import os
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mocalib.config import paths
from mocalib.data import decode, image_folder
from mocalib.storage import files

COLOURS = (1, 3, 4)  # channels of grey, RGB and RGBA
SHAPES = "H W, C H W, H W C, N H W, N C H W or N H W C, where C is 1, 3 or 4"


def from_arrays(train: Any, test: Any = None, labels: Any = None) -> str:
    """Keep images in data/raw/arrays as a zip of PNG files; return its path, a `root` for dataset "folder".

    `train` and `test` are arrays or tensors N H W, N H W C or N C H W, uint8 or floats in [0, 1], which are rounded to
    8 bits. Without `test`, a tenth is held out. `labels` are ints, one for each image; with `test` they are a pair,
    (of train, of test). Equal images and labels give the same path. Raises ValueError for what does not fit.
    """
    splits = {"": train} if test is None else {"train/": train, "test/": test}
    splits = {name: as_uint8(as_batch(images, several=True)) for name, images in splits.items()}
    folders = itertools.repeat("") if labels is None else _folders(labels, sum(map(len, splits.values())))
    content, digest = io.BytesIO(), hashlib.sha256()
    with zipfile.ZipFile(content, "w") as archive:
        for split, images in splits.items():
            for i, (image, folder) in enumerate(zip(_pillow(images), folders)):
                name = f"{split}{folder}{i:07d}.png"
                image.save(png := io.BytesIO(), "PNG")
                archive.writestr(name, png.getvalue())
                digest.update(f"{name} {image.mode} {image.size}".encode() + image.tobytes())
    path = paths.RAW / "arrays" / f"{digest.hexdigest()[:16]}.zip"
    if not path.exists():
        files.write(path, content.getbuffer())
    return str(path)


def _folders(labels: Any, n: int) -> Iterator[str]:
    """A folder for each of n images, named after its label."""
    flat = np.concatenate([np.atleast_1d(part) for part in ([labels] if np.isscalar(labels) else labels)])
    if flat.shape != (n,) or flat.dtype.kind not in "iu" or flat.min() < 0:
        raise ValueError(
            f"{len(flat)} labels of type {flat.dtype} for {n} images; pass an int of at least 0 for each image, and "
            "with test a pair (labels of train, labels of test)"
        )
    return (f"{label:07d}/" for label in flat)


def as_batch(given: Any, grey: bool = False, several: bool = False) -> Tensor:
    """An array or tensor as images N C H W, uint8 or float32 in [0, 1]. Raises ValueError for what does not fit.

    `grey`: grey images are expected. `several`: three dimensions are N H W, and two are refused.
    """
    try:
        x = given.detach().cpu() if isinstance(given, Tensor) else torch.as_tensor(np.array(given))
    except (TypeError, ValueError) as error:
        raise ValueError(f"no array of numbers ({error}); pass images of one shape: {SHAPES}") from None
    shape = tuple(x.shape)
    if x.ndim == 3 and grey and shape[0] in COLOURS[1:]:
        raise ValueError(f"shape {shape} is one image or {shape[0]} grey ones; pass four dimensions, N C H W")
    if x.ndim == 2 and not several:
        x = x[None]
    if x.ndim == 3:
        x = x[None] if {x.shape[0], x.shape[-1]} & {*COLOURS} and not several else x[:, None]
    if x.ndim == 4 and x.shape[1] not in COLOURS:
        x = x.movedim(-1, 1).contiguous()
    if x.ndim != 4 or x.shape[1] not in COLOURS or 0 in shape:
        raise ValueError(f"images of shape {shape}; pass one of {SHAPES}")
    if x.is_floating_point():
        if not (x.min() >= 0 and x.max() <= 1):  # NaN, too
            raise ValueError(f"images of floats lie in [0, 1]; these go from {x.min():g} to {x.max():g}: pass uint8")
        return x.float()
    if x.dtype != torch.uint8:
        raise ValueError(f"images of type {x.dtype}; pass uint8 from 0 to 255, or floats in [0, 1]")
    return x


def as_uint8(x: Tensor) -> Tensor:
    """Round [0, 1] to 0..255, as an image file holds it; truncation would shift every score. uint8 stays."""
    return x if x.dtype == torch.uint8 else (x.clamp(0, 1) * 255).round().to(torch.uint8)


def save_images(images: Tensor | Iterable[Tensor], folder: Path | str) -> Path:
    """Write images N C H W, at once or in parts, as PNG files to a new folder. FileExistsError if it is not empty."""
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty; pass the path of a new folder")
    parts = [images] if isinstance(images, (np.ndarray, Tensor)) else images
    pictures = itertools.chain.from_iterable(_pillow(as_uint8(as_batch(part))) for part in parts)
    with files.writing(folder), tempfile.TemporaryDirectory(dir=folder.parent, prefix=".") as scratch:
        (partial := Path(scratch, "images")).mkdir()
        for i, picture in enumerate(pictures):
            picture.save(partial / f"{i:07d}.png")
        partial.replace(folder)
    return folder


def like(given: Any, shape: tuple[int, int, int], crop: int = 0, white: int = 0, usual: int = 0) -> Tensor:
    """Whatever a user has as images N C H W of a run's `shape`, uint8 or float32 in [0, 1].

    A path is one of an image, a folder or a zip. Of what has another size or number of channels a centred square is
    resized: that of `crop` pixels; without a crop, that of `usual` pixels of images whose short side is up to twice as
    long, as a dataset's own files are; else the largest. Raises ValueError for what does not fit, with the name of a
    file that cannot be read.
    """
    channels, side, _ = shape
    if isinstance(given, (list, tuple)) and len(given):
        parts = [like(each, shape, crop, white, usual) for each in given]
        same = len({part.dtype for part in parts}) == 1
        return torch.cat(parts if same else [part / 255 if part.dtype == torch.uint8 else part for part in parts])
    if isinstance(given, (str, os.PathLike)):
        pictures = _files(Path(given))
    elif isinstance(given, Image.Image):
        pictures = [given]
    elif isinstance(given, (np.ndarray, Tensor)):
        x = as_batch(given, grey=channels == 1)
        if tuple(x.shape[1:]) == tuple(shape):
            return x
        pictures = _pillow(as_uint8(x))
    else:
        raise ValueError(f"{type(given).__name__} is no image; pass a path, Pillow image, array, tensor or a list")
    squares = ((picture, crop or (usual if usual <= min(picture.size) <= 2 * usual else 0)) for picture in pictures)
    arrays = [decode.pixels(picture, side, square, channels == 1, white) for picture, square in squares]
    return torch.from_numpy(np.stack(arrays))


def _files(path: Path) -> Iterator[Image.Image]:
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; pass the path of an image, or of a folder or zip of images")
    if path.is_dir() or zipfile.is_zipfile(path):
        if not (found := image_folder.find(path)).names:
            raise ValueError(f"{path} has no images (other files: {found.unused or 'none'})")
        yield from (_loaded(io.BytesIO(found.read(name)), f"{path}/{name}") for name in found.names)
    else:
        yield _loaded(path, str(path))


def _loaded(content: io.BytesIO | Path, name: str) -> Image.Image:
    try:
        (image := image_folder.opened(content, name)).load()
    except Exception as error:  # Pillow raises many types
        raise ValueError(f"{name} cannot be read as an image: {error}") from None
    return image


def _pillow(images: Tensor) -> Iterator[Image.Image]:
    """Pillow images of a batch, uint8 N C H W."""
    for image in images:
        yield Image.fromarray(image.permute(1, 2, 0).squeeze(-1).numpy())
