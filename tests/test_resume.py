"""Wherever a run is killed, the resumed one equals the uninterrupted one bit for bit.

Some methods are killed at every place, the others at two; in `make soak` all at every place.

A place is a moment of a run that makes a checkpoint each step. What lies in its folder at that moment is copied, with
the file that is being written cut in half: SIGKILL leaves the same. test_faults kills real processes.
"""

import os
import shutil
import signal
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path

import pytest
import torch
import victims
from conftest import stopped, tiny
from test_methods import METHODS
from test_training import assert_same, weights

from mocalib import Compute, figures, train
from mocalib.data.batches import ResidentImages
from mocalib.storage import environment, files
from mocalib.storage.run import CHECKPOINTS, open_run
from mocalib.training import loop
from mocalib.training.interrupt import Interrupted
from mocalib.training.loop import Callbacks

STEPS = 8  # two epochs of four; a log line at 3, 6 and 8
PLACES = {  # name -> moment, the how many-th of its kind, and the step at which the run then goes on
    "before the first step": ("step", 1, 0),
    "in the first checkpoint": ("write checkpoint.pt", 1, 0),
    "after the first checkpoint": ("step", 2, 1),  # in pretraining and in the first stage, where there are such
    "in the weights of an epoch": ("write epoch-0001.pt", 1, 3),
    "in a checkpoint": ("write checkpoint.pt", 5, 4),
    "between the two names of a checkpoint": ("rename to checkpoint.pt", 6, 5),
    "after a checkpoint": ("step", 7, 6),  # after pretraining, in the second stage
    "in the final weights": ("write weights.pt", 1, STEPS),
    "in the manifest": ("write manifest.json", 1, STEPS),
}


@pytest.fixture(scope="module", autouse=True)
def _few_lines():
    """Log lines that hold several steps, so that a kill comes between them; git may move on meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "LOG_LINES", 3)
        patch.setattr(environment, "describe", cache(environment.describe))
        yield


def short(method):
    return tiny(objective=method, limit=128, epochs=2, learning_rate=0.01, decay_every=1, keep_epochs=(1,))


def trained(method, directory, checkpoint_seconds=1.0e9):
    return train(short(method), directory=directory, compute=Compute(checkpoint_seconds=checkpoint_seconds))


def before(owner, name, do, patch):
    """Let a function call `do` with its own arguments first."""
    real = getattr(owner, name)
    patch.setattr(owner, name, lambda *given: (do(*given), real(*given))[1])


def copy_at_places(method, folder: Path) -> None:
    """Train in <folder>/watched and leave what lay there at each place in <folder>/<place>."""
    run, seen = folder / "watched", Counter()

    def look(moment: str, cut: bool = False) -> None:
        seen[moment] += 1
        for place, (asked, number, _) in PLACES.items():
            if (asked, number) == (moment, seen[moment]):
                shutil.copytree(run, folder / place)
                for written in (folder / place).glob("*.tmp") if cut else ():
                    os.truncate(written, written.stat().st_size // 2)

    def flushed(_) -> None:
        for written in run.glob("*.tmp"):
            look("write " + ".".join(written.name.split(".")[:2]), cut=True)

    with pytest.MonkeyPatch.context() as patch:
        before(ResidentImages, "batch", lambda *_: look("step"), patch)
        before(os, "fsync", flushed, patch)
        before(Path, "replace", lambda _, target: look(f"rename to {target.name}"), patch)
        trained(method, run, checkpoint_seconds=0)


# One net and a queue; two stages; several turns, of which some come rarely, and one in a part of training only.
THOROUGH = [METHODS[0], *(method for method in METHODS if method.stages > 1), METHODS[-1]]
FEW = ("after the first checkpoint", "after a checkpoint")  # with other turns, or in another stage


def rare(*values, every_commit):
    return pytest.param(*values, marks=() if every_commit else pytest.mark.soak)


KILLS = [rare(m, place, every_commit=m in THOROUGH or place in FEW) for m in METHODS for place in PLACES]
EACH = pytest.mark.parametrize("whole", [rare(m, every_commit=m in THOROUGH) for m in METHODS], indirect=True, ids=str)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A method's run that nothing happens to, made once; beside it lie copies of another at each place."""

    @cache
    def make(method):
        folder = tmp_path_factory.mktemp("runs")
        copy_at_places(method, folder)
        return trained(method, folder / "whole")

    return make


@pytest.fixture
def whole(request, made):
    """A run that nothing happens to and that makes no checkpoint."""
    return made(request.param)


@pytest.mark.parametrize(("whole", "place"), KILLS, indirect=["whole"], ids=str)
def test_a_run_that_is_killed_and_resumed_equals_an_uninterrupted_one(whole, place, monkeypatch):
    taken, (*_, start) = [], PLACES[place]
    before(ResidentImages, "batch", lambda _, step: taken.append(step), monkeypatch)
    resumed = trained(whole.config.objective, whole.directory.parent / place)
    assert taken == list(range(start, STEPS))
    assert_equal(resumed, whole)


def assert_equal(resumed, whole):
    """In records and weights, and nothing else is left."""
    for name in ("config.json", "environment.json", "metrics.jsonl", "manifest.json"):
        assert (resumed.directory / name).read_bytes() == (whole.directory / name).read_bytes(), name
    for name in ("weights.pt", "epoch-0001.pt"):
        assert_same(*(files.read_tensors(run.directory / name)["objective"] for run in (whole, resumed)))
    assert [line["step"] for line in resumed.timing] == [3, 6, 8]
    assert {path.name for path in resumed.directory.iterdir()} == {path.name for path in whole.directory.iterdir()}


