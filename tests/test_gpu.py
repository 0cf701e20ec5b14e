"""What only a GPU can show; skipped without one, as in continuous integration."""

import copy
from dataclasses import replace

import pytest
import torch
from conftest import stopped, tiny
from test_methods import METHODS
from test_training import assert_same, weights

from mocalib import Compute, Pool, Scoring, evaluate, methods, train
from mocalib.data import batches, datasets
from mocalib.data.batches import ResidentImages
from mocalib.evaluation.metrics import pca_variances
from mocalib.methods.algorithm1 import Settings, algorithm1
from mocalib.sweep.run import sweep

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
EXACT = tiny(learning_rate=2.0**-7, decay_every=1)


@pytest.fixture(autouse=True)
def _exact(monkeypatch):
    """Convolutions of float32 in float32, chosen the same way each time."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)


def test_float64_steps_of_a_gpu_equal_algorithm_1(tmp_path):
    config = replace(EXACT, precision="float64", decay_every=0)
    run = train(config, tmp_path, Compute("cuda", compile=False))
    plain = methods.build(config, (1, 16, 16)).double().cuda().train()
    batches = ResidentImages(datasets.load(config).train.images, 32, config.seed, "cuda", torch.float64)
    moca, T = config.objective, 3 * batches.steps_per_epoch
    nets = plain.encoder, copy.deepcopy(plain.encoder), plain.decoder
    settings = Settings(moca.momentum, T, moca.weight, moca.temperature, config.learning_rate)
    steps = list(algorithm1(nets, plain.queue.keys.T.clone(), map(batches.batch, range(T)), settings))
    per_line = T // len(run.metrics)
    for i, line in enumerate(run.metrics):
        part = steps[i * per_line : (i + 1) * per_line]
        assert line["loss"] == pytest.approx(sum(step["L"] for step in part) / len(part), rel=1e-9)


def test_principal_components_of_the_gpu_are_the_cpus(digits):
    few = digits.train.images[:300]
    assert torch.allclose(pca_variances(few, "cuda"), pca_variances(few), atol=1e-9)


def test_replayed_steps_follow_launched_ones_through_a_kill(tmp_path):
    launched = train(EXACT, tmp_path / "launched", Compute("cuda", compile=False))
    killed = stopped(tmp_path / "replayed", 12, EXACT, Compute("cuda"))
    replayed = train(EXACT, compute=Compute("cuda"), directory=killed)
    assert replayed.environment["compiled"]
    for one, other in zip(launched.metrics, replayed.metrics, strict=True):
        assert other["reconstruction"] == pytest.approx(one["reconstruction"], rel=0.1)
        assert other["contrastive"] == pytest.approx(one["contrastive"], abs=0.25)
        assert (other["momentum"], other["learning_rate"]) == (one["momentum"], one["learning_rate"])


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_every_method_is_replayed_and_resumed(tmp_path, method):
    config = replace(EXACT, objective=method, learning_rate=1e-3)
    launched = train(config, tmp_path / "launched", Compute("cuda", compile=False))
    killed = stopped(tmp_path / "replayed", 13, config, Compute("cuda"))  # in the second stage, where there is one
    replayed = train(config, compute=Compute("cuda"), directory=killed)
    for one, other in zip(launched.metrics, replayed.metrics, strict=True):
        assert one.keys() == other.keys()
        if "reconstruction" in one:
            assert other["reconstruction"] == pytest.approx(one["reconstruction"], rel=0.1)
    assert evaluate(replayed, Scoring(n=200), Compute("cuda"))


def test_bfloat16_trains_and_is_scored(tmp_path):
    run = train(replace(EXACT, precision="bfloat16"), tmp_path, Compute("cuda"))
    assert run.metrics[-1]["reconstruction"] < run.metrics[0]["reconstruction"]
    assert evaluate(run, Scoring(n=200), Compute("cuda"))


def test_images_that_do_not_fit_are_copied_batch_by_batch_in_the_same_order(tmp_path, monkeypatch):
    resident = train(EXACT, tmp_path / "resident", Compute("cuda", compile=False))
    monkeypatch.setattr(batches, "_fits", lambda images, device: False)
    assert_same(weights(resident), weights(train(EXACT, tmp_path / "host", Compute("cuda", compile=False))))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
def test_another_gpu_than_the_first_trains(tmp_path):
    run = train(EXACT, tmp_path, Compute("cuda:1"))
    assert run.metrics[-1]["reconstruction"] < run.metrics[0]["reconstruction"]


def test_two_runs_share_a_gpu_in_a_sweep(tmp_path):
    configs = [tiny(seed=seed, epochs=1) for seed in range(2)]
    found = sweep(configs, tmp_path, Compute("cuda"), Scoring(n=100), Pool(jobs=2, gpus=0.5))
    assert all(run.finished and run.scores for run in found)
