"""Every dataset's files, checks and splits."""

import hashlib
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torchvision.datasets import CIFAR10
from torchvision.datasets.utils import check_integrity

from mocalib.config import paths
from mocalib.config.run import OWN_SIZES, RunConfig
from mocalib.data import builtin, cache, catalogue, decode, image_folder
from mocalib.data.cache import Dataset, Split
from mocalib.data.catalogue import CELEBA_SPLIT, CELEBA_ZIP
from mocalib.storage import files


class Source(NamedTuple):
    """How to make a dataset's decoded arrays."""

    key: dict  # all that they depend on
    write: Callable[[Path], list[str] | None]  # writes arrays and labels to a folder; returns files that were skipped
    here: bool = True  # whether the files are on this disk; else `write` downloads them


def load(config: RunConfig) -> Dataset:
    """Open a run's dataset, decoding it on first use.

    Raises FileNotFoundError for missing files and ValueError for unusable images; both leave nothing behind.
    """
    found = source(config)
    dataset = cache.cached(config.dataset, found.key, found.write)
    if not config.limit:
        return dataset
    if config.limit > len(dataset.train.images):
        raise ValueError(f"limit = {config.limit} is larger than the dataset, {len(dataset.train.images)} images")
    images, labels = (part if part is None else part[: config.limit] for part in dataset.train)
    return dataset._replace(train=Split(images, labels))


def source(config: RunConfig) -> Source:
    """The source of a run's dataset. Raises FileNotFoundError for missing files, with the way to get them."""
    return SOURCES[config.dataset](config)


def _root(config: RunConfig) -> Path:
    """The dataset's folder; `root` may also be the archive or subfolder that it contains."""
    root = Path(config.root).expanduser() if config.root else paths.RAW / config.dataset
    within = (CIFAR10.filename, CIFAR10.base_folder, CELEBA_ZIP)
    root = root.parent if root.name in within and config.dataset in ("cifar10", "celeba") else root
    if not root.exists() and config.dataset != "cifar10":  # which is downloaded
        raise FileNotFoundError(catalogue.missing(config.dataset, root))
    return root


def _images(config: RunConfig, listing: image_folder.Listing) -> Source:
    """Image files, cropped and resized. CelebA's zip is checked before it is decoded."""
    size, crop = _size_and_crop(config)
    key = {"files": listing.key, "size": size, "crop": crop, "format": decode.FORMAT}

    def write(folder: Path) -> list[str]:
        if listing.files.place.name == CELEBA_ZIP and listing.official:
            _check_celeba(listing.files.place, "unpack it there and remove the zip")
        return decode.decode(listing, size, crop, folder, config.skip_broken)

    return Source(key | ({"skip_broken": True} if config.skip_broken else {}), write)


def _size_and_crop(config: RunConfig) -> tuple[int, int]:
    crop = catalogue.NAMED[config.dataset].crop if config.dataset in catalogue.NAMED else 0
    return config.size or OWN_SIZES.get(config.dataset, 0), config.crop or crop


def _folder(config: RunConfig) -> Source:
    """A folder or zip of images."""
    root = _root(config)
    listing = image_folder.scan(root)
    if config.dataset in catalogue.COUNTS:
        _check_counts(config.dataset, root, [listing.train, listing.test])
    return _images(config, listing)


def _celeba(config: RunConfig) -> Source:
    """Aligned CelebA with its official splits; the validation images train too."""
    root = _root(config)
    archive = root / CELEBA_ZIP
    lists = [(root / CELEBA_SPLIT).with_suffix(suffix) for suffix in (".txt", ".csv")]
    split = next(filter(Path.exists, lists), None)
    if split and split.name == CELEBA_SPLIT:
        _check_celeba(split, f"rename it to {lists[1].name}, the name of Kaggle's copy, which has no checksum")
    found = image_folder.find(archive if archive.exists() else root)
    if split is None or not found.names:
        lacks = [what for what, there in ((CELEBA_SPLIT, split), ("images", found.names)) if not there]
        raise FileNotFoundError(catalogue.missing("celeba", root, f" ({' and '.join(lacks)} not found)"))
    parts = re.findall(r"^(\S+\.(?:jpg|png))[ ,]+([012])\s*$", split.read_text("utf-8"), re.MULTILINE)
    places = {}
    for name in found.names:
        if (first := places.setdefault(name.split("/")[-1], name)) != name:
            raise ValueError(f"{found.place} has two images with one name, {first} and {name}; keep only CelebA's")
    if absent := [name for name, _ in parts if name not in places]:
        raise ValueError(
            f"{found.place} lacks {len(absent)} of the {len(parts)} images of {split.name}, for example {absent[0]}; "
            f"get them again (see data/README.md), or use dataset 'folder' for a part of CelebA"
        )
    splits = [[places[name] for name, part in parts if (part == "2") == test] for test in (False, True)]
    _check_counts("celeba", split, splits)
    return _images(config, image_folder.Listing(found, *map(image_folder.shuffled, splits), official=True))


