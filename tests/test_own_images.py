"""A folder of anyone's images: nothing is left out unseen, and what is trained on is what a person sees."""

import io
import re
import shutil
import struct
import zipfile
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import picture, says, stopped, tiny
from PIL import Image
from test_data import tree

from mocalib import RunConfig, evaluate, train
from mocalib.data import datasets
from mocalib.data.cache import Dataset
from mocalib.storage.run import RunMismatch
from mocalib.sweep.run import sweep


def folder(root: Path, **settings) -> Dataset:
    return datasets.load(RunConfig(**{"dataset": "folder", "root": str(root), "model": "hq", "size": 8} | settings))


def contents(images: torch.Tensor) -> list[bytes]:
    return [image.numpy().tobytes() for image in images]


# ------------------------------------------------------------------------------------------------------- the hold-out


@pytest.mark.parametrize("copies", [2, 5, 10, 38])
def test_copies_of_one_file_are_on_one_side_of_our_hold_out(scratch, capsys, copies):
    root = tree(scratch / "photos", *(f"{i:02d}.png" for i in range(40)))
    for i in range(1, copies):
        shutil.copy(root / "00.png", root / f"{i:02d}.png")
    found = folder(root)
    train, test = contents(found.train.images), contents(found.test.images)
    assert not set(train) & set(test)
    assert len(train) + len(test) == 40  # all are used
    assert test
    if moved := [note for note in found.about.get("notes", []) if "instead of being held out" in note]:
        assert moved[0] in capsys.readouterr().out


def test_where_every_file_has_a_copy_whole_groups_are_held_out(scratch):
    root = tree(scratch / "photos", *(f"{i}.png" for i in range(10)))
    for path in list(root.iterdir()):
        shutil.copy(path, root / f"copy-{path.name}")
    found = folder(root)
    assert set(Counter(contents(found.train.images)).values()) == {2}
    assert not set(contents(found.train.images)) & set(contents(found.test.images))
    assert len(found.test.images) == 2


@pytest.mark.parametrize("n", range(2, 8))
def test_a_few_images_are_enough(scratch, n):
    found = folder(tree(scratch / "photos", *(f"{i}.png" for i in range(n))))
    assert len(found.test.images) == 1
    assert len(found.train.images) == n - 1


@pytest.mark.parametrize("counts", [(1, 9), (1, 1, 9), (2, 2, 2), (1, 1, 2), (1,) * 12 + (3,)])
def test_a_class_is_never_held_out_whole(scratch, counts):
    names = [f"{c:02d}/{c}-{i}.png" for c, count in enumerate(counts) for i in range(count)]
    found = folder(tree(scratch / "pets", *names))
    assert set(found.train.labels.tolist()) == set(range(len(counts)))
    assert len(found.test.images) == len(found.test.labels) >= 1


def test_classes_of_one_image_each_are_no_labels_but_no_error(scratch):
    found = folder(tree(scratch / "pets", "cat/0.png", "dog/1.png", "owl/2.png"))
    assert (len(found.train.images), len(found.test.images)) == (2, 1)
    assert found.train.labels is None
    assert "labels" in " ".join(found.about["notes"])


def test_files_that_are_skipped_leave_no_class_and_no_split_empty(scratch):
    root = tree(scratch / "pets", *(f"{name}/{i}.png" for name in ("cat", "dog") for i in range(6)))
    for path in sorted((root / "cat").iterdir())[1:]:  # one cat is left
        path.write_bytes(b"no picture")
    found = folder(root, skip_broken=True)
    assert 0 in found.train.labels.tolist()
    assert len(found.test.images) >= 1


# --------------------------------------------------------------------------------------------- what a person sees


def grey16(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint16)).save(path)


@pytest.mark.parametrize("top", [255, 1000, 4095, 16383, 65535])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bit_greys_are_scaled_by_the_bits_that_the_files_use(scratch, top, suffix):
    ramps = np.random.default_rng(0).integers(0, top + 1, (10, 8, 8))
    ramps[3, 0, 0] = top
    for i, ramp in enumerate(ramps):
        grey16(scratch / "scans" / f"{i}.{suffix}", ramp)
    found = folder(scratch / "scans")
    white = next(2**bits - 1 for bits in range(8, 17) if 2**bits > top)
    expected = np.sort((ramps / white * 255).round().astype(np.uint8).reshape(10, -1), axis=0)
    both = np.sort(torch.cat([found.train.images, found.test.images]).numpy().reshape(10, -1), axis=0)
    assert np.abs(both.astype(int) - expected).max() <= 1
    assert found.about.get("white", 65535) == white


