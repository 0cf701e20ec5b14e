"""A trained run at work: what a user has goes in, images come out, as tensors and as files."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import picture, says, tiny
from PIL import Image
from test_methods import METHODS

from mocalib import RunConfig, data, evaluate, from_arrays, load, save_images, train
from mocalib.__main__ import main
from mocalib.config import paths
from mocalib.data import datasets
from mocalib.evaluation import generate
from mocalib.storage import files
from mocalib.storage.run import open_run


@pytest.fixture(scope="module")
def grey(tmp_path_factory):
    """A run on digits, 1x16x16."""
    return train(tiny(epochs=1, latent_dim=8), runs=tmp_path_factory.mktemp("grey"))


@pytest.fixture(scope="module")
def colour(tmp_path_factory):
    """A run on one's own RGB images: a square of 20 pixels is cut out and resized to 16."""
    place = tmp_path_factory.mktemp("colour")
    for i in range(40):
        picture(place / "mine" / f"{i}.png", size=(30, 24), seed=i)
    own = {"dataset": "folder", "root": str(place / "mine"), "size": 16, "crop": 20, "limit": 0, "batch_size": 8}
    return train(tiny(epochs=1, **own), runs=place)


FORMS = {  # what a user may have -> made of uint8 images N H W C
    "array N H W C": lambda x, _: x,
    "tensor N C H W": lambda x, _: torch.from_numpy(x).permute(0, 3, 1, 2),
    "floats": lambda x, _: x.astype(np.float64) / 255,
    "float16 tensor": lambda x, _: (torch.from_numpy(x).permute(0, 3, 1, 2).double() / 255).float(),
    "list of Pillow images": lambda x, _: [Image.fromarray(image.squeeze()) for image in x],
    "list of arrays": lambda x, _: list(x),
    "list of paths": lambda x, place: written(x, place),
    "a folder": lambda x, place: written(x, place)[0].parent,
    "a folder as str": lambda x, place: str(written(x, place)[0].parent),
    "a mix": lambda x, place: [torch.from_numpy(x[0]) / 255, written(x, place)[1], *x[2:]],
}


def written(x: np.ndarray, place: Path) -> list[Path]:
    place.mkdir()
    for i, image in enumerate(x):
        Image.fromarray(image.squeeze()).save(place / f"{i}.png")
    return sorted(place.iterdir())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("channels", [1, 3])
def test_whatever_holds_the_same_images_is_encoded_alike(grey, colour, tmp_path, form, channels):
    net = load((grey if channels == 1 else colour).directory)
    x = np.random.default_rng(0).integers(0, 256, (4, 16, 16, channels), dtype=np.uint8)
    with torch.no_grad():
        expected = net.objective.encode(torch.from_numpy(x).permute(0, 3, 1, 2).float() / 255)
    net.crop = 0  # of images that have the run's shape already
    z = net.encode(FORMS[form](x, tmp_path / "x"))
    assert torch.allclose(z, expected, atol=1e-5)
    assert net.decode(z.numpy()).shape == (4, channels, 16, 16)


@pytest.mark.parametrize("shape", [(16, 16), (1, 16, 16), (16, 16, 1), (1, 1, 16, 16)])
def test_one_image_is_a_batch_of_one(grey, shape):
    net, x = load(grey.directory), torch.rand(16, 16)
    assert torch.allclose(net.encode(x.view(shape)), net.encode(x[None, None]), atol=1e-6)
    [z] = net.encode(x)
    assert torch.equal(net.decode(z), net.decode(z[None]))
    assert torch.equal(net.reconstruct(x), net.decode(net.encode(x)))
    assert net.interpolate(x, x.flip(0), 5).shape == (1, 5, 1, 16, 16)


def test_other_sizes_are_cropped_and_resized_as_the_runs_own_images(grey, colour):
    net, found = load(colour.directory), datasets.load(colour.config)
    again = net.images(colour.config.root)
    kept = {image.numpy().tobytes() for image in (*found.train.images, *found.test.images)}
    assert {image.numpy().tobytes() for image in again} == kept
    large = np.random.default_rng(0).integers(0, 256, (28, 28), dtype=np.uint8)
    resized = Image.fromarray(large).resize((16, 16), Image.Resampling.LANCZOS)
    assert torch.equal(load(grey.directory).encode(large), load(grey.directory).encode(np.asarray(resized)))
    assert load(grey.directory).encode(Image.new("RGB", (40, 30), "red")).shape == (1, 8)


