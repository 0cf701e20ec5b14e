"""Any image-classification dataset of torchvision, by the name of its class, decoded like all others. N images."""

import contextlib
import inspect
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset, Subset
from torchvision import datasets
from torchvision.transforms.functional import center_crop

from mocalib.config.checks import nearest
from mocalib.data import decode, splits
from mocalib.data.image_folder import SPLITS
from mocalib.storage import files

CHOICES = {  # parameter of a class -> its values for training and for testing; the first that the class takes counts
    "train": ((True,), (False,)),
    "split": (("trainval", "train", "train-standard"), ("test", "val", "valid")),
}


def open_splits(name: str, root: Path, download: bool) -> list[Dataset]:
    """Training and test split of `torchvision.datasets.<name>` at `root`, downloaded by torchvision if asked.

    A dataset without splits has a fixed tenth held out. Raises ValueError for an unknown class, and FileNotFoundError
    for files that are missing or damaged.
    """
    kind = getattr(datasets, name, None)
    if name not in datasets.__all__ or not isinstance(kind, type):
        raise ValueError(f"torchvision.datasets has no {name!r}{nearest(name, list(datasets.__all__))}")
    takes = {part for base in kind.__mro__[:-1] for part in inspect.signature(base.__init__).parameters}
    settings = {"download": True} if download and "download" in takes else {}
    settings |= {"split": "balanced"} if name == "EMNIST" else {}  # it has no default
    if axis := next((axis for axis in CHOICES if axis in takes), None):
        return [_opened(kind, root, [settings | {axis: value} for value in values]) for values in CHOICES[axis]]
    whole = _opened(kind, root, [settings])
    order = splits.shuffled(range(len(whole)))
    held = round(splits.HELD_OUT * len(order))
    return [Subset(whole, order[held:]), Subset(whole, order[:held])]


def _opened(kind: type, root: Path, tries: list[dict]) -> Dataset:
    """The dataset with the first settings that it takes."""
    for settings in tries:
        with contextlib.suppress(ValueError):  # no split of this name
            try:
                return kind(str(root), **settings)
            except (RuntimeError, OSError, ImportError, TypeError) as error:
                raise FileNotFoundError(
                    f"{kind.__name__} is not in {root} as torchvision keeps it, or damaged, and it was not downloaded "
                    f"({error}). Put its files there, or pass their folder as root"
                ) from None
    raise FileNotFoundError(f"torchvision's {kind.__name__} has no training and test split: use another dataset")


def write(found: list[Dataset], size: int, crop: int, folder: Path) -> None:
    """Write the arrays of both splits, N C H W (C is 1 if the first image is grey), and labels, N, in a fixed order.

    If `size` and `crop` are equal and larger than an image, black is put around it: MNIST's digits are often padded to
    32 pixels. Raises ValueError for what has no classes, and without both for images of several sizes or no squares.
    """
    first, _ = _item(found[0], 0)
    grey, side = first.mode in decode.GREY_MODES, size or crop or first.width
    for split, images in zip(SPLITS, found):
        array = files.create_array(folder / f"{split}.npy", (len(images), 1 if grey else 3, side, side))
        order = splits.shuffled(range(len(images)))

        def decode_one(place: int, images: Dataset = images, array: np.ndarray = array, order: list = order) -> int:
            image, label = _item(images, order[place])
            if image.size != (side, side) and not size and not crop:
                raise ValueError(f"an image is {image.width}x{image.height}, not {side}x{side}; pass size, such as 64")
            if size == crop > max(image.size):
                image = center_crop(image, [crop, crop])
            array[place] = decode.pixels(image, side, crop, grey)
            return label

        labels = decode.parallel(f"decoding {split}", decode_one, range(len(images)))
        array.flush()
        files.write_array(folder / f"{split}-labels.npy", np.array(labels, np.int64))


def _item(images: Dataset, place: int) -> tuple[Any, int]:
    """An image and its class. Raises ValueError for anything else."""
    image, label = images[place][:2]
    if not hasattr(image, "convert") or not isinstance(label, (int, np.integer)):
        raise ValueError(f"this is no dataset of images and classes: it has {type(image).__name__}, {label!r:.50}")
    return image, int(label)
