"""Whatever dies is finished later: real kills, full disks, read-only places, shared runs.

At which moments a run may be killed, test_resume asks of every method.
"""

import ctypes
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pandas as pd
import psutil
import pytest
import victims
from conftest import OFFLINE, says, tiny
from test_training import HANGS, assert_same

from mocalib import Compute, MoCA, Pool, RunConfig, Scoring, evaluate, figures, train
from mocalib.config import paths
from mocalib.data import datasets
from mocalib.storage import files
from mocalib.storage.run import Run, open_run
from mocalib.sweep import pool
from mocalib.sweep.pool import LOG, in_processes
from mocalib.sweep.run import SweepError, sweep

CONFIG = tiny(epochs=3, keep_epochs=(1,))


@pytest.fixture(autouse=True)
def _forks(monkeypatch):
    """Workers start in no time."""
    monkeypatch.setattr("mocalib.sweep.pool.SPAWN", victims.FORKS)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Run:
    """The run that nothing happens to."""
    return train(CONFIG, tmp_path_factory.mktemp("whole"), Compute(threads=1))


def assert_same_bytes(run: Run, other: Run, *names: str) -> None:
    """Of these records, or of all that a scored run has; the run verifies."""
    run.verify()
    for name in names or ("config.json", "metrics.jsonl", "scores.json", "samples.png"):
        assert (run.directory / name).read_bytes() == (other.directory / name).read_bytes(), name


def kill_at(boundary: int, directory: Path) -> None:
    """Start the run, or go on with it, and kill it at a boundary of its writes."""
    code, _ = victims.in_a_process(victims.die_at, boundary, victims.train_here, CONFIG, directory)
    assert code == -signal.SIGKILL


def finish(directory: Path, whole: Run) -> None:
    """Go on: records are then those of the whole run byte for byte, weights bit for bit, and nothing is left over."""
    assert victims.in_a_process(victims.train_here, CONFIG, directory) == (0, "")
    assert_same_bytes(open_run(directory), whole, "config.json", "metrics.jsonl")
    for name in ("weights.pt", "epoch-0001.pt"):
        assert_same(*(files.read_tensors(found / name)["objective"] for found in (directory, whole.directory)))
    assert not list(directory.glob("*.tmp"))


@pytest.mark.parametrize("boundary", [5, 9, 15, 16])
def test_a_run_killed_at_a_boundary_of_its_writes_resumes(tmp_path, whole, boundary):
    """Logs; the first checkpoint's name; the later name of another, and the flush of the one after it."""
    kill_at(boundary, tmp_path / "run")
    finish(tmp_path / "run", whole)


@pytest.mark.soak
def test_a_run_killed_fifty_times_equals_an_uninterrupted_one(tmp_path, whole):
    """At boundaries of its writes, which each run meets at least once, and in between at random moments."""
    met, moments = 0, random.Random(50)
    for attempt in range(50):
        directory = tmp_path / str(attempt)
        for timed in (False, True, False, True, False):
            boundary = 10**6 if timed else moments.randrange(16)
            process, pipe = victims.begin(victims.die_at, boundary, victims.train_here, CONFIG, directory)
            if timed:
                process.join(moments.uniform(0.05, 0.8))
                process.kill()
            code, _ = victims.end(process, pipe)
            met += code == -signal.SIGKILL
            if (directory / "manifest.json").exists():
                break
        finish(directory, whole)
        if met >= 50:
            break
    assert met >= 50


# --------------------------------------------------------------------------------------------------------- full disks


def fill(limit: int, name: str, function, *arguments) -> None:
    """Do it where no file may have more bytes: the one that is too large is named."""
    code, error = victims.in_a_process(victims.with_files_below, limit, function, *arguments)
    assert code == 1
    told = f"/{name} cannot be written; free some space and start again to resume, or "
    moves = "set MOCALIB_RUNS, MOCALIB_DATA or MOCALIB_FIGURES to write to another disk"
    assert re.match(says("OSError: [Errno 27] File too large: ", told + moves), error)


