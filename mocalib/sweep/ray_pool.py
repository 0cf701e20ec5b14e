"""Runs on a Ray cluster: queued where there is room, GPUs assigned, given to another node when one is lost.

Every node must see the same files: the checkout, its environment and the folders of runs and data, on a file system
whose locks hold across nodes (NFS 4; Lustre mounted with `flock`), so that a run has one writer.
"""

import contextlib
import os
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

from mocalib.config import paths
from mocalib.config.compute import Pool
from mocalib.config.run import RunConfig
from mocalib.sweep.pool import LOOK, Event, Work, attempt

ANSWERS = 10.0  # seconds within which a cluster answers
LOOPBACK = "127.0.0.2" if sys.platform == "linux" else None  # Ray takes 127.0.0.1 for this machine's public address


def in_cluster(
    work: Work,
    configs: list[RunConfig],
    log: Callable[[RunConfig], Path],
    pool: Pool,
    cpus: int,
    gpus: float,
) -> Iterator[Event]:
    """Each run as a task with so many CPUs and GPUs (0.5: two runs share one), as `pool` says.

    A task whose worker or node dies is started again elsewhere. Without an address the cluster is the one of
    RAY_ADDRESS or on this machine, else one is started here, as it is by "local". Raises ValueError where Ray is not
    installed, or the cluster started here has no room for a run, ConnectionError where none answers.
    """
    jobs = pool.jobs or 0  # 0: all that fit
    with _connected(pool.address, cpus * jobs or None, pool.retries) as (ray, ours):
        _check_room(ray, cpus, gpus, ours)
        how = {"num_cpus": cpus, "num_gpus": gpus, "max_retries": pool.retries, "runtime_env": {"env_vars": _shared()}}
        task = ray.remote(**how)(attempt)
        waiting, pending, unseen = deque(configs), {}, {}
        try:
            while waiting or pending:
                while waiting and len(pending) < (jobs or len(configs)):
                    config = waiting.popleft()
                    unseen[config] = _changed(log(config))
                    pending[task.remote(work, config, log(config))] = config
                ended, _ = ray.wait(list(pending), num_returns=1, timeout=LOOK)
                for config in [config for config, before in unseen.items() if _changed(log(config)) != before]:
                    del unseen[config]
                    yield Event(config, ended=False)
                if not ended:
                    yield Event()
                for reference in ended:
                    config = pending.pop(reference)
                    if unseen.pop(config, None) is not None:
                        yield Event(config, ended=False)
                    yield Event(config, True, *_answer(ray, reference))
        finally:
            for reference in pending:
                ray.cancel(reference, force=True)


def _changed(log: Path) -> int:
    """When a run's log was last written, in ns; 0 if it is not there: its first line says that the run has started."""
    return log.stat().st_mtime_ns if log.exists() else 0


def _answer(ray: ModuleType, reference: object) -> tuple[str | None, float]:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as failed:  # before or after the work, whose own errors are answers
        return f"{failed}".strip().rpartition("\n")[2], 0.0
    except ray.exceptions.RayError as lost:  # as often as was allowed; what it took is not known
        return f"{type(lost).__name__}: {lost}".partition("\n")[0], 0.0


def _shared() -> dict[str, str]:
    """What workers on any node must know: where runs, data and code lie."""
    before = os.environ.get("PYTHONPATH")
    return {
        "MOCALIB_DATA": str(paths.DATA),
        "MOCALIB_RUNS": str(paths.RUNS),
        "PYTHONPATH": os.pathsep.join(filter(None, (str(paths.ROOT), before))),
    }


def _check_room(ray: ModuleType, cpus: int, gpus: float, ours: bool) -> None:
    """Say that no node could take a run, which Ray would wait for in silence: another cluster may grow one."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in nodes):
        return
    has = ", ".join(f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes)
    told = f"a run wants {cpus} CPUs and {gpus:g} GPUs, and the nodes have {has}; change threads, gpus or device"
    if ours:
        raise ValueError(told)
    print(f"{told}, or wait until the cluster has such a node", flush=True)


@contextlib.contextmanager
def _connected(address: str | None, cpus: int | None, retries: int) -> Iterator[tuple[ModuleType, bool]]:
    """Ray, connected to a cluster, and whether it was started here; then it ends with this."""
    settings = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_task_oom_retries": str(retries)}  # without end by default
    with patch.dict(os.environ, settings | os.environ):
        try:
            import ray
        except ImportError:
            raise ValueError("engine = 'ray' needs Ray; pip install -e '.[ray]', or use engine 'local'") from None
        if ray.is_initialized():
            if address:
                raise ValueError(f"address = {address!r}: Ray is connected already; leave it out, or ray.shutdown()")
            yield ray, False
            return
        try:
            yield ray, _connect(ray, address or os.environ.get("RAY_ADDRESS"), cpus)
        finally:
            ray.shutdown()


def _connect(ray: ModuleType, address: str | None, cpus: int | None) -> bool:
    """Join the cluster at an address, else the one of this machine, else start one; whether it was started."""
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
    """Raise ConnectionError if nobody listens at host:port: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if port.isdecimal() and "/" not in host:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWERS).close()
        except OSError as error:
            way_out = "start one with `ray start --head`, or leave address and RAY_ADDRESS out"
            raise ConnectionError(f"no Ray cluster answers at {address} ({error}); {way_out}") from None
