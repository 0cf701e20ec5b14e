"""Train and score many runs: in this process, in several processes, or on a Ray cluster."""

import contextlib
import os
import time
from collections.abc import Callable, Collection, Iterator
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
from mocalib.sweep.pool import LOG, Event, Work, attempt, in_processes, in_this_process, last_lines
from mocalib.training.device import check_device, check_threads, threads
from mocalib.training.train import train


class SweepError(RuntimeError):
    """Some runs failed; the others are finished."""


def sweep(
    configs: list[RunConfig],
    runs: Path | str = paths.RUNS / "custom",
    compute: Compute = Compute(),
    scoring: Scoring = Scoring(),
    pool: Pool = Pool(),
) -> list[Run]:
    """Train and score every config; return the runs in the same order.

    Finished and scored runs are skipped, interrupted ones resume, equal configs run once. With other features the same
    call adds their scores, if the weights are still there. Of runs that differ in their seed alone the first has grids
    of pictures. By default one run at a time is done in this process. With
    several jobs, or on "cuda", worker processes do the runs; each sees one GPU. A wide net gets its share of the cores;
    on Ray a run takes `compute.threads` CPUs (default 1).

    Raises ValueError for settings that do not fit together, and at the end SweepError with each failed run, its error
    and the last lines of its log.
    """
    runs, on_cuda = Path(runs).resolve(), check(configs, compute, pool)
    if scoring.weights:
        scoring = replace(scoring, weights=Path(scoring.weights).resolve())
    todo = [config for config in dict.fromkeys(configs) if not _done(config, runs, scoring)]
    here = pool.engine == "local" and pool.jobs in (None, 1) and not on_cuda
    first = {replace(config, seed=0): config.name for config in reversed(configs)}
    bare = frozenset(config.name for config in configs) - {*first.values()}
    work = partial(run_one, runs=runs, compute=compute, scoring=scoring, bare=bare)

    def log(config: RunConfig) -> Path:
        return runs / config.name / LOG

    failed = {} if pool.engine == "ray" else _without_images(todo)  # machines of a cluster have disks of their own
    if todo := [config for config in todo if config not in failed]:
        events = in_this_process(work, todo) if here else _apart(work, todo, log, compute, pool)
        with contextlib.closing(events):  # ends its processes, also after an error here
            failed |= _followed(events, todo)
    if failed:
        raise SweepError(_report(failed, len(dict.fromkeys(configs)), None if here else log))
    return [Run(runs / config.name, config) for config in configs]