AGAIN = "run the same command or cell again to resume"


def signalled(method, directory, step, *numbers):
    """Train without periodic checkpoints; the signals come in the middle of a step."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ResidentImages, "batch", victims.signals(step, *numbers))
        return trained(method, directory)


@EACH
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_goes_on_at_its_step(whole, number, tmp_path, monkeypatch, capsys, no_death):
    """And the error is short: the call of `train`, and one line."""
    handlers = signal.getsignal(signal.SIGINT), no_death
    with pytest.raises(KeyboardInterrupt, match=f"^stopped at step 5 of 8; {AGAIN}$") as caught:
        signalled(whole.config.objective, tmp_path / "run", 4, number)
    assert [entry.name for entry in caught.traceback][-2:] == ["trained", "train"]
    assert caught.value.__suppress_context__
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    taken, printed = [], capsys.readouterr().out
    before(ResidentImages, "batch", lambda _, step: taken.append(step), monkeypatch)
    resumed = trained(whole.config.objective, tmp_path / "run")
    assert taken == list(range(5, STEPS))
    assert_equal(resumed, whole)
    said = f"{whole.config.name}: resumes at step 5 of 8"
    assert said not in printed
    assert capsys.readouterr().out.splitlines()[0] == said


def test_a_signal_in_the_last_part_of_a_step_is_heeded_after_the_next_one_with_a_checkpoint(tmp_path, no_death):
    def watch(_):
        watcher = Callbacks()
        watcher.on_step = lambda step, _: step == 3 and os.kill(os.getpid(), signal.SIGTERM)
        return watcher

    with pytest.raises(Interrupted, match="^stopped at step 4 of"):
        train(tiny(), directory=tmp_path, watch=watch)
    assert files.read_tensors(tmp_path / "checkpoint.pt")["step"] == 4


@pytest.mark.parametrize(
    ("numbers", "error"),
    [
        ((signal.SIGINT, signal.SIGINT), KeyboardInterrupt),  # who presses twice does not want to wait
        ((signal.SIGTERM, signal.SIGTERM), Interrupted),
        ((signal.SIGINT, signal.SIGTERM), Interrupted),
    ],
)
def test_a_second_ctrl_c_ends_at_once_and_a_second_sigterm_changes_nothing(tmp_path, no_death, numbers, error):
    with pytest.raises(KeyboardInterrupt) as caught:
        signalled(METHODS[0], tmp_path, 4, *numbers)
    assert caught.type is error
    assert (tmp_path / "checkpoint.pt").exists() == (error is Interrupted)
    assert signal.getsignal(signal.SIGTERM) is no_death


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_interrupted_in_its_last_step_is_finished_and_its_caller_stops(tmp_path, no_death, number):
    with pytest.raises(KeyboardInterrupt, match=f"^stopped after the last step, so this run is trained; {AGAIN}$"):
        signalled(METHODS[0], tmp_path, STEPS - 1, number)
    assert open_run(tmp_path).finished
    assert not any((tmp_path / name).exists() for name in CHECKPOINTS)


def test_an_interrupt_is_not_hidden_by_a_loss_that_is_not_finite(tmp_path, monkeypatch):
    monkeypatch.setattr(loop.AverageMeter, "check", lambda self: (_ for _ in ()).throw(loop.NotFinite("nan at 4")))
    with pytest.raises(KeyboardInterrupt, match="^stopped, but with an error: nan at 4; no checkpoint was written"):
        signalled(METHODS[0], tmp_path, 1, signal.SIGINT)


def test_in_another_thread_training_handles_no_signals(tmp_path):
    with ThreadPoolExecutor() as pool:
        assert pool.submit(trained, METHODS[0], tmp_path).result().finished


@EACH
def test_a_run_that_is_drawn_at_each_step_killed_and_resumed_equals_one_that_is_not(whole, tmp_path, drawn):
    """In each stage of a method; the kill comes between two log lines."""
    config = short(whole.config.objective)
    directory = stopped(tmp_path / "drawn", 5, config, watch=figures.Live)
    resumed = train(config, directory=directory, watch=figures.Live)
    assert len(drawn) == STEPS
    for name in ("environment.json", "metrics.jsonl", "manifest.json"):
        assert (directory / name).read_bytes() == (whole.directory / name).read_bytes(), name
    assert_same(weights(whole), weights(resumed))


def test_a_resumed_run_is_computed_as_it_was_begun(tmp_path, monkeypatch):
    """With its threads, precision and compilation, whatever is asked or found by then."""
    monkeypatch.setattr(environment, "has_bfloat16", lambda device: True)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    config = tiny(precision="bfloat16", epochs=1, model="hq", blocks=2, size=8)
    how, used = Compute(threads=1, compile=True), set()
    uninterrupted = train(config, compute=how, directory=tmp_path / "whole")
    killed = stopped(tmp_path / "parts", 5, config, how)
    monkeypatch.setattr(environment, "has_bfloat16", lambda device: False)
    before(ResidentImages, "batch", lambda *_: used.add(torch.get_num_threads()), monkeypatch)
    resumed = train(config, directory=killed, compute=Compute(threads=2))
    assert used == {1}
    assert [resumed.environment[name] for name in ("threads", "nets", "compiled")] == [1, "bfloat16", True]
    assert_same(weights(uninterrupted), weights(resumed))