def _check_counts(dataset: str, place: Path, splits: list[list[str]]) -> None:
    if (counts := tuple(map(len, splits))) != catalogue.COUNTS[dataset]:
        train, test = catalogue.COUNTS[dataset]
        raise ValueError(
            f"{place} gives {counts[0]} training and {counts[1]} test images; {dataset} has {train} and {test}. Get it "
            f"again (see data/README.md), or use dataset 'folder' for a part of it"
        )


def _check_celeba(path: Path, way_out: str) -> None:
    _check(path, "md5", catalogue.CELEBA_FILES[path.name][1], f"if you trust it, {way_out}")


def _check(path: Path, kind: str, expected: str, way_out: str) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, kind).hexdigest()
    if found != expected:
        raise ValueError(
            f"{path} is cut short or not the official file: its {kind} is {found}, not {expected}. Get it again (see "
            f"data/README.md), or {way_out}"
        )


def _celebahq(config: RunConfig) -> Source:
    """CelebA-HQ: 30,000 images. A fixed tenth is the test split; it depends on the numbers in the file names only."""
    root = _root(config)
    found, zips = image_folder.find(root), list(root.glob("*.zip")) if root.is_dir() else []
    found = image_folder.find(zips[0]) if len(zips) == 1 and not found.names else found
    numbered = {name: int(number[1]) for name in found.names if (number := re.search(r"(\d+)\.\w+$", name))}
    names = image_folder.shuffled(sorted(numbered, key=lambda name: (numbered[name], name)))
    if not names:
        raise FileNotFoundError(catalogue.missing("celebahq", root))
    held = round(len(names) * image_folder.HELD_OUT)
    splits = [names[held:], names[:held]]
    _check_counts("celebahq", found.place, splits)
    return _images(config, image_folder.Listing(found, *splits, official=True))


def _cifar10(config: RunConfig) -> Source:
    """CIFAR-10 from its official archive, downloaded if missing, or from the folder unpacked from it."""
    root, (size, crop) = _root(config), _size_and_crop(config)
    archive, batches = root / CIFAR10.filename, root / CIFAR10.base_folder

    def write(folder: Path) -> None:
        if batches.is_dir():
            _check_batches(batches)
            _write_cifar10(root, size, crop, folder)
            return
        if not archive.exists():
            _download_cifar10(archive, given=bool(config.root))
        _check(archive, "sha256", catalogue.CIFAR10_SHA256, "with a network, remove it to download it again")
        with files.writing(folder):
            shutil.unpack_archive(archive, folder, filter="data")  # not into root, which may be read-only
        _write_cifar10(folder, size, crop, folder)
        shutil.rmtree(folder / CIFAR10.base_folder)

    key = {"sha256": catalogue.CIFAR10_SHA256, "size": size, "crop": crop, "format": decode.FORMAT}
    return Source(key, write, here=batches.is_dir() or archive.exists())


def _download_cifar10(archive: Path, given: bool) -> None:
    reason = ", and nothing is downloaded into a root that you pass"
    if not given:
        try:
            return files.download(CIFAR10.url, archive, catalogue.CIFAR10_SHA256)
        except (OSError, RuntimeError) as error:
            reason = f", and the download failed ({error})"
    raise FileNotFoundError(catalogue.missing("cifar10", archive.parent, reason))


def _check_batches(folder: Path) -> None:
    """Raise ValueError naming the first damaged file. Check all before any is read: a pickle can run code."""
    for name, md5 in [*CIFAR10.train_list, *CIFAR10.test_list, (CIFAR10.meta["filename"], CIFAR10.meta["md5"])]:
        if not check_integrity(folder / name, md5):
            raise ValueError(
                f"{folder / name} is missing or damaged: its md5 is not {md5}; get it again (see data/README.md)"
            )


def _write_cifar10(place: Path, size: int, crop: int, folder: Path) -> None:
    """Write CIFAR-10's arrays, N 3 H W, and labels, N, from its unpacked batches."""
    for split in image_folder.SPLITS:
        found = CIFAR10(place, train=split == "train")
        images = found.data.transpose(0, 3, 1, 2)  # N 3 32 32
        if (size, crop) != (32, 0):
            images = np.stack([decode.pixels(image, size, crop) for image, _ in found])
        order = image_folder.shuffled(range(len(images)))
        files.write_array(folder / f"{split}.npy", images[order])
        files.write_array(folder / f"{split}-labels.npy", np.array(found.targets, np.int64)[order])


def _digits(config: RunConfig) -> Source:
    size, _ = _size_and_crop(config)
    return Source({"size": size, "test": builtin.DIGITS_TEST}, lambda folder: builtin.write_digits(size, folder))


def _photos(config: RunConfig) -> Source:
    size, _ = _size_and_crop(config)
    key = {"size": size, "crops": builtin.PHOTOS, "strip": builtin.PHOTO_STRIP, "format": decode.FORMAT}
    return Source(key, lambda folder: builtin.write_photos(size, folder))


SOURCES = {
    "digits": _digits,
    "photos": _photos,
    **dict.fromkeys(("folder", "cifar10-jpeg", "faces10k"), _folder),
    "cifar10": _cifar10,
    "celeba": _celeba,
    "celebahq": _celebahq,
}
