"""Runs on a Ray cluster, which queues them, assigns GPUs and replaces lost nodes.

Every node must see the same checkout, Python environment, runs and data. File locks must work across nodes (NFS 4, or
Lustre mounted with `flock`), so that each run has one writer.
"""

import contextlib
import os
import socket
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

from mocalib.config import paths
from mocalib.config.compute import Pool
from mocalib.config.run import RunConfig
from mocalib.sweep.pool import LOOK, Event, Work, attempt, changed, count_death

ANSWERS = 3.0  # seconds to wait for a cluster's answer
LOOPBACK = "127.0.0.2" if sys.platform == "linux" else None  # Ray replaces 127.0.0.1 by the public address


def in_cluster(
    work: Work, configs: list[RunConfig], log: Callable[[RunConfig], Path], pool: Pool, cpus: int, gpus: float
) -> Iterator[Event]:
    """Do each run as a task with `cpus` CPUs and `gpus` GPUs (0.5: two runs share one).

    A run is tried again as in `in_processes`. The address "local" always starts a new cluster here. Raises ValueError
    if Ray is not installed or a cluster started here has no room for a run, ConnectionError if none answers.
    """
    jobs = pool.jobs or 0  # 0: as many as fit
    with _connected(pool.address, cpus * jobs or None) as (ray, ours):
        _check_room(ray, cpus, gpus, ours)
        how = {"num_cpus": cpus, "num_gpus": gpus, "max_retries": 0, "runtime_env": {"env_vars": _shared()}}
        task = ray.remote(**how)(attempt)
        waiting, pending, unseen, deaths = deque(configs), {}, {}, Counter()
        try:
            while waiting or pending:
                while waiting and len(pending) < (jobs or len(configs)):
                    config = waiting.popleft()
                    unseen[config] = changed(log(config))  # a run that starts writes to it
                    pending[task.remote(work, config, log(config))] = config
                ended, _ = ray.wait(list(pending), num_returns=1, timeout=LOOK)
                for config in [config for config, before in unseen.items() if changed(log(config)) != before]:
                    del unseen[config]
                    yield Event(config, ended=False)
                if not ended:
                    yield Event()
                for reference in ended:
                    config = pending.pop(reference)
                    if unseen.pop(config, None) is not None:
                        yield Event(config, ended=False)
                    error, died = _answer(ray, reference)
                    if died and count_death(deaths, log(config)) <= pool.retries:
                        waiting.append(config)
                    else:
                        yield Event(config, True, error)
        finally:
            for reference in pending:
                ray.cancel(reference, force=True)


def _answer(ray: ModuleType, reference: object) -> tuple[str | None, bool]:
    try:
        return ray.get(reference), False
    except ray.exceptions.RayTaskError as failed:  # outside the work; `attempt` catches errors inside it
        return f"{failed}".strip().rpartition("\n")[2], False
    except ray.exceptions.RayError as lost:
        return f"{type(lost).__name__}: {lost}".partition("\n")[0], True


def _shared() -> dict[str, str]:
    """Environment variables for workers on all nodes: the folders of runs, data and code."""
    return {
        "MOCALIB_DATA": str(paths.DATA),
        "MOCALIB_RUNS": str(paths.RUNS),
        "PYTHONPATH": os.pathsep.join(filter(None, (str(paths.ROOT), os.environ.get("PYTHONPATH")))),
    }


def _check_room(ray: ModuleType, cpus: int, gpus: float, ours: bool) -> None:
    """If no node has room for a run, raise ValueError on our own cluster; print it on others, which may grow."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in nodes):
        return
    has = ", ".join(f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes)
    message = f"a run needs {cpus} CPUs and {gpus:g} GPUs, and the nodes have {has}; change threads, gpus or device"
    if ours:
        raise ValueError(message)
    print(f"{message}, or wait until the cluster has such a node", flush=True)


@contextlib.contextmanager
def _connected(address: str | None, cpus: int | None) -> Iterator[tuple[ModuleType, bool]]:
    """Connect to a cluster; yield Ray, and whether the cluster was started here and ends with this context."""
    with patch.dict(os.environ, {"RAY_USAGE_STATS_ENABLED": "0"} | os.environ):
        try:
            import ray
        except ImportError:
            raise ValueError(
                f"engine = 'ray' needs Ray; {sys.executable} -m pip install 'ray>=2.50', or use engine 'local'"
            ) from None
        if ray.is_initialized():
            if address:
                raise ValueError(f"address = {address!r}: Ray is already connected; leave it out, or ray.shutdown()")
            yield ray, False
            return
        try:
            yield ray, _connect(ray, address or os.environ.get("RAY_ADDRESS"), cpus)
        finally:
            ray.shutdown()


def _connect(ray: ModuleType, address: str | None, cpus: int | None) -> bool:
    """Join the cluster at `address`, else the one on this machine, else start one. Returns whether it was started."""
    quiet = {"log_to_driver": False, "logging_level": "error"}
    if address not in (None, "local"):
        _check_answers(address)
        ray.init(address=address, **quiet)
        return False
    if address is None:
        with contextlib.suppress(ConnectionError):
            ray.init(address="auto", **quiet)
            return False
    ray.init(address="local", num_cpus=cpus, include_dashboard=False, _node_ip_address=LOOPBACK, **quiet)
    return True


def _check_answers(address: str) -> None:
    """Raise ConnectionError if nothing listens at host:port or ray://host:port; Ray would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdecimal() and "/" not in host:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWERS).close()
        except OSError as error:
            way_out = "start one with `ray start --head`, or leave address and RAY_ADDRESS out"
            raise ConnectionError(f"no Ray cluster answers at {address} ({error}); {way_out}") from None
