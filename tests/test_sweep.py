"""Many runs: each once, in order, failures named, here and in processes of their own."""

import itertools
import os
import re
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch
import victims
from conftest import says, tiny
from tqdm import tqdm

from mocalib import Compute, Pool, Scoring, figures
from mocalib.data.batches import ResidentImages
from mocalib.storage import files
from mocalib.storage.run import Run
from mocalib.sweep.pool import Event, in_processes
from mocalib.sweep.run import SweepError, _followed, _places, _shared, sweep


def test_runs_come_in_the_configs_order_and_equal_configs_are_run_once(tmp_path, monkeypatch):
    worked = []
    monkeypatch.setattr("mocalib.sweep.run.run_one", lambda config, **_: worked.append(config))
    configs = [tiny(seed=seed) for seed in (2, 0, 2, 1)]
    found = sweep(configs, tmp_path)
    assert [run.config for run in found] == configs
    assert worked == [configs[0], configs[1], configs[3]]


def test_a_run_is_trained_and_scored_at_its_end_and_at_every_kept_epoch(tmp_path):
    config = tiny(epochs=2, keep_epochs=(0, 1))
    [run] = sweep([config], tmp_path, scoring=Scoring(n=100))
    assert {row["epoch"] for row in run.scores} == {0, 1, 2}
    assert {"samples.png", "samples-epoch-0000.png", "samples-epoch-0001.png"} <= {p.name for p in tmp_path.rglob("*")}
    reconstruction = {
        r["epoch"]: r["value"] for r in run.scores if (r["metric"], r["split"]) == ("reconstruction", "test")
    }
    assert reconstruction[0] > reconstruction[2]  # before training
    before = {path: path.stat().st_mtime_ns for path in run.directory.iterdir() if path.name != ".lock"}
    sweep([config], tmp_path, scoring=Scoring(n=100))
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_of_several_seeds_only_the_first_has_pictures(tmp_path):
    """Whichever seed that is, and whatever else differs; without grids no run has any."""
    configs = [tiny(epochs=1, learning_rate=rate, seed=seed) for rate in (0.001, 0.002) for seed in (3, 4)]
    runs = sweep(configs, tmp_path / "runs", scoring=Scoring(n=50))
    assert [(run.directory / "samples.png").exists() for run in runs] == [True, False, True, False]
    assert all((run.directory / "latents.npz").exists() and run.scores for run in runs)
    [bare] = sweep(configs[:1], tmp_path / "bare", scoring=Scoring(n=50, grids=False))
    assert not [*bare.directory.glob("*.png")]
    with pytest.raises(FileNotFoundError, match="of several seeds only the first has pictures"):
        figures.samples(runs[1])


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_failed_run_is_named_and_hides_no_other(tmp_path, monkeypatch, jobs):
    monkeypatch.setattr("mocalib.sweep.pool.SPAWN", victims.FORKS)
    good = [tiny(epochs=1, seed=seed) for seed in (0, 1)]
    bad = tiny(epochs=1, batch_size=512)
    with pytest.raises(SweepError, match=f"1 of 3 runs failed, the others are finished. {bad.name}: ValueError: .*512"):
        sweep([good[0], bad, good[1]], tmp_path, scoring=Scoring(n=100), pool=Pool(jobs=jobs))
    assert all(Run(tmp_path / config.name, config).finished for config in good)
    assert not (tmp_path / bad.name / "config.json").exists()


def test_what_cannot_be_scored_is_not_trained(tmp_path, scratch):
    with pytest.raises(SweepError, match=r"nowhere.pth does not exist. Place weights-inception"):
        sweep([tiny()], tmp_path, scoring=Scoring(features="inception", weights=tmp_path / "nowhere.pth"))
    assert not (tmp_path / tiny().name).exists()


def test_a_reason_that_all_share_is_told_once(tmp_path):
    configs = [tiny(dataset="folder", root="/nowhere", seed=seed) for seed in range(3)]
    with pytest.raises(SweepError) as caught:
        sweep(configs, tmp_path)
    told = str(caught.value)
    assert told.startswith(f"3 of 3 runs failed. {', '.join(config.name for config in configs)}: ")
    assert told.count("/nowhere") == 1


def test_runs_without_their_images_start_no_worker_and_leave_nothing_and_the_others_finish(tmp_path, scratch):
    faces, good = [tiny(dataset="faces10k", seed=seed) for seed in range(2)], tiny(limit=128, epochs=1)
    with pytest.raises(SweepError, match="2 of 3 runs failed, the others are.* 'faces10k' is not on this disk"):
        sweep([*faces, good], tmp_path, pool=Pool(jobs=2))
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [good.name]


