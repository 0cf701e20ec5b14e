"""Fair clocks: contenders take turns, parts of a step are timed, and measurements get their own process."""

import multiprocessing
import statistics
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch

from mocalib.training.device import tuned

WARM_UP = 1  # rounds that do not count
BLOCK = {"cpu": 1, "cuda": 20}  # steps between two looks at the clock; each look waits for the GPU


def clock(device: torch.device) -> float:
    """Seconds, after a GPU has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def rounds(works: dict[Any, Callable[[], object]], device: torch.device, repeats: int) -> dict[Any, list[float]]:
    """Mean seconds of a call of each, in each round. They take turns, and each round starts with another."""
    names, calls = list(works), BLOCK[device.type]
    found = {name: [] for name in names}
    for turn in range(WARM_UP + repeats):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            start = clock(device)
            for _ in range(calls):
                works[name]()
            taken = (clock(device) - start) / calls
            if turn >= WARM_UP:
                found[name].append(taken)
    return found


def ratio(plain: list[float], ours: list[float]) -> dict[str, float]:
    """Median and quartiles of the ratios of all rounds."""
    low, median, high = statistics.quantiles([a / b for a, b in zip(plain, ours, strict=True)], n=4)
    return {"median": median, "low": low, "high": high}


def timed(function: Callable, label: str, spent: Counter, device: torch.device) -> Callable:
    """The same function; its seconds are added to `spent` under a label."""

    def measured(*arguments: Any, **settings: Any) -> Any:
        start = clock(device)
        result = function(*arguments, **settings)
        spent[label] += clock(device) - start
        return result

    return measured


def apart(function: Callable, *arguments: Any, device: torch.device, threads: int) -> Any:
    """What a function returns in a process of its own, set up as training is."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_apart, function, arguments, device, threads).result()


def _apart(function: Callable, arguments: tuple, device: torch.device, threads: int) -> Any:
    with tuned(threads, device):
        return function(*arguments, device)
