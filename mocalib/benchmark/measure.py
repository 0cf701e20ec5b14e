"""Our training step and Algorithm 1 under one clock: speed, memory, where a step's time goes, and how cost grows.

Contenders train the same net on the same random pixels with the same threads. They take turns in one process, each
round another first, and a ratio is the median of the rounds' own: whatever else the machine does hits both. Each net
has a process of its own, since how an allocator fares depends on what went before.
"""

import statistics
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from mocalib.benchmark.steps import ALGORITHM_1, ENGINE, REFERENCE, Engine, Printed, contender
from mocalib.benchmark.timer import WARM_UP, Watch, apart, ratio, rounds
from mocalib.config import paths
from mocalib.config.run import RunConfig
from mocalib.data.builtin import image_shape
from mocalib.paper.grids import SCALES, vary
from mocalib.storage import environment, files
from mocalib.storage.progress import bar
from mocalib.training.device import check_device, check_threads

REPEATS, REPEATS_OF_GROWTH = 9, 3
GROWTH = {  # axis -> values; everything else as in the first case
    "queue_size": (100, 5_000, 120_000),
    "latent_dim": (32, 128, 512),
    "batch_size": (16, 64, 256),
    "size": (16, 32, 64),
    "width": (16, 32, 64),
}
CUSTOM = paths.RUNS / "custom" / "throughput"


def run(scale: str, device: str = "cpu", folder: Path | str | None = None, threads: int = 0) -> Path:
    """Measure a scale's nets on a device and write <scale>-<cpu or cuda>.json; return its path.

    By default it goes to the committed records, those of smoke, which mean nothing, to runs/custom/throughput/. Raises
    FileExistsError, before anything is measured, where a committed record would be replaced.
    """
    folder = Path(folder) if folder else CUSTOM if scale == "smoke" else paths.THROUGHPUT
    path = folder / f"{scale}-{check_device(device).type}.json"
    if folder.resolve() == paths.THROUGHPUT.resolve() and path.exists():
        raise FileExistsError(f"{path} is a committed record; write elsewhere with --runs FOLDER, or remove it first")
    check_threads(threads)
    with files.writing(probe := path.with_suffix(".tmp")):  # what cannot be written is said before it is measured
        probe.touch()
        probe.unlink()
    files.write_json(path, measure(scale, device, threads))
    return path


def measure(scale: str, device: str = "cpu", threads: int = 0) -> dict:
    """The record of a scale on a device, as plain JSON; smoke measures little and looks at no growth."""
    device, settings = check_device(device), SCALES[scale]
    asked = f" --threads {threads}" if threads else ""
    threads = threads or torch.get_num_threads()
    first, axes = settings.throughput[0], {} if scale == "smoke" else GROWTH
    with bar("throughput", len(settings.throughput) + len(axes) + 2, unit="part") as shown:

        def measured(function: Callable, *arguments: Any) -> Any:
            found = apart(function, *arguments, device=device, threads=threads)
            shown.update()
            return found

        before = measured(ceilings)
        cases = [measured(case, config) for config in settings.throughput]
        growth = [row for axis in axes for row in measured(along, first, axis)]
        after = measured(ceilings)
    return {
        "scale": scale,
        "command": f"python -m mocalib benchmark --scale {scale} --device {device}{asked}",
        "environment": environment.describe(device) | {"threads": threads},
        "repeats": REPEATS,
        "cudnn": {"float32_convolutions_in": torch.backends.cudnn.conv.fp32_precision, "benchmark": True},
        "ceiling": {name: max(before[name], after[name]) for name in before},
        "cases": cases,
        "growth": growth,
    }


def ceilings(device: torch.device) -> dict[str, float]:
    """For each precision the most operations a second that a large matrix product or convolution reached here."""
    return {str(dtype).split(".")[1]: _ceiling(dtype, device) for dtype in (torch.float32, torch.bfloat16)}


def _ceiling(dtype: torch.dtype, device: torch.device) -> float:
    sides = (4096, 8192) if device.type == "cuda" else (1024, 2048)
    batch, c, side = 1024 if device.type == "cuda" else 64, 256, 16
    x = torch.randn(batch, c, side, side, device=device).to(dtype).contiguous(memory_format=torch.channels_last)
    w = torch.randn(c, c, 3, 3, device=device).to(dtype).contiguous(memory_format=torch.channels_last)
    works, operations = {"convolution": lambda: F.conv2d(x, w, padding=1)}, {"convolution": 2 * 9 * c * x.numel()}
    for n in sides:
        a, b = torch.randn(2, n, n, device=device).to(dtype)
        works[n], operations[n] = lambda a=a, b=b: a @ b, 2 * n**3
    return max(operations[name] / min(taken) for name, taken in rounds(works, device, REPEATS).items())


