"""A Ray cluster of two nodes on the loopback: workers and nodes may die, runs are neither lost nor done twice."""

import os
import re
import signal
import sys
import threading
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import victims
from conftest import tiny
from test_faults import assert_same_bytes

from mocalib import Compute, Pool, Scoring
from mocalib.config import paths
from mocalib.storage.run import Run
from mocalib.sweep.pool import LOG
from mocalib.sweep.ray_pool import _check_room, in_cluster
from mocalib.sweep.run import SweepError, sweep

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own, of sockets and files that it leaves to the collector
HOW = Compute(threads=1, checkpoint_seconds=0), Scoring(n=100)


def test_a_run_that_no_node_has_room_for_is_refused_here_and_said_elsewhere(capsys):
    dead = {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}}
    one_node = SimpleNamespace(nodes=lambda: [{"Alive": True, "Resources": {"CPU": 2.0}}, dead])
    told = "a run needs 4 CPUs and 1 GPUs, and the nodes have 2 CPUs and 0 GPUs; change threads, gpus or device"
    with pytest.raises(ValueError, match=told):
        _check_room(one_node, 4, 1.0, ours=True)
    _check_room(one_node, 4, 1.0, ours=False)
    assert f"{told}, or wait until the cluster has such a node" in capsys.readouterr().out
    _check_room(one_node, 2, 0.0, ours=True)
    assert capsys.readouterr().out == ""


@pytest.fixture
def cluster(monkeypatch):
    """Two nodes of two CPUs; the second has two GPUs, so to speak."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    found = victims.cluster(num_gpus=2)
    yield found
    ray.shutdown()
    found.shutdown()


def wait_for(condition, seconds: float = 600) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def begun(folder: Path) -> dict[Path, int]:
    """Runs with two checkpoints that are not finished, and the process that each is in."""
    found = {path.parent for path in folder.glob("*/previous.pt")}
    pids = {path: int(victims.processes(path / LOG)[-1]) for path in found}
    return {path: pid for path, pid in pids.items() if not (path / "manifest.json").exists()}


@pytest.mark.soak
def test_a_worker_is_killed_and_a_node_removed_and_every_run_equals_its_local_one(cluster, tmp_path):
    configs = [tiny(epochs=6, seed=seed) for seed in range(8)]
    lost = {}

    def inject():
        wait_for(lambda: len(begun(tmp_path / "ray")) >= 3)
        lost["begun"] = begun(tmp_path / "ray")
        lost["run"], pid = next(iter(lost["begun"].items()))
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: len(victims.processes(lost["run"] / LOG)) > 1)
        cluster.remove_node(cluster.second, allow_graceful=False)
        lost["node"] = True

    thread = threading.Thread(target=inject)
    thread.start()
    found = sweep(configs, tmp_path / "ray", *HOW, Pool("ray", address=cluster.address))
    thread.join()
    assert lost["node"]
    for directory in lost["begun"]:  # resumed, not begun anew
        assert (directory / LOG).read_text("utf-8").count("| 0/48 ") == 1
    for run, here in zip(found, sweep(configs, tmp_path / "here", *HOW), strict=True):
        assert_same_bytes(run, here)


@pytest.mark.soak
def test_gpus_are_assigned_in_parts_and_what_fails_hides_nothing(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RUNS", tmp_path / "moved")
    monkeypatch.setenv("PYTHONPATH", f"{Path(__file__).parent}:{os.environ['PYTHONPATH']}")  # the victims' module

    def log(config):
        return tmp_path / str(config.seed) / LOG

    configs = [tiny(seed=seed) for seed in range(4)]
    how = Pool("ray", retries=1, address=cluster.address), 1
    events = list(in_cluster(victims.say_place, configs, log, *how, 0.5))
    assert [event.error for event in events if event.ended] == [None] * 4
    told = [re.search(r"GPU (\d of [\d.]+) (.*)", log(config).read_text("utf-8")) for config in configs]
    assert {match[1] for match in told} <= {"0 of 0.5", "1 of 0.5"}  # which, depends on who ends first
    assert {match[2] for match in told} == {str(tmp_path / "moved")}
    events = list(in_cluster(partial(victims.die_on, 1), configs, log, *how, 0.0))
    errors = {event.config.seed: event.error for event in events if event.ended}
    assert errors[0] is errors[3] is None
    assert errors[1].startswith("WorkerCrashedError: The worker died unexpectedly")
    assert errors[2] == "ValueError: seed 2 is impossible"
    assert log(configs[1]).read_text("utf-8").count("working on seed 1") == 2
    started = [event.config.seed for event in events if event.config and not event.ended]
    assert sorted(started) == [0, 1, 1, 2, 3]


def test_deaths_count_since_the_last_checkpoint_and_errors_are_final(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{Path(__file__).parent}:{os.environ['PYTHONPATH']}")  # the victims' module
    configs = [tiny(seed=seed) for seed in (0, 3)]  # 3 is none of those that are killed
    work, pool = partial(victims.die_again_and_again, tmp_path), Pool("ray", jobs=2, retries=1, address="local")
    events = list(in_cluster(work, configs, lambda config: tmp_path / config.name / LOG, pool, 1, 0.0))
    errors = {event.config.seed: event.error for event in events if event.ended}
    assert errors == {0: None, 3: "KeyError: 3"}
    assert [len(victims.processes(tmp_path / config.name / LOG)) for config in configs] == [3, 1]


def test_a_ray_started_here_gives_the_same_bytes_as_this_process_and_ends_with_the_sweep(tmp_path):
    good, bad = tiny(epochs=1), tiny(batch_size=512)
    with pytest.raises(SweepError, match=f"1 of 2 runs failed, .*{bad.name}: ValueError: batch_size = 512 is"):
        sweep([good, bad], tmp_path / "ray", *HOW, Pool("ray", jobs=1, address="local"))
    assert not ray.is_initialized()
    run, [here] = Run(tmp_path / "ray" / good.name, good), sweep([good], tmp_path / "here", *HOW)
    assert len(victims.processes(run.directory / LOG)) == 1
    assert_same_bytes(run, here)


@pytest.mark.parametrize(
    ("variable", "address"), [("127.0.0.2:1", None), ("", "127.0.0.2:1"), ("", "ray://127.0.0.2:1")]
)
def test_a_cluster_that_does_not_answer_is_named_and_not_replaced(tmp_path, monkeypatch, variable, address):
    monkeypatch.setenv("RAY_ADDRESS", variable)
    with pytest.raises(ConnectionError, match=r"no Ray cluster answers at .*127.0.0.2:1 \(.*refused\); start"):
        sweep([tiny()], tmp_path, pool=Pool("ray", address=address))
    assert not ray.is_initialized()
    assert not (tmp_path / tiny().name).exists()


def test_without_ray_its_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(
        ValueError, match=r"engine = 'ray' needs Ray; .*python.* -m pip install 'ray>=2.50', or use engine 'local'"
    ):
        sweep([tiny()], tmp_path, pool=Pool("ray"))
