"""Fair clocks: contenders that take turns, parts of a step, and processes of their own."""

import multiprocessing
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch

from mocalib.training.device import tuned

WARM_UP = 1  # rounds that do not count
BLOCK = {"cpu": 1, "cuda": 20}  # steps between two looks at the clock: to look, a GPU must be waited for


def clock(device: torch.device) -> float:
    """Seconds, once a GPU has done all that was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def seconds(work: Callable[[], object], device: torch.device, steps: int = 1) -> float:
    """Seconds of one of several calls."""
    start = clock(device)
    for _ in range(steps):
        work()
    return (clock(device) - start) / steps


def rounds(works: dict[Any, Callable[[], object]], device: torch.device, repeats: int) -> dict[Any, list[float]]:
    """Seconds of a call of each in each round; they take turns, and each round another is first."""
    names = list(works)
    found = {name: [] for name in names}
    for turn in range(WARM_UP + repeats):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            taken = seconds(works[name], device, BLOCK[device.type])
            if turn >= WARM_UP:
                found[name].append(taken)
    return found


def ratio(plain: list[float], ours: list[float]) -> dict[str, float]:
    """Median and quartiles of the rounds' own quotients."""
    low, median, high = statistics.quantiles([a / b for a, b in zip(plain, ours, strict=True)], n=4)
    return {"median": median, "low": low, "high": high}


class Watch:
    """Adds up the seconds that functions take in each step."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.steps = device, []

    def next_step(self) -> None:
        self.steps.append({})

    def around(self, label: str, function: Callable) -> Callable:
        """The same function, timed; it may be a method of a class."""

        def timed(*arguments: Any, **settings: Any) -> Any:
            start = clock(self.device)
            try:
                return function(*arguments, **settings)
            finally:
                step = self.steps[-1]
                step[label] = step.get(label, 0.0) + clock(self.device) - start

        return timed

    def medians(self, skip: int) -> dict[str, float]:
        """Median seconds a step of each label, the first steps left out."""
        return {label: statistics.median(step[label] for step in self.steps[skip:]) for label in self.steps[-1]}


def apart(function: Callable, *arguments: Any, device: torch.device, threads: int) -> Any:
    """What a function returns in a process of its own, tuned as training is."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_apart, function, arguments, device, threads).result()


def _apart(function: Callable, arguments: tuple, device: torch.device, threads: int) -> Any:
    with tuned(threads, device):
        return function(*arguments, device)
