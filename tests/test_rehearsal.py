"""A few steps of every run: what would fail fails, every turn is taken, nothing is kept."""

import math
from dataclasses import replace

import pytest
from conftest import tiny, two_classes

from mocalib import RunConfig, classifiers, experiments, files, paths, rehearsal
from mocalib.__main__ import main
from mocalib.methods import TwoStageVAE


@pytest.mark.parametrize("config", experiments.configs("rivals_cifar10", "smoke"), ids=lambda config: config.name)
def test_every_method_is_rehearsed_and_nothing_is_kept(config, scratch):
    found = rehearsal.rehearse(config, threads=1)
    assert 0 < found.seconds < math.inf
    assert not list(scratch.rglob("*.pt"))
    assert not paths.RUNS.exists()


def test_hours_are_those_of_all_steps():
    """CIFAR-10 of the paper: 100 epochs of 781 steps."""
    assert rehearsal.Rehearsed(RunConfig(dataset="cifar10"), 0.5, None).hours == pytest.approx(78_100 / 7_200)


def test_the_classifier_of_a_part_is_the_whole_sets(scratch, monkeypatch):
    two_classes(scratch / "ab")
    monkeypatch.setitem(classifiers.PLAIN, "steps", 5)
    rehearsal.rehearse(tiny(dataset="folder", root=str(scratch / "ab"), limit=8, batch_size=8, epochs=1))
    saved = files.read_tensors(next((paths.CACHE / "features").glob("classifier-*.pt")))
    assert saved["record"]["n_train"] == 24


def test_a_loss_that_is_not_finite_fails_in_whichever_stage_it_is():
    with pytest.raises(ArithmeticError, match=r"loss.* not finite at step 1"):
        rehearsal.rehearse(tiny(learning_rate=1.0e30))
    second = tiny(objective=TwoStageVAE(first_stage=0.5, second_width=16, second_rate=1.0e33), epochs=2)
    with pytest.raises(ArithmeticError, match=r"not finite at step 9"):  # the second stage begins at 8 of 16
        rehearsal.rehearse(second)


def test_what_would_fail_is_named_and_the_others_are_rehearsed(scratch, monkeypatch, capsys):
    good = experiments.configs("table3", "smoke")
    bad = replace(good[0], batch_size=10_000)
    monkeypatch.setattr(experiments, "listed", lambda scale, seeds: {"table3": [good[0], bad, good[1]]})
    assert main(["table3", "--scale", "smoke", "--rehearse", "--threads", "1"]) == 1
    told = capsys.readouterr()
    assert "2 of 3 runs rehearsed" in told.out
    assert f"{bad.name}: batch_size = 10000 is larger than the dataset" in told.out
    assert f"1 of 3 runs would fail: {bad.name}" in told.err
    assert not paths.RUNS.exists()
    for wrong, ignored in ((["table3", "--dry-run"], "--dry-run"), (["some/run"], "--rehearse")):
        assert main([*wrong, "--rehearse"]) == 1
        assert f"{ignored} would be ignored" in capsys.readouterr().err


def test_features_are_asked_for_before_any_step():
    with pytest.raises(FileNotFoundError, match="nowhere.pth does not exist. Place weights-inception"):
        rehearsal.rehearse(tiny(), extractor="inception", weights="/nowhere.pth")
