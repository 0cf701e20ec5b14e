"""Worker processes on this machine, each for one run after another.

If a worker dies, a new one resumes its run. Workers end with the process that started them.
"""

import faulthandler
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

from mocalib.config.run import RunConfig
from mocalib.storage import files
from mocalib.storage.run import CHECKPOINTS
from mocalib.training.interrupt import Interrupted

Work = Callable[[RunConfig], object]
LOG = "log.txt"  # in a run's directory: the output of its workers; not a record
LAST_LINES = 15  # lines of a log in an error message
GRACE = 20.0  # seconds for a last checkpoint after the parent has ended
LOOK = 1.0  # seconds without news before an empty event
SPAWN = multiprocessing.get_context("spawn")  # the forked child of a process with threads can hang


class Event(NamedTuple):
    """The start or end of a run; without a config, nothing new."""

    config: RunConfig | None = None
    ended: bool = False
    error: str | None = None


def in_this_process(work: Work, configs: list[RunConfig]) -> Iterator[Event]:
    """Do one run after another in this process."""
    for config in configs:
        yield Event(config, ended=False)
        yield Event(config, True, attempt(work, config))


def in_processes(
    work: Work, configs: list[RunConfig], log: Callable[[RunConfig], Path], retries: int, gpus: list[str | None]
) -> Iterator[Event]:
    """Do a run at a time in each of some workers, which print to the run's log.

    If its worker dies, a run is tried again, up to `retries` times without a new checkpoint. `gpus`: the GPU that each
    worker sees; None: all. Raises RuntimeError if workers die before they can take a run.
    """
    waiting, deaths, unborn = deque(configs), Counter(), 0
    theirs, leash = SPAWN.Pipe(duplex=False)
    workers = [_Worker(gpu, theirs) for gpu in gpus]
    free, busy = deque(workers), {}
    try:
        while waiting or busy:
            while waiting and free:
                worker, config = free.popleft(), waiting.popleft()
                busy[worker.take(work, config, log(config))] = worker, config
                yield Event(config, ended=False)
            ended, _ = wait(busy, LOOK, FIRST_COMPLETED)
            if not ended:
                yield Event()
            for answer in ended:
                worker, config = busy.pop(answer)
                free.append(worker)
                died = answer.exception() is not None
                error = "its process died" if died else answer.result()
                tries = count_death(deaths, log(config)) if died else 0
                unborn = unborn + 1 if worker.born.exception() else 0
                if unborn > retries:
                    raise RuntimeError(
                        f"a worker died before it could take a run, {unborn} times in a row; its output says why. A "
                        'script must call sweep below `if __name__ == "__main__":`, since its workers import the script'
                    )
                if error is not None or not waiting:  # after an error on a GPU the next run may fail too
                    worker.end()
                if died and tries <= retries:
                    waiting.append(config)
                else:
                    yield Event(config, True, f"{error} (tried {tries} times)" if died else error)
    finally:  # also after an interrupt, or if the caller stops; the next start resumes these runs
        leash.close()
        for worker in workers:
            worker.end(wait=True)


def changed(path: Path) -> int:
    """When a file was last written, in ns; 0 without a file."""
    return path.stat().st_mtime_ns if path.exists() else 0


def count_death(deaths: Counter, log: Path) -> int:
    """Count a death of a run's worker; return how many there were since its last progress, which is a new file."""
    progress = log, *(changed(log.with_name(name)) for name in (*CHECKPOINTS, "manifest.json"))
    deaths[progress] += 1
    return deaths[progress]


class _Worker:
    """A process for one run after another. Each has its own executor, since a shared one ends all when one dies."""

    def __init__(self, gpu: str | None, leash: Connection) -> None:
        self._seen = {"CUDA_VISIBLE_DEVICES": gpu} if gpu else {}
        self._leash, self._pool = leash, None

    def take(self, work: Work, config: RunConfig, log: Path) -> Future:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(1, SPAWN, _begin, (self._leash,))
            # Set before the worker imports anything: CUDA reads it once.
            with patch.dict(os.environ, self._seen):
                self.born = self._pool.submit(os.getpid)  # starts the process
        try:
            return self._pool.submit(attempt, work, config, log)
        except BrokenProcessPool:  # it died after its last run
            self.end()
            return self.take(work, config, log)

    def end(self, wait: bool = False) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait)
            self._pool = None


def _begin(leash: Connection) -> None:
    """Set up a worker, which must end with its parent. `leash` closes when the parent closes it or is killed."""

    def end_with_parent() -> None:
        leash.poll(None)
        os.kill(os.getpid(), signal.SIGTERM)  # in training it waits for a checkpoint, elsewhere it ends the process
        time.sleep(GRACE)
        os._exit(1)

    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal interrupts all processes; the parent handles it


def attempt(work: Work, config: RunConfig, log: Path | None = None) -> str | None:
    """Do the work and return its error, or None. With `log`, all output goes to that file."""
    try:
        if log is not None:
            print_to(log)
        work(config)
    except Interrupted as stopped:
        if log is None:
            raise
        print(stopped, flush=True)
        os._exit(stopped.code)  # the process that started this one was not stopped
    except Exception as error:  # the other runs continue
        if log is not None:
            traceback.print_exc()
        return f"{type(error).__name__}: {error}"


def print_to(log: Path) -> None:
    """Append all further output of this process to a file, that of native code and crashes too."""
    files.append(log, f"--- {time.strftime('%Y-%m-%d %H:%M:%S')}, process {os.getpid()}\n")
    with log.open("ab") as file:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(file.fileno(), stream.fileno())
            stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)  # a crash loses none
    faulthandler.enable()


def last_lines(log: Path) -> str:
    """The end of a run's log, indented; "" if it has none."""
    if not log.is_file():
        return ""
    lines = log.read_text("utf-8", errors="replace").replace("\r", "\n").splitlines()[-LAST_LINES:]
    return "\n".join(["", f"  the end of {log}:", *(f"    {line}" for line in lines)])