def test_sixteen_bits_are_scaled_as_in_training(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "CACHE", tmp_path / "cache")
    for i in range(20):
        values = np.random.default_rng(i).integers(0, 4096, (16, 16)).astype(np.uint16)
        (tmp_path / "scans").mkdir(exist_ok=True)
        Image.fromarray(values).save(tmp_path / "scans" / f"{i}.png")
    own = {"dataset": "folder", "root": str(tmp_path / "scans"), "limit": 0, "batch_size": 8}
    run = train(tiny(epochs=1, **own), runs=tmp_path)
    images = load(run.directory).images(tmp_path / "scans")
    trained_on = datasets.load(run.config)
    assert images.max() > 200
    assert sorted(map(int, images.sum((1, 2, 3)))) == sorted(
        map(int, torch.cat([trained_on.train.images, trained_on.test.images]).sum((1, 2, 3)))
    )


UNFIT = {  # what does not fit -> what is said
    "floats to 255": (torch.rand(2, 1, 16, 16) * 255, ["floats", "[0, 1]", "uint8"]),
    "negative floats": (torch.rand(16, 16) - 1, ["floats", "[0, 1]"]),
    "nan": (torch.full((16, 16), torch.nan), ["floats", "[0, 1]", "nan"]),
    "ints": (np.zeros((16, 16), np.int64), ["int64", "uint8"]),
    "bools": (np.zeros((16, 16), bool), ["bool", "uint8"]),
    "five dimensions": (torch.rand(1, 1, 1, 16, 16), ["(1, 1, 1, 16, 16)", "N C H W"]),
    "one dimension": (torch.rand(16), ["(16,)", "H W"]),
    "two channels": (torch.rand(4, 2, 16, 16), ["(4, 2, 16, 16)", "1, 3 or 4"]),
    "no image": (torch.rand(0, 1, 16, 16), ["(0, 1, 16, 16)"]),
    "greys or colours": (torch.rand(3, 16, 16), ["(3, 16, 16)", "one image", "3 grey ones", "N C H W"]),
    "a dict": ({"image": 1}, ["dict", "path", "Pillow image", "array"]),
    "nothing": ([], ["list", "path"]),
    "float pixels": (Image.fromarray(np.zeros((16, 16), np.float32)), ["mode F", "8 or 16 bits"]),
    "no file": ("nowhere.png", ["nowhere.png", "does not exist", "folder or zip"]),
}


@pytest.mark.parametrize("what", UNFIT)
def test_what_does_not_fit_is_refused_in_words(grey, what):
    given, said = UNFIT[what]
    with pytest.raises((ValueError, FileNotFoundError), match=says(*said)):
        load(grey.directory).encode(given)


def test_latents_and_numbers_that_do_not_fit_are_refused(grey):
    net = load(grey.directory)
    for z in (torch.rand(2, 9), torch.rand(1, 2, 8), torch.rand(0, 8), 3.0, torch.full((2, 8), torch.nan)):
        with pytest.raises(ValueError, match=says("latents of shape", "B 8")):
            net.decode(z)
    with pytest.raises(ValueError, match=says("2 images and 3")):
        net.interpolate(torch.rand(2, 1, 16, 16), torch.rand(3, 1, 16, 16), 4)
    with pytest.raises(ValueError, match=says("steps = 1", "at least 2")):
        net.interpolate(torch.rand(16, 16), torch.rand(16, 16), 1)
    for n, said in ((0, "at least 1"), (2.5, "not an int")):
        with pytest.raises(ValueError, match=says(f"n = {n}", said)):
            net.sample(n)
    with pytest.raises(ValueError, match=says("seed = 'a'", "not an int")):
        net.sample(1, seed="a")


# ------------------------------------------------------------------------------------------------------- PNG files


def pixels(folder: Path) -> torch.Tensor:
    found = [np.asarray(Image.open(path)) for path in sorted(folder.iterdir())]
    return torch.from_numpy(np.stack(found))


