"""Many runs: one after another in this process, or several at a time in processes of their own."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path

import torch

from mocalib import data, evaluation, paths
from mocalib.config import PRIOR, RunConfig
from mocalib.progress import bar
from mocalib.runs import Run
from mocalib.training import train


class SweepError(RuntimeError):
    """Some runs failed; all others are finished."""


def run(
    configs: list[RunConfig],
    runs: Path | str = paths.RUNS / "custom",
    jobs: int = 1,
    threads: int | None = None,
    device: torch.device | str = "cpu",
    features: str | None = None,
    n: int = 10_000,
    weights: Path | str | None = None,
    checkpoint_seconds: float = 60.0,
    compile: bool | None = None,
    sampler: str = PRIOR,
) -> list[Run]:
    """Train and score every config, `jobs` at a time, and return the runs in the configs' order.

    Equal configs are run once; what is finished and scored is not done again, what was interrupted resumes. With one
    job everything happens in this process; else in `jobs` processes (0: one a core), each with `threads` (default: the
    cores divided by the jobs), which end when this process does. `features`, `n`, `weights` and `sampler` are
    `evaluate`'s, the rest is `train`'s. Raises SweepError, naming each run that failed and why, when all others have
    ended.
    """
    if jobs < 0:
        raise ValueError(f"jobs = {jobs}: at least 1, or 0 for one a core")
    cores = os.cpu_count() or 1
    jobs = jobs or cores
    if jobs > 1:
        threads = threads or max(1, cores // jobs)
    work = partial(
        run_one,
        runs=Path(runs),
        device=device,
        threads=threads,
        features=features,
        n=n,
        weights=weights,
        checkpoint_seconds=checkpoint_seconds,
        compile=compile,
        sampler=sampler,
    )
    found = [Run(Path(runs) / config.name, config) for config in configs]
    todo = list(dict.fromkeys(run.config for run in found if not _done(run, features, n, sampler)))
    if failed := _all(work, todo, jobs):
        raise SweepError(_told(failed, len(todo)))
    return found


def _told(failed: dict[RunConfig, Exception], n: int) -> str:
    """Which of n runs failed and why, each reason once: one missing dataset fails them all."""
    reasons = {}
    for config, error in failed.items():
        reasons.setdefault(f"{type(error).__name__}: {error}", []).append(config.name)
    others = ", the others are finished" if len(failed) < n else ""
    told = "; ".join(f"{', '.join(names)}: {reason}" for reason, names in reasons.items())
    return f"{len(failed)} of {n} runs failed{others}. {told}"


def _all(work: Callable[[RunConfig], Run], todo: list[RunConfig], jobs: int) -> dict[RunConfig, Exception]:
    """Do all work, whatever fails, and return what failed and why."""
    failed = {}
    if not todo:
        return failed
    ended = _here(work, todo) if min(jobs, len(todo)) == 1 else _apart(work, todo, jobs)
    with bar("runs", len(todo), unit="run") as shown:
        for config, error in ended:
            shown.update()
            if error is not None:
                failed[config] = error
    return failed


def run_one(
    config: RunConfig,
    runs: Path,
    device: torch.device | str = "cpu",
    threads: int | None = None,
    features: str | None = None,
    n: int = 10_000,
    weights: Path | str | None = None,
    checkpoint_seconds: float = 60.0,
    compile: bool | None = None,
    sampler: str = PRIOR,
) -> Run:
    """Train one run and score its last weights and those of every kept epoch; by another sampler the last, too.

    First it is made sure that it can be scored: hours of training must not end in a score that cannot be taken.
    """
    if not Run(runs / config.name, config).finished:
        evaluation.check(config, data.load(config), features, n, weights=weights, sampler=sampler)
    how = {"device": device, "threads": threads, "checkpoint_seconds": checkpoint_seconds, "compile": compile}
    done = train(config, runs=runs, **how)
    for epoch, drawn in _evaluations(done, sampler):
        evaluation.evaluate(done, features, n, epoch, weights=weights, device=device, sampler=drawn)
    return done


def _done(run: Run, features: str | None, n: int, sampler: str) -> bool:
    """Whether nothing is left to do: then no process is started for it."""
    return run.finished and all(
        evaluation.scored(run, features, n, epoch, drawn) for epoch, drawn in _evaluations(run, sampler)
    )


def _evaluations(run: Run, sampler: str) -> list[tuple[int, str]]:
    """Epochs to score, each with what its samples are drawn from; the prior always, since all else comes with it."""
    prior = [(epoch, PRIOR) for epoch in run.epochs]
    return prior if sampler == PRIOR else [*prior, (run.epochs[-1], sampler)]


Ended = Iterator[tuple[RunConfig, Exception | None]]


def _here(work: Callable[[RunConfig], Run], configs: list[RunConfig]) -> Ended:
    for config in configs:
        try:
            work(config)
        except Exception as error:  # of one run: the others are wanted all the same
            yield config, error
        else:
            yield config, None


def _apart(work: Callable[[RunConfig], Run], configs: list[RunConfig], jobs: int) -> Ended:
    before = set(multiprocessing.active_children())
    context = multiprocessing.get_context("spawn")  # a forked child of a process with threads can hang
    pool = ProcessPoolExecutor(min(jobs, len(configs)), mp_context=context, initializer=_end_with_parent)
    try:
        futures = {pool.submit(work, config): config for config in configs}
        for future in as_completed(futures):
            yield futures[future], future.exception()
    except BaseException:  # an interrupt, or the caller's end: what runs now is resumed by the next start
        for child in set(multiprocessing.active_children()) - before:
            child.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """Leave no orphan that trains on: pool workers do not notice by themselves that their parent was killed."""

    def watch() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
