"""Which images of a folder are for training and which for testing, and the class of each."""

from collections.abc import Callable, Container, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mocalib.data import image_folder
from mocalib.data.image_folder import SPLITS, Files

LIKE_SPLITS = (*SPLITS, "val", "valid", "validation", "training", "testing")
HELD_OUT = 0.1  # share of test images in a folder without train/ and test/


class Listing(NamedTuple):
    """Files by split, with class names if each class has its own folder."""

    files: Files
    train: list[str]
    test: list[str]
    classes: list[str] | None = None
    official: bool = False  # the splits are published, so we do not change them
    own: bool = False  # the test split is a hold-out of ours

    @property
    def key(self) -> str:
        """The sha256 of the files' key and their splits."""
        return image_folder.digest(f"{self.files.key} {self.train} {self.test}")

    def without(self, names: Container[str]) -> "Listing":
        """The same listing without some files."""
        splits = ([name for name in split if name not in names] for split in (self.train, self.test))
        return self._replace(train=next(splits), test=next(splits))


def scan(place: Path) -> Listing:
    """List the images in a folder or a zip by split.

    The splits are `train/` and `test/`; without both, a fixed tenth of the files is held out (see `mended`). Raises
    ValueError for one split without the other, splits with other names or deeper down, and too few images.
    """
    files = image_folder.find(place)
    train, test = ([name for name in files.names if name.startswith(f"{split}/")] for split in SPLITS)
    if bool(train) != bool(test):
        has, lacks = SPLITS if train else reversed(SPLITS)
        raise ValueError(
            f"{place} has images in {has}/ but none in {lacks}/; rename its other split to that, or pass a folder "
            f"without splits as root (a tenth is then held out)"
        )
    if own := not train:
        train, test = _held_out(place, files)
    classes = _classes([*train, *test], depth=0 if own else 1)
    if classes and not own and (new := {_class(name) for name in test} - {_class(name) for name in train}):
        raise ValueError(f"{place}: test/ has classes that train/ lacks: {', '.join(sorted(new))}; remove or add them")
    return Listing(files, shuffled(train), shuffled(test), classes, own=own)


def _held_out(place: Path, files: Files) -> list[list[str]]:
    """Hold out a fixed tenth of the files, at least one."""
    if other := sorted({name.split("/")[0] for name in files.names if name.split("/")[0].lower() in LIKE_SPLITS}):
        raise ValueError(f"{place} has {other[0]}/; name splits train/ and test/, and no other folder like a split")
    if deeper := next((name for name in files.names if set(SPLITS) & set(name.split("/")[1:-1])), None):
        raise ValueError(f"{place} has its splits deeper down ({deeper}); pass the folder that has them as root")
    if len(files.names) < 2:
        unused = f" (other files: {files.unused})" if files.unused else ""
        raise ValueError(f"{place} has {len(files.names)} images{unused}; put in at least two, to train and to test on")
    held = set(shuffled(files.names)[: max(1, round(HELD_OUT * len(files.names)))])
    return [[name for name in files.names if (name in held) == is_test] for is_test in (False, True)]


def mended(listing: Listing, digests: dict[str, bytes]) -> Listing:
    """A listing with a hold-out of our own, changed where it has to be; any other listing as it is.

    Copies of one file (by their digests) are all used for training, and so are the only images of a class. At least
    one image is held out. Classes go if none has two images. The test split is empty if all files are copies of one.
    """
    if not listing.own:
        return listing
    train, test = list(listing.train), list(listing.test)

    def move(away: Callable[[str], bool]) -> None:
        train.extend(name for name in test if away(name))
        test[:] = [name for name in test if not away(name)]

    if listing.classes:
        trained = {_class(name) for name in train}
        move(lambda name: _class(name) not in trained)
    copied = {digests[name] for name in train}
    move(lambda name: digests[name] in copied)
    if not test:
        chosen = _spare(train, digests, listing.classes) or _spare(train, digests, None)
        train, test = [name for name in train if name not in chosen], chosen
    classes = listing.classes if {_class(name) for name in test} <= {_class(name) for name in train} else None
    return listing._replace(train=train, test=test, classes=classes)


def _spare(train: list[str], digests: dict[str, bytes], classes: list[str] | None) -> list[str]:
    """The smallest group of copies that training can do without, [] if there is none."""
    copies = {}
    for name in train:
        copies.setdefault(digests[name], []).append(name)
    for group in sorted(copies.values(), key=len):
        rest = [name for name in train if name not in group]
        if rest and (not classes or {_class(name) for name in group} <= {_class(name) for name in rest}):
            return group
    return []


def shuffled(names: Sequence) -> list:
    """A fixed random order, so that the first n images are a fair sample; file names are often sorted by class."""
    return [names[i] for i in np.random.default_rng(0).permutation(len(names))]


def _class(name: str) -> str:
    return name.split("/")[-2] if "/" in name else ""


def _classes(names: list[str], depth: int) -> list[str] | None:
    """The class folders, if every file is in one and there are at least two; else None."""
    parts = [name.split("/")[depth:] for name in names]
    classes = sorted({part[0] for part in parts})
    return classes if len(classes) > 1 and all(len(part) == 2 for part in parts) else None