def test_samples_are_written_as_they_are_scored(grey, tmp_path, capsys):
    assert main(["sample", str(grey.directory), "--n", "30", "--seed", "3", "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out'}\n"
    net = load(grey.directory)
    assert torch.equal(pixels(tmp_path / "out"), generate.decode_uint8(net, net.prior(30, 3))[:, 0])
    assert torch.equal(pixels(save_images(net.sample(30, 3), tmp_path / "python")), pixels(tmp_path / "out"))


def test_arrays_and_single_images_are_written_too(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (3, 8, 9, 3), dtype=np.uint8)
    assert np.array_equal(pixels(save_images(x, tmp_path / "a")), x)
    assert np.array_equal(pixels(save_images(torch.from_numpy(x[0]).permute(2, 0, 1), tmp_path / "b")), x[:1])


def test_arrays_of_the_same_bytes_and_another_shape_are_others(scratch):
    x = np.random.default_rng(0).integers(0, 256, (12, 24, 24), dtype=np.uint8)
    roots = {from_arrays(x.reshape(shape)) for shape in ((12, 24, 24), (12, 16, 36), (12, 12, 16, 3))}
    assert len(roots) == 3


@pytest.mark.parametrize("n", [3, 4, 5])
def test_three_dimensions_are_grey_images_and_two_are_refused(scratch, n):
    x = np.random.default_rng(0).integers(0, 256, (n, 8, 8), dtype=np.uint8)
    found = datasets.load(RunConfig(dataset="folder", root=from_arrays(x), model="hq"))
    assert len(found.train.images) + len(found.test.images) == n
    assert found.image_shape == (1, 8, 8)
    with pytest.raises(ValueError, match=says("images of shape (10, 784)")):
        from_arrays(np.zeros((10, 784), np.uint8))


def test_a_dark_sixteen_bit_image_is_scaled_by_its_own_bits_if_the_run_has_none(grey, tmp_path):
    values = np.random.default_rng(0).integers(0, 4096, (16, 16)).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "dark.png")
    found = load(grey.directory).images(tmp_path / "dark.png")[0, 0].numpy().astype(int)
    assert np.abs(found - values * (255 / 4095)).max() <= 1


def test_a_broken_file_is_named(grey, tmp_path):
    picture(tmp_path / "mine" / "good.jpg")
    path = picture(tmp_path / "mine" / "cut.jpg", size=(64, 64))
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ValueError, match=says("mine/cut.jpg", "cannot be read as an image", "truncated")):
        load(grey.directory).encode(tmp_path / "mine")


def test_words_and_ragged_lists_are_no_arrays(scratch):
    for given in ("images", [np.zeros((8, 8), np.uint8), np.zeros((9, 8), np.uint8)]):
        with pytest.raises(ValueError, match=says("no array of numbers", "of one shape", "N C H W")):
            from_arrays(given)


def test_a_file_that_is_no_image_is_named(grey, tmp_path):
    (tmp_path / "notes.txt").write_text("hi", "utf-8")
    with pytest.raises(ValueError, match=says("notes.txt", "cannot be read as an image")):
        load(grey.directory).encode(tmp_path / "notes.txt")


def test_reconstructions_and_the_test_split_are_written(colour, tmp_path):
    place, found = str(colour.directory), datasets.load(colour.config)
    assert main(["sample", place, "--reconstruct", colour.config.root, "--out", str(tmp_path / "a")]) == 0
    assert main(["sample", place, "--reference", "--out", str(tmp_path / "b")]) == 0
    assert pixels(tmp_path / "a").shape == (40, 16, 16, 3)
    assert torch.equal(pixels(tmp_path / "b").permute(0, 3, 1, 2), found.test.images)


