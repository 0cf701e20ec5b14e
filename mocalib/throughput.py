"""Our engine and Algorithm 1 under one clock: speed, memory, where a step's time goes, and how cost grows.

Contenders train the same net on the same random pixels with the same threads, interleaved in one process, so that
whatever else the machine does hits all of them; every number is a median over repeats. B batch, C H W image.
"""

import itertools
import multiprocessing
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.flop_counter import FlopCounterMode

from mocalib import data, environment, evaluation, features, files, objectives, paths
from mocalib.algorithm1 import algorithm1
from mocalib.autoencoder import Autoencoder
from mocalib.config import RunConfig
from mocalib.engine import Trainer
from mocalib.meter import Meter
from mocalib.progress import bar
from mocalib.scales import SCALES, vary
from mocalib.training import check_device, tuned

WARM_UP, REPEATS = 2, 5
BLOCK = {"cpu": 1, "cuda": 20}  # steps between two looks at the clock: to look, a GPU must be waited for
IMAGES = 2_000  # of random pixels, or two batches: speed does not depend on what they show
GROWTH = {  # axis -> values; everything else as in the first case
    "queue_size": (100, 5_000, 30_000, 120_000),
    "latent_dim": (32, 128, 512),
    "batch_size": (16, 64, 256),
    "size": (16, 32, 64),
    "width": (16, 32, 64),
}
CUSTOM = paths.RUNS / "custom" / "throughput"
ALGORITHM_1, REFERENCE, ENGINE = "Algorithm 1", "engine, float32", "engine"


def run(scale: str, device: str = "cpu", folder: Path | str = paths.THROUGHPUT, threads: int | None = None) -> Path:
    """Measure a scale's cases on a device and write `folder`/<scale>-<cpu or cuda>.json; return its path.

    Measurements of smoke mean nothing and go to runs/custom/throughput/ instead of to the committed records. Raises
    FileExistsError, before anything is measured, where such a record would be replaced.
    """
    kind = check_device(device).type
    committed = Path(folder) == paths.THROUGHPUT and scale != "smoke"
    path = (Path(folder) if committed or Path(folder) != paths.THROUGHPUT else CUSTOM) / f"{scale}-{kind}.json"
    if committed and path.exists():
        raise FileExistsError(f"{path} is a committed record; write elsewhere with --runs FOLDER, or remove it first")
    files.write_json(path, measure(scale, device, threads))
    return path


def measure(scale: str, device: str = "cpu", threads: int | None = None) -> dict:
    """The record of a scale on a device, as plain JSON; smoke measures little and looks at no growth."""
    device, settings = check_device(device), SCALES[scale]
    threads = threads or torch.get_num_threads()
    with tuned(threads):
        return {
            "scale": scale,
            "command": f"python -m mocalib throughput --scale {scale} --device {device.type}",
            "environment": environment.describe(device) | {"threads": threads, "processor": environment.processor()},
            "repeats": REPEATS,
            "tf32": {"cudnn": torch.backends.cudnn.allow_tf32, "matmul": torch.backends.cuda.matmul.allow_tf32},
            "cudnn_benchmark": True,
            "ceiling": {str(dtype).split(".")[1]: ceiling(dtype, device) for dtype in (torch.float32, torch.bfloat16)},
            "cases": [case(config, device) for config in settings.throughput],
            "growth": [] if scale == "smoke" else growth(settings.throughput[0], device),
            "costs": costs(settings.throughput[0], device, 300 if scale == "smoke" else 10_000),
        }


# ---------------------------------------------------------------------------------------------------------- contenders


def image_shape(config: RunConfig) -> tuple[int, int, int]:
    """(C, H, W) of the images that random pixels stand for."""
    size = config.size or 32
    return (1 if config.dataset == "digits" else 3, size, size)


class Feed:
    """Batches of a loader without end; while `held`, the last one again, so that loading costs nothing."""

    def __init__(self, batches: Iterator[Tensor]) -> None:
        self.batches, self.held = batches, False

    def __iter__(self) -> Iterator[Tensor]:
        return self

    def __next__(self) -> Tensor:
        if not self.held:
            self.last = next(self.batches)
        return self.last