def _apart(
    work: Work, todo: list[RunConfig], log: Callable[[RunConfig], Path], compute: Compute, pool: Pool
) -> Iterator[Event]:
    """Do the runs in worker processes here, or on a cluster."""
    gpus = (pool.gpus or 1.0) if compute.device == "cuda" else 0.0
    if pool.engine == "ray":
        cpus = compute.threads or 1
        return ray_pool.in_cluster(partial(work, share=cpus), todo, log, pool, cpus, gpus)
    jobs = _places(pool.jobs, gpus)
    work = partial(work, share=max(1, environment.cores() // jobs))
    return in_processes(work, todo, log, pool.retries, _shared(jobs, gpus) if gpus else [None] * jobs)


def check(configs: list[RunConfig], compute: Compute, pool: Pool) -> bool:
    """Raise ValueError for settings that do not fit together. Returns whether runs are assigned GPUs."""
    if pool.engine == "local":
        check_threads(compute.threads)
    device = compute.device
    kind = torch.device(device) if pool.engine == "ray" else check_device(device)
    if kind.index is not None and (pool.engine == "ray" or pool.jobs not in (None, 1)):
        raise ValueError(f"device = {device!r} is a single GPU; pass 'cuda', and each run is assigned one")
    if pool.gpus is not None and kind.type != "cuda":
        raise ValueError(f"gpus = {pool.gpus} is for device 'cuda'; leave it out for device = {device!r}")
    return kind.type == "cuda" and kind.index is None


def _places(jobs: int | None, gpus: float) -> int:
    """Runs at a time on this machine."""
    if jobs is None:
        return 1
    return jobs or (torch.cuda.device_count() * int(1 / gpus) if gpus else environment.cores())


def _shared(jobs: int, gpus: float) -> list[str]:
    """The GPU that each of `jobs` workers sees, named as in CUDA_VISIBLE_DEVICES."""
    count, given = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    names = given.split(",")[:count] if given else [str(i) for i in range(count)]
    return [names[place // int(1 / gpus) % count] for place in range(jobs)]


def _done(config: RunConfig, runs: Path, scoring: Scoring) -> bool:
    """Whether a run is trained and scored. What is wrong with a damaged directory is raised again when it is run."""
    with contextlib.suppress(Exception):
        run = Run(runs / config.name, config)
        if run.finished and not run.moved:
            return all(scored(run, drawn, epoch) for epoch, drawn in _evaluations(run, scoring))
    return False


def _without_images(configs: list[RunConfig]) -> dict[RunConfig, str]:
    """The runs whose images are not on this disk, each with the error that says how to get them."""
    kinds = {(config.dataset, config.root): config for config in configs}
    errors = {kind: attempt(datasets.source, config) for kind, config in kinds.items()}
    return {config: error for config in configs if (error := errors[config.dataset, config.root])}


def _followed(events: Iterator[Event], todo: list[RunConfig]) -> dict[RunConfig, str]:
    """Show a progress bar with running and failed runs and device-hours. Returns the failed runs and their errors."""
    failed, running, seconds = {}, {}, 0.0  # running: when each run began
    with bar("runs", len(todo), unit="run") as shown:
        for config, ended, error in events:
            if ended:
                seconds += time.monotonic() - running.pop(config)
                if error is not None:
                    failed[config] = error
            elif config is not None:
                running.setdefault(config, time.monotonic())  # a run that is tried again began before
            now = f"{len(running)} running, {len(failed)} failed, {seconds / 3600:.2g} device-hours"
            shown.set_postfix_str(now, refresh=False)
            shown.update(int(ended))
    return failed


def _report(failed: dict[RunConfig, str], n: int, log: Callable[[RunConfig], Path] | None) -> str:
    """Which of n runs failed and why. Each reason is named once, since one missing dataset fails them all."""
    reasons = {}
    for config, error in failed.items():
        reasons.setdefault(error, []).append(config)
    others = ", the others are finished" if len(failed) < n else ""
    lines = []
    for reason, configs in reasons.items():
        end = last_lines(log(configs[0])) if log else ""
        lines.append(f"{', '.join(config.name for config in configs)}: {reason}{end}")
    return f"{len(failed)} of {n} runs failed{others}. " + "\n".join(lines)


def run_one(
    config: RunConfig,
    runs: Path,
    compute: Compute,
    scoring: Scoring,
    share: int = 0,
    directory: Path | None = None,
    bare: Collection[str] = (),
) -> Run:
    """Train one run; score its kept epochs and last weights, the last also with `scoring.sampler`.

    `share`: threads for a wide net, if runs share the cores; `directory`: the run's, if not named after the config;
    `bare`: names of runs without grids of pictures.
    """
    if config.name in bare:
        scoring = replace(scoring, grids=False)
    if not Run(directory or runs / config.name, config).finished:
        check_scoring(datasets.load(config), scoring)  # before hours of training
    if share:
        compute = replace(compute, threads=threads(config, compute.threads, share))
    done = train(config, runs, compute, directory)
    for epoch, drawn in _evaluations(done, scoring):
        evaluate(done, drawn, compute, epoch)
    return done


def _evaluations(run: Run, scoring: Scoring) -> list[tuple[int, Scoring]]:
    """Epochs to score, each with its sampler. The prior comes first and always; much is scored with it."""
    prior = [(epoch, replace(scoring, sampler=PRIOR)) for epoch in run.epochs]
    return prior if scoring.sampler == PRIOR else [*prior, (run.epochs[-1], scoring)]