def case(config: RunConfig, device: torch.device) -> dict:
    """Speed, memory and parts of one net: Algorithm 1, the engine in float32, and the engine."""
    nets = environment.net_precision(config.precision, device)
    same = device.type == "cpu" and nets == "float32"
    names = (ALGORITHM_1, ENGINE) if same else (ALGORITHM_1, REFERENCE, ENGINE)
    threads = torch.get_num_threads()
    peaks = {name: apart(peak_memory, name, config, device=device, threads=threads) for name in ("", *names)}
    works = {name: contender(name, config, device) for name in names}
    turns = {(name, held): _turn(work, held) for name, work in works.items() for held in (False, True)}
    found = rounds(turns, device, REPEATS)
    launched = Engine(config, device, compile=False)  # a compiled step shows neither its parts nor its operations
    return {
        "config": config.to_dict(),
        "image_shape": list(image_shape(config)),
        "nets": nets,
        "contenders": {
            name: {
                "seconds": statistics.median(found[name, False]),
                "seconds_without_data": statistics.median(found[name, True]),
                "images_per_second": config.batch_size / statistics.median(found[name, False]),
                "peak_memory": peaks[name] - peaks[""],
            }
            for name in names
        },
        "ratio": ratio(found[ALGORITHM_1, False], found[ENGINE, False]),
        "ratio_without_data": ratio(found[ALGORITHM_1, True], found[ENGINE, True]),
        "operations": {ALGORITHM_1: operations(works[ALGORITHM_1]), ENGINE: operations(launched)},
        "parts": parts(launched, device),
    }


def _turn(work: Printed | Engine, held: bool) -> Callable[[], None]:
    def step() -> None:
        work.feed.held = held
        work()

    return step


def operations(work: Printed | Engine) -> int:
    """Floating-point operations of a step in matrix products and convolutions, as torch counts them."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def parts(work: Engine, device: torch.device) -> dict[str, float]:
    """Median seconds of each part of a step that is launched operation by operation, and of the "step" whole.

    On a GPU every part is waited for, so that launches count as they do in no replayed graph.
    """
    [step] = work.trainer.turns.values()
    objective, watch = work.objective, Watch(device)
    timed = (
        (objective.encoder, "forward", "encoder"),
        (objective.key_encoder, "forward", "key encoder"),
        (objective.decoder, "forward", "decoder"),
        (objective.queue, "push", "queue"),
        (work.images, "batch", "data"),
        (step, "loss", "losses"),
        (torch.Tensor, "backward", "backward"),
        (step.optimizers[0], "step", "Adam"),
        (objective, "after", "EMA"),
        (work.meter, "add", "log"),
    )
    with ExitStack() as stack:
        for owner, name, label in timed:
            stack.enter_context(patch.object(owner, name, watch.around(label, getattr(owner, name))))
        whole = watch.around("step", work)
        for _ in range(WARM_UP + REPEATS):
            watch.next_step()
            whole()
    for found in watch.steps:  # these two contain others
        found["losses"] -= found["encoder"] + found["key encoder"] + found["decoder"]
        found["EMA"] -= found["queue"]
    return watch.medians(WARM_UP)


def peak_memory(name: str, config: RunConfig, device: torch.device) -> int:
    """Bytes that training holds at most: of a GPU's memory, else of this process; of the imports alone for ""."""
    if name:
        work = contender(name, config, device)
        work()
    if device.type == "cuda":  # what choosing algorithms and recording took is given back
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    if name:
        work()
        work()
    return torch.cuda.max_memory_reserved(device) if device.type == "cuda" else _resident()


def _resident() -> int:
    """Bytes of this process in memory, at their peak so far."""
    status = Path("/proc/self/status")  # on Linux, getrusage counts what the parent had, too
    if status.exists():
        [line] = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
        return int(line.split()[1]) * 1024
    import resource  # there is none on Windows, where all else works

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def along(base: RunConfig, axis: str, device: torch.device) -> list[dict]:
    """Median seconds of a step for each value of an axis, for Algorithm 1 and the engine."""
    works = {
        (value, name): contender(name, _with(base, axis, value), device)
        for value in GROWTH[axis]
        for name in (ALGORITHM_1, ENGINE)
    }
    return [
        {"axis": axis, "value": value, "contender": name, "seconds": statistics.median(taken)}
        for (value, name), taken in rounds(works, device, REPEATS_OF_GROWTH).items()
    ]


def _with(base: RunConfig, axis: str, value: int) -> RunConfig:
    return vary(base, queue_size=value) if axis == "queue_size" else replace(base, **{axis: value})