class Listing:
    """Algorithm 1 as a user would run it: float32, NCHW, batches from a DataLoader without workers."""

    def __init__(self, config: RunConfig, device: torch.device) -> None:
        self.objective = objectives.build(config, image_shape(config)).to(device).train()
        images = _pixels(config).float() / 255
        loader = DataLoader(TensorDataset(images), config.batch_size, shuffle=True, drop_last=True)
        self.feed = Feed(x.to(device) for _ in itertools.count() for (x,) in loader)
        o, c = self.objective, config.objective
        nets, queue = (o.encoder, o.key_encoder, o.decoder), o.queue.keys.T.contiguous()
        rules = {"m0": c.momentum, "T": 10**9, "lambda_": c.weight, "tau": c.temperature, "lr": config.learning_rate}
        self.steps = algorithm1(*nets, queue, self.feed, **rules)

    def __call__(self) -> None:
        next(self.steps)


class Engine:
    """The training loop's own step and meter, without files; compiled where training is."""

    def __init__(self, config: RunConfig, device: torch.device, compile: bool | None = None) -> None:
        self.config = config
        self.objective = objectives.build(config, image_shape(config)).train()
        self.objective.bfloat16 = environment.nets(config.precision, device) == "bfloat16"
        self.objective.to(device, memory_format=torch.channels_last)
        self.images = data.ResidentImages(_pixels(config), config.batch_size, config.seed, device)
        self.feed = Feed(self.images.batch(step) for step in itertools.count())
        compile = device.type == "cuda" if compile is None else compile
        self.trainer, self.meter = Trainer(self.objective, 10**9, device, compile), Meter()
        self.count = itertools.count()

    def __call__(self) -> None:
        step = next(self.count)
        for turn, terms in self.trainer.step(step, next(self.feed), self.config.learning_rate):
            self.meter.add(turn, terms, step)


def contender(name: str, config: RunConfig, device: torch.device) -> Listing | Engine:
    """Algorithm 1, the engine in float32 without compilation, or the engine as the config has it."""
    if name == ALGORITHM_1:
        return Listing(config, device)
    if name == REFERENCE:
        return Engine(replace(config, precision="float32"), device, compile=False)
    return Engine(config, device)


