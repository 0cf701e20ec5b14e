"""CIFAR-10's classifier: what is committed, how its images are changed, how it is trained anew, what it is called."""

import json

import numpy as np
import pytest
import torch
from conftest import picture, tiny
from PIL import Image

from mocalib import RunConfig, classifiers, data, evaluate, features, files, paths, train
from mocalib.__main__ import main

COMMITTED = paths.FEATURES / "cifar10.pt"
JPEG = paths.RAW / "cifar10-jpeg"


def test_the_committed_weights_are_small_and_say_how_they_were_trained():
    record = json.loads(COMMITTED.with_suffix(".json").read_text())
    net = classifiers.read(COMMITTED)
    assert COMMITTED.stat().st_size < 2_000_000
    assert files.sha256(COMMITTED) == record["sha256"]
    assert record["test_accuracy"] >= 0.85
    assert (record["dataset"], record["n_train"], record["n_test"]) == ("cifar10-jpeg", 50_000, 10_000)
    assert {name: record[name] for name in classifiers.RESIDUAL} == classifiers.RESIDUAL
    assert {"device", "nets", "seconds"} <= record.keys()
    assert net(torch.rand(2, 3, 32, 32)).shape == (2, 10)
    assert sum(p.numel() for p in net.parameters()) == 412_954


@pytest.mark.skipif(not JPEG.is_dir(), reason="needs the images, which are not committed")
def test_the_committed_weights_are_as_accurate_as_their_record_says():
    dataset = data.load(RunConfig(dataset="cifar10-jpeg"))
    record = json.loads(COMMITTED.with_suffix(".json").read_text())
    assert record["fingerprint"] == dataset.fingerprint
    first = data.Split(dataset.test.images[::5].clone(), dataset.test.labels[::5])
    assert classifiers.accuracy(classifiers.read(COMMITTED), first) == pytest.approx(record["test_accuracy"], abs=0.02)


def test_features_are_of_any_images_and_bear_its_name(tmp_path, scratch):
    """Faces have no labels; 64 pixels are averaged down, and grey is shown as three equal channels."""
    for i in range(60):
        picture(scratch / "faces" / f"{i}.png", size=(64, 64), seed=i)
    config = tiny(dataset="folder", root=str(scratch / "faces"), limit=0, batch_size=8, epochs=1, size=64)
    run = train(config, runs=tmp_path)
    named = [row for row in evaluate(run, features="cifar10", n=20) if row["features"]]
    assert {row["metric"] for row in named} == {"fd_cifar10", "kid_cifar10", "precision", "recall"}
    digest = json.loads(COMMITTED.with_suffix(".json").read_text())["sha256"]
    assert {(row["features"], row["digest"]) for row in named} == {("cifar10", digest)}
    extractor = features.build("cifar10", data.load(config), "folder")
    grey = torch.randint(256, (3, 1, 16, 16), dtype=torch.uint8)
    assert torch.equal(extractor(grey), extractor(grey.expand(-1, 3, -1, -1)))
    assert extractor(grey).shape == (3, 128)


def test_a_missing_one_is_said_to_be_so_before_training(digits, monkeypatch, tmp_path):
    monkeypatch.setattr(paths, "FEATURES", tmp_path)
    with pytest.raises(FileNotFoundError, match="cifar10.pt or its record is missing; restore them with git"):
        features.check("cifar10", digits)


def test_a_datasets_own_classifier_is_cifar10s_on_cifar10():
    assert features.meant(None, "cifar10", True) == features.meant("classifier", "cifar10-jpeg", True) == "cifar10"
    assert features.meant(None, "digits", True) == features.meant("classifier", "digits", True) == "classifier"
    assert features.meant("inception", "cifar10", True) == "inception"
    assert features.meant(None, "faces10k", False) == "none"


def test_each_image_is_mirrored_or_not_moved_over_its_reflection_and_loses_a_square():
    """Every pixel has a value of its own, so that a search over all changes finds the one."""
    original = torch.arange(32 * 32).remainder(251).view(1, 1, 32, 32).expand(40, 3, -1, -1).to(torch.uint8)
    torch.manual_seed(0)
    padded = np.pad(original[0, 0].numpy(), 4, mode="reflect")
    seen = set()
    for image in classifiers.augment(original).numpy():
        assert (image == image[:1]).all()
        fits = []
        for mirrored in (False, True):
            for top in range(9):
                for left in range(9):
                    moved = padded[top : top + 32, left : left + 32]
                    other = image[0] != (moved[:, ::-1] if mirrored else moved)
                    rows, columns = np.flatnonzero(other.any(1)), np.flatnonzero(other.any(0))
                    if np.ptp(rows) < 8 and np.ptp(columns) < 8:
                        fits.append((mirrored, top, left))
                        assert set(image[0][other]) == {128}
        assert len(fits) == 1
        seen |= set(fits)
    assert len(seen) > 30  # each image in a way of its own
    assert {mirrored for mirrored, *_ in seen} == {False, True}


def test_it_is_trained_anew_from_files_beside_the_committed_one(scratch, monkeypatch, capsys):
    """Ten classes of ten shades, which a few steps tell apart, if steps do what they should."""
    for split, count in (("train", 8), ("test", 2)):
        for shade, name in enumerate("abcdefghij"):
            for i in range(count):
                place = scratch / "shades" / split / name / f"{i}.png"
                path = picture(place, size=(32, 32), seed=10 * shade + i + 100 * (split == "test"))
                noise = np.asarray(Image.open(path)) // 16
                Image.fromarray((noise + 24 * shade).astype(np.uint8)).save(path)
    few = data.load(RunConfig(dataset="folder", root=str(scratch / "shades")))
    monkeypatch.setattr(data, "load", lambda config: few if config.dataset == "cifar10-jpeg" else None)
    monkeypatch.setitem(classifiers.RESIDUAL, "epochs", 12)
    monkeypatch.setitem(classifiers.RESIDUAL, "batch_size", 16)
    committed = COMMITTED.read_bytes()
    assert main(["classifier", "--runs", str(scratch / "new"), "--threads", "1"]) == 0
    record = json.loads((scratch / "new" / "cifar10.json").read_text())
    assert f"sha256 {record['sha256']}" in capsys.readouterr().out
    assert files.sha256(scratch / "new" / "cifar10.pt") == record["sha256"]
    assert (record["n_train"], record["epochs"], record["device"]) == (80, 12, "cpu")
    assert record["test_accuracy"] >= 0.7  # by chance 0.1
    assert classifiers.accuracy(classifiers.read(scratch / "new" / "cifar10.pt"), few.test) == record["test_accuracy"]
    assert COMMITTED.read_bytes() == committed