SCRIPT = """
from pathlib import Path
from mocalib import MoCA, Pool, RunConfig
from mocalib.sweep.run import sweep
if __name__ == "__main__":
    net = dict(width=4, blocks=1, latent_dim=8, objective=MoCA(queue_size=100))
    long = [RunConfig(epochs=500, seed=seed, **net) for seed in (0, 1)]
    sweep(long, Path({folder!r}), pool=Pool(jobs=2))
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_workers_end_with_their_parent_after_a_checkpoint(tmp_path, how):
    """In training they have begun and never logged; the next periodic checkpoint would come after a minute."""
    script = tmp_path / "sweep_two.py"
    script.write_text(SCRIPT.format(folder=str(tmp_path / "runs")), "utf-8")
    with subprocess.Popen([sys.executable, script], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as parent:
        deadline = time.monotonic() + 600  # for a hang, not for speed
        while sum("| 0/" in log.read_text("utf-8") for log in tmp_path.glob("runs/*/log.txt")) < 2:
            assert time.monotonic() < deadline
            assert parent.poll() is None
            time.sleep(0.2)
        workers = psutil.Process(parent.pid).children(recursive=True)
        assert len(workers) >= 2
        os.kill(parent.pid, how)
        parent.wait(60)
    _, alive = psutil.wait_procs(workers, timeout=600)
    assert not alive
    runs = [log.parent for log in tmp_path.glob("runs/*/log.txt")]
    steps = [files.read_tensors(run / "checkpoint.pt")["step"] for run in runs]
    assert min(steps) > 0
    for run, step in zip(runs, steps, strict=True):
        assert f"stopped at step {step:,} of 31,000; " in (run / "log.txt").read_text("utf-8")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("step", [3, 7])  # in the middle, and the last
def test_an_interrupt_ends_a_sweep_in_this_process(tmp_path, monkeypatch, no_death, number, step):
    configs = [tiny(epochs=1, seed=seed) for seed in range(2)]
    monkeypatch.setattr(ResidentImages, "batch", victims.signals(step, number))
    with pytest.raises(KeyboardInterrupt, match="^stopped "):
        sweep(configs, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [configs[0].name]
    assert Run(tmp_path / configs[0].name, configs[0]).finished == (step == 7)


def test_scores_of_other_features_are_added_by_the_same_sweep(tmp_path):
    """As scores of Inception are, once its weights are there; what was scored before stays."""
    config = tiny(epochs=2, keep_epochs=(1,))
    [run] = sweep([config], tmp_path / "twice", scoring=Scoring("none", 100))
    before = run.scores
    [run] = sweep([config], tmp_path / "twice", scoring=Scoring("classifier", 100))
    [once] = sweep([config], tmp_path / "once", scoring=Scoring("classifier", 100))
    assert run.scores[: len(before)] == before
    assert not any(row["features"] for row in before)
    assert sorted(map(str, run.scores)) == sorted(map(str, once.scores))


def test_a_mixture_comes_beside_what_belongs_to_a_run(tmp_path):
    """Of the last epoch alone, and once."""
    config = tiny(keep_epochs=(1,))
    [run] = sweep([config], tmp_path, scoring=Scoring(n=200, sampler="gmm10"))
    assert {(row["epoch"], row["sampler"]) for row in run.scores if row["sampler"] in ("prior", "gmm10")} == {
        (1, "prior"),
        (3, "prior"),
        (3, "gmm10"),
    }
    before = run.scores
    [again] = sweep([config], tmp_path, scoring=Scoring(n=200, sampler="gmm10"))
    assert again.scores == before
    assert (run.directory / "samples.png").exists()


@pytest.mark.parametrize(
    ("jobs", "gpus", "visible", "shown"),
    [
        (4, 1.0, None, ["0", "1", "0", "1"]),  # more than there are take turns
        (4, 0.5, None, ["0", "0", "1", "1"]),
        (6, 0.3, None, ["0", "0", "0", "1", "1", "1"]),
        (2, 1.0, "5,GPU-7f,9", ["5", "GPU-7f"]),
    ],
)
def test_gpus_are_shared_out(monkeypatch, jobs, gpus, visible, shown):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert _shared(jobs, gpus) == shown
    assert (_places(0, 0.5), _places(0, 0.6), _places(0, 1.0)) == (4, 2, 2)
    assert (_places(None, 1.0), _places(3, 0.5)) == (1, 3)


def test_on_a_gpu_every_run_has_a_process_of_its_own(tmp_path, monkeypatch):
    """What a failed kernel leaves of a process is of no use to the next run."""
    monkeypatch.setattr("mocalib.sweep.run.check_device", torch.device)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    given = []
    monkeypatch.setattr(
        "mocalib.sweep.run.in_processes", lambda *arguments: given.append(arguments[3:]) or (_ for _ in ())
    )
    sweep([tiny(seed=seed) for seed in range(2)], tmp_path, Compute("cuda"), pool=Pool(jobs=0, gpus=0.5))
    sweep([tiny()], tmp_path, Compute("cuda"))
    assert given == [(2, ["0", "0", "1", "1"]), (2, ["0"])]


def test_each_worker_sees_its_own_gpu_and_writes_utf_8(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONUTF8", "0")
    monkeypatch.setenv("LC_ALL", "C")
    configs = [tiny(seed=seed) for seed in range(2)]
    events = in_processes(victims.say_gpu, configs, lambda config: tmp_path / f"{config.seed}.txt", 0, ["3", "5"])
    assert [event.error for event in events if event.ended] == [None] * 2
    last = [path.read_text("utf-8").splitlines()[-1] for path in sorted(tmp_path.iterdir())]
    assert last == ["GPU 3 prêt", "GPU 5 prêt"]


def test_a_sweep_shows_what_is_done_running_and_failed_and_what_it_cost(monkeypatch, capsys):
    """Four runs, two at a time, by a clock of 30 s an event; the second is started again before it fails."""
    configs, seen, now = [tiny(seed=seed) for seed in range(4)], [], itertools.count(0, 30)
    events = [
        *(Event(config) for config in (configs[0], configs[1], configs[1])),  # 0, 30, 60
        Event(configs[0], True),  # 90
        Event(configs[2]),
        Event(configs[1], True, "ValueError: no"),  # 150
        Event(configs[3]),
        *(Event(config, True) for config in configs[2:]),  # 210, 240
    ]
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    monkeypatch.setattr(tqdm, "set_postfix_str", lambda self, text, refresh: seen.append(text))
    assert _followed(iter(events), configs) == {configs[1]: "ValueError: no"}
    assert seen[0] == "1 running, 0 failed, 0 device-hours"
    assert seen[1:3] == ["2 running, 0 failed, 0 device-hours"] * 2
    assert seen[3] == "1 running, 0 failed, 0.025 device-hours"  # 90 s
    assert seen[-1] == "0 running, 1 failed, 0.1 device-hours"  # 90 + 120 + 90 + 60 s
    assert "4/4" in capsys.readouterr().out


def test_a_damaged_directory_hides_no_other_run(tmp_path):
    configs = [tiny(epochs=1, seed=seed) for seed in range(2)]
    sweep(configs[:1], tmp_path, scoring=Scoring(n=100))
    path = tmp_path / configs[0].name / "scores.json"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(SweepError, match=r"1 of 2 runs failed, the others are.*scores.json is damaged"):
        sweep(configs, tmp_path, scoring=Scoring(n=100))
    assert Run(tmp_path / configs[1].name, configs[1]).scores


@pytest.mark.parametrize(
    ("compute", "pool", "said"),
    [
        (Compute("cpu"), Pool(gpus=0.5), ["gpus = 0.5", "'cuda'", "device = 'cpu'"]),
        (Compute("cuda:1"), Pool("ray"), ["device = 'cuda:1'", "pass 'cuda'"]),
        (Compute("cuda"), Pool(jobs=2), ["no CUDA device"]),
    ],
)
def test_settings_that_do_not_go_together_are_refused(tmp_path, compute, pool, said):
    with pytest.raises(ValueError, match=says(*said)):
        sweep([tiny()], tmp_path, compute, pool=pool)


UNGUARDED = """
from mocalib import Pool, RunConfig
from mocalib.sweep.run import sweep
configs = [RunConfig(seed=seed, epochs=1, width=4, limit=256) for seed in (0, 1)]
sweep(configs, {folder!r}, pool=Pool(jobs=2, retries=0))
"""


def test_a_script_that_its_workers_cannot_import_is_told_so(tmp_path):
    script = tmp_path / "unguarded.py"
    script.write_text(UNGUARDED.format(folder=str(tmp_path / "runs")), "utf-8")
    done = subprocess.run([sys.executable, script], capture_output=True, encoding="utf-8", timeout=600)
    assert done.returncode == 1
    assert re.search(
        r"RuntimeError: a worker died before it could take a run, 1 times in a row; its output "
        r"says why. A script must call sweep below `if __name__ == .__main__.:`",
        done.stderr,
    )


def test_a_sweep_shows_itself_before_the_first_run_has_ended_and_while_nothing_happens(capsys, monkeypatch):
    now = iter(range(0, 1000, 15))
    monkeypatch.setattr("tqdm.std.time", lambda: next(now))
    config = tiny()
    events = [Event(config), *[Event()] * 4, Event(config, True)]
    _followed(iter(events), [config])
    shown = capsys.readouterr().out
    assert "0/1" in shown.split("1 running, 0 failed")[0]
    assert 2 <= shown.count("1 running, 0 failed") < 5
