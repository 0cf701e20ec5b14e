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

from mocalib import paths
from mocalib.config import RunConfig
from mocalib.workers import Event, Work, attempt

ANSWERS = 10.0  # seconds within which a cluster answers
LOOK = 1.0  # seconds between two looks at which runs have started
LOOPBACK = "127.0.0.2" if sys.platform == "linux" else None  # Ray takes 127.0.0.1 for this machine's public address
MOVED = ("MOCALIB_DATA", "MOCALIB_RUNS", "MOCALIB_FIGURES")


def in_cluster(
    work: Work,
    configs: list[RunConfig],
    log: Callable[[RunConfig], Path],
    jobs: int | None,
    retries: int,
    cpus: int,
    gpus: float,
    address: str | None,
) -> Iterator[Event]:
    """Each run as a task with so many CPUs and GPUs (0.5: two runs share one), at most `jobs` at a time, if given.

    A task whose worker or node dies is started again elsewhere, `retries` times. `address`: a cluster to join; by
    default the one of RAY_ADDRESS or on this machine, else one is started here, as it is by "local". Raises ValueError
    where Ray is not installed, ConnectionError where no cluster answers.
    """
    with _connected(address, cpus * jobs if jobs else None, retries) as ray:
        task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=retries)(attempt)
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
        return str(failed).splitlines()[-1], 0.0
    except ray.exceptions.RayError as lost:  # as often as was allowed; what it took is not known
        return f"{type(lost).__name__}: {str(lost).splitlines()[0]}", 0.0


@contextlib.contextmanager
def _connected(address: str | None, cpus: int | None, retries: int) -> Iterator[ModuleType]:
    """Ray, connected to a cluster; one that was started here ends with this."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_task_oom_retries", str(retries))  # without end by default
    try:
        import ray
    except ImportError:
        raise ValueError("engine = 'ray' needs Ray; pip install -e '.[ray]', or use engine 'local'") from None
    if ray.is_initialized():  # the caller's own
        yield ray
        return
    here = {name: os.environ[name] for name in MOVED if name in os.environ}
    before = os.environ.get("PYTHONPATH")
    code = {"PYTHONPATH": os.pathsep.join(filter(None, (str(paths.ROOT), before)))}  # workers run this checkout
    how = {"log_to_driver": False, "logging_level": "error", "runtime_env": {"env_vars": here | code}}
    try:
        _join(ray, address, how)
    except ConnectionError:
        if address not in (None, "local"):
            raise
        ray.init(address="local", num_cpus=cpus, include_dashboard=False, _node_ip_address=LOOPBACK, **how)
    try:
        yield ray
    finally:
        ray.shutdown()


def _join(ray: ModuleType, address: str | None, how: dict) -> None:
    """Connect to a cluster that is there; ConnectionError if none is."""
    if address == "local":
        raise ConnectionError
    host, _, port = (address or "").rpartition(":")
    if port.isdecimal() and "/" not in host:  # Ray itself would try for minutes
        try:
            socket.create_connection((host, int(port)), timeout=ANSWERS).close()
        except OSError as error:
            raise ConnectionError(
                f"no Ray cluster answers at {address} ({error}); start one with `ray start --head`"
            ) from None
    ray.init(address=address or "auto", **how)
