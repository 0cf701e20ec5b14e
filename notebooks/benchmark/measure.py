"""Our training step and Algorithm 1, timed together: speed, memory, parts of a step, and cost of a longer queue.

Contenders train the same net on the same random pixels with the same threads. They take turns in one process, and each
round starts with another. A ratio is the median of the rounds' ratios, so other work on the machine hits both. Each net
has a process of its own, as an allocator depends on what ran before.
"""

import statistics
import sys
from collections import Counter
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from unittest.mock import patch

import pandas as pd
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from benchmark.steps import ALGORITHM_1, OURS, OURS_FLOAT32, OurStep, PrintedStep, contender
from benchmark.timer import WARM_UP, apart, ratio, rounds, timed
from mocalib.config import paths
from mocalib.config.run import RunConfig
from mocalib.data.builtin import image_shape
from mocalib.paper.grids import SCALES, vary
from mocalib.storage import environment, files
from mocalib.storage.progress import bar
from mocalib.training.device import check_device, check_threads

REPEATS, REPEATS_OF_GROWTH = 9, 3
QUEUE_SIZES = (100, 5_000, 120_000)  # for the growth of cost; all else as in the first case
CUSTOM = paths.RUNS / "custom" / "throughput"
PARTS = ("encoder", "key encoder", "decoder", "losses", "backward", "Adam", "EMA", "queue", "data", "log")


def run(scale: str, device: str = "cpu", folder: Path | str | None = None, threads: int = 0) -> Path:
    """Measure a scale's nets on a device and write <scale>-<cpu or cuda>.json; return its path.

    The default folder is that of the committed records; for smoke, whose numbers mean nothing, it is
    runs/custom/throughput/. Raises FileExistsError before it would measure and replace a committed record.
    """
    folder = Path(folder) if folder else CUSTOM if scale == "smoke" else paths.THROUGHPUT
    path = folder / f"{scale}-{check_device(device).type}.json"
    if folder.resolve() == paths.THROUGHPUT.resolve() and path.exists():
        raise FileExistsError(f"{path} is a committed record; write elsewhere with --runs FOLDER, or remove it first")
    check_threads(threads)
    files.write(probe := path.with_suffix(".tmp"), b"")  # fail now if the record cannot be written
    probe.unlink()
    files.write_json(path, measure(scale, device, threads))
    return path


def measure(scale: str, device: str = "cpu", threads: int = 0) -> dict:
    """The record of a scale on a device, as plain JSON; smoke measures no growth."""
    device, settings = check_device(device), SCALES[scale]
    asked = f" --threads {threads}" if threads else ""
    threads = threads or torch.get_num_threads()
    cases = [partial(case, config) for config in settings.throughput]
    growths = [partial(growth, settings.throughput[0])] if scale != "smoke" else []
    works = [ceilings, *cases, *growths, ceilings]
    shown = bar("throughput", len(works), unit="part", items=works)
    before, *found, after = (apart(work, device=device, threads=threads) for work in shown)
    return {
        "scale": scale,
        "command": f"python notebooks/benchmark --scale {scale} --device {device}{asked}",
        "environment": environment.describe(device) | {"threads": threads},
        "repeats": REPEATS,
        "cudnn": {"float32_convolutions_in": torch.backends.cudnn.conv.fp32_precision, "benchmark": True},
        "ceiling": {name: max(before[name], after[name]) for name in before},
        "cases": found[: len(cases)],
        "growth": [row for rows in found[len(cases) :] for row in rows],
    }


def ceilings(device: torch.device) -> dict[str, float]:
    """For each precision, the most operations a second that a large matrix product or convolution reached."""
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
    """Speed, memory and parts of one net: Algorithm 1, our step in float32, and our step."""
    nets = environment.net_precision(config.precision, device)
    same = device.type == "cpu" and nets == "float32"
    names = (ALGORITHM_1, OURS) if same else (ALGORITHM_1, OURS_FLOAT32, OURS)
    threads = torch.get_num_threads()
    peaks = {name: apart(peak_memory, name, config, device=device, threads=threads) for name in ("", *names)}
    works = {name: contender(name, config, device) for name in names}
    turns = {(name, held): partial(work, held) for name, work in works.items() for held in (False, True)}
    found = rounds(turns, device, REPEATS)
    launched = OurStep(config, device, compile=False)  # a compiled step hides its parts and operations
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
        "ratio": ratio(found[ALGORITHM_1, False], found[OURS, False]),
        "ratio_without_data": ratio(found[ALGORITHM_1, True], found[OURS, True]),
        "operations": {ALGORITHM_1: operations(works[ALGORITHM_1]), OURS: operations(launched)},
        "parts": parts(launched, device),
    }


def operations(work: PrintedStep | OurStep) -> int:
    """Floating-point operations of a step in matrix products and convolutions, as torch counts them."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def parts(work: OurStep, device: torch.device) -> dict[str, float]:
    """Median seconds of each part of a step that is launched operation by operation, and of the whole "step".

    Each part waits for the GPU, so the time of launches counts, unlike in a replayed graph.
    """
    [step] = work.trainer.turns.values()
    objective, spent, steps = work.objective, Counter(), []
    named = (
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
        for owner, name, label in named:
            stack.enter_context(patch.object(owner, name, timed(getattr(owner, name), label, spent, device)))
        whole = timed(work, "step", spent, device)
        for _ in range(WARM_UP + REPEATS):
            spent.clear()
            whole()
            steps.append(dict(spent))
    found = pd.DataFrame(steps[WARM_UP:])
    found["losses"] -= found["encoder"] + found["key encoder"] + found["decoder"]  # these two include others
    found["EMA"] -= found["queue"]
    return found.median().to_dict()


def peak_memory(name: str, config: RunConfig, device: torch.device) -> int:
    """Most bytes that training holds, on a GPU or else in this process; for "", those of the imports alone."""
    work = contender(name, config, device) if name else lambda: None
    work()
    if device.type == "cuda":  # what only the first step needed is given back
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    work()
    work()
    return torch.cuda.max_memory_reserved(device) if device.type == "cuda" else _resident()


def _resident() -> int:
    """The most bytes of memory that this process has held so far."""
    status = Path("/proc/self/status")  # on Linux, getrusage would include what the parent had
    if status.exists():
        [line] = [line for line in status.read_text("utf-8").splitlines() if line.startswith("VmHWM")]
        return int(line.split()[1]) * 1024
    import resource  # Windows has no such module, so not at the top

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def growth(base: RunConfig, device: torch.device) -> list[dict]:
    """Median seconds of a step for each queue size, for Algorithm 1 and our step."""
    works = {
        (size, name): contender(name, vary(base, queue_size=size), device)
        for size in QUEUE_SIZES
        for name in (ALGORITHM_1, OURS)
    }
    return [
        {"axis": "queue_size", "value": size, "contender": name, "seconds": statistics.median(taken)}
        for (size, name), taken in rounds(works, device, REPEATS_OF_GROWTH).items()
    ]
