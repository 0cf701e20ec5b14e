"""Scores: closed forms, torch-fidelity's own way of computing them, what is counted, named, kept and refused."""

import io
import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch_fidelity
import torchvision
from conftest import picture, says, tiny
from PIL import Image
from scipy import ndimage
from torch import nn
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from mocalib import evaluate, figures, load, train
from mocalib.config import paths
from mocalib.config.compute import Scoring
from mocalib.config.methods import VAE, WAEMMD, TwoStageVAE
from mocalib.config.run import RunConfig
from mocalib.data import datasets
from mocalib.data.arrays import as_uint8
from mocalib.data.cache import Split
from mocalib.evaluation import classifiers, features, generate, metrics, perception, probes
from mocalib.evaluation import evaluate as scoring_module
from mocalib.evaluation.evaluate import check_scoring, mixture_latents, score_latents, score_training, scored
from mocalib.evaluation.image_grids import _png, grids, nearest
from mocalib.evaluation.metrics import (
    class_score,
    distance_name,
    frechet_distance,
    kernel_distance,
    pca_variances,
    precision_and_recall,
    sharpness,
)
from mocalib.evaluation.perception import layer_distance, path_length, reconstruction_distance
from mocalib.paper.results import frame
from mocalib.storage import files
from mocalib.storage.run import Run, RunMismatch, open_run
from mocalib.training.device import use_threads

PROBED = ("latents", "pixels", "pca")
NEW = {"classifier_score", "perceptual_classifier", "ppl_classifier", "linear_error", "knn_error"}  # of the last epoch


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run without scores; what scores it takes a copy."""
    return train(tiny(keep_epochs=(1,)), runs=tmp_path_factory.mktemp("runs"))


def copied(run, folder):
    return open_run(shutil.copytree(run.directory, folder))


@pytest.fixture
def fresh(trained, tmp_path):
    return copied(trained, tmp_path / "fresh")


@pytest.fixture(scope="module")
def run(trained, tmp_path_factory):
    """The run with scores, which no test changes; `n` is small so that scoring takes a second."""
    run = copied(trained, tmp_path_factory.mktemp("scored") / "run")
    evaluate(run, Scoring(n=300))
    return run


def value(rows, metric, sampler="prior", split=""):
    [row] = [r for r in rows if (r["metric"], r["sampler"]) == (metric, sampler) and split in ("", r["split"])]
    return row["value"]


def test_frechet_distances_have_closed_forms_and_need_two_images():
    """Of equal covariances the squared distance of means; of diagonal ones that of standard deviations."""
    x = torch.randn(500, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    shift = torch.arange(6, dtype=torch.float64)
    assert frechet_distance(x, x + shift) == pytest.approx(shift.square().sum().item(), rel=1e-9)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    corners = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 3)
    x = corners.repeat(4, 1)  # covariance is exactly diagonal
    s, t = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 0.5, 3.0])
    expected = len(x) / (len(x) - 1) * (s - t).square().sum().item()
    assert frechet_distance(x * s, x * t) == pytest.approx(expected, rel=1e-6)
    with pytest.raises(ValueError, match=says("two images or more", 1, 5)):
        frechet_distance(torch.zeros(1, 3), torch.zeros(5, 3))


class OfTorchFidelity(torch_fidelity.FeatureExtractorBase):
    """The digits' classifier as torch-fidelity wants it: uint8 N 3 H W in, a tuple of features out."""

    def __init__(self, name, features_list, feature_extractor_weights_path, **_):
        super().__init__(name, features_list)
        self.net = classifiers.read(Path(feature_extractor_weights_path))

    def forward(self, images):
        return (self.net.features(images.float() / 255),)

    @staticmethod
    def get_provided_features_list():
        return ("features",)

    @staticmethod
    def get_default_feature_layer_for_metric(metric):
        return "features"


def dataset_of(images):
    """uint8 3 H W images, as torch-fidelity takes them."""
    return torch.utils.data.Subset(images.expand(-1, 3, -1, -1), range(len(images)))


def test_scores_equal_torch_fidelitys_own_interface(digits):
    """The rows come from its parts, one pass of the extractor; `calculate_metrics` must say the same."""
    torch_fidelity.register_feature_extractor("classifier-of-digits", OfTorchFidelity)
    extractor = features.build("classifier", digits, "digits")
    a, b = digits.train.images[:300], 255 - digits.test.images[:300]
    found, reference = extractor(a), extractor(b)
    whole = torch_fidelity.calculate_metrics(
        input1=dataset_of(a), input2=dataset_of(b), feature_extractor="classifier-of-digits",
        feature_extractor_weights_path=str(paths.FEATURES / "digits.pt"), fid=True, kid=True, prc=True,
        kid_subsets=1, kid_subset_size=300, rng_seed=0, cuda=False, save_cpu_ram=True, cache=False, verbose=False,
    )  # fmt: skip
    assert frechet_distance(found, reference) == pytest.approx(whole["frechet_inception_distance"], rel=1e-4)
    kid = kernel_distance(found, reference)
    assert kid == pytest.approx(whole["kernel_inception_distance_mean"], rel=1e-4)
    assert precision_and_recall(found, reference) == {name: whole[name] for name in ("precision", "recall")}


def normal(n, d=5, seed=0, shift=0.0, dtype=torch.float64):
    """Features n D."""
    return shift + torch.randn(n, d, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def kid_by_hand(x, y):
    """The unbiased estimate, pair by pair."""

    def mean(a, b, but):
        pairs = [(p, q) for i, p in enumerate(a) for j, q in enumerate(b) if not (but and i == j)]
        return sum((sum(u * v for u, v in zip(p, q)) / len(p) + 1) ** 3 for p, q in pairs) / len(pairs)

    x, y = x.tolist(), y.tolist()
    return mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False)


@pytest.mark.parametrize(("n", "m", "block"), [(9, 9, 500), (7, 12, 500), (13, 6, 5), (2, 3, 1)])
def test_kid_is_that_of_a_double_loop(monkeypatch, n, m, block):
    monkeypatch.setattr(metrics, "BLOCK", block)
    x, y = normal(n), normal(m, seed=1, shift=0.7)
    assert kernel_distance(x, y) == pytest.approx(kid_by_hand(x, y), rel=1e-10)
    assert kernel_distance(x.float(), y.float()) == pytest.approx(kid_by_hand(x.float(), y.float()), rel=1e-10)


def test_kid_is_what_torch_fidelitys_random_subsets_estimate():
    """Their mean lies within its own standard error; of sets of which one is larger than a block."""
    x, y = normal(metrics.BLOCK + 77), normal(300, seed=1, shift=0.3)
    settings = {"kid_subsets": 400, "kid_subset_size": 60, "rng_seed": 0, "verbose": False}
    mean, deviation = kid_features_to_metric(x, y, **settings).values()
    error = deviation / 400**0.5
    assert abs(kernel_distance(x, y) - mean) < 4 * error
    assert error < 0.04 * mean


def test_kid_is_unbiased():
    """Of equal distributions it is zero in the mean, and as often negative; of others it is not."""
    found = np.array([kernel_distance(normal(20, seed=2 * i), normal(30, seed=2 * i + 1)) for i in range(400)])
    assert abs(found.mean()) < 4 * found.std() / 400**0.5
    assert 0.3 < (found < 0).mean() < 0.8
    others = [kernel_distance(normal(20, seed=2 * i), normal(30, seed=2 * i + 1, shift=0.5)) for i in range(100)]
    assert np.mean(others) > 10 * found.std() / 100**0.5


