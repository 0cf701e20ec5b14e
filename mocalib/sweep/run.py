"""Many runs: one after another in this process, several in processes of their own, or on a Ray cluster."""

import contextlib
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from mocalib.config import paths
from mocalib.config.compute import Compute, Pool, Scoring
from mocalib.config.run import PRIOR, RunConfig
from mocalib.data import datasets
from mocalib.evaluation.evaluate import check_scoring, evaluate, scored
from mocalib.storage import environment
from mocalib.storage.progress import bar
from mocalib.storage.run import Run
from mocalib.sweep import ray_pool
from mocalib.sweep.pool import LOG, Event, Work, in_processes, in_this_process, last_lines
from mocalib.training.device import check_device, threads
from mocalib.training.train import train


class SweepError(RuntimeError):
    """Some runs failed; all others are finished."""


def sweep(
    configs: list[RunConfig],
    runs: Path | str = paths.RUNS / "custom",
    compute: Compute = Compute(),
    scoring: Scoring = Scoring(),
    pool: Pool = Pool(),
) -> list[Run]:
    """Train and score every config and return the runs in the configs' order.

    Equal configs are run once; what is finished and scored is not done again, what was interrupted resumes. With other
    features the same call adds their scores, where weights are still there. `pool` says where and how many at a time:
    one local run on a CPU (the default) is done in this process, all else in processes that end when this one does, on
    "cuda" each with a GPU of its own as far as there are any. On Ray a run takes `compute.threads` CPUs (default 1);
    of several wide nets here each takes its share of the cores. A run whose process or node died is started again, and
    goes on from its checkpoint.
    Raises ValueError for what cannot be, and SweepError, naming each run that failed, why, and the end of its log, when
    all others have ended.
    """
    runs, on_cuda = Path(runs).resolve(), check(configs, compute, pool)
    if scoring.weights:
        scoring = replace(scoring, weights=Path(scoring.weights).resolve())
    todo, refused = _todo(configs, runs, scoring)
    here = pool.engine == "local" and pool.jobs in (None, 1) and not on_cuda
    work = partial(run_one, runs=runs, compute=compute, scoring=scoring)
    failed = {}
    if todo:  # nothing is started for what is done
        log = partial(_log, runs)
        events = in_this_process(work, todo) if here else _apart(work, todo, log, compute, pool)
        with contextlib.closing(events):  # whatever happens, it ends its processes
            failed = _followed(events, todo)
    if refused or failed:
        logs = {} if here else {config: _log(runs, config) for config in failed}
        raise SweepError(_told(refused | failed, len(dict.fromkeys(configs)), logs))
    return [Run(runs / config.name, config) for config in configs]


