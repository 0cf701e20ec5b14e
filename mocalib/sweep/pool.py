"""Processes here that take one run after another, and what is told of a run that failed.

A worker may die (out of memory, a crash in native code, a kill): its run is given to a new one, which resumes it from
its checkpoint, and no other run is touched. Workers die with the process that started them.
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

Work = Callable[[RunConfig], object]
LOG = "log.txt"  # in a run's directory: what its workers printed; no record
LAST_LINES = 15  # of a log, in a report
LOOK = 1.0  # seconds after which it is said that there is nothing new
SPAWN = multiprocessing.get_context("spawn")  # a forked child of a process with threads can hang


class Event(NamedTuple):
    """A run that was started, or that ended after so many seconds of a device; without a run: nothing new."""

    config: RunConfig | None = None
    ended: bool = False
    error: str | None = None
    seconds: float = 0.0


def in_this_process(work: Work, configs: list[RunConfig]) -> Iterator[Event]:
    """One run after another, here."""
    for config in configs:
        yield Event(config, ended=False)
        error, seconds = attempt(work, config)
        yield Event(config, True, error, seconds)


def in_processes(
    work: Work,
    configs: list[RunConfig],
    log: Callable[[RunConfig], Path],
    jobs: int,
    retries: int,
    gpus: list[str] | None = None,
) -> Iterator[Event]:
    """`jobs` runs at a time, each in a worker; one whose worker died is tried again, `retries` times.

    What a worker prints goes to the run's log. `gpus`: which one each of the `jobs` workers sees; None: all. Raises
    RuntimeError if workers die before they can take a run.
    """
    waiting, tries, spent, unborn = deque(configs), Counter(), Counter(), 0
    theirs, leash = SPAWN.Pipe(duplex=False)
    workers = [_Worker(gpu, theirs) for gpu in gpus or [None] * jobs]
    free, busy = deque(workers), {}
    try:
        while waiting or busy:
            while waiting and free:
                worker, config = free.popleft(), waiting.popleft()
                busy[worker.take(work, config, log(config))] = worker
                yield Event(config, ended=False)
            ended, _ = wait(busy, LOOK, FIRST_COMPLETED)
            if not ended:
                yield Event()
            for answer in ended:
                worker = busy.pop(answer)
                free.append(worker)
                config, (died, error, seconds) = worker.config, worker.outcome(answer)
                tries[config] += 1
                spent[config] += seconds
                unborn = unborn + 1 if worker.born.exception() else 0
                _check_born(unborn, retries)
                if error is not None or not waiting:  # after an error the next run may fail, too: GPUs are like that
                    worker.end()
                if died and tries[config] <= retries:
                    waiting.append(config)
                else:
                    told = f"{error} (tried {tries[config]} times)" if died else error
                    yield Event(config, True, told, spent[config])
    finally:  # also of an interrupt, or the caller's end: what runs now is resumed by the next start
        leash.close()
        for worker in workers:
            worker.end(wait=True)


def _check_born(unborn: int, retries: int) -> None:
    if unborn > retries:
        raise RuntimeError(
            f"a worker died before it could take a run, {unborn} times in a row; what it printed says why. A script "
            'that sweeps must do so below `if __name__ == "__main__":`, since its workers import it'
        )


class _Worker:
    """A process, started when it is needed, that does one run after another: imports cost seconds each.

    It has an executor of its own: one with several processes ends all of them when one dies.
    """

    def __init__(self, gpu: str | None, leash: Connection) -> None:
        self._seen = {"CUDA_VISIBLE_DEVICES": gpu} if gpu else {}
        self._leash, self._pool = leash, None

    def take(self, work: Work, config: RunConfig, log: Path) -> Future:
        self.config, self.since = config, time.monotonic()
        if self._pool is None:
            self._pool = ProcessPoolExecutor(1, SPAWN, _begin, (self._leash,))
            # Before anything is imported there: whoever looks for GPUs once sees the same ones ever after.
            with patch.dict(os.environ, self._seen):
                self.born = self._pool.submit(os.getpid)  # starts it, and is answered before its first run
        try:
            return self._pool.submit(attempt, work, config, log)
        except BrokenProcessPool:  # it died after its last run
            self.end()
            return self.take(work, config, log)

    def outcome(self, answer: Future) -> tuple[bool, str | None, float]:
        """Whether the process died, what went wrong with its run, or None, and the seconds that it took."""
        if answer.exception() is None:
            return False, *answer.result()
        return True, "its process died", time.monotonic() - self.since

    def end(self, wait: bool = False) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait)
            self._pool = None


def _begin(leash: Connection) -> None:
    """In a worker, first of all: leave no orphan that trains on. A leash ends when the parent lets go or is killed."""

    def end_with_parent() -> None:
        leash.poll(None)
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal interrupts all; the parent decides


def attempt(work: Work, config: RunConfig, log: Path | None = None) -> tuple[str | None, float]:
    """Do the work; return what went wrong, or None, and the seconds that it took. `log`: for a process of its own."""
    start, error = time.monotonic(), None
    try:
        if log is not None:
            print_to(log)
        work(config)
    except Exception as found:  # of one run: the others are wanted all the same
        error = f"{type(found).__name__}: {found}"
        if log is not None:
            traceback.print_exc()
    return error, time.monotonic() - start


def print_to(log: Path) -> None:
    """From now on append all that this process prints to a file, native code and crashes too; begin with the time."""
    files.append(log, f"--- {time.strftime('%Y-%m-%d %H:%M:%S')}, process {os.getpid()}\n")
    with log.open("ab") as file:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(file.fileno(), stream.fileno())
            stream.reconfigure(line_buffering=True)  # a crash must not take what was said before it
    faulthandler.enable()


def last_lines(log: Path) -> str:
    """The end of a run's log, indented; "" if it has none."""
    if not log.is_file():
        return ""
    lines = log.read_text(errors="replace").replace("\r", "\n").splitlines()[-LAST_LINES:]
    return "\n".join(["", f"  the end of {log}:", *(f"    {line}" for line in lines)])
