"""What tests do to processes of their own: kill them at a chosen moment, or take the disk from them.

Processes are forked from a server that has imported everything, so that each costs milliseconds; nothing here but
mocalib is imported, since each of them imports this.
"""

import multiprocessing
import os
import re
import resource
import signal
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from mocalib import Compute, train
from mocalib.config.run import RunConfig
from mocalib.data.batches import ResidentImages
from mocalib.storage import files
from mocalib.sweep import pool
from mocalib.sweep.pool import LOG
from mocalib.sweep.run import run_one
from mocalib.training import interrupt

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["mocalib.sweep.run", "mocalib.figures"])
NODE = {"node_ip_address": "127.0.0.2", "num_cpus": 2, "object_store_memory": 80_000_000, "include_dashboard": False}


def begin(function: Callable, *arguments: Any) -> tuple[Any, Connection]:
    """A process that does this, and the end of a pipe that says what went wrong in it."""
    ours, theirs = FORKS.Pipe(duplex=False)
    process = FORKS.Process(target=reported, args=(theirs, function, arguments))
    process.start()
    theirs.close()
    return process, ours


def end(process: Any, ours: Connection) -> tuple[int, str]:
    """Wait for it; return its exit code (negative: the signal), and what went wrong."""
    try:
        error = ours.recv()
    except EOFError:
        error = "killed"
    process.join()
    return process.exitcode, error


def in_a_process(function: Callable, *arguments: Any) -> tuple[int, str]:
    return end(*begin(function, *arguments))


def reported(pipe: Connection, function: Callable, arguments: tuple) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    try:
        function(*arguments)
    except (Exception, KeyboardInterrupt) as error:
        pipe.send(f"{type(error).__name__}: {error}")
        os._exit(1)
    pipe.send("")


def train_here(config: RunConfig, directory: Path, checkpoint_seconds: float = 0.0) -> None:
    """One thread, a checkpoint a step."""
    train(config, directory=directory, compute=Compute(threads=1, checkpoint_seconds=checkpoint_seconds))


def die_at(boundary: int, function: Callable, *arguments: Any) -> None:
    """Kill this process at the n-th moment at which a file is half written, or about to take another's name."""
    left, flush = [boundary], os.fsync

    def dying(real: Callable) -> Callable:
        def counted(*given: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                if real is flush:
                    os.ftruncate(given[0], os.fstat(given[0]).st_size // 2)
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*given)

        return counted

    os.fsync, Path.replace = dying(os.fsync), dying(Path.replace)
    function(*arguments)


def signals(at: int, *numbers: int) -> Callable:
    """A `ResidentImages.batch` that sends this process signals in the middle of a step."""
    batch = ResidentImages.batch

    def signalling(images: ResidentImages, step: int) -> Any:
        for number in numbers if step == at else ():
            signal.raise_signal(number)
        return batch(images, step)

    return signalling


def interrupt_at(step: int, function: Callable, *arguments: Any) -> None:
    ResidentImages.batch = signals(step, signal.SIGINT)
    function(*arguments)


def with_files_below(limit: int, function: Callable, *arguments: Any) -> None:
    """The disk takes no more than so many bytes of a file: the system's own error, as of a full one."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    function(*arguments)


def die_on(seed: int, config: RunConfig) -> None:
    """Work that kills its process for one seed, and fails for the next one."""
    print(f"working on seed {config.seed}", flush=True)
    if config.seed == seed:
        os.kill(os.getpid(), signal.SIGKILL)
    if config.seed == seed + 1:
        raise ValueError(f"seed {config.seed} is impossible")
    time.sleep(0.1)


KILLS = {0: "++", 1: "-+-", 2: ""}  # seed -> kills of its worker, "+": after a new checkpoint


def die_again_and_again(runs: Path, config: RunConfig) -> None:
    """Work whose process is killed as KILLS says; it ends when there are no more."""
    directory = runs / config.name
    before = len(processes(directory / LOG)) - 1
    if before < len(KILLS[config.seed]):
        if KILLS[config.seed][before] == "+":
            files.write(directory / "checkpoint.pt", b"")
        os.kill(os.getpid(), signal.SIGKILL)


def run_one_killed_once(config: RunConfig, runs: Path, **how: Any) -> None:
    """A sweep's work, whose first process with seed 0 is killed as it writes a later checkpoint."""
    work = partial(run_one, config, runs, **how)
    if config.seed == 0 and len(processes(runs / config.name / LOG)) == 1:
        die_at(20, work)
    work()


def run_one_terminated_once(config: RunConfig, runs: Path, **how: Any) -> None:
    """A sweep's work, whose first process with seed 0 gets a SIGTERM in a step."""
    work = partial(run_one, config, runs, **how)
    if config.seed == 0 and len(processes(runs / config.name / LOG)) == 1:
        ResidentImages.batch = signals(5, signal.SIGTERM)
    work()


def heed_nothing(config: RunConfig) -> None:
    """Work that goes on after every signal, in a worker whose grace is short."""
    pool.GRACE = 0.1
    with interrupt.held():
        print("working", flush=True)
        while True:
            time.sleep(0.05)


def processes(log: Path) -> list[str]:
    """Those that a run was in, by its log."""
    return re.findall(r", process (\d+)$", log.read_text("utf-8", errors="replace"), re.MULTILINE)


def say_gpu(config: RunConfig) -> None:
    print("GPU", os.environ["CUDA_VISIBLE_DEVICES"], "prêt", flush=True)


def say_place(config: RunConfig) -> None:
    """Work that says which GPU it was given, and what reached it of the environment."""
    import ray

    part = ray.get_runtime_context().get_assigned_resources()["GPU"]
    print("GPU", os.environ["CUDA_VISIBLE_DEVICES"], "of", part, os.environ["MOCALIB_RUNS"], flush=True)
    time.sleep(1.0)


def cluster(**more: int) -> Any:
    """A Ray cluster of two nodes; the second has what is given, beside its CPUs."""
    from ray.cluster_utils import Cluster

    found = Cluster(initialize_head=True, head_node_args=NODE)
    found.second = found.add_node(**NODE, **more)
    return found
