"""Whatever dies is finished later: kills at every moment, full disks, losses that are no number, shared runs."""

import ctypes
import math
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import psutil
import pytest
import torch
import victims
from conftest import tiny

from mocalib import Compute, MoCA, Pool, RunConfig, Scoring, data, figures, files, paths, sweep, train, workers
from mocalib.runs import Run, open_run
from mocalib.workers import in_processes

CONFIG = tiny(epochs=3, keep_epochs=(1,))
NAMES = ("config.json", "metrics.jsonl")


def assert_equal(directory: Path, whole: Run) -> None:
    """Records byte for byte, weights bit for bit."""
    run = open_run(directory)
    run.verify()
    for name in NAMES:
        assert (directory / name).read_bytes() == (whole.directory / name).read_bytes()
    for name in ("weights.pt", "epoch-0001.pt"):
        one, other = (files.read_tensors(found / name)["objective"] for found in (directory, whole.directory))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Run:
    """The run that nothing happens to."""
    return train(CONFIG, tmp_path_factory.mktemp("whole"), Compute(threads=1))


def killed_until_it_ends(directory: Path, kills: int, moments: random.Random) -> int:
    """Start the run and kill it, at a random moment or boundary of a write; return the kills that met it."""
    met = 0
    for count in range(kills):
        if count % 2:
            code, _ = victims.in_a_process(victims.train_here, CONFIG, directory, seconds=moments.uniform(0.05, 0.8))
        else:
            code, _ = victims.in_a_process(victims.die_at, moments.randrange(16), victims.train_here, CONFIG, directory)
        met += code == -signal.SIGKILL
        if open_run_finished(directory):
            break
    return met


def open_run_finished(directory: Path) -> bool:
    return (directory / "manifest.json").exists()


def finish(directory: Path) -> None:
    assert victims.in_a_process(victims.train_here, CONFIG, directory) == (0, "")


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(2))
def test_a_run_killed_at_random_moments_equals_an_uninterrupted_one(tmp_path, whole, seed):
    assert killed_until_it_ends(tmp_path / "run", 4, random.Random(seed)) >= 2
    finish(tmp_path / "run")
    assert_equal(tmp_path / "run", whole)
    assert not list((tmp_path / "run").glob("*.tmp"))


@pytest.mark.soak
def test_a_run_killed_fifty_times_equals_an_uninterrupted_one(tmp_path, whole):
    met, moments = 0, random.Random(50)
    for attempt in range(100):
        directory = tmp_path / str(attempt)
        met += killed_until_it_ends(directory, 5, moments)
        finish(directory)
        assert_equal(directory, whole)
        if met >= 50:
            break
    assert met >= 50


def test_a_run_killed_at_a_boundary_of_its_writes_resumes(tmp_path, whole):
    """Config, environment, logs; a checkpoint's flush and two renames, of the first, second and third."""
    for boundary in (5, 9, 14, 15, 16, 19):
        directory = tmp_path / str(boundary)
        code, _ = victims.in_a_process(victims.die_at, boundary, victims.train_here, CONFIG, directory)
        assert code == -signal.SIGKILL
        finish(directory)
        assert_equal(directory, whole)


