"""What a grid will take: steps, hours and bytes by hand, random pixels where images are missing, failures by name."""

import math
from dataclasses import replace

import pytest
from conftest import tiny

from mocalib import Compute, MoCA, RunConfig, train
from mocalib.__main__ import main
from mocalib.config import paths
from mocalib.config.methods import AE, DCVAE, TwoStageVAE
from mocalib.paper import experiments
from mocalib.storage import files
from mocalib.sweep import plan

ONE = Compute(threads=1)


def test_every_method_is_measured_and_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")
    for config in experiments.configs("baselines_cifar10", "smoke"):
        assert 0 < plan.measure(config, ONE).seconds < math.inf
    assert not list(tmp_path.iterdir())


def test_hours_are_those_of_all_steps():
    """CIFAR-10 of the paper: 100 epochs of 781 steps."""
    cost = plan.Cost(50_000, 0.5, 0, 0, False)
    assert cost.hours(RunConfig(dataset="cifar10")) == pytest.approx(78_100 / 7_200)
    assert cost.hours(RunConfig(dataset="cifar10", limit=640, epochs=1)) == pytest.approx(10 / 7_200)


def test_each_part_of_training_counts_by_its_length(monkeypatch):
    """By a clock of our own: 1 s in the first stage, 5 s in the second, which is a quarter of training."""
    config = tiny(objective=TwoStageVAE(first_stage=0.75, second_width=16), limit=0, epochs=2)
    seen = []

    def step(config, trainer, batches, step):
        seen.append(step)
        return 1.0 if step < 0.75 * trainer.steps else 5.0

    monkeypatch.setattr(plan, "_step", step)
    assert plan.measure(config, ONE).seconds == pytest.approx(0.75 * 1 + 0.25 * 5)
    assert seen == [0, 1, 188, 189]  # two steps of each stage of 2 epochs of 125


@pytest.mark.parametrize(("dataset", "images"), [("celeba", 182_637), ("cifar10", 50_000)])
def test_missing_images_are_replaced_by_random_ones_of_their_number(scratch, monkeypatch, dataset, images):
    """CIFAR-10 is downloaded at its first use; a plan does without."""
    monkeypatch.setattr(files, "download", None)
    found = plan.measure(tiny(dataset=dataset, size=32, limit=0, batch_size=8), ONE)
    assert (found.random, found.images) == (True, images)
    with pytest.raises(FileNotFoundError):
        plan.measure(tiny(dataset="folder", root="/nowhere"), ONE)


DCVAES = experiments.configs("dcvae_table1", "paper")
DCVAES += [config for config in experiments.configs("dcvae_table5", "paper") if config.objective == DCVAE()]


@pytest.mark.parametrize("config", DCVAES, ids=lambda config: config.name)
def test_every_turn_of_the_papers_dcvae_is_taken_at_full_width(scratch, monkeypatch, config):
    """On random pixels: CIFAR-10's and MNIST's shapes and numbers of images, but two images a batch."""
    monkeypatch.setattr(files, "download", None)
    found = plan.measure(replace(config, batch_size=2), ONE)
    assert (found.random, found.images) == (True, 50_000 if config.dataset == "cifar10" else 60_000)
    assert 0 < found.seconds < math.inf


@pytest.mark.parametrize("keep", [(), (1,)])
def test_bytes_are_those_of_the_files(tmp_path, keep, monkeypatch):
    config, sizes = tiny(epochs=2, limit=64, width=32, keep_epochs=keep), []
    write = files.write_tensors

    def noted(path, *rest, **more):
        write(path, *rest, **more)
        sizes.append((path.name, path.stat().st_size))

    monkeypatch.setattr(files, "write_tensors", noted)
    run = train(config, tmp_path, Compute(threads=1, checkpoint_seconds=0))
    found = plan.measure(config, ONE)
    weights = sum(path.stat().st_size for path in run.directory.glob("*.pt"))
    assert found.kept(config) - plan.RECORD == pytest.approx(weights, rel=0.03)  # names and padding
    assert found.checkpoint == pytest.approx(max(size for name, size in sizes if name == "checkpoint.pt"), rel=0.03)


def test_each_distinct_net_and_method_is_measured_once(monkeypatch, capsys):
    cost = plan.Cost(256, 0.9, 10**9, 2 * 10**9, False)
    asked = []
    monkeypatch.setattr(plan, "measure", lambda config, compute: asked.append(config) or cost)
    configs = [tiny(seed=seed, objective=MoCA(0.1, 0.9, 100, weight)) for seed in (0, 1) for weight in (1.0, 9.0)]
    configs += [tiny(width=8), tiny(objective=AE()), tiny(objective=MoCA(queue_size=200))]
    assert plan.measured(configs, ONE) == 0
    assert asked == [configs[0], *configs[4:]]
    hours, disk = capsys.readouterr().out.splitlines()[-2:]
    assert hours.startswith(f"{7 * 3 * 8 * 0.9 / 3600:.3g} hours of training")
    assert disk.startswith("7 GB of weights and records; 6 GB of checkpoints")


def test_what_would_fail_is_named_and_the_others_are_measured(tmp_path, monkeypatch, capsys):
    good = experiments.configs("table4", "smoke")
    bad = replace(good[0], batch_size=10_000)
    monkeypatch.setattr(experiments, "listed", lambda scale: {"table4": [good[0], bad, good[1]]})
    assert main(["plan", "table4", "--scale", "smoke", "--measure", "--runs", str(tmp_path)]) == 1
    told = capsys.readouterr().out
    assert told.count(" s a step") == 2
    assert f"{bad.name}: batch_size = 10000 is larger than the dataset" in told
    assert f"1 runs would fail: {bad.name}" in told
    assert not list(tmp_path.iterdir())


def test_a_loss_that_is_not_finite_fails_in_whichever_stage_it_is():
    with pytest.raises(ArithmeticError, match=r"loss.* not finite at step 1"):
        plan.measure(tiny(learning_rate=1.0e30), ONE)
    second = tiny(objective=TwoStageVAE(first_stage=0.5, second_width=16, second_rate=1.0e33), epochs=2, limit=0)
    with pytest.raises(ArithmeticError, match=r"not finite at step 126"):  # the second stage begins at 125 of 250
        plan.measure(second, ONE)