def _apart(
    work: Work, todo: list[RunConfig], log: Callable[[RunConfig], Path], compute: Compute, pool: Pool
) -> Iterator[Event]:
    """Do the runs in processes here, or on a cluster; tell what starts and ends."""
    gpus = (pool.gpus or 1.0) if compute.device == "cuda" else 0.0
    if pool.engine == "ray":
        cpus = compute.threads or 1
        return ray_pool.in_cluster(partial(work, share=cpus), todo, log, pool, cpus, gpus)
    jobs = _places(pool.jobs, gpus)
    work = partial(work, share=max(1, environment.cores() // jobs))
    return in_processes(work, todo, log, jobs, pool.retries, _shared(jobs, gpus) if gpus else None)


def _log(runs: Path, config: RunConfig) -> Path:
    return runs / config.name / LOG


def check(configs: list[RunConfig], compute: Compute, pool: Pool) -> bool:
    """Raise ValueError for what `run` would refuse; whether runs take GPUs as they are assigned."""
    roots = [config.root for config in configs if config.root and not Path(config.root).is_absolute()]
    if pool.engine == "ray" and roots:
        raise ValueError(f"root = {roots[0]!r}: nodes of a cluster start elsewhere; pass an absolute path")
    device = compute.device
    kind = torch.device(device) if pool.engine == "ray" else check_device(device)
    if kind.index is not None and (pool.engine == "ray" or pool.jobs not in (None, 1)):
        raise ValueError(f"device = {device!r} is one GPU; pass 'cuda', of which each run is given its own")
    if pool.gpus is not None and kind.type != "cuda":
        raise ValueError(f"gpus = {pool.gpus}: of a run on 'cuda', 1 or a part of it; device = {device!r}")
    return kind.type == "cuda" and kind.index is None


def _places(jobs: int | None, gpus: float) -> int:
    """Runs at a time on this machine."""
    if jobs is None:
        return 1
    return jobs or (torch.cuda.device_count() * int(1 / gpus) if gpus else environment.cores())


def _shared(jobs: int, gpus: float) -> list[str]:
    """Which GPU each of `jobs` workers sees, by the names that CUDA_VISIBLE_DEVICES has for them."""
    count, given = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    names = given.split(",")[:count] if given else [str(i) for i in range(count)]
    return [names[place // int(1 / gpus) % count] for place in range(jobs)]


def _todo(configs: list[RunConfig], runs: Path, scoring: Scoring) -> tuple[list[RunConfig], dict[RunConfig, str]]:
    """Each config once that is not finished and scored, and those whose directory is damaged or another's, and why."""
    todo, refused = [], {}
    for config in dict.fromkeys(configs):
        try:
            if not _done(Run(runs / config.name, config), scoring):
                todo.append(config)
        except Exception as error:  # of one directory: the others are wanted all the same
            refused[config] = f"{type(error).__name__}: {error}"
    return todo, refused


def _followed(events: Iterator[Event], todo: list[RunConfig]) -> dict[RunConfig, str]:
    """Show what is done, running and failed and, by the runs that ended, the time left; then what it cost.

    Returns what failed and why.
    """
    failed, running, seconds = {}, set(), 0.0
    every, last = (1.0 if sys.stdout.isatty() else 60.0), -math.inf  # seconds between two looks of the bar
    with bar("runs", len(todo), unit="run") as shown:
        for config, ended, error, taken in events:
            if ended:
                running.discard(config)
                seconds += taken
                if error is not None:
                    failed[config] = error
            elif config is not None:
                running.add(config)
            cost = f", {seconds / 3600:.2g} device-hours"
            shown.set_postfix_str(f"{len(running)} running, {len(failed)} failed{cost}", refresh=False)
            shown.update(int(ended))
            if time.monotonic() - last >= every:
                shown.refresh()
                last = time.monotonic()
    return failed


def _told(failed: dict[RunConfig, str], n: int, logs: dict[RunConfig, Path]) -> str:
    """Which of n runs failed and why, each reason once: one missing dataset fails them all."""
    reasons = {}
    for config, error in failed.items():
        reasons.setdefault(error, []).append(config)
    others = ", the others are finished" if len(failed) < n else ""
    told = [
        f"{', '.join(config.name for config in configs)}: {reason}"
        + (last_lines(logs[configs[0]]) if configs[0] in logs else "")
        for reason, configs in reasons.items()
    ]
    return f"{len(failed)} of {n} runs failed{others}. " + "\n".join(told)


def run_one(
    config: RunConfig,
    runs: Path,
    compute: Compute,
    scoring: Scoring,
    share: int = 0,
    directory: Path | None = None,
) -> Run:
    """Train one run and score its last weights and those of every kept epoch; by another sampler the last, too.

    First it is made sure that it can be scored: hours of training must not end in a score that cannot be taken.
    `share`: threads of a wide net, where not all are its own; `directory`: the run's, if it has not its own name.
    """
    if not Run(directory or runs / config.name, config).finished:
        check_scoring(datasets.load(config), scoring)
    if share:
        compute = replace(compute, threads=threads(config, compute.threads, share))
    done = train(config, runs, compute, directory)
    for epoch, drawn in _evaluations(done, scoring):
        evaluate(done, drawn, compute, epoch)
    return done


def _done(run: Run, scoring: Scoring) -> bool:
    """Whether nothing is left to do: then no process is started for it."""
    return run.finished and all(scored(run, drawn, epoch) for epoch, drawn in _evaluations(run, scoring))


def _evaluations(run: Run, scoring: Scoring) -> list[tuple[int, Scoring]]:
    """Epochs to score, each with what its samples are drawn from; the prior always, since all else comes with it."""
    prior = [(epoch, replace(scoring, sampler=PRIOR)) for epoch in run.epochs]
    return prior if scoring.sampler == PRIOR else [*prior, (run.epochs[-1], scoring)]
