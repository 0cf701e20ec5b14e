"""Processes here that take one run after another, and what is told of a run that failed.

A worker may die (out of memory, a crash in native code, a kill): its run is given to a new one, which resumes it from
its checkpoint, and no other run is touched. Workers die with the process that started them.
"""

import contextlib
import faulthandler
import itertools
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator
from multiprocessing.connection import wait
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

from mocalib import files
from mocalib.config import RunConfig

Work = Callable[[RunConfig], object]
LOG = "log.txt"  # in a run's directory: what its workers printed; no record
LAST_LINES = 15  # of a log, in a report
READY = "ready"  # a worker's first word
LOOK = 1.0  # seconds after which it is said that there is nothing new
PATIENCE = 30.0  # seconds that a worker may take to end by itself


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
    waiting, deaths, spent = deque(configs), Counter(), Counter()
    workers, unborn = [], 0
    try:
        while waiting or workers:
            while len(workers) < jobs and sum(worker.config is None for worker in workers) < len(waiting):
                workers.append(_Worker({worker.place for worker in workers}, gpus))
            for worker in [worker for worker in workers if worker.ready and worker.config is None]:
                if waiting:
                    worker.take(work, waiting[0], log(waiting[0]))
                    yield Event(waiting.popleft(), ended=False)
                else:
                    workers.remove(worker)
                    worker.end()
            heard = _heard_of(workers)
            if not heard:
                yield Event()
            for worker in heard:
                config, told = worker.config, worker.hear()
                if told == READY:
                    unborn = 0
                elif told is not None:
                    error, seconds = told
                    if error is not None:  # a process that failed may fail the next run, too: GPUs are like that
                        workers.remove(worker)
                        worker.end()
                    yield Event(config, True, error, spent[config] + seconds)
                else:
                    workers.remove(worker)
                    how = worker.end()
                    if config is None:
                        unborn += 1
                        _check_born(unborn, retries, how)
                        continue
                    deaths[config] += 1
                    spent[config] += worker.seconds
                    if deaths[config] <= retries:
                        waiting.append(config)
                    else:
                        error = f"its process {how} (tried {deaths[config]} times)"
                        yield Event(config, True, error, spent[config])
    finally:  # also of an interrupt, or the caller's end: what runs now is resumed by the next start
        for worker in workers:
            worker.process.terminate()
        for worker in workers:
            worker.end()


def _check_born(unborn: int, retries: int, how: str) -> None:
    if unborn > retries:
        raise RuntimeError(
            f"a worker {how} before it could take a run, {unborn} times in a row; what it printed says why. A script "
            'that sweeps must do so below `if __name__ == "__main__":`, since its workers import it'
        )


def _heard_of(workers: list["_Worker"]) -> list["_Worker"]:
    """Those that said something or died; waits a little for the first."""
    handles = {handle: worker for worker in workers for handle in (worker.pipe, worker.process.sentinel)}
    return list(dict.fromkeys(handles[handle] for handle in wait(list(handles), LOOK))) if handles else []


class _Worker:
    """A process that does one run after another: imports cost seconds each."""

    def __init__(self, taken: set[int], gpus: list[str] | None) -> None:
        self.place = next(place for place in itertools.count() if place not in taken)
        context = multiprocessing.get_context("spawn")  # a forked child of a process with threads can hang
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs,))
        # Before anything is imported there: whoever looks for GPUs once sees the same ones ever after.
        with patch.dict(os.environ, {"CUDA_VISIBLE_DEVICES": gpus[self.place]} if gpus else {}):
            self.process.start()
        theirs.close()
        self.ready, self.config = False, None

    @property
    def seconds(self) -> float:
        """Since it took its run."""
        return time.monotonic() - self._since

    def take(self, work: Work, config: RunConfig, log: Path) -> None:
        self.config, self._since = config, time.monotonic()
        with contextlib.suppress(OSError):  # it has died already: then it is heard of, and the run given on
            self.pipe.send((work, config, log))

    def hear(self) -> tuple[str | None, float] | str | None:
        """READY; what went wrong with its run, or None, and the seconds; None if the process died."""
        try:
            told = self.pipe.recv() if self.pipe.poll() else None
        except (EOFError, OSError):
            return None
        if told == READY:
            self.ready = True
        elif told is not None:
            self.config = None
        return told

    def end(self) -> str:
        """Let it end, and say how it ended."""
        self.pipe.close()
        self.process.join(PATIENCE)
        self.process.kill()
        self.process.join()
        code = self.process.exitcode
        names = {number.value: number.name for number in signal.Signals}
        return f"was killed by {names.get(-code, -code)}" if code < 0 else f"ended with exit code {code}"


def _serve(pipe: multiprocessing.connection.Connection) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal interrupts all; the parent decides
    with contextlib.suppress(EOFError, OSError):  # the parent has ended
        pipe.send(READY)
        while True:
            work, config, log = pipe.recv()
            pipe.send(attempt(work, config, log))


def _end_with_parent() -> None:
    """Leave no orphan that trains on: a child does not notice by itself that its parent was killed."""
    multiprocessing.parent_process().join()
    os._exit(1)


def attempt(work: Work, config: RunConfig, log: Path | None = None) -> tuple[str | None, float]:
    """Do the work; return what went wrong, or None, and the seconds that it took."""
    start, error = time.monotonic(), None
    try:
        with contextlib.nullcontext() if log is None else printed_to(log):
            work(config)
    except Exception as found:  # of one run: the others are wanted all the same
        error = f"{type(found).__name__}: {found}"
    return error, time.monotonic() - start


@contextlib.contextmanager
def printed_to(log: Path) -> Iterator[None]:
    """Append all that this process prints to a file, native code, crashes and errors too, and begin with the time."""
    files.append(log, f"--- {time.strftime('%Y-%m-%d %H:%M:%S')}, process {os.getpid()}\n")
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(log.open("ab"))
        for number, stream in ((1, sys.stdout), (2, sys.stderr)):
            stream.flush()
            before = os.dup(number)
            stack.callback(os.close, before)
            stack.callback(os.dup2, before, number)
            os.dup2(file.fileno(), number)
        here = [stack.enter_context(open(number, "w", closefd=False, buffering=1)) for number in (1, 2)]
        stack.enter_context(contextlib.redirect_stdout(here[0]))
        stack.enter_context(contextlib.redirect_stderr(here[1]))
        faulthandler.enable(here[1])
        try:
            yield
        except Exception:
            traceback.print_exc()
            raise


def last_lines(log: Path) -> str:
    """The end of a run's log, indented; "" if it has none."""
    if not log.is_file():
        return ""
    lines = log.read_text(errors="replace").replace("\r", "\n").splitlines()[-LAST_LINES:]
    return "\n".join(["", f"  the end of {log}:", *(f"    {line}" for line in lines)])
