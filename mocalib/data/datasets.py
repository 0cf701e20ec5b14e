"""Every dataset's files, checks and splits."""

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from torchvision.datasets import CIFAR10

from mocalib.config import paths
from mocalib.config.run import OWN_SIZES, TORCHVISION, RunConfig
from mocalib.data import builtin, cache, catalogue, decode, image_folder, splits, torchvision_sets
from mocalib.data.cache import Dataset, Split
from mocalib.data.catalogue import CELEBA_SPLIT, CELEBA_ZIP


class Source(NamedTuple):
    """How to make a dataset's decoded arrays."""

    key: dict  # all that they depend on
    write: Callable[[Path], dict | None]  # writes arrays and labels to a folder; returns what a run records of it
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
    return SOURCES[config.kind](config)


def _root(config: RunConfig) -> Path:
    """The dataset's folder; `root` may also be the archive or subfolder that it contains."""
    root = Path(config.root) if config.root else paths.RAW.joinpath(*config.dataset.split(":"))
    within = (CIFAR10.base_folder, CELEBA_ZIP)
    root = root.parent if root.name in within and config.dataset in ("cifar10", "celeba") else root
    if not root.exists() and (config.root or config.kind not in ("cifar10", TORCHVISION)):  # those are downloaded
        raise FileNotFoundError(catalogue.missing(config.dataset, root))
    return root


def _images(config: RunConfig, listing: splits.Listing) -> Source:
    """Image files, cropped and resized. CelebA's zip is checked before it is decoded."""
    size, crop = size_and_crop(config)
    key = {"files": listing.key, "size": size, "crop": crop, "format": decode.FORMAT}

    def write(folder: Path) -> dict:
        if listing.files.place.name == CELEBA_ZIP and listing.official:
            _check_celeba(listing.files.place, "unpack it there and remove the zip")
        return decode.decode(listing, size, crop, folder, config.skip_broken)

    return Source(key | ({"skip_broken": True} if config.skip_broken else {}), write)


def size_and_crop(config: RunConfig) -> tuple[int, int]:
    """The side of a run's images in pixels, and of the square that is cut out first; 0: their own, the largest."""
    crop = catalogue.NAMED[config.dataset].crop if config.dataset in catalogue.NAMED else 0
    return config.size or OWN_SIZES.get(config.dataset, 0), config.crop or crop


def _folder(config: RunConfig) -> Source:
    """A folder or zip of images."""
    root = _root(config)
    listing = splits.scan(root)
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
    halves = [[places[name] for name, part in parts if (part == "2") == test] for test in (False, True)]
    _check_counts("celeba", split, halves)
    return _images(config, splits.Listing(found, *map(splits.shuffled, halves), official=True))


def _check_counts(dataset: str, place: Path, halves: list[list[str]]) -> None:
    if (counts := tuple(map(len, halves))) != catalogue.COUNTS[dataset]:
        train, test = catalogue.COUNTS[dataset]
        raise ValueError(
            f"{place} gives {counts[0]} training and {counts[1]} test images; {dataset} has {train} and {test}. Get it "
            f"again (see data/README.md), or use dataset 'folder' for a part of it"
        )


def _check_celeba(path: Path, way_out: str) -> None:
    expected = catalogue.CELEBA_FILES[path.name][1]
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "md5").hexdigest()
    if found != expected:
        raise ValueError(
            f"{path} is cut short or not the official file: its md5 is {found}, not {expected}. Get it again (see "
            f"data/README.md), or if you trust it, {way_out}"
        )


def _celebahq(config: RunConfig) -> Source:
    """CelebA-HQ: 30,000 images. A fixed tenth is the test split; it depends on the numbers in the file names only."""
    root = _root(config)
    found, zips = image_folder.find(root), list(root.glob("*.zip")) if root.is_dir() else []
    found = image_folder.find(zips[0]) if len(zips) == 1 and not found.names else found
    numbered = {name: int(number[1]) for name in found.names if (number := re.search(r"(\d+)\.\w+$", name))}
    names = splits.shuffled(sorted(numbered, key=lambda name: (numbered[name], name)))
    if not names:
        raise FileNotFoundError(catalogue.missing("celebahq", root))
    held = round(len(names) * splits.HELD_OUT)
    halves = [names[held:], names[:held]]
    _check_counts("celebahq", found.place, halves)
    return _images(config, splits.Listing(found, *halves, official=True))


def _torchvision(config: RunConfig) -> Source:
    """A dataset of torchvision, which checks it, and downloads it unless its folder is given."""
    root, (size, crop) = _root(config), size_and_crop(config)
    name = CIFAR10.__name__ if config.dataset == "cifar10" else config.dataset.partition(":")[2]

    def write(folder: Path) -> None:
        torchvision_sets.write(torchvision_sets.open_splits(name, root, not config.root), size, crop, folder)

    found = [(str(path), path.stat().st_mtime_ns) for path in sorted(root.rglob("*"))] if config.root else []
    key = {"torchvision": name, "files": image_folder.digest(str(found)), "size": size, "crop": crop}
    return Source(key | {"format": decode.FORMAT}, write, here=root.exists())


def _digits(config: RunConfig) -> Source:
    size, _ = size_and_crop(config)
    return Source({"size": size, "test": builtin.DIGITS_TEST}, lambda folder: builtin.write_digits(size, folder))


def _photos(config: RunConfig) -> Source:
    size, _ = size_and_crop(config)
    key = {"size": size, "crops": builtin.PHOTOS, "strip": builtin.PHOTO_STRIP, "format": decode.FORMAT}
    return Source(key, lambda folder: builtin.write_photos(size, folder))


SOURCES = {
    "digits": _digits,
    "photos": _photos,
    **dict.fromkeys(("folder", "cifar10-jpeg", "faces10k"), _folder),
    "celeba": _celeba,
    "celebahq": _celebahq,
    **dict.fromkeys(("cifar10", TORCHVISION), _torchvision),
}