@pytest.mark.parametrize(("n", "m"), [(2_300, 150), (150, 2_300), (4, 9)])
def test_precision_and_recall_are_torch_fidelitys(n, m):
    """Of more rows than a chunk, too; and of points that coincide."""
    x, y = normal(n, dtype=torch.float32), normal(m, seed=1, shift=0.4, dtype=torch.float32)
    x[n // 2] = x[0]
    settings = {"prc_neighborhood": 3, "save_cpu_ram": True, "verbose": False}
    expected = prc_features_to_metric(x, y, **settings)
    assert precision_and_recall(x, y) == {name: expected[name] for name in ("precision", "recall")}
    assert n == 4 or 0.05 < expected["precision"] != expected["recall"] < 0.95
    assert precision_and_recall(x, y[:3]) == precision_and_recall(x[:3], y) == {}


def test_sharpness_is_scipys_laplace_filter_of_grey_and_falls_with_blur(monkeypatch, digits):
    monkeypatch.setattr(metrics, "CHUNK", 3)
    images = torch.randint(256, (7, 3, 9, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    inner = [ndimage.laplace(x.numpy().mean(axis=0) / 255)[1:-1, 1:-1] for x in images]  # no border
    assert sharpness(images) == pytest.approx(np.mean([np.var(x) for x in inner]), rel=1e-5)
    grey = images[:, :1]
    assert sharpness(grey.expand(-1, 3, -1, -1)) == pytest.approx(sharpness(grey), rel=1e-5)
    blurred = [torch.from_numpy(ndimage.gaussian_filter(digits.test.images[:9].numpy(), (0, 0, s, s))) for s in (1, 2)]
    assert sharpness(digits.test.images[:9]) > 5 * sharpness(blurred[0]) > 25 * sharpness(blurred[1]) > 0
    assert sharpness(torch.full((2, 1, 5, 5), 200, dtype=torch.uint8)) == 0


def test_rows_say_what_was_counted_and_with_which_weights_and_only_inceptions_are_called_fid(run):
    counted = {(r["metric"], r["sampler"]): (r["n_generated"], r["n_reference"]) for r in run.scores}
    assert counted["fd_classifier", "prior"] == (300, 1000)
    assert counted["fd_classifier", "reconstruction"] == (1000, 1000)
    assert counted["fd_classifier", "train_codes"] == (256, 1000)  # there are no more training images
    assert counted["fd_classifier", "real"] == (256, 1000)
    of_real = {"fd_classifier", "kid_classifier", "precision", "recall", "sharpness"}
    assert {m for m, s in counted if s == "prior"} == of_real | {"classifier_score", "ppl_classifier"}
    assert {m for m, s in counted if s == "real"} == of_real
    assert {s for m, s in counted if m == "sharpness"} == {"prior", "real", "reconstruction", "train_codes"}
    assert (counted["classifier_score", "prior"], counted["ppl_classifier", "prior"]) == ((300, 0), (300, 0))
    assert counted["perceptual_classifier", "reconstruction"] == (1000, 1000)
    assert {counted[f"{probe}_error", s] for probe in ("linear", "knn") for s in PROBED} == {(1000, 256)}
    assert {r["epoch"] for r in run.scores} == {3}
    about = {(r["split"], r["digest"]) for r in run.scores if r["features"]}
    assert about == {("test", files.sha256(paths.FEATURES / "digits.pt"))}
    assert not [metric for metric, _ in counted if "fid" in metric.replace("classifier", "")]
    assert [distance_name(kind, "inception") for kind in ("fd", "kid")] == ["fid", "kid"]


def test_scores_are_those_of_the_images_themselves(run, digits):
    """An independent path: the trained nets, the images and the features, put together here."""
    net, extractor = load(run.directory), features.build("classifier", digits, "digits")
    prior = torch.nn.functional.normalize(torch.randn(300, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    samples = (net.decode(prior) * 255).round().to(torch.uint8)
    reference = extractor(digits.test.images).double()
    x = extractor(samples).double()
    root = torch.linalg.eigvals(torch.cov(x.T) @ torch.cov(reference.T)).sqrt().sum().real
    expected = (
        (x.mean(0) - reference.mean(0)).square().sum() + (torch.cov(x.T) + torch.cov(reference.T)).trace() - 2 * root
    )
    assert value(run.scores, "fd_classifier") == pytest.approx(expected.item(), rel=1e-4)
    real = extractor(digits.train.images[:256])
    assert value(run.scores, "fd_classifier", "real") == pytest.approx(frechet_distance(real, reference), rel=1e-6)
    assert value(run.scores, "kid_classifier", "real") == pytest.approx(kernel_distance(real, reference), rel=1e-6)
    for sampler, subject in (("prior", samples), ("real", digits.train.images[:256])):
        assert value(run.scores, "sharpness", sampler) == pytest.approx(sharpness(subject), rel=1e-6)
    decoded = as_uint8(net.decode(net.encode(digits.train.images[:256])))
    expected = frechet_distance(extractor(decoded), reference)
    assert value(run.scores, "fd_classifier", "train_codes") == pytest.approx(expected, rel=1e-4)
    x = digits.test.images.float() / 255
    error = (net.decode(net.encode(x)) - x).square().sum() / len(x)
    assert value(run.scores, "reconstruction", "reconstruction", "test") == pytest.approx(error.item(), rel=1e-4)
    codes = net.encode(digits.train.images[:256])
    shares = np.linalg.svd(codes.double().numpy(), compute_uv=False) ** 2
    rank = np.exp(-(shares / shares.sum() * np.log(shares / shares.sum())).sum())
    assert value(run.scores, "effective_rank", "train_codes") == pytest.approx(rank, rel=1e-4)
    with np.load(run.directory / "latents.npz") as found:
        assert found["singular_values"].shape == found["uniform"].shape == (8,)
        assert found["uniform"].mean() == pytest.approx(np.sqrt(256 / 8), rel=0.02)
    assert value(run.scores, "uniformity", "train_codes") >= metrics.uniform_uniformity(8) - 0.05


def test_latents_that_are_the_same_for_all_images_use_no_direction():
    """A VAE's collapse, which is a result: its scores must be numbers."""
    found = [metrics.effective_rank(torch.tensor(values)) for values in ([0.0, 0.0], [3.0, 0.0], [2.0, 2.0])]
    assert found == pytest.approx([0, 1, 2])


def test_more_training_codes_are_decoded_and_samples_drawn_than_are_looked_at(run, fresh, monkeypatch):
    monkeypatch.setattr(scoring_module, "LATENTS", 100)
    monkeypatch.setattr(perception, "PAIRS", 50)
    rows = evaluate(fresh, Scoring(n=300))
    one, other = (value(found, "fd_classifier", "train_codes") for found in (rows, run.scores))
    assert one == pytest.approx(other, rel=1e-4)
    of_all = [value(found, "linear_error", "latents") for found in (rows, run.scores)]
    assert of_all[0] == pytest.approx(of_all[1], abs=0.002)  # probes take all training latents
    counted = {row["metric"]: row["n_generated"] for row in rows}
    assert (counted["effective_rank"], counted["ppl_classifier"]) == (100, 50)


def test_another_evaluation_adds_rows_and_changes_none(run, tmp_path):
    copy = copied(run, tmp_path / "copy")
    first = copy.scores
    second = evaluate(copy, Scoring(n=200))
    assert copy.scores[: len(first)] == first
    assert {row["n_generated"] for row in second if row["sampler"] == "prior"} == {200}  # its own rows only
    assert len(second) == len(first)
    assert evaluate(copy, Scoring(n=300)) == first
    assert {row["seed"] for row in evaluate(copy, Scoring(n=200), seed=1)} == {1}
    early = evaluate(copy, Scoring(n=200), epoch=1)
    assert {row["epoch"] for row in early} == {1}
    assert not {row["metric"] for row in early} & NEW
    assert (copy.directory / "samples-epoch-0001.png").exists()
    assert (copy.directory / "samples.png").read_bytes() == (run.directory / "samples.png").read_bytes()
    fields = ("metric", "split", "n_reference", "epoch", "seed")
    rows = {tuple(row[name] for name in fields): row for row in copy.scores if row["sampler"] == "pca"}
    kinds = [("reconstruction", "train", 256), ("linear_error", "test", 256), ("knn_error", "test", 256)]
    assert rows.keys() == {(*kind, 3, seed) for kind in kinds for seed in (0, 1)}  # of the last weights alone
    assert len(rows) == len([row for row in copy.scores if row["sampler"] == "pca"])  # and once
    copy.verify()


@pytest.mark.parametrize("last", ["latents.npz", "reconstructions.png", "manifest.json", "scores.json"])
def test_an_evaluation_that_dies_is_made_again_whole(run, fresh, monkeypatch, last):
    write = files.write

    def dying(path, content):
        if path.name == last:
            raise OSError("killed")
        write(path, content)

    monkeypatch.setattr(files, "write", dying)
    with pytest.raises(OSError, match="killed"):
        evaluate(fresh, Scoring(n=300))
    monkeypatch.setattr(files, "write", write)
    evaluate(fresh, Scoring(n=300))
    fresh.verify()
    for path in run.directory.iterdir():
        if path.suffix in (".png", ".npz") or path.name in ("scores.json", "manifest.json"):
            assert path.read_bytes() == (fresh.directory / path.name).read_bytes(), path.name


def test_an_evaluation_blesses_no_damaged_record(fresh):
    lines = (fresh.directory / "metrics.jsonl").read_text("utf-8").splitlines(keepends=True)
    (fresh.directory / "metrics.jsonl").write_text("".join(lines[1:]), "utf-8")
    with pytest.raises(ValueError, match=says("metrics.jsonl is damaged")):
        evaluate(fresh, Scoring(n=300))
    with pytest.raises(ValueError, match=says("manifest", "metrics.jsonl", "restore")):
        fresh.verify()
    assert not (fresh.directory / "scores.json").exists()


def test_scores_are_computed_with_the_recorded_threads(fresh, monkeypatch):
    """One, though torch has two by then."""
    used, score = [], score_latents
    monkeypatch.setattr(scoring_module, "score_latents", lambda *a: used.append(torch.get_num_threads()) or score(*a))
    with use_threads(2):
        evaluate(fresh, Scoring(features="none"))
        assert (fresh.environment["threads"], used, torch.get_num_threads()) == (1, [1], 2)


def test_grids_hold_the_images_that_they_say_and_interpolations_end_at_reconstructions(run, digits):
    net = load(run.directory)
    samples = figures.tiles(run, "samples.png").flatten(0, 1)
    assert torch.equal(samples, (net.sample(40, seed=0) * 255).round().to(torch.uint8))
    pairs = figures.tiles(run, "reconstructions.png").flatten(0, 1)
    assert torch.equal(pairs[::2], digits.test.images[:16])
    rows = figures.tiles(run, "interpolations.png")
    assert rows.shape[:2] == (4, 10)
    assert torch.equal(torch.stack([rows[:, 0], rows[:, -1]]).flatten(0, 1), digits.test.images[:8])
    near = figures.tiles(run, "neighbours.png").flatten(0, 1)
    for sample, neighbour in zip(samples[:5].int(), near.int()):
        distances = (digits.train.images[:256].int() - sample).square().sum((1, 2, 3))
        assert (neighbour - sample).square().sum() == distances.min()
    few = grids(net, digits, 0, "faces10k")  # whose images may not be passed on
    assert set(grids(net, digits, 0)) - set(few) == {"neighbours.png"}
    assert Image.open(io.BytesIO(few["reconstructions.png"])).size == (8 * 16, 2 * 16)
    x0, x1 = digits.test.images[:2], digits.test.images[2:4]
    between = net.interpolate(x0, x1, 5)
    assert between.shape == (2, 5, 1, 16, 16)
    assert torch.allclose(between[:, 0], net.decode(net.encode(x0)), atol=1e-4)
    middle = torch.nn.functional.normalize(net.encode(x0) + net.encode(x1), dim=1)
    assert torch.allclose(between[:, 2], net.decode(middle), atol=1e-4)


def test_images_are_rounded_and_survive_the_png_in_colour_and_the_nearest_is_the_brute_force_minimum():
    x = torch.tensor([-0.1, 0.0, 0.5 / 255 + 1e-4, 0.999, 1.0, 1.2])
    assert as_uint8(x).tolist() == [0, 0, 1, 255, 255, 255]
    images = torch.randint(0, 256, (6, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pixels = np.asarray(Image.open(io.BytesIO(_png(images, 3))))
    assert np.array_equal(pixels[4:8, 8:12], images[5].permute(1, 2, 0).numpy())
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randint(0, 256, (n, 1, 3, 3), dtype=torch.uint8, generator=generator) for n in (5, 6_000))
    expected = [min(range(6_000), key=lambda j, i=i: int((a[i].int() - b[j].int()).square().sum())) for i in range(5)]
    assert nearest(a, b).tolist() == expected


@pytest.fixture
def passed(monkeypatch):
    """How many images each call of an extractor takes."""
    counts, extract = [], features.Extractor.__call__

    def counting(self, images):
        counts.append(len(images))
        return extract(self, images)

    monkeypatch.setattr(features.Extractor, "__call__", counting)
    return counts


def test_reference_features_are_kept_under_data_split_n_and_digest(digits, scratch, passed):
    extractor, images = features.build("classifier", digits, "digits"), digits.test.images
    first = features.cached_features(extractor, images[:20], "aa" * 32, "test")
    assert torch.equal(features.cached_features(extractor, images[:20], "aa" * 32, "test"), first)
    assert passed == [20]
    features.cached_features(extractor, images[:30], "aa" * 32, "test")
    features.cached_features(extractor, images[:20], "bb" * 32, "test")
    features.cached_features(extractor, images[:20], "aa" * 32, "train")
    features.cached_features(extractor._replace(digest="f" * 64), images[:20], "aa" * 32, "test")
    assert passed == [20, 30, 20, 20, 20]


def test_a_second_evaluation_recomputes_no_scores_of_real_images(fresh, tmp_path, passed, monkeypatch):
    """Of another run on the same images: only what is generated passes through nets and extractor, each image once."""
    encoded, encode = [], generate.Autoencoder.encode
    monkeypatch.setattr(generate.Autoencoder, "encode", lambda self, x: encoded.append(len(x)) or encode(self, x))
    other = train(tiny(seed=1), runs=tmp_path)
    one = evaluate(fresh, Scoring(n=210))
    first = len(passed)
    del encoded[:]
    two = evaluate(other, Scoring(n=210))
    assert first <= 5
    assert passed[first:] == [210, 1000, 210]  # samples, reconstructions of the test split, decoded training codes
    assert sum(encoded) < 256 + 2 * 1000 + 100  # training images; test images, also for `perceptual`; grids
    floors = [[row for row in rows if row["sampler"] == "real"] for rows in (one, two)]
    assert floors[0] == floors[1]
    assert value(one, "fd_classifier") != value(two, "fd_classifier")


def test_the_scores_of_real_images_are_kept_under_data_n_and_digest(digits, scratch, passed):
    extractor = features.build("classifier", digits, "digits")
    few = digits._replace(test=Split(digits.test.images[:30], digits.test.labels[:30]))

    def floor(n=20, data=few, extractor=extractor):
        before = len(passed)
        rows, found = scoring_module.score_images(extractor, {"real": data.train.images[:n]}, data)
        assert found == {}
        return rows, passed[before:]

    rows, counts = floor()
    assert counts == [30, 20]
    real, reference = (extractor(part) for part in (digits.train.images[:20], few.test.images))
    assert value(rows, "fd_classifier", "real") == pytest.approx(frechet_distance(real, reference), rel=1e-9)
    assert value(rows, "kid_classifier", "real") == kernel_distance(real, reference)
    assert floor() == (rows, [])
    assert floor(n=25)[1] == [25]
    assert floor(data=few._replace(fingerprint="bb" * 32))[1] == [30, 20]
    assert floor(extractor=extractor._replace(digest="f" * 64))[1] == [30, 20]
    [path] = (paths.CACHE / "features").glob(
        f"{digits.fingerprint[:16]}-floor-20-classifier-{extractor.digest[:16]}.pt"
    )
    path.write_bytes(path.read_bytes()[:-100])
    assert floor() == (rows, [20])
    assert floor() == (rows, [])


def test_an_evaluation_of_another_n_is_made_though_some_scores_stop_at_fewer_images(fresh, monkeypatch):
    """The row of the path length, whose n is at most `PAIRS`, belongs to evaluations of every larger n."""
    monkeypatch.setattr(perception, "PAIRS", 50)
    evaluate(fresh, Scoring(n=60))
    assert [scored(fresh, Scoring(n=n)) for n in (50, 60, 70)] == [False, True, False]
    for n in (70, 50):
        rows = evaluate(fresh, Scoring(n=n))
        assert {
            row["n_generated"] for row in rows if (row["metric"], row["sampler"]) == ("fd_classifier", "prior")
        } == {n}
        assert [row["n_generated"] for row in rows if row["metric"] == "ppl_classifier"] == [50]


def test_the_committed_classifier_is_what_its_record_says_and_reads_larger_images(digits):
    """Digits of 32 pixels, averaged down to 16, as Inception's to 299, are nearly the ones it was trained on."""
    path = paths.FEATURES / "digits.pt"
    record, net = json.loads(path.with_suffix(".json").read_text("utf-8")), classifiers.read(path)
    guesses = net(digits.test.images.float() / 255).argmax(1)
    assert (guesses == digits.test.labels).double().mean().item() == pytest.approx(record["test_accuracy"], abs=0.002)
    assert record["test_accuracy"] >= 0.96
    assert record["fingerprint"] == digits.fingerprint
    assert path.stat().st_size < 300_000
    large = datasets.load(RunConfig(size=32)).test
    assert (net(large.images.float() / 255).argmax(1) == large.labels).double().mean() > 0.9


def test_a_damaged_classifier_is_refused(digits, monkeypatch, tmp_path):
    shutil.copytree(paths.FEATURES, tmp_path, dirs_exist_ok=True)
    content = bytearray((tmp_path / "digits.pt").read_bytes())
    content[5_000] ^= 1
    (tmp_path / "digits.pt").write_bytes(content)
    monkeypatch.setattr(paths, "FEATURES", tmp_path)
    with pytest.raises(ValueError, match=says("digits.pt is damaged", "restore it with git")):
        features.build("classifier", digits, "digits")
    (tmp_path / "digits.json").unlink()
    said = r"digits.json, the record of digits.pt, is missing; restore it with git"
    with pytest.raises(FileNotFoundError, match=said):
        features.build("classifier", digits, "digits")


def test_classifier_features_are_the_same_for_grey_and_for_three_equal_channels(digits):
    extractor = features.build("classifier", digits, "digits")
    grey = extractor(digits.test.images[:10])
    assert torch.equal(extractor(digits.test.images[:10].expand(-1, 3, -1, -1)), grey)
    with pytest.raises(ValueError, match="uint8"):
        extractor(digits.test.images[:10].float())


def test_a_labelled_folder_gets_a_classifier_of_its_own_once_and_of_all_its_images(scratch, monkeypatch):
    for split, count in (("train", 12), ("test", 4)):
        for shade, name in ((40, "dark"), (200, "light")):
            for i in range(count):
                path = picture(scratch / "shades" / split / name / f"{i}.png", size=(16, 16), seed=i + count)
                Image.fromarray(np.asarray(Image.open(path)) // 8 + np.uint8(shade)).save(path)
    config = tiny(dataset="folder", root=str(scratch / "shades"), limit=8, batch_size=8, epochs=1)
    run = train(config, runs=scratch)
    monkeypatch.setitem(classifiers.TRAINING, "steps", 40)
    monkeypatch.setitem(classifiers.TRAINING, "batch_size", 8)
    rows = evaluate(run, Scoring(n=50))
    record = files.read_tensors(next((paths.CACHE / "features").glob("classifier-*.pt")))["record"]
    assert (record["n_train"], record["test_accuracy"]) == (24, 1.0)
    monkeypatch.setattr(classifiers, "train", None)
    whole = datasets.load(replace(config, limit=0))
    extractor = features.build("classifier", whole, "folder")
    assert {row["digest"] for row in rows if row["features"]} == {extractor.digest}
    assert extractor(whole.test.images).shape == (8, 64)


def test_a_set_without_labels_is_scored_without_distances(scratch, monkeypatch):
    for i in range(40):
        picture(scratch / "plain" / f"{i}.png", size=(16, 16), seed=i)
    config = tiny(dataset="folder", root=str(scratch / "plain"), limit=0, batch_size=8, epochs=1)
    run = train(config, runs=scratch)
    plain = {"effective_rank", "uniformity", "nearest_cosine", "reconstruction"}
    assert {row["metric"] for row in evaluate(run)} == plain
    assert evaluate(run) == run.scores
    with np.load(run.directory / "latents.npz") as found:
        assert found.files == ["singular_values", "uniform"]
    assert figures.tiles(run, "samples.png").shape == (5, 8, 3, 16, 16)
    with pytest.raises(ValueError, match=says("class labels", "'imagenet'", "'inception'")):
        evaluate(run, Scoring(features="classifier"))
    monkeypatch.setattr(generate, "mixture", None)  # is not even fitted
    assert evaluate(run, Scoring(sampler="gmm10")) == []
    assert scored(run, Scoring(sampler="gmm10"))


@pytest.mark.parametrize("count", [1, 3, 10])
def test_a_handful_of_test_images_is_enough(scratch, monkeypatch, count):
    for split, n in (("train", 8), ("test", count)):
        for i in range(n):
            picture(scratch / "few" / split / "ab"[i % 2] / f"{i}.png", size=(16, 16), seed=i + 10 * (split == "test"))
    config = tiny(dataset="folder", root=str(scratch / "few"), limit=0, batch_size=4, epochs=1)
    run = train(config, runs=scratch)
    monkeypatch.setitem(classifiers.TRAINING, "steps", 5)
    rows = evaluate(run, Scoring(n=50))
    assert any(row["features"] for row in rows) == (count > 1)  # one image has no covariance
    assert figures.tiles(run, "reconstructions.png").shape[:2] == (4, 8)
    assert figures.tiles(run, "interpolations.png").shape[:2] == (4, 10)


def test_what_cannot_be_scored_is_refused(tmp_path, run, monkeypatch):
    with pytest.raises(ValueError, match="is not finished"):
        evaluate(Run(tmp_path, tiny()))
    with pytest.raises(ValueError, match=says("epoch = -1", "at least 0")):
        evaluate(run, epoch=-1)
    real = datasets.load(run.config)
    monkeypatch.setattr(datasets, "load", lambda config: real._replace(fingerprint="f" * 64))
    with pytest.raises(RunMismatch, match=says("other pixels", real.fingerprint[:12], "f" * 12)):
        evaluate(run, Scoring(n=123))


def test_what_would_fail_after_training_fails_before_it(digits):
    one = digits._replace(test=Split(digits.test.images[:1], digits.test.labels[:1]))
    with pytest.raises(ValueError, match=says("'classifier'", "one test image", "'none'")):
        features.check("classifier", one)
    with pytest.raises(ValueError, match=says("/a.pth", "'inception'", "features = 'classifier'")):
        features.check("classifier", digits, "/a.pth")
    for name in ("", "none", "classifier"):
        features.check(name, digits)
    few = datasets.load(tiny(limit=9))
    check_scoring(few)
    with pytest.raises(ValueError, match=says(10, 9)):
        check_scoring(few, Scoring(sampler="gmm10"))


PLACED = {
    "inception": ("weights-inception-2015-12-05-6726825d.pth", "6726825d"),
    "vgg16": ("vgg16-397923af.pth", "397923af"),
    "clip-vit-b-32": ("clip-vit-b-32-40d36571", "40d36571"),
}


@pytest.mark.parametrize("name", PLACED)
def test_missing_and_wrong_weights_say_what_to_place_where(digits, tmp_path, monkeypatch, name):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file, digest = PLACED[name]
    with pytest.raises(FileNotFoundError, match=says(name, "https://", file, tmp_path, "checkpoints", "with labels")):
        features.build(name, digits, "digits")
    with pytest.raises(FileNotFoundError, match=says("nowhere.pth", "does not exist", file)):
        features.build(name, digits, "digits", weights=tmp_path / "nowhere.pth")
    assert not list(tmp_path.rglob("*.pt*"))
    (tmp_path / "wrong.pth").write_bytes(b"anything")
    with pytest.raises(ValueError, match=says("wrong.pth", name, "ee087417", digest)):  # sha256 of "anything"
        features.build(name, digits, "digits", weights=tmp_path / "wrong.pth")


def inception(monkeypatch, path):
    """torch-fidelity's net with random weights, and its file."""
    module = torch_fidelity.feature_extractor_inceptionv3
    with monkeypatch.context() as patch:
        patch.setattr(module, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(module.FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        net = module.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    torch.save(net.state_dict(), path)
    return lambda x: net.eval()(x)[0]


class SmallVGG(nn.Module):
    """VGG16's outline; the real one has 528 MB."""

    def __init__(self, **_):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 2, 16, stride=16), nn.Flatten())
        self.classifier = nn.Sequential(*(nn.Linear(392, 392) for _ in range(7)))

    def forward(self, x):
        return self.classifier(self.features(x))


def vgg16(monkeypatch, path):
    monkeypatch.setattr(torchvision.models, "vgg16", SmallVGG)
    net = SmallVGG()
    torch.save(net.state_dict(), path)

    def features(x):
        mean, sd = (torch.tensor(values)[:, None, None] for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        return net.classifier[:4](net.features((interpolated(x, 224) / 255 - mean) / sd)).relu()

    return features


def clip(monkeypatch, path):
    """A small CLIP in OpenAI's format, a TorchScript archive."""
    net = torch_fidelity.feature_extractor_clip.CLIPVisual(16, 64, 1, 64, 32).eval()
    nn.init.normal_(net.visual.proj)
    whole = nn.Module()
    whole.visual, whole.text_projection = net.visual, nn.Parameter(torch.zeros(8, 16))
    whole.forward = lambda x: x
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(whole, torch.zeros(1)).save(path)

    def features(x):
        mean = torch.tensor((0.48145466, 0.4578275, 0.40821073))[:, None, None]
        sd = torch.tensor((0.26862954, 0.26130258, 0.27577711))[:, None, None]
        return net.visual((interpolated(x, 64) / 255 - mean) / sd)

    return features


def interpolated(x: torch.Tensor, side: int) -> torch.Tensor:
    """Bilinear, on the grid of TensorFlow 1: pixel i lies at i times the ratio of sizes."""
    at = torch.arange(side) * x.shape[-1] / side
    low = at.floor().long()
    high, part = (low + 1).clamp(max=x.shape[-1] - 1), at - low
    x = x.float()
    x = x[..., low, :] * (1 - part)[:, None] + x[..., high, :] * part[:, None]
    return x[..., low] * (1 - part) + x[..., high] * part


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
@pytest.mark.parametrize(("name", "made"), [("inception", inception), ("vgg16", vgg16), ("clip-vit-b-32", clip)])
def test_features_are_taken_from_a_placed_file(digits, tmp_path, monkeypatch, name, made):
    """Random weights in the real file format, under a digest of their own."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    torch.manual_seed(0)
    path = tmp_path / "hub" / "checkpoints" / features.NETS[name].file
    path.parent.mkdir(parents=True)
    expected = made(monkeypatch, path)
    monkeypatch.setitem(features.NETS, name, features.NETS[name]._replace(digits=files.sha256(path)[:8]))
    extractor = features.build(name, digits, "digits")
    x = digits.test.images[:3]
    with torch.no_grad():
        found = extractor(x)
        assert torch.allclose(found, expected(x.expand(-1, 3, -1, -1)), rtol=1e-3, atol=5e-3)  # CLIP: float16
    assert extractor.digest == files.sha256(path)
    few = digits._replace(test=digits.test._replace(images=x))
    rows, _ = scoring_module.score_images(extractor, {"prior": x.flip(0)}, few)
    called = {row["metric"] for row in rows}
    assert called == {"sharpness", *(["fid", "kid"] if name == "inception" else [f"fd_{name}", f"kid_{name}"])}
    assert bool(extractor.logits) == (name == "inception")
    if extractor.logits:
        [logits] = torch_fidelity.feature_extractor_inceptionv3.FeatureExtractorInceptionV3(
            "inception-v3-compat", ["logits_unbiased"], feature_extractor_weights_path=str(path)
        )(x.expand(-1, 3, -1, -1))
        assert torch.allclose(extractor.logits(found), logits, rtol=1e-3, atol=1e-3)
        rows, shares = perception.score(None, x, extractor, {"prior": found, "reconstruction": found}, 3, 0)
        scores = {(row["metric"], row["sampler"], row["features"], row["digest"]): row["value"] for row in rows}
        kinds = [("inception_score", sampler, name, extractor.digest) for sampler in ("prior", "reconstruction")]
        assert scores == dict.fromkeys(kinds, pytest.approx(class_score(logits), rel=1e-3))
        assert shares == {}


def test_a_mixture_has_the_moments_of_what_it_was_fitted_to():
    """What expectation maximisation keeps, whatever it finds: overall mean, and covariance (but for 1e-6)."""
    generator = torch.Generator().manual_seed(0)
    sides = torch.rand(600, 1, generator=generator) > 0.5
    z = torch.randn(600, 3, generator=generator) * torch.tensor([0.2, 1.0, 3.0]) + 4 * sides
    points = generate.mixture(z, 40_000, seed=1)
    assert points.shape == (40_000, 3)
    assert points.dtype == torch.float32
    assert torch.allclose(points.mean(dim=0), z.mean(dim=0), atol=0.1)
    assert torch.allclose(torch.cov(points.T), torch.cov(z.T), rtol=0.05, atol=0.1)
    assert torch.equal(points, generate.mixture(z, 40_000, seed=1))
    assert not torch.equal(points, generate.mixture(z, 40_000, seed=2))


def test_a_mixture_bridges_no_gap_between_clusters_and_says_what_it_cannot_fit():
    sides = 10 * (torch.arange(400) % 2).unsqueeze(1)
    z = torch.randn(400, 2, generator=torch.Generator().manual_seed(0)) * 0.1 + sides
    between = generate.mixture(z, 2_000, seed=0)[:, 0]
    assert ((between > 2) & (between < 8)).sum() == 0
    with pytest.raises(ValueError, match=says(10, 9)):
        generate.mixture(torch.randn(9, 2), 5, seed=0)
    with pytest.raises(ValueError, match=says("20 latents of d 3", "score the prior alone")):
        generate.mixture(torch.full((20, 3), float("nan")), 5, seed=0)


def test_samples_of_a_mixture_are_scored_beside_those_of_the_prior(run, digits, tmp_path, monkeypatch):
    other = copied(run, tmp_path / "run")
    of_prior, before, files_before = evaluate(other, Scoring(n=300)), other.scores, other.manifest["files"]
    rows = evaluate(other, Scoring(n=300, sampler="gmm10"))
    assert {row["sampler"] for row in rows} == {"gmm10"}
    assert {row["metric"] for row in rows} == {"fd_classifier", "kid_classifier", "precision", "recall", "sharpness"}
    assert {(row["n_generated"], row["n_reference"]) for row in rows} == {(300, 1000)}
    assert other.scores == [*before, *rows]
    changed = {name for name, digest in other.manifest["files"].items() if files_before.get(name) != digest}
    assert changed == {"scores.json"}
    codes = mixture_latents(load(other.directory), digits.train.images[:256], 50, seed=0)
    assert torch.allclose(codes.norm(dim=1), torch.ones(50), atol=1e-5)  # on the sphere, where codes are
    monkeypatch.setattr(generate, "load", None)  # what is there needs neither weights nor data
    monkeypatch.setattr(datasets, "load", None)
    assert evaluate(other, Scoring(n=300, sampler="gmm10")) == rows
    assert evaluate(other, Scoring(n=300)) == of_prior
    assert frame([other])["fd_gmm"][0] == value(rows, "fd_classifier", "gmm10")


@pytest.mark.parametrize("method", [VAE("learned"), WAEMMD(), TwoStageVAE(first_stage=0.5, second_width=16)], ids=str)
def test_methods_off_the_sphere_are_scored_there_and_interpolate_along_lines(method, digits, tmp_path):
    run = train(tiny(objective=method, epochs=2), runs=tmp_path)
    rows = evaluate(run, Scoring(n=300))
    assert all(np.isfinite(row["value"]) for row in rows)
    autoencoder = load(run.directory)
    x0, x1 = digits.test.images[:3], digits.test.images[3:6]
    z0, z1 = autoencoder.encode(x0), autoencoder.encode(x1)
    middle = autoencoder.interpolate(x0, x1, 5)[:, 2]
    assert torch.allclose(middle, autoencoder.decode((z0 + z1) / 2), atol=1e-5)
    unit = torch.nn.functional.normalize(autoencoder.encode(digits.train.images[:256]), dim=1)  # all it was trained on
    assert value(rows, "uniformity", "train_codes") == pytest.approx(metrics.uniformity(unit), abs=1e-4)
    codes = mixture_latents(autoencoder, digits.train.images[:256], 50, seed=0)
    assert (codes.norm(dim=1) - 1).abs().min() > 0.1


@pytest.mark.parametrize("count", [30, 400])  # fewer images than values, and more
def test_the_principal_components_leave_what_scikit_learns_leave(count):
    from sklearn.decomposition import PCA

    images = torch.randint(256, (count, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    variances, x = pca_variances(images), images.flatten(1).double().numpy() / 255
    assert len(variances) == min(count, 192)
    for d in (2, 16):
        pca = PCA(d, svd_solver="full").fit(x)
        error = ((pca.inverse_transform(pca.transform(x)) - x) ** 2).sum(axis=1).mean()
        assert variances[d:].sum().item() == pytest.approx(error, rel=1e-10)


def test_all_training_images_are_reconstructed_and_held_against_principal_components(run, digits, monkeypatch):
    """The run's own images: 256, of which `score` takes a part."""
    monkeypatch.setattr(scoring_module, "LATENTS", 100)
    autoencoder, dataset = load(run.directory), datasets.load(run.config)
    error, pca = (row["value"] for row in score_training(autoencoder, dataset))
    x = dataset.train.images.float() / 255
    x_hat = autoencoder.decode(autoencoder.encode(x))
    assert error == pytest.approx(((x_hat - x) ** 2).sum().item() / 256, rel=1e-5)
    variances = pca_variances(dataset.train.images)
    assert pca == pytest.approx(variances[8:].sum().item(), rel=1e-8)  # d is 8
    monkeypatch.setattr(scoring_module, "LINEAR", 255)
    assert [row["sampler"] for row in score_training(autoencoder, dataset)] == ["reconstruction"]


@pytest.mark.parametrize(("n", "splits"), [(700, 1), (2_500, 2)])  # parts of at least 1,000 images
def test_a_class_score_counts_the_classes_of_certain_images_and_equals_its_formula(n, splits):
    assert class_score(torch.ones(n, 10)) == pytest.approx(1, rel=1e-12)
    certain = 100.0 * torch.eye(10)[torch.arange(n) % 10]
    assert class_score(certain) == pytest.approx(10, rel=2e-3)
    logits = torch.randn(n, 7, generator=torch.Generator().manual_seed(0)).double()
    p = np.exp(logits.numpy()) / np.exp(logits.numpy()).sum(axis=1, keepdims=True)
    parts = np.array_split(p[np.random.RandomState(2020).permutation(n)], splits)
    divergences = [(part * np.log(part / part.mean(axis=0))).sum(axis=1).mean() for part in parts]
    assert class_score(logits) == pytest.approx(np.exp(divergences).mean(), rel=1e-9)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_classifiers_maps_are_what_its_four_activations_give(digits, channels):
    net, seen = classifiers.read(paths.FEATURES / "digits.pt"), []
    for layer in net.trunk:
        if isinstance(layer, nn.ReLU):
            layer.register_forward_hook(lambda *given: seen.append(given[-1].clone()))
    x = datasets.load(RunConfig(size=32)).test.images[:5].expand(-1, channels, -1, -1) / 255
    features = net.features(x)
    maps = net.maps(x)
    assert [tuple(found.shape[1:]) for found in maps] == [(24, 16, 16), (40, 8, 8), (56, 4, 4), (64, 4, 4)]
    assert all(torch.equal(a, b) for a, b in zip(maps, seen[:4], strict=True))
    assert torch.allclose(maps[-1].mean(dim=(2, 3)), features, atol=1e-5)


def two_maps(x):
    """Of images 2 x 4 x 4: themselves, and a coarser one with places that are all zero."""
    return [x, (x[..., ::2, ::2] - 0.5).relu()]


def looped(x, y):
    """LPIPS's form on `two_maps`, place by place."""
    total = 0.0
    for a, b in zip(two_maps(x), two_maps(y)):
        distances = []
        for i in range(a.shape[1]):
            for j in range(a.shape[2]):
                u, v = (place / max(place.norm().item(), 1e-12) for place in (a[:, i, j], b[:, i, j]))
                distances.append(sum((p - q) ** 2 for p, q in zip(u.tolist(), v.tolist())))
        total += sum(distances) / len(distances)
    return total


def test_perceptual_distances_are_those_of_loops_over_the_maps():
    x, y = torch.randint(256, (2, 300, 2, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

    def distance(x, y):
        decoder = SimpleNamespace(reconstruct=lambda part: y[: len(part)] / 255)
        return reconstruction_distance(decoder, x, two_maps)

    total, (a, b) = 0.0, (two_maps(image[:1] / 255)[-1][0] for image in (x, y))
    for p, q in zip(a.flatten().tolist(), b.flatten().tolist()):
        total += (p - q) ** 2
    assert distance(x[:1], y[:1]) == pytest.approx(total / (2 * 2 * 2), rel=1e-5)
    assert distance(y[:7], x[:7]) == pytest.approx(distance(x[:7], y[:7]), rel=1e-6)
    assert distance(x[:7], x[:7]) == 0
    of_each = [distance(x[i : i + 1], y[i : i + 1]) for i in range(250)]  # a whole part, and 50 of the next one
    assert distance(x, y) == pytest.approx(
        (sum(of_each) + sum(distance(x[i:][:1], y[i - 250 :]) for i in range(250, 300))) / 300
    )
    assert layer_distance(x[:4] / 255, x[:4] / 255, two_maps).tolist() == [0] * 4
    expected = [looped(a, b) for a, b in zip(x[:4] / 255, y[:4] / 255)]
    assert layer_distance(x[:4] / 255, y[:4] / 255, two_maps).tolist() == pytest.approx(expected, rel=1e-5)


def squared(x, y):
    return (x - y).square().flatten(1).sum(dim=1)


def decoder(decode, spherical=False):
    """A stand-in for a trained run, in float64, with normal or spherical latents of 6 dimensions."""

    def prior(n, generator):
        z = torch.randn(n, 6, generator=generator)
        return nn.functional.normalize(z, dim=1) if spherical else z

    return SimpleNamespace(objective=SimpleNamespace(prior=prior), decode=decode, spherical=spherical)


def test_the_path_length_of_a_linear_decoder_has_a_closed_form():
    """The mean of |W (z1 - z0)|^2 over pairs of normal latents is 2 tr(W^T W)."""
    w = torch.randn(10, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    found = path_length(decoder(lambda z: z @ w.T), squared, 40_000, seed=0)
    assert found == pytest.approx(2 * w.square().sum().item(), rel=0.02)
    assert found != path_length(decoder(lambda z: z @ w.T), squared, 40_000, seed=1)
    assert path_length(decoder(lambda z: torch.ones(len(z), 3)), squared, 10, seed=0) == 0


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")  # jvp's own
@pytest.mark.parametrize("spherical", [False, True])
def test_path_lengths_are_squared_speeds_along_the_methods_own_path(spherical):
    """Against derivatives: of a curved decoder along straight lines, or along their projections on the sphere."""
    w = torch.randn(10, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    net, n, generator = decoder(lambda z: torch.sin(z @ w.T), spherical), 300, torch.Generator().manual_seed(5)
    z0, z1 = net.objective.prior(2 * n, generator).double().chunk(2)
    t = torch.rand(n, 1, generator=generator, dtype=torch.float64)

    def along(t):
        z = (1 - t) * z0 + t * z1
        return net.decode(z / z.norm(dim=1, keepdim=True) if spherical else z)

    _, speed = torch.func.jvp(along, (t,), (torch.ones_like(t),))
    assert path_length(net, squared, n, seed=5) == pytest.approx(speed.square().sum(dim=1).mean().item(), rel=1e-3)


def labelled(train, labels, test, truth):
    """A dataset of images 1 x 1 x d in uint8, with a fingerprint of its own."""
    splits = [Split(x.to(torch.uint8)[:, None, None], torch.as_tensor(y)) for x, y in ((train, labels), (test, truth))]
    return SimpleNamespace(train=splits[0], test=splits[1], fingerprint="ab" * 32)


def blobs(n, spread, seed):
    """n points around 10 centres in 8 dimensions, the last of which is constant; and their centres."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(10, 8, generator=torch.Generator().manual_seed(0)) * torch.tensor([9, 1, 1, 3, 1, 1, 1, 0])
    labels = torch.arange(n) % 10
    return centres[labels] + spread * torch.randn(n, 8, generator=generator) * (torch.arange(8) < 7), labels


def test_probes_find_separable_classes_and_no_shuffled_ones_and_equal_scikit_learns_pipeline():
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def wrong(spread, shuffle=False):
        (x, labels), (x_test, truth) = blobs(500, spread, 1), blobs(400, spread, 2)
        if shuffle:
            labels = labels[torch.randperm(500, generator=torch.Generator().manual_seed(3))]
        data = labelled(x, labels, x_test, truth)
        return probes.mistakes(x, x_test, data), (x, labels, x_test, truth)

    apart, _ = wrong(0.01)
    assert (apart["linear"].mean(), apart["knn"].mean()) == (0, 0)
    chance, _ = wrong(0.01, shuffle=True)
    assert all(abs(found.mean() - 0.9) < 0.1 for found in chance.values())
    found, (x, labels, x_test, truth) = wrong(1.5)
    grid = LogisticRegressionCV(
        Cs=probes.INVERSE_PENALTIES,
        cv=5,
        l1_ratios=(0,),
        scoring="accuracy",
        max_iter=10_000,
        use_legacy_attributes=False,
    )
    for name, probe in (("linear", grid), ("knn", KNeighborsClassifier())):
        expected = (
            make_pipeline(StandardScaler(), probe).fit(x.double(), labels).predict(x_test.double()) != truth.numpy()
        )
        assert 0.1 < expected.mean() < 0.6
        assert (found[name] != expected).mean() <= 0.005, name  # points on a border


@pytest.mark.parametrize("labels", [None, [1] * 9, [0] * 8 + [1], [0, 0, 1, 1], []])
def test_data_that_cannot_be_probed_have_no_such_rows(labels):
    images = torch.zeros(9 if labels is None else len(labels), 1, 2, 2, dtype=torch.uint8)
    split = Split(images, None if labels is None else torch.tensor(labels, dtype=torch.int64))
    assert probes.score(None, None, SimpleNamespace(train=split, test=split)) == ([], {})


def test_few_images_of_a_class_are_probed_and_those_of_pixels_once(scratch, monkeypatch):
    """Two images of a class are enough, for two folds. Pixels and components depend on the dataset and d alone."""
    x = torch.randint(256, (5, 4), generator=torch.Generator().manual_seed(0))
    data = labelled(x, [0, 1, 0, 1, 0], x, [0, 1, 0, 1, 0])
    calls, mistakes = [], probes.mistakes
    monkeypatch.setattr(probes, "mistakes", lambda *given: calls.append(given) or mistakes(*given))

    def score(d):
        latents = data.train.images.flatten(1).repeat(1, 8)[:, :d].float()  # of test images, which are the same, too
        rows, arrays = probes.score(latents, latents, data)
        assert len(np.unpackbits(arrays["linear_wrong"], count=5)) == 5
        return [(row["metric"], row["sampler"]) for row in rows]

    every = [(f"{probe}_error", sampler) for sampler in PROBED for probe in ("linear", "knn")]
    assert (score(2), len(calls)) == (every, 3)
    assert (score(2), len(calls)) == (every, 4)
    assert (score(3), len(calls)) == (every, 6)
    assert (score(30), len(calls)) == (every, 8)  # more than there are components
    monkeypatch.setattr(probes, "VALUES", 19)
    assert (score(2), len(calls)) == (every[:2], 9)


def test_class_scores_and_shares_of_features_are_those_of_the_classifiers_guesses(run, digits):
    """Of real digits, which have all classes; few images of the prior, with fewer ones."""
    extractor, net = features.build("classifier", digits, "digits"), classifiers.read(paths.FEATURES / "digits.pt")
    shown = {"prior": digits.train.images[digits.train.labels > 2][:90], "reconstruction": digits.test.images[:300]}
    found = {sampler: extractor(images) for sampler, images in shown.items()}
    rows, arrays = perception.score(load(run.directory), digits.test.images[:9], extractor, found, 5, 0)
    for sampler, images in shown.items():
        expected = class_score(net(images / 255))
        assert expected > 4
        assert value(rows, "classifier_score", sampler) == pytest.approx(expected, rel=1e-4)
    guesses = net(shown["prior"] / 255).argmax(dim=1)
    assert arrays["class_shares"].tolist() == pytest.approx([(guesses == i).sum().item() / 90 for i in range(10)])
    assert arrays["class_shares"][:3].sum() < 0.1


def test_scores_of_classes_are_those_of_the_nets_and_images_themselves(run, digits):
    from sklearn.decomposition import PCA

    net, classifier = load(run.directory), classifiers.read(paths.FEATURES / "digits.pt")
    shown = {"prior": as_uint8(net.sample(300)), "reconstruction": as_uint8(net.reconstruct(digits.test.images))}
    for sampler, images in shown.items():
        assert value(run.scores, "classifier_score", sampler) == pytest.approx(
            class_score(classifier(images / 255)), rel=1e-3
        )
    x = digits.test.images / 255
    phi, phi_hat = (classifier.maps(images)[-1] for images in (x, net.reconstruct(x)))
    assert value(run.scores, "perceptual_classifier", "reconstruction") == pytest.approx(
        nn.functional.mse_loss(phi_hat, phi).item(), rel=1e-3
    )
    generator = torch.Generator().manual_seed(0)
    z0, z1 = net.objective.prior(600, generator).double().chunk(2)
    t = torch.rand(300, 1, generator=generator, dtype=torch.float64)
    ends = [nn.functional.normalize(z0 + (t + step) * (z1 - z0), dim=1) for step in (0, 1e-4)]
    units = [[nn.functional.normalize(m, dim=1) for m in classifier.maps(net.decode(z))] for z in ends]
    length = sum((a - b).square().sum(dim=1).mean() for a, b in zip(*units)) * 1e8
    assert value(run.scores, "ppl_classifier") == pytest.approx(length.item(), rel=1e-3)
    data = datasets.load(run.config)
    wrong = probes.mistakes(net.encode(data.train.images), net.encode(data.test.images), data)
    assert value(run.scores, "linear_error", "latents") == pytest.approx(wrong["linear"].mean())
    assert value(run.scores, "knn_error", "latents") == pytest.approx(wrong["knn"].mean())
    with np.load(run.directory / "latents.npz") as found:
        assert np.array_equal(np.unpackbits(found["linear_wrong"], count=1000), wrong["linear"])
        counts = torch.bincount(classifier(shown["prior"] / 255).argmax(dim=1), minlength=10)
        assert found["class_shares"] == pytest.approx(counts.numpy() / 300)
    pixels = [split.images.flatten(1).double() for split in (data.train, data.test)]
    pca = PCA(8).fit(pixels[0])
    for sampler, vectors in (("pixels", pixels), ("pca", [torch.from_numpy(pca.transform(part)) for part in pixels])):
        expected = probes.mistakes(*vectors, data)
        assert value(run.scores, "linear_error", sampler) == pytest.approx(expected["linear"].mean(), abs=0.003)
    columns = {
        "class_score": ("classifier_score", "prior"),
        "class_score_reconstruction": ("classifier_score", "reconstruction"),
        "perceptual": ("perceptual_classifier", "reconstruction"), "ppl": ("ppl_classifier", "prior"),
        "linear_error": ("linear_error", "latents"), "linear_error_pixels": ("linear_error", "pixels"),
        "linear_error_pca": ("linear_error", "pca"), "knn_error": ("knn_error", "latents"),
        "knn_error_pixels": ("knn_error", "pixels"),
    }  # fmt: skip
    [shown] = frame([run]).to_dict("records")
    assert {name: shown[name] for name in columns} == {name: value(run.scores, *key) for name, key in columns.items()}


def test_a_run_that_was_scored_before_there_were_such_scores_keeps_its_rows(fresh, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(probes, "score", lambda *_: ([], {}))
        patch.setattr(perception, "score", lambda *_: ([], {}))
        rows = evaluate(fresh, Scoring(n=300))
    assert not {row["metric"] for row in rows} & NEW
    before = {path.name: path.read_bytes() for path in fresh.directory.iterdir()}
    monkeypatch.setattr(generate, "load", None)
    assert scored(fresh, Scoring(n=300))
    assert evaluate(fresh, Scoring(n=300)) == rows
    assert {path.name: path.read_bytes() for path in fresh.directory.iterdir()} == before
    [shown] = frame([fresh]).to_dict("records")
    assert np.isnan([shown[name] for name in ("linear_error", "knn_error", "perceptual", "ppl", "class_score")]).all()
