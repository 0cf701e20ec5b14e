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

from mocalib import files
from mocalib.config import RunConfig

Work = Callable[[RunConfig], object]
LOG = "log.txt"  # in a run's directory: what its workers printed; no record
LAST_LINES = 15  # of a log, in a report


class Event(NamedTuple):
    """A run that was started, or that ended after so many seconds of a device, well or with an error."""

    config: RunConfig
    ended: bool
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

    What a worker prints goes to the run's log. `gpus`: which one each of the `jobs` workers sees; None: all.
    """
    waiting, deaths, spent = deque(configs), Counter(), Counter()
    workers: list[_Worker] = []
    try:
        while waiting or workers:
            while waiting and len(workers) < jobs:
                workers.append(_Worker({worker.slot for worker in workers}, gpus))
            for worker in workers:
                if worker.config is None and waiting:
                    yield Event(worker.take(work, config := waiting.popleft(), log(config)), ended=False)
            for worker in [worker for worker in workers if worker.config is None]:  # nothing is left for it
                workers.remove(worker)
                worker.end()
            for worker in _ready(workers):
                config, answer = worker.config, worker.answer()
                spent[config] += worker.seconds
                if answer is None:
                    workers.remove(worker)
                    how = worker.end()
                    deaths[config] += 1
                    if deaths[config] <= retries:
                        waiting.append(config)
                        continue
                    answer = (f"its process {how} (tried {deaths[config]} times)", 0.0)
                yield Event(config, True, answer[0], spent[config])
    finally:  # also of an interrupt, or the caller's end: what runs now is resumed by the next start
        for worker in workers:
            worker.process.terminate()
        for worker in workers:
            worker.end()


def _ready(workers: list["_Worker"]) -> list["_Worker"]:
    """Those that answered or died; waits for the first."""
    handles = {handle: worker for worker in workers for handle in (worker.pipe, worker.process.sentinel)}
    return list(dict.fromkeys(handles[handle] for handle in wait(list(handles)))) if handles else []


class _Worker:
    """A process that does one run after another: imports cost seconds each."""

    def __init__(self, taken: set[int], gpus: list[str] | None) -> None:
        self.slot = next(slot for slot in itertools.count() if slot not in taken)
        context = multiprocessing.get_context("spawn")  # a forked child of a process with threads can hang
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, gpus[self.slot] if gpus else None))
        self.process.start()
        theirs.close()
        self.config: RunConfig | None = None
        self.seconds = 0.0

    def take(self, work: Work, config: RunConfig, log: Path) -> RunConfig:
        self.config, self._since = config, time.monotonic()
        with contextlib.suppress(OSError):  # it has died already: then it is seen as dead, and the run given on
            self.pipe.send((work, config, log))
        return config

    def answer(self) -> tuple[str | None, float] | None:
        """Error or None, and seconds; None instead if the process died over it."""
        self.seconds = time.monotonic() - self._since
        try:
            found = self.pipe.recv() if self.pipe.poll() else None
        except (EOFError, OSError):
            found = None
        if found:
            self.config = None
        return found

    def end(self) -> str:
        """Let it end, and say how it ended."""
        self.pipe.close()
        self.process.join()
        code = self.process.exitcode
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def _serve(pipe: multiprocessing.connection.Connection, gpu: str | None) -> None:
    if gpu is not None:  # nothing has looked for GPUs yet
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal interrupts all; the parent decides
    with contextlib.suppress(EOFError, OSError):  # the parent has ended
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
            try:
                work(config)
            except Exception:
                if log is not None:
                    traceback.print_exc()
                raise
    except Exception as found:  # of one run: the others are wanted all the same
        error = f"{type(found).__name__}: {found}"
    return error, time.monotonic() - start


@contextlib.contextmanager
def printed_to(log: Path) -> Iterator[None]:
    """Append all that this process prints to a file, native code and crashes too, and begin with the time."""
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
        yield


def last_lines(log: Path) -> str:
    """The end of a run's log, indented; "" if it has none."""
    if not log.exists():
        return ""
    lines = log.read_text(errors="replace").replace("\r", "\n").splitlines()[-LAST_LINES:]
    return "\n".join(["", f"  the end of {log}:", *(f"    {line}" for line in lines)])