def test_a_run_killed_after_its_last_checkpoint_has_the_last_lines_own_rate(tmp_path, monkeypatch):
    """Where the steps are no multiple of the lines, the last line is still to be written."""
    config = tiny(epochs=5, limit=320, decay_every=2)  # 50 steps, a line each third
    whole = train(config, tmp_path / "whole", Compute(threads=1))
    finish_run = Run.finish
    monkeypatch.setattr(Run, "finish", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(config, tmp_path / "killed", Compute(threads=1, checkpoint_seconds=0))
    monkeypatch.setattr(Run, "finish", finish_run)
    resumed = train(config, tmp_path / "killed", Compute(threads=1))
    assert resumed.metrics[-1]["learning_rate"] == config.learning_rate / 4
    assert (resumed.directory / "metrics.jsonl").read_bytes() == (whole.directory / "metrics.jsonl").read_bytes()


@pytest.fixture
def last_checkpoint(tmp_path) -> Path:
    """A run that died with checkpoints of two steps."""
    victims.in_a_process(victims.die_at, 40, victims.train_here, CONFIG, tmp_path / "run")
    assert {"checkpoint.pt", "previous.pt"} <= {path.name for path in (tmp_path / "run").iterdir()}
    return tmp_path / "run"


# --------------------------------------------------------------------------------------------------------- full disks


def test_a_full_disk_at_a_checkpoint_is_named_and_the_run_resumes(last_checkpoint, whole):
    before = {name: (last_checkpoint / name).read_bytes() for name in ("checkpoint.pt", "previous.pt")}
    code, error = victims.in_a_process(victims.with_files_below, 20_000, victims.train_here, CONFIG, last_checkpoint)
    assert code == 1
    assert re.match(
        r"OSError: \[Errno 27\] File too large: .*/checkpoint.pt cannot be written; free some space and start again, "
        r"which goes on from what is whole; or MOCALIB_RUNS, MOCALIB_DATA and MOCALIB_FIGURES move",
        error,
    )
    assert before == {name: (last_checkpoint / name).read_bytes() for name in before}
    assert not list(last_checkpoint.glob("*.tmp"))
    finish(last_checkpoint)
    assert_equal(last_checkpoint, whole)


def test_a_full_disk_at_a_log_line_is_named_and_the_run_resumes(last_checkpoint, whole):
    limit = (last_checkpoint / "metrics.jsonl").stat().st_size + 100  # half a line
    never = math.inf
    code, error = victims.in_a_process(
        victims.with_files_below, limit, victims.train_here, CONFIG, last_checkpoint, never
    )
    assert code == 1
    assert re.match(r"OSError: .*File too large: .*/metrics.jsonl cannot be written; free some space", error)
    finish(last_checkpoint)
    assert_equal(last_checkpoint, whole)


def decode(cache: Path) -> None:
    paths.CACHE = cache
    data.load(RunConfig())


def test_a_full_disk_while_images_are_decoded_is_named_and_leaves_nothing(tmp_path):
    code, error = victims.in_a_process(victims.with_files_below, 100_000, decode, tmp_path)
    assert code == 1
    assert re.match(r"OSError: .*File too large: .*train.npy cannot be written; free some space", error)
    assert not list(tmp_path.rglob("*.npy"))
    assert victims.in_a_process(decode, tmp_path) == (0, "")


def draw(folder: Path) -> None:
    import pandas as pd

    paths.FIGURES = folder
    figures.base.save_csv(pd.DataFrame({"value": range(5_000)}), "table", "smoke")


def test_a_full_disk_at_a_figure_is_named_and_the_old_one_stays(tmp_path):
    files.write(tmp_path / "smoke" / "table.csv", b"old")
    code, error = victims.in_a_process(victims.with_files_below, 5_000, draw, tmp_path)
    assert code == 1
    assert re.match(r"OSError: .*File too large: .*smoke/table.csv cannot be written; free some space", error)
    assert [path.read_bytes() for path in (tmp_path / "smoke").iterdir()] == [b"old"]


# ------------------------------------------------------------------------------------------------- workers and sweeps


def log_in(folder: Path):
    return lambda config: folder / config.name / workers.LOG


def processes(log: Path) -> list[str]:
    """Those that a run was in."""
    return re.findall(r", process (\d+)$", log.read_text(), re.M)


def test_a_run_whose_worker_dies_each_time_is_reported_and_the_others_finish(tmp_path, monkeypatch):
    """One worker takes run after run; after a death or an error the next run has a new one."""
    monkeypatch.setattr(workers, "SPAWN", victims.FORKS)
    configs, log = [tiny(seed=seed) for seed in range(5)], log_in(tmp_path)
    found = list(in_processes(partial(victims.die_on, 1), configs, log, jobs=1, retries=1))
    ended = [(event.config.seed, event.error) for event in found if event.ended]
    assert ended == [
        (0, None),
        (2, "ValueError: seed 2 is impossible"),
        (3, None),
        (4, None),
        (1, "its process died (tried 2 times)"),
    ]
    assert log(configs[1]).read_text().count("working on seed 1") == 2
    assert "Traceback" in log(configs[2]).read_text()
    (first,), (_, last), (failed,), (third,), (fourth,) = (processes(log(config)) for config in configs)
    assert processes(log(configs[1])) == [first, last]
    assert third == fourth == last
    assert len({first, failed, last}) == 3


def test_a_worker_that_dies_between_two_runs_costs_none(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "SPAWN", victims.FORKS)
    configs, log = [tiny(seed=seed) for seed in range(2)], log_in(tmp_path)
    errors = []
    for event in in_processes(partial(victims.die_on, -2), configs, log, jobs=1, retries=1):
        if event.ended:
            errors.append(event.error)
            victim = psutil.Process(int(processes(log(event.config))[-1]))
            victim.kill()
            victim.wait(60)
    assert errors == [None, None]


def test_a_killed_worker_costs_no_run_and_the_bytes_are_those_of_one_process(tmp_path, monkeypatch):
    configs = [tiny(epochs=2, seed=seed) for seed in range(2)]
    how = Compute(threads=1, checkpoint_seconds=0), Scoring(n=100)
    whole = sweep.run(configs, tmp_path / "whole", *how)
    monkeypatch.setattr(sweep, "run_one", victims.run_one_killed_once)
    found = sweep.run(configs, tmp_path / "runs", *how, Pool(jobs=2))
    killed, other = (processes(run.directory / workers.LOG) for run in found)
    assert len(killed) == len(set(killed)) == 2
    assert len(other) == 1
    assert int(killed[0]) not in {child.pid for child in multiprocessing.active_children()}
    assert (found[0].directory / workers.LOG).read_text().count("| 0/16 ") == 1  # resumed, not begun anew
    for run, alone in zip(found, whole, strict=True):
        run.verify()
        for name in (*NAMES, "scores.json", "samples.png"):
            assert (run.directory / name).read_bytes() == (alone.directory / name).read_bytes()


def share(folder: Path) -> None:
    workers.SPAWN = victims.FORKS
    sweep.run(
        [tiny(epochs=4, seed=seed) for seed in range(3)], folder, Compute(threads=1), Scoring(n=100), Pool(jobs=2)
    )


def test_of_two_sweeps_over_one_grid_each_run_is_trained_once(tmp_path):
    both = [victims.FORKS.Process(target=share, args=(tmp_path,)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(120)
    assert [process.exitcode for process in both] == [0, 0]
    for seed in range(3):
        run = open_run(tmp_path / tiny(epochs=4, seed=seed).name)
        run.verify()
        assert (run.directory / workers.LOG).read_text().count("| 0/32 ") == 1  # one bar of training
        assert len({(row["metric"], row["sampler"], row["split"]) for row in run.scores}) == len(run.scores)


def test_an_impossible_run_is_reported_with_the_end_of_its_log_and_the_others_finish(tmp_path, monkeypatch):
    """Of memory that no machine has, and of a batch that the data do not have."""
    monkeypatch.setattr(workers, "SPAWN", victims.FORKS)
    good = tiny(epochs=1)
    huge = tiny(epochs=1, latent_dim=4096, objective=MoCA(queue_size=10**8))  # 1.6 TB of keys
    with pytest.raises(sweep.SweepError) as caught:
        sweep.run([huge, good, tiny(batch_size=512)], tmp_path, scoring=Scoring(n=100), pool=Pool(jobs=2))
    told = str(caught.value)
    assert told.startswith("2 of 3 runs failed, the others are finished. ")
    assert re.search(rf"{huge.name}: RuntimeError: .*allocate", told)
    assert f"the end of {tmp_path / huge.name / workers.LOG}" in told
    assert "ValueError: batch_size = 512 is larger than the dataset" in told
    assert Run(tmp_path / good.name, good).scores


# ------------------------------------------------------------------------------------------------ read-only and paths


TRAIN_AND_SCORE = """
import sys
sys.path.insert(0, {tests!r})
from conftest import tiny
from mocalib import evaluate, figures, paths, train
assert str(paths.ROOT) == {folder!r}, paths.ROOT
run = train(tiny(epochs=1), threads=1)
evaluate(run, n=100)
print(run.directory)
"""


def obey_modes() -> None:
    """Take from a superuser the right to write what its mode forbids (prctl: PR_CAPBSET_DROP, CAP_DAC_OVERRIDE)."""
    if os.getuid() == 0:
        ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="a superuser obeys no modes elsewhere")
@pytest.mark.parametrize("moved", [False, True])
def test_a_read_only_checkout_at_an_odd_path_works_or_says_why(moved):
    """In a folder with spaces and letters beyond ASCII."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as outer:
        os.chmod(outer, 0o755)
        folder, scratch, tests = Path(outer) / "dépôt à moi", Path(outer) / "große Platte", Path(outer) / "tests"
        for name in ("mocalib", "data/features", "data/paper"):
            shutil.copytree(paths.ROOT / name, folder / name)
        shutil.copytree(paths.ROOT / "tests", tests)
        scratch.mkdir(mode=0o777)
        scratch.chmod(0o777)
        for path in [*folder.rglob("*"), folder]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        setting = {"PYTHONPATH": f"{folder}:{tests / 'offline'}", "PATH": os.environ["PATH"], "HOME": str(scratch)}
        if moved:
            setting |= {"MOCALIB_DATA": str(scratch / "data"), "MOCALIB_FIGURES": str(scratch / "figures")}
        code = TRAIN_AND_SCORE.format(tests=str(tests), folder=str(folder))
        done = subprocess.run(
            [sys.executable, "-B", "-c", code],
            env=setting,
            cwd="/",
            capture_output=True,
            text=True,
            preexec_fn=obey_modes,
        )
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o755)  # so that it can be removed
        if moved:
            assert done.returncode == 0, done.stderr
            assert done.stdout.splitlines()[-1].startswith(str(scratch / "data" / "runs" / "custom"))
        else:
            assert done.returncode == 1
            refused = r"Error: .*Permission denied: .*dépôt à moi/data/cache.* cannot be written; MOCALIB_RUNS, M"
            assert re.search(refused, done.stderr)
