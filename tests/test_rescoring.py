"""Scores of other features join whatever was scored; what has no weights here says so."""

import shutil

import pytest
from conftest import tiny

from mocalib import evaluate, paths, rescoring, train
from mocalib.__main__ import main


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run with a kept epoch and a mixture, scored with digits' own classifier."""
    run = train(tiny(keep_epochs=(1,)), runs=tmp_path_factory.mktemp("runs"))
    for how in ({"epoch": 1}, {}, {"sampler": "gmm10"}, {"n": 80}):
        evaluate(run, **{"n": 100} | how)
    return run


@pytest.fixture
def run(trained, tmp_path):
    """A copy of it."""
    folder = tmp_path / "runs"
    shutil.copytree(trained.directory, folder / trained.directory.name)
    return type(trained)(folder / trained.directory.name, trained.config)


def test_every_score_is_taken_again_and_none_is_changed(run):
    before = run.scores
    [(_, rows, reason)] = rescoring.rescore(run.directory.parent, "cifar10")
    assert reason == ""
    assert run.scores[: len(before)] == before
    asked = {(row["epoch"], row["sampler"], row["n_generated"]) for row in before if row["features"]}
    added = [row for row in run.scores[len(before) :] if row["features"]]
    assert {(row["epoch"], row["sampler"], row["n_generated"]) for row in added} == asked
    assert {row["features"] for row in added} == {"cifar10"}
    assert {(3, "gmm10", 100), (1, "prior", 100), (3, "prior", 80)} <= asked
    assert [row for row in added if row not in rows] == []
    run.verify()
    after = (run.directory / "scores.json").read_bytes()
    list(rescoring.rescore(run.directory.parent, "cifar10"))
    assert (run.directory / "scores.json").read_bytes() == after


def test_without_weights_a_run_is_named_and_left_as_it_is(run, capsys):
    (run.directory / "epoch-0001.pt").unlink()
    before = (run.directory / "scores.json").read_bytes()
    assert main(["rescore", "--features", "cifar10", "--runs", str(run.directory.parent)]) == 1
    told = capsys.readouterr().out
    assert run.directory.name in told
    assert "no epoch-0001.pt here: weights are not committed" in told
    assert (run.directory / "scores.json").read_bytes() == before


def test_committed_records_are_not_rescored_and_not_touched(tmp_path):
    """A fresh clone has no weights."""
    committed = sorted(path.parent for path in (paths.RECORDS / "laptop").glob("*/manifest.json"))[:3]
    for directory in committed:
        shutil.copytree(directory, tmp_path / directory.name, ignore=shutil.ignore_patterns("*.pt"))
    found = list(rescoring.rescore(tmp_path, "inception", weights="/nowhere"))
    assert [directory.name for directory, *_ in found] == [directory.name for directory in committed]
    assert all(rows == [] and "weights.pt here: weights are not committed" in reason for _, rows, reason in found)
    for directory in committed:
        assert (tmp_path / directory.name / "scores.json").read_bytes() == (directory / "scores.json").read_bytes()


def test_a_damaged_run_is_named_and_the_others_are_scored(run, capsys):
    other = run.directory.with_name("a-copy")
    shutil.copytree(run.directory, other)
    (other / "scores.json").write_text("[]")
    asked = ["rescore", "--features", "cifar10", "--runs", str(run.directory.parent)]
    assert main(asked) == 1
    told = capsys.readouterr()
    assert "scores.json is damaged" in told.out
    assert "1 of 2 runs could not be scored: a-copy" in told.err
    assert {row["features"] for row in run.scores} == {"", "classifier", "cifar10"}


def test_what_was_never_scored_stays_so(tmp_path):
    run = train(tiny(epochs=1), runs=tmp_path)
    [(_, rows, reason)] = rescoring.rescore(tmp_path, "cifar10")
    assert (rows, reason, run.scores) == ([], "not scored with any features yet", [])


def test_a_folder_without_runs_and_no_features_are_refused(tmp_path, capsys):
    with pytest.raises(FileNotFoundError, match="holds no finished run"):
        list(rescoring.rescore(tmp_path, "cifar10"))
    for asked in (["rescore"], ["rescore", "--features", "none"]):
        assert main(asked) == 1
        assert "pass --features inception" in capsys.readouterr().err
