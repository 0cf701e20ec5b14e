"""Many runs: one after another in this process, several in processes of their own, or on a Ray cluster."""

import contextlib
import math
import os
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch

from mocalib import checks, cluster, data, environment, evaluation, forecast, paths, workers
from mocalib.config import PRIOR, RunConfig
from mocalib.progress import bar
from mocalib.runs import Run
from mocalib.training import check_device, train
from mocalib.workers import Event

ENGINES = ("local", "ray")
RETRIES = 2  # of a run whose process died; one that ends with an error would do so again


class SweepError(RuntimeError):
    """Some runs failed; all others are finished."""


def run(
    configs: list[RunConfig],
    runs: Path | str = paths.RUNS / "custom",
    engine: str = "local",
    jobs: int | None = None,
    threads: int | None = None,
    gpus: float | None = None,
    retries: int = RETRIES,
    address: str | None = None,
    device: torch.device | str = "cpu",
    features: str | None = None,
    n: int = 10_000,
    weights: Path | str | None = None,
    checkpoint_seconds: float = 60.0,
    compile: bool | None = None,
    sampler: str = PRIOR,
) -> list[Run]:
    """Train and score every config and return the runs in the configs' order.

    Equal configs are run once; what is finished and scored is not done again, what was interrupted resumes. `engine`:

    - "local": `jobs` at a time, each with `threads` (default: the cores divided by the jobs). One on a CPU (the
      default) is done in this process; all else in processes that end when this one does, on "cuda" each with a GPU of
      its own as far as there are any. 0: one a core, or as many as the GPUs take.
    - "ray": on the cluster at `address` (default: the one that RAY_ADDRESS names or that runs here, else one is started
      here), as many as it has room for, or `jobs`, each with `threads` CPUs (default 1).

    A run whose process or node died is started again, `retries` times, and goes on from its checkpoint. `gpus`: of a
    run on "cuda" (default 1; .5 puts two on one). `features`, `n`, `weights` and `sampler` are `evaluate`'s, the rest
    is `train`'s. Raises ValueError for what cannot be, and SweepError, naming each run that failed, why, and the end
    of its log, when all others have ended.
    """
    on_cuda = check(configs, engine, jobs, gpus, retries, address, device)
    if engine == "local":
        check_device(device)
    gpus, runs = (gpus or 1.0) if on_cuda else 0.0, Path(runs).resolve()
    weights = Path(weights).resolve() if weights else None
    if engine == "local":
        jobs = _places(jobs, gpus)
        threads = threads or (max(1, environment.cores() // jobs) if jobs > 1 else None)
    else:
        threads = threads or 1
    here = engine == "local" and jobs == 1 and not on_cuda
    todo, refused = _todo(configs, runs, features, n, sampler)
    work = partial(
        run_one,
        runs=runs,
        device=device,
        threads=threads,
        features=features,
        n=n,
        weights=weights,
        checkpoint_seconds=checkpoint_seconds,
        compile=compile,
        sampler=sampler,
    )

    def log(config: RunConfig) -> Path:
        return runs / config.name / workers.LOG

    failed = {}
    if todo:  # nothing is started for what is done
        if engine == "ray":
            events = cluster.in_cluster(work, todo, log, jobs, retries, threads, gpus, address)
        elif here:
            events = workers.in_this_process(work, todo)
        else:
            events = workers.in_processes(work, todo, log, jobs, retries, _shared(jobs, gpus) if on_cuda else None)
        with contextlib.closing(events):  # whatever happens, it ends its processes
            failed = _followed(events, todo)
    if refused or failed:
        logs = {} if here else {config: log(config) for config in failed}
        raise SweepError(_told(refused | failed, len(dict.fromkeys(configs)), logs))
    return [Run(runs / config.name, config) for config in configs]


def check(
    configs: list[RunConfig],
    engine: str,
    jobs: int | None,
    gpus: float | None,
    retries: int,
    address: str | None,
    device: torch.device | str,
) -> bool:
    """Raise ValueError for what `run` would refuse on any machine; whether runs take GPUs as they are assigned."""
    checks.check("engine", engine, str, {"choices": ENGINES})
    if jobs is not None and jobs < 0:
        raise ValueError(f"jobs = {jobs}: at least 1, or 0 for as many as there is room for")
    if retries < 0:
        raise ValueError(f"retries = {retries}: at least 0")
    if address is not None and (engine != "ray" or not address):
        raise ValueError(f"address = {address!r} is of a Ray cluster, and engine = {engine!r}; use engine 'ray'")
    if engine == "ray" and (
        relative := [config.root for config in configs if config.root and not Path(config.root).is_absolute()]
    ):
        raise ValueError(f"root = {relative[0]!r}: nodes of a cluster start elsewhere; pass an absolute path")
    try:
        kind = torch.device(device)
    except RuntimeError:
        raise ValueError(f"device = {str(device)!r} is not a device to train on; use 'cpu' or 'cuda'") from None
    if kind.index is not None and (engine == "ray" or jobs not in (None, 1)):
        raise ValueError(f"device = {str(device)!r} is one GPU; pass 'cuda', of which each run is given its own")
    if gpus is not None and (kind.type != "cuda" or not 0 < gpus <= 1):
        raise ValueError(f"gpus = {gpus}: of a run on 'cuda', 1 or a part of it; device = {str(device)!r}")
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


def _todo(
    configs: list[RunConfig], runs: Path, features: str | None, n: int, sampler: str
) -> tuple[list[RunConfig], dict[RunConfig, str]]:
    """Each config once that is not finished and scored, and those whose directory is damaged or another's, and why."""
    todo, refused = [], {}
    for config in dict.fromkeys(configs):
        try:
            if not _done(Run(runs / config.name, config), features, n, sampler):
                todo.append(config)
        except Exception as error:  # of one directory: the others are wanted all the same
            refused[config] = f"{type(error).__name__}: {error}"
    return todo, refused


def _followed(events: Iterator[Event], todo: list[RunConfig]) -> dict[RunConfig, str]:
    """Show what is done, running and failed and when it will end, then what it cost; return what failed and why."""
    failed, running, seconds, start = {}, set(), 0.0, time.time()
    left = {config: forecast.weight(config) for config in todo}
    whole = sum(left.values())
    every, last = (1.0 if sys.stdout.isatty() else 60.0), -math.inf  # seconds between two looks of the bar
    with bar("runs", len(todo), unit="run") as shown:
        for config, ended, error, taken in events:
            if ended:
                running.discard(config)
                seconds += taken
                del left[config]
                if error is not None:
                    failed[config] = error
            elif config is not None:
                running.add(config)
            done = 1 - sum(left.values()) / whole
            end = time.strftime("%a %H:%M", time.localtime(start + (time.time() - start) / done)) if done else "?"
            state = f"{len(running)} running, {len(failed)} failed, ends {end}"
            cost = f"{len(failed)} failed, {seconds / 3600:.2g} device-hours"
            shown.set_postfix_str(state if left else cost, refresh=False)
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
        + (workers.last_lines(logs[configs[0]]) if configs[0] in logs else "")
        for reason, configs in reasons.items()
    ]
    return f"{len(failed)} of {n} runs failed{others}. " + "\n".join(told)


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