@pytest.mark.parametrize("name", ["checkpoint.pt", "metrics.jsonl"])
def test_a_full_disk_is_named_and_the_run_resumes(tmp_path, whole, name):
    """Full in the middle of a checkpoint, or of a log line."""
    kill_at(40, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.pt")}
    assert {"checkpoint.pt", "previous.pt"} <= before.keys()
    if name == "checkpoint.pt":
        fill(20_000, name, victims.train_here, CONFIG, tmp_path)
    else:
        fill((tmp_path / name).stat().st_size + 100, name, victims.train_here, CONFIG, tmp_path, 1.0e9)
    assert before == {path.name: path.read_bytes() for path in tmp_path.glob("*.pt")}
    assert not list(tmp_path.glob("*.tmp"))
    finish(tmp_path, whole)


def test_an_interrupt_on_a_full_disk_says_both_and_the_run_resumes(tmp_path, whole):
    work = victims.interrupt_at, 3, victims.train_here, CONFIG, tmp_path, 1.0e9
    code, error = victims.in_a_process(victims.with_files_below, 20_000, *work)
    assert code == 1
    told = "checkpoint.pt cannot be written; free some space and start again to resume"
    assert re.match(says("Interrupted: stopped, but with an error: [Errno 27] File too large: ", told), error)
    finish(tmp_path, whole)


def decode(folder: Path) -> None:
    paths.CACHE = folder
    datasets.load(RunConfig())


def draw(folder: Path) -> None:
    paths.FIGURES = folder
    figures.base.save_csv(pd.DataFrame({"value": range(5_000)}), "table", "smoke")


def test_a_full_disk_while_images_are_decoded_or_a_table_is_drawn_leaves_what_was_there(tmp_path):
    fill(100_000, "train.npy", decode, tmp_path / "cache")
    assert not list(tmp_path.rglob("*.npy"))
    assert victims.in_a_process(decode, tmp_path / "cache") == (0, "")
    files.write(tmp_path / "smoke" / "table.csv", b"old")
    fill(5_000, "table.csv", draw, tmp_path)
    assert [path.read_bytes() for path in (tmp_path / "smoke").iterdir()] == [b"old"]


# ------------------------------------------------------------------------------------------------- workers and sweeps


def log_in(folder: Path):
    return lambda config: folder / config.name / LOG


def test_a_run_whose_worker_dies_each_time_is_reported_and_the_others_finish(tmp_path):
    """One worker takes run after run; after a death or an error the next run has a new one."""
    configs, log = [tiny(seed=seed) for seed in range(5)], log_in(tmp_path)
    found = list(in_processes(partial(victims.die_on, 1), configs, log, retries=1, gpus=[None]))
    ended = [(event.config.seed, event.error) for event in found if event.ended]
    assert ended == [
        (0, None),
        (2, "ValueError: seed 2 is impossible"),
        (3, None),
        (4, None),
        (1, "its process died (tried 2 times)"),
    ]
    assert log(configs[1]).read_text("utf-8").count("working on seed 1") == 2
    assert "Traceback" in log(configs[2]).read_text("utf-8")
    (first,), (_, last), (failed,), (third,), (fourth,) = (victims.processes(log(config)) for config in configs)
    assert victims.processes(log(configs[1])) == [first, last]
    assert third == fourth == last
    assert len({first, failed, last}) == 3


def test_deaths_count_since_the_last_checkpoint(tmp_path):
    """A machine that takes its workers away all the time fails no run that goes on."""
    configs, log = [tiny(seed=seed) for seed in victims.KILLS], log_in(tmp_path)
    work = partial(victims.die_again_and_again, tmp_path)
    events = in_processes(work, configs, log, retries=1, gpus=[None])
    errors = {event.config.seed: event.error for event in events if event.ended}
    assert errors == {0: None, 1: "its process died (tried 2 times)", 2: None}
    assert [len(victims.processes(log(config))) for config in configs] == [3, 3, 1]


def test_a_worker_that_dies_between_two_runs_costs_none(tmp_path):
    configs, log = [tiny(seed=seed) for seed in range(2)], log_in(tmp_path)
    errors = []
    for event in in_processes(partial(victims.die_on, -2), configs, log, retries=1, gpus=[None]):
        if event.ended:
            errors.append(event.error)
            victim = psutil.Process(int(victims.processes(log(event.config))[-1]))
            victim.kill()
            victim.wait(HANGS)
    assert errors == [None, None]


@pytest.mark.parametrize(("victim", "checkpoint_seconds"), [("killed", 0), ("terminated", 1.0e9)])
def test_a_dead_worker_costs_no_run_and_the_bytes_are_those_of_one_process(
    tmp_path, monkeypatch, victim, checkpoint_seconds
):
    """One that is terminated writes a checkpoint first."""
    configs = [tiny(epochs=2, seed=seed) for seed in range(2)]
    how = Compute(threads=1, checkpoint_seconds=checkpoint_seconds), Scoring(n=100)
    whole = sweep(configs, tmp_path / "whole", *how)
    monkeypatch.setattr("mocalib.sweep.run.run_one", getattr(victims, f"run_one_{victim}_once"))
    found = sweep(configs, tmp_path / "runs", *how, Pool(jobs=2))
    killed, other = (victims.processes(run.directory / LOG) for run in found)
    assert len(killed) == len(set(killed)) == 2
    assert len(other) == 1
    assert int(killed[0]) not in {child.pid for child in multiprocessing.active_children()}
    assert (found[0].directory / LOG).read_text("utf-8").count("| 0/16 ") == 1  # resumed, not begun anew
    for run, alone in zip(found, whole, strict=True):  # only the first seed has pictures
        assert_same_bytes(run, alone, "config.json", "metrics.jsonl", "scores.json", "latents.npz")


def test_a_worker_that_heeds_no_signal_ends_with_its_parent_all_the_same(tmp_path):
    log = log_in(tmp_path)
    events = in_processes(victims.heed_nothing, [CONFIG], log, retries=0, gpus=[None])
    while "working" not in (log(CONFIG).read_text("utf-8") if log(CONFIG).exists() else ""):
        next(events)
    events.close()
    [pid] = victims.processes(log(CONFIG))
    assert not psutil.pid_exists(int(pid))


def share(folder: Path) -> None:
    pool.SPAWN = victims.FORKS
    configs = [tiny(epochs=4, seed=seed) for seed in range(3)]
    sweep(configs, folder, Compute(threads=1), Scoring(n=100), Pool(jobs=2))


def test_of_two_sweeps_over_one_grid_each_run_is_trained_once(tmp_path):
    both = [victims.FORKS.Process(target=share, args=(tmp_path,)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(HANGS)
    assert [process.exitcode for process in both] == [0, 0]
    for seed in range(3):
        run = open_run(tmp_path / tiny(epochs=4, seed=seed).name)
        run.verify()
        assert (run.directory / LOG).read_text("utf-8").count("| 0/32 ") == 1  # one bar of training
        assert len({(row["metric"], row["sampler"], row["split"]) for row in run.scores}) == len(run.scores)


def test_an_impossible_run_is_reported_with_the_end_of_its_log_and_the_others_finish(tmp_path):
    """Of memory that no machine has, and of a batch that the data do not have."""
    good = tiny(epochs=1)
    huge = tiny(epochs=1, latent_dim=4096, objective=MoCA(queue_size=10**8))  # 1.6 TB of keys
    with pytest.raises(SweepError) as caught:
        sweep([huge, good, tiny(batch_size=512)], tmp_path, scoring=Scoring(n=100), pool=Pool(jobs=2))
    told = str(caught.value)
    assert told.startswith("2 of 3 runs failed, the others are finished. ")
    assert re.search(rf"{huge.name}: RuntimeError: .*allocate", told)
    assert f"the end of {tmp_path / huge.name / LOG}" in told
    assert "ValueError: batch_size = 512 is larger than the dataset" in told
    assert Run(tmp_path / good.name, good).scores


# ------------------------------------------------------------------------------------------------ read-only and paths


TRAIN_AND_SCORE = """
from mocalib import Compute, RunConfig, Scoring, evaluate, train
from mocalib.config import paths
assert str(paths.ROOT) == {folder!r}, paths.ROOT
run = train(RunConfig(limit=256, width=4, blocks=1, epochs=1), compute=Compute(threads=1))
evaluate(run, Scoring(n=100))
print(run.directory)
"""


def obey_modes() -> None:
    """Take from a superuser the right to write what its mode forbids (prctl: PR_CAPBSET_DROP, CAP_DAC_OVERRIDE)."""
    if os.getuid() == 0:
        ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="a superuser obeys no modes elsewhere")
def test_a_read_only_checkout_at_an_odd_path_says_why_it_fails_and_works_with_its_results_elsewhere(tmp_path):
    """In a folder with spaces and letters beyond ASCII."""
    folder, elsewhere = tmp_path / "dépôt à moi", tmp_path / "große Platte"
    for name in ("mocalib", "data/features", "data/paper"):
        shutil.copytree(paths.ROOT / name, folder / name)
    elsewhere.mkdir()
    setting = {"PYTHONPATH": f"{folder}:{OFFLINE}", "PATH": os.environ["PATH"], "HOME": str(elsewhere)}
    moved = {"MOCALIB_DATA": str(elsewhere / "data"), "MOCALIB_FIGURES": str(elsewhere / "figures")}
    command = [sys.executable, "-B", "-c", TRAIN_AND_SCORE.format(folder=str(folder))]
    places = [*folder.rglob("*"), folder]
    for path in places:
        path.chmod(0o555 if path.is_dir() else 0o444)
    refused, done = (
        subprocess.run(command, env=env, cwd="/", capture_output=True, encoding="utf-8", preexec_fn=obey_modes)
        for env in (setting, setting | moved)
    )
    for path in reversed(places):
        path.chmod(0o755)  # so that it can be removed
    assert refused.returncode == 1
    said = r"Error: .*Permission denied: .*dépôt à moi/data/runs.* cannot be written; set MOCALIB_RUNS, M"
    assert re.search(said, refused.stderr)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith(str(elsewhere / "data" / "runs" / "custom"))


def test_data_that_an_admin_decoded_and_closed_can_be_trained_on_and_scored(tmp_path):
    shared, mine = tmp_path / "shared", tmp_path / "mine"
    mine.mkdir()
    env = {"PYTHONPATH": f"{paths.ROOT}:{OFFLINE}", "PATH": os.environ["PATH"], "HOME": str(mine)}
    env |= {"MOCALIB_DATA": str(shared), "MOCALIB_RUNS": str(mine / "runs"), "MOCALIB_FIGURES": str(mine / "figures")}
    decode = "from mocalib import RunConfig; from mocalib.data import datasets; datasets.load(RunConfig())"
    subprocess.run([sys.executable, "-c", decode], env=env, check=True)
    places = [*shared.rglob("*"), shared]
    for path in places:
        path.chmod(0o555 if path.is_dir() else 0o444)
    command = [sys.executable, "-B", "-c", TRAIN_AND_SCORE.format(folder=str(paths.ROOT))]
    done = subprocess.run(command, env=env, cwd="/", capture_output=True, encoding="utf-8", preexec_fn=obey_modes)
    for path in reversed(places):
        path.chmod(0o755)
    assert done.returncode == 0, done.stderr
    assert list((mine / "runs" / "cache" / "features").glob("*.pt"))


def test_a_cache_that_cannot_be_written_costs_nothing_after_hours(scratch):
    """As in data of others, decoded or not: what lies there is read, and the rest goes beside the runs."""
    config = tiny(epochs=1)
    plain = train(config, scratch / "plain")
    rows = evaluate(plain, Scoring(n=50))
    (paths.CACHE / "features").rename(scratch / "features")
    (paths.CACHE / "features").write_text("a file, so no folder can be made here", "utf-8")
    run = train(config, paths.RUNS / "custom")
    assert evaluate(run, Scoring(n=50)) == rows
    assert list((paths.RUNS / "cache" / "features").glob("*.pt"))
    shutil.rmtree(paths.CACHE)
    paths.CACHE.write_text("a file", "utf-8")
    assert evaluate(train(config, scratch / "again"), Scoring(n=50)) == rows
    assert list((paths.RUNS / "cache").glob("digits-*/train.npy"))


def test_features_that_can_be_kept_nowhere_are_computed(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder", "utf-8")
    assert files.kept(tmp_path / "file" / "x.pt", lambda: 5) == 5