def _pixels(config: RunConfig) -> Tensor:
    n = max(IMAGES, 2 * config.batch_size)
    return torch.randint(
        0, 256, (n, *image_shape(config)), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


# ------------------------------------------------------------------------------------------------------------- clocks


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


def interleaved(works: dict[str, Callable[[], object]], device: torch.device) -> dict[str, float]:
    """Median seconds of a call of each, taken in turn."""
    found = {name: [] for name in works}
    for repeat in range(WARM_UP + REPEATS):
        for name, work in works.items():
            taken = seconds(work, device, BLOCK[device.type])
            if repeat >= WARM_UP:
                found[name].append(taken)
    return {name: statistics.median(values) for name, values in found.items()}


def ceiling(dtype: torch.dtype, device: torch.device) -> float:
    """Operations a second of a large square matrix product: what no net can pass."""
    n = 8192 if device.type == "cuda" else 2048
    a, b = torch.randn(2, n, n, device=device).to(dtype)
    return 2 * n**3 / interleaved({"": lambda: a @ b}, device)[""]


# -------------------------------------------------------------------------------------------------------------- cases


def case(config: RunConfig, device: torch.device) -> dict:
    """Speed, memory and parts of one net: Algorithm 1, the engine in float32, and the engine."""
    same = device.type == "cpu" and environment.nets(config.precision, device) == "float32"
    names = (ALGORITHM_1, ENGINE) if same else (ALGORITHM_1, REFERENCE, ENGINE)
    with bar(f"throughput: {config.model} of width {config.width}", 3, unit="part") as shown:
        peaks = {name: peak_memory(name, config, device) for name in names}
        shown.update()
        works = {name: contender(name, config, device) for name in names}
        whole = interleaved(works, device)
        for work in works.values():
            work.feed.held = True
        bare = interleaved(works, device)
        shown.update()
        rows = {
            name: {
                "seconds": whole[name],
                "images_per_second": config.batch_size / whole[name],
                "seconds_without_data": bare[name],
                "peak_memory": peaks[name],
            }
            for name in names
        }
        found = {"config": config.to_dict(), "image_shape": list(image_shape(config)), "contenders": rows}
        found["nets"] = environment.nets(config.precision, device)
        found["ratio"] = whole[ALGORITHM_1] / whole[ENGINE]
        found["ratio_without_data"] = bare[ALGORITHM_1] / bare[ENGINE]
        launched = Engine(config, device, compile=False)  # a compiled step shows neither its parts nor its operations
        found["operations"] = {ALGORITHM_1: operations(works[ALGORITHM_1]), ENGINE: operations(launched)}
        found["parts"] = parts(launched, device)
        shown.update()
    return found


def operations(work: Listing | Engine) -> int:
    """Floating-point operations of a step in matrix products and convolutions, as torch counts them."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def parts(work: Engine, device: torch.device) -> dict[str, float]:
    """Median seconds of each part of a step that is launched operation by operation."""
    [step] = work.trainer.turns.values()
    objective, watch = work.objective, Watch(device)
    inner = (
        (objective.encoder, "forward", "encoder"),
        (objective.key_encoder, "forward", "key encoder"),
        (objective.decoder, "forward", "decoder"),
        (objective.queue, "push", "queue"),
    )
    outer = (
        (work.images, "batch", "data"),
        (step, "loss", "loss"),
        (torch.Tensor, "backward", "backward"),
        (step.optimizers[0], "step", "Adam"),
        (objective, "after", "after"),
        (work.meter, "add", "log"),
    )
    with ExitStack() as stack:
        for owner, name, label in (*inner, *outer):
            stack.enter_context(patch.object(owner, name, watch.around(label, getattr(owner, name))))
        for _ in range(WARM_UP + REPEATS):
            watch.next_step()
            work()
    found = watch.medians(WARM_UP)
    found["losses"] = found.pop("loss") - sum(found[label] for _, _, label in inner[:3])
    found["EMA"] = found.pop("after") - found["queue"]
    return found


class Watch:
    """Adds up the seconds that named functions take in each step."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.steps = device, []

    def next_step(self) -> None:
        self.steps.append({})

    def around(self, label: str, function: Callable) -> Callable:
        """The same function, timed; it may be a method of a class."""

        def timed(*arguments, **settings):
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


def peak_memory(name: str, config: RunConfig, device: torch.device) -> int:
    """Bytes at the peak of three steps: on a GPU of its memory, else of a process that does nothing else."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_peak, name, config, device, torch.get_num_threads()).result()


def _peak(name: str, config: RunConfig, device: torch.device, threads: int) -> int:
    with tuned(threads):
        work = contender(name, config, device)
        for _ in range(3):
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


# ---------------------------------------------------------------------------------------------------- growth and costs


def growth(base: RunConfig, device: torch.device) -> list[dict]:
    """Seconds of a step along each axis, for Algorithm 1 and the engine; all values of an axis take turns."""
    rows = []
    with bar("throughput: growth", len(GROWTH), unit="axis") as shown:
        for axis, values in GROWTH.items():
            configs = {value: _along(base, axis, value) for value in values}
            works = {
                (name, value): contender(name, config, device)
                for value, config in configs.items()
                for name in (ALGORITHM_1, ENGINE)
            }
            for (name, value), taken in interleaved(works, device).items():
                rows.append({"axis": axis, "value": value, "contender": name, "seconds": taken})
            shown.update()
    return rows


def _along(base: RunConfig, axis: str, value: int) -> RunConfig:
    return vary(base, queue_size=value) if axis == "queue_size" else replace(base, **{axis: value})


def costs(config: RunConfig, device: torch.device, n: int) -> dict:
    """Seconds of what is not a step: start-up, decoding n samples, features and scores of n images against n."""
    imports = seconds(lambda: subprocess.run([sys.executable, "-c", "import mocalib"], check=True), device)
    digits = data.load(RunConfig())  # decoded once, so that its second start is measured
    opened = seconds(lambda: data.load(RunConfig()), device)
    first = seconds(lambda: Engine(config, device)(), device)
    objective = objectives.build(config, image_shape(config))
    autoencoder = Autoencoder(objective, 0, 0, device)
    codes = autoencoder.prior(n)
    evaluation.decode(autoencoder, codes[:500])
    decoding = seconds(lambda: evaluation.decode(autoencoder, codes), device)
    extractor = features.build("classifier", digits, "digits", device=device)
    generator = torch.Generator().manual_seed(1)
    sets = [torch.randint(0, 256, (n, *image_shape(config)), dtype=torch.uint8, generator=generator) for _ in range(2)]
    extractor(sets[0][:500])
    start = clock(device)
    generated, reference = (extractor(images) for images in sets)
    middle = clock(device)
    evaluation.frechet_distance(generated, reference)
    evaluation.kernel_distance(generated, reference)
    evaluation.precision_and_recall(generated, reference)
    return {
        "n": n,
        "image_shape": list(image_shape(config)),
        "features": f"classifier of digits, {generated.shape[1]}",
        "import_seconds": imports,
        "open_data_seconds": opened,
        "first_step_seconds": first,
        "decoding_seconds": decoding,
        "features_seconds": middle - start,
        "scores_seconds": clock(device) - middle,
    }