def test_one_scale_for_all_files_keeps_their_brightness_apart(scratch):
    for i in range(10):
        grey16(scratch / "scans" / f"{i}.png", np.full((8, 8), 400 * (i + 1)))
    found = folder(scratch / "scans")
    values = sorted(int(image.max()) for image in (*found.train.images, *found.test.images))
    assert values == [round(400 * (i + 1) * 255 / 4095) for i in range(10)]


def colour16(path: Path, top: int) -> None:
    """A PNG of 16 bits a colour, which Pillow reads and does not write."""
    rows = b"".join(b"\0" + np.linspace(0, top, 24).astype(">u2").tobytes() for _ in range(8))
    parts = ((b"IHDR", struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    chunks = (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def test_sixteen_bit_colours_are_read_if_they_use_their_range_and_refused_if_not(scratch):
    for i in range(4):
        colour16(scratch / "good" / f"{i}.png", 65535 - i)
        colour16(scratch / "dark" / f"{i}.png", 4095 - i)
    assert folder(scratch / "good").train.images.max() == 255
    with pytest.raises(ValueError, match=says("4 images", "16-bit colours", "4095", ".png", "convert them to 8 bits")):
        folder(scratch / "dark")


def test_a_portable_pixmap_of_sixteen_bits_is_no_exception(scratch):
    (scratch / "dark").mkdir()
    for i in range(4):
        values = np.linspace(i, 4000, 192).astype(">u2").tobytes()
        (scratch / "dark" / f"{i}.ppm").write_bytes(b"P6 8 8 65535\n" + values)
    with pytest.raises(ValueError, match=says("4 images", "16-bit colours", "convert them to 8 bits")):
        folder(scratch / "dark")


def icon(kind: str, i: int, path: Path) -> None:
    """Random colours under full transparency, but for an opaque grey square of value i."""
    grey = kind in ("LA", "grey key")
    pixels = np.random.default_rng(i).integers(0, 256, (8, 8, 2 if grey else 4), dtype=np.uint8)
    pixels[..., -1] = 0
    pixels[2:4, 2:4] = [i] * (1 if grey else 3) + [255]
    opaque = pixels[..., -1] > 0
    if kind in ("palette", "gif"):
        image = Image.fromarray(np.where(opaque, 0, 1).astype(np.uint8)).convert("P")
        image.putpalette([i, i, i] + [i, 99, 3] * 255)
        image.save(path.with_suffix(".gif" if kind == "gif" else ".png"), transparency=1)
    elif kind == "key":
        Image.fromarray(np.where(opaque[..., None], i, [[[70, 80, 90]]]).astype(np.uint8)).save(
            path, transparency=(70, 80, 90)
        )
    elif kind == "grey key":
        Image.fromarray(np.where(opaque, i, 70).astype(np.uint8)).save(path, transparency=70)
    else:
        Image.frombytes("LA" if grey else "RGBA", (8, 8), pixels.tobytes()).save(path, lossless=True, exact=True)


@pytest.mark.parametrize("kind", ["RGBA", "LA", "palette", "key", "grey key", "gif", "webp"])
def test_what_is_transparent_is_white_and_the_record_says_so(scratch, kind):
    (scratch / "icons").mkdir()
    for i in range(10):
        icon(kind, i, scratch / "icons" / f"{i}.{'webp' if kind == 'webp' else 'png'}")
    found = folder(scratch / "icons")
    both = torch.cat([found.train.images, found.test.images]).numpy()
    both = both[np.argsort(both[:, 0, 2, 2])]
    expected = np.full((10, 8, 8), 255, np.uint8)
    expected[:, 2:4, 2:4] = np.arange(10)[:, None, None]
    assert all(np.array_equal(both[:, channel], expected) for channel in range(both.shape[1]))
    assert any("10 images" in note and "white" in note for note in found.about["notes"])


# ------------------------------------------------------------------------------------ no file is left out in silence


ENDINGS = [".jpg", ".jfif", ".jpe", ".JPEG", ".avif", ".jp2", ".JPEG2", "", ".png", ".tga", ".dat", ".ico", ".bmp.bak"]


def content(suffix: str, i: int) -> bytes:
    kind = {".avif": "AVIF", ".jp2": "JPEG2000", ".png": "PNG", ".tga": "TGA", ".ico": "ICO"}.get(suffix, "JPEG")
    buffer, pixels = io.BytesIO(), np.random.default_rng(i).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("packed", [False, True])
def test_what_pillow_can_read_is_read_and_the_rest_is_counted_by_kind(scratch, capsys, packed):
    files = {f"{k}{i}{suffix}": content(suffix, 9 * k + i) for k, suffix in enumerate(ENDINGS) for i in range(3)}
    files |= {
        "a.txt": b"BMW, and no bitmap",
        "b.TXT": b"",
        "c.pdf": b"%PDF-1.4",
        "notes": b"P6 is a bus",
        "d.svg": b"<svg/>",
    }
    if packed:
        with zipfile.ZipFile(scratch / "mixed.zip", "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
    else:
        (scratch / "mixed").mkdir()
        for name, data in files.items():
            (scratch / "mixed" / name).write_bytes(data)
    found = folder(scratch / ("mixed.zip" if packed else "mixed"))
    assert len(found.train.images) + len(found.test.images) == 3 * len(ENDINGS)
    said = "1 .pdf, 1 .svg, 2 .txt, 1 without a suffix"
    assert re.search(says("mixed", "not used", said), capsys.readouterr().out)
    assert any(said in note for note in found.about["notes"])


# ----------------------------------------------------------------------------------------------------------- links


def test_linked_classes_and_files_are_followed_once(scratch):
    real = tree(scratch / "store", *(f"{name}/{i}.png" for name in ("cat", "dog") for i in range(5)))
    root = scratch / "pets"
    (root / "dog").mkdir(parents=True)
    (root / "cat").symlink_to(real / "cat")
    for path in (real / "dog").iterdir():
        (root / "dog" / path.name).symlink_to(path)
    (root / "dog" / "again").symlink_to(root)  # a cycle
    found, plain = folder(root), folder(real)
    assert sorted(contents(found.train.images)) == sorted(contents(plain.train.images))
    assert found.train.labels.tolist() == plain.train.labels.tolist()
    assert any("1 linked folders that are read already" in note for note in found.about["notes"])


def test_a_folder_that_is_linked_twice_is_read_once_and_it_is_said(scratch):
    real = tree(scratch / "photos", *(f"a/{i}.png" for i in range(10)))
    (real / "b").symlink_to(real / "a")
    found = folder(real)
    assert len(found.train.images) + len(found.test.images) == 10
    assert "1 linked folders that are read already" in found.about["notes"][0]


# -------------------------------------------------------------------------------------- where the images lie is free


def run_of(root: Path | str, **changes) -> RunConfig:
    own = {"dataset": "folder", "root": str(root), "size": 16, "limit": 0, "batch_size": 8, "epochs": 2}
    return tiny(**own | changes)


@pytest.fixture
def faces(scratch):
    return tree(scratch / "a" / "faces", *(f"{i}.png" for i in range(40)))


def test_images_that_were_moved_are_the_same_images(scratch, faces, monkeypatch):
    done = train(run_of(faces), runs=scratch / "runs")
    shutil.move(faces, scratch / "b" / "faces")
    monkeypatch.chdir(scratch / "b")
    for root in (scratch / "b" / "faces", "faces", "../b/faces/"):
        again = train(run_of(root), runs=scratch / "runs")
        assert again.directory == done.directory
        assert [row["metric"] for row in evaluate(again)]
    [run] = sweep([run_of("faces")], scratch / "runs")
    assert run.directory == done.directory


def test_a_run_that_was_stopped_resumes_after_its_images_were_moved(scratch, faces):
    whole = train(run_of(faces), runs=scratch / "whole")
    stopped(scratch / "runs" / run_of(faces).name, 3, run_of(faces))
    shutil.move(faces, scratch / "b" / "faces")
    resumed = train(run_of(scratch / "b" / "faces"), runs=scratch / "runs")
    assert resumed.metrics == whole.metrics
    resumed.verify()


@pytest.mark.parametrize("change", ["one more", "one replaced", "others elsewhere"])
def test_images_that_changed_are_named_with_what_changed_and_what_to_do(scratch, faces, change):
    done = train(run_of(faces), runs=scratch / "runs")
    root = faces
    if change == "one more":
        picture(faces / "new.png", size=(8, 8), seed=99)
        said = ["36 training and 4 test images then, 37 training and 4 test images now"]
    elif change == "one replaced":
        picture(faces / "3.png", size=(8, 8), seed=99)
        said = ["36 training and 4 test images, but other pixels"]
    else:
        root = tree(scratch / "b" / "faces", *(f"x{i}.png" for i in range(50)))
        said = ["36 training and 4 test images then, 45 training and 5 test images now"]
    message = says(root, done.directory, *said, "Restore", "move", done.directory, "away")
    with pytest.raises(RunMismatch, match=message):
        evaluate(train(run_of(root), runs=scratch / "runs"))