@pytest.mark.parametrize("n", ["0", "-1"])
def test_a_number_of_images_below_one_is_refused(grey, tmp_path, capsys, n):
    for what in ([], ["--reference"]):
        assert main(["sample", str(grey.directory), "--n", n, "--out", str(tmp_path / "out"), *what]) == 1
        assert "n = " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_with_anything_in_it_is_left_alone_and_no_half_is_left(grey, tmp_path, capsys, monkeypatch):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("all of it", encoding="utf-8")
    assert main(["sample", str(grey.directory), "--n", "3", "--out", str(tmp_path / "out")]) == 1
    assert "not empty; pass the path of a new folder" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]
    parts = (part for part in (torch.rand(2, 1, 4, 4), None))
    with pytest.raises(ValueError, match="no array of numbers"):
        save_images(parts, tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


# ------------------------------------------------------------------------------------------------- anyone's samples


def test_a_folder_of_images_is_scored_like_a_run(grey, tmp_path, capsys):
    n, reference = 200, datasets.load(RunConfig())
    save_images(load(grey.directory).sample(n), tmp_path / "samples")
    assert main(["score", str(tmp_path / "samples"), "--dataset", "digits"]) == 0
    printed = capsys.readouterr().out
    from mocalib import Scoring

    rows = {row["metric"]: row["value"] for row in evaluate(grey, Scoring(n=n)) if row["sampler"] == "prior"}
    for metric in ("fd_classifier", "kid_classifier", "precision", "recall"):
        assert f"{rows[metric]:.4f}" in printed
    assert f"{n} against {len(reference.test.images)} test" in printed
    assert "fid" not in printed.lower()


def test_what_cannot_be_scored_is_said(colour, tmp_path, capsys):
    save_images(torch.rand(1, 1, 16, 16), tmp_path / "one")
    assert main(["score", str(tmp_path / "one"), "--dataset", "digits"]) == 1
    assert "two images or more" in capsys.readouterr().err
    unlabelled = ["--dataset", "folder", "--root", colour.config.root, "--size", "16"]
    assert main(["score", str(tmp_path / "one"), *unlabelled]) == 1
    assert "'inception', 'vgg16', 'clip-vit-b-32'" in capsys.readouterr().err


# --------------------------------------------------------------------------------------------------- arrays to train on


@pytest.mark.parametrize("form", ["uint8", "float", "tensor", "grey"])
def test_arrays_are_a_root_that_any_run_takes(scratch, form):
    x = np.random.default_rng(0).integers(0, 256, (50, 16, 16, 3), dtype=np.uint8)
    x = x[..., 0] if form == "grey" else x
    given = {"float": x / 255, "tensor": torch.from_numpy(x).movedim(-1, 1)}.get(form, x)
    root = data.from_arrays(given)
    found = datasets.load(RunConfig(dataset="folder", root=root))
    stacked = torch.cat([found.train.images, found.test.images])
    plain = x[:, None] if form == "grey" else x.transpose(0, 3, 1, 2)
    assert {image.numpy().tobytes() for image in stacked} == {np.ascontiguousarray(image).tobytes() for image in plain}
    assert from_arrays(given) == root
    assert from_arrays(given[::-1].copy() if form != "tensor" else given.flip(0)) != root
    run = train(tiny(dataset="folder", root=root, limit=0, batch_size=8, epochs=1), runs=scratch)
    assert run.environment["data"]["train"] == 45


def test_labels_and_a_test_split_of_arrays(scratch):
    x, y = np.random.default_rng(0).integers(0, 256, (60, 8, 8), dtype=np.uint8), np.arange(60) % 3 * 5
    found = datasets.load(RunConfig(dataset="folder", root=from_arrays(x[:40], x[40:], (y[:40], y[40:])), model="hq"))
    for split, images, labels in ((found.train, x[:40], y[:40]), (found.test, x[40:], y[40:])):
        mine = {image.tobytes(): label // 5 for image, label in zip(images, labels)}
        assert {image.numpy().tobytes(): int(label) for image, label in zip(*split)} == mine
    held = datasets.load(RunConfig(dataset="folder", root=from_arrays(x, labels=y.tolist()), model="hq"))
    assert (len(held.train.labels), len(held.test.labels)) == (54, 6)


ARRAYS = {  # wrong arguments of from_arrays, for 10 images -> what is said
    "labels of another number": ({"labels": [0] * 9}, ["9 labels", "10 images"]),
    "labels that are no ints": ({"labels": [0.5] * 10}, ["float64", "an int"]),
    "negative labels": ({"labels": [-1] * 10}, ["at least 0"]),
    "one label": ({"labels": 3}, ["1 labels", "10 images"]),
    "labels of train alone": ({"test": np.zeros((2, 8, 8), np.uint8), "labels": [0] * 10}, ["12 images", "a pair"]),
}


@pytest.mark.parametrize("what", ARRAYS)
def test_arrays_that_do_not_fit_are_refused(scratch, what):
    arguments, said = ARRAYS[what]
    with pytest.raises(ValueError, match=says(*said)):
        from_arrays(np.zeros((10, 8, 8), np.uint8), **arguments)
    assert not (paths.RAW / "arrays").exists()


# -------------------------------------------------------------------------------------------- models that are shared


def test_a_shared_model_is_smaller_and_gives_the_same_images(grey, tmp_path):
    generate.share(grey, tmp_path / "shared")
    mine, shared = load(grey.directory), load(tmp_path / "shared")
    assert torch.equal(mine.sample(20), shared.sample(20))
    x = datasets.load(grey.config).test.images[:20]
    assert torch.equal(mine.encode(x), shared.encode(x))
    sizes = [(place / "weights.pt").stat().st_size for place in (tmp_path / "shared", grey.directory)]
    assert sizes[0] < 0.8 * sizes[1]
    with pytest.raises(FileExistsError):
        generate.share(grey, tmp_path / "shared")


def test_a_model_shared_in_half_the_bytes_gives_nearly_the_same_images(grey, tmp_path):
    """bfloat16 keeps eight bits of each weight."""
    generate.share(grey, tmp_path / "shared")
    generate.share(grey, tmp_path / "half", half=True)
    sizes = [(tmp_path / place / "weights.pt").stat().st_size for place in ("half", "shared")]
    assert sizes[0] < 0.7 * sizes[1]
    half, mine = load(tmp_path / "half"), load(grey.directory)
    assert {p.dtype for p in half.objective.parameters()} == {torch.float32}
    difference = (half.sample(20) - mine.sample(20)).abs().mean()
    assert 0 < difference < 0.02


def test_a_model_of_faces_takes_images_of_any_size():
    """CelebA's files are cropped as they were for training; of others the largest square is taken."""
    model = load(paths.WEIGHTS / "faces-moca")
    ramp = np.broadcast_to(np.arange(1024).repeat(3).reshape(1, 1024, 3) // 4, (1024, 1024, 3)).astype(np.uint8)
    for side, width in ((32, 32), (89, 70), (1024, 1024)):
        picture = Image.fromarray(ramp).resize((side, side))
        left = (side - width) // 2
        cut = picture.crop((left, left, left + width, left + width)).resize((32, 32), Image.Resampling.LANCZOS)
        found = model.images(picture).int() - torch.from_numpy(np.array(cut)).permute(2, 0, 1).int()
        assert found.abs().max() <= 1
        assert model.encode(picture).shape == (1, 32)


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_every_method_can_be_shared(tmp_path, method):
    run = train(tiny(epochs=1, objective=method), runs=tmp_path)
    generate.share(run, tmp_path / "shared")
    assert torch.equal(load(run.directory).sample(5), load(tmp_path / "shared").sample(5))


def test_weights_that_were_changed_are_refused(grey, tmp_path):
    generate.share(grey, tmp_path / "shared")
    other = files.read_tensors(tmp_path / "shared" / "weights.pt")
    files.write_tensors(tmp_path / "shared" / "weights.pt", other | {"step": 0})
    with pytest.raises(ValueError, match=says("weights.pt", "damaged", "sha256", "restore it")):
        load(tmp_path / "shared")


def test_the_committed_model_is_the_quickstarts_run(tmp_path):
    place = paths.WEIGHTS / "digits-moca"
    record = paths.RECORDS / "laptop" / open_run(place).config.name
    for name in ("config.json", "metrics.jsonl", "samples.png", "reconstructions.png"):
        assert (place / name).read_bytes() == (record / name).read_bytes(), name
    open_run(place).verify()
    assert sum(path.stat().st_size for path in place.iterdir()) <= 800_000
    model = load("data/weights/digits-moca")
    drawn = generate.decode_uint8(model, model.prior(40))
    grid = np.asarray(Image.open(place / "samples.png")).reshape(5, 16, 8, 16).swapaxes(1, 2).reshape(40, 1, 16, 16)
    assert (torch.from_numpy(grid.astype(int)) - drawn).abs().max() <= 1  # processors round differently
    assert load(str(place)).encode(datasets.load(RunConfig()).test.images[:3]).shape == (3, 24)


def test_the_committed_model_of_faces_is_a_run_of_its_record_and_small():
    place = paths.WEIGHTS / "faces-moca"
    run = open_run(place)
    run.verify()
    for name in ("config.json", "metrics.jsonl", "scores.json"):
        assert (place / name).read_bytes() == (paths.RECORDS / "overnight" / run.config.name / name).read_bytes(), name
    assert (place / "weights.pt").stat().st_size <= 1_500_000
    assert not list(place.glob("*.png"))  # which would hold originals
    model = load(place)
    assert sum(p.numel() for net in (model.objective.encoder, model.objective.decoder) for p in net.parameters()) > 7e5
    images = model.sample(64)
    assert images.shape == (64, 3, 32, 32)
    assert images.std(dim=0).mean() > 0.1  # they differ
