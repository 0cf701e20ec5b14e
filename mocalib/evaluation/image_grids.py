"""Grids for a run's record: samples, reconstructions, interpolations, nearest training images. n images, C H W."""

import io

import torch
from torch import Tensor
from torchvision.transforms.functional import to_pil_image
from torchvision.utils import make_grid

from mocalib.config.run import FACES
from mocalib.data.arrays import as_uint8
from mocalib.data.cache import Dataset
from mocalib.evaluation.generate import BATCH, Autoencoder, decode_uint8

SAMPLES, COLUMNS = 40, 8  # samples; images a row
LARGE, FEWER = 48, 24  # images of at least 48 pixels: only 24 samples, so that records stay small
SHOWN_NEIGHBOURS = 16  # samples that are shown with their nearest training image
RECONSTRUCTIONS, INTERPOLATIONS, STEPS = 16, 4, 8  # pairs; rows; decoded images a row


def grids(autoencoder: Autoencoder, dataset: Dataset, seed: int, name: str = "") -> dict[str, bytes]:
    """PNG grids without padding, which figures cut into images. `name` is the dataset's.

    samples (8 a row); the nearest training image of each of the first samples; reconstructions (original,
    reconstruction, ...); and interpolations of test images (original, decoded points between both, original). Of
    faces, which may not be passed on, there are few originals, the same in both, and no nearest training images.
    """
    enough = torch.arange(max(RECONSTRUCTIONS, 2 * INTERPOLATIONS))
    shown = dataset.test.images[enough % len(dataset.test.images)]  # a small test split is repeated
    count = SAMPLES if dataset.image_shape[-1] < LARGE else FEWER
    samples = decode_uint8(autoencoder, autoencoder.prior(count, seed))
    originals = shown[: 2 * INTERPOLATIONS if name in FACES else RECONSTRUCTIONS]
    pairs = torch.stack([originals, decode_uint8(autoencoder, autoencoder.encode(originals))], dim=1).flatten(0, 1)
    x0, x1 = shown[: 2 * INTERPOLATIONS].unflatten(0, (2, -1))
    between = as_uint8(autoencoder.interpolate(x0, x1, STEPS))  # B steps C H W
    rows = torch.cat([x0.unsqueeze(1), between, x1.unsqueeze(1)], dim=1)
    found = {
        "samples.png": _png(samples, COLUMNS),
        "reconstructions.png": _png(pairs, COLUMNS),
        "interpolations.png": _png(rows.flatten(0, 1), STEPS + 2),
    }
    if name not in FACES:
        near = nearest(samples[:SHOWN_NEIGHBOURS], dataset.train.images)
        found["neighbours.png"] = _png(dataset.train.images[near], COLUMNS)
    return found


def nearest(images: Tensor, training: Tensor) -> Tensor:
    """Index of the training image nearest to each image, by Euclidean pixel distance; both uint8 n C H W."""
    x = images.flatten(1).float()
    distances = [torch.cdist(x, part.flatten(1).float()) for part in training.split(BATCH)]
    return torch.cat(distances, dim=1).argmin(dim=1)


def _png(images: Tensor, columns: int) -> bytes:
    grid = make_grid(images, columns, padding=0)[: images.shape[1]]  # it makes three channels of one
    to_pil_image(grid).save(png := io.BytesIO(), "PNG", optimize=True)
    return png.getvalue()
