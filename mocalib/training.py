"""The only training loop. It knows turns, groups and files, and no method by name."""

import contextlib
import math
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from mocalib import engine, methods
from mocalib.config import paths
from mocalib.config.compute import Compute
from mocalib.config.run import RunConfig
from mocalib.data import datasets
from mocalib.data.batches import ResidentImages, check_batch
from mocalib.data.cache import Dataset
from mocalib.meter import Meter, NotFinite
from mocalib.storage import environment
from mocalib.storage.progress import bar
from mocalib.storage.run import Run, RunMismatch, epoch_file

NARROW = 16  # channels of the first stage: up to it a second thread gains little, and on a busy machine costs much
LOG_LINES = 20  # at most so many lines a run, however long: records stay small


def train(
    config: RunConfig,
    runs: Path | str = paths.RUNS / "custom",
    compute: Compute = Compute(),
    directory: Path | str | None = None,
) -> Run:
    """Train a run to its end and return it: a finished run returns at once, a partial one resumes.

    The run lives in `runs`/<config.name>, or in `directory`. Results depend on the number of threads (`threads`), on
    `compile` (on a GPU a step is then replayed as a CUDA graph; needs Triton there, a C++ compiler on a CPU) and on
    what the nets compute in: bfloat16, where the config says so, only on a processor that has its instructions, else
    float32. All three are recorded, and kept from a run's first checkpoint on, so that on a CPU a resumed run equals
    an uninterrupted one bit for bit. Raises RunMismatch for a directory of another config, other data or the other
    `compile`, NotFinite if a loss is not finite, ValueError for a batch larger than the dataset, an unknown device, or
    threads that this machine does not have.
    """
    check_threads(compute.threads)
    run = Run(Path(directory) if directory else Path(runs) / config.name, config)
    if run.finished:
        return run
    device = check_device(compute.device)
    dataset = datasets.load(config)  # what is wrong with data or nets is said before anything is written
    check_batch(len(dataset.train.images), config.batch_size)
    objective = methods.build(config, dataset.image_shape)
    engine.check_turns(objective, config.epochs * (len(dataset.train.images) // config.batch_size))
    with run.locked():
        run = Run(run.directory, config)  # another process may have begun it, or ended it, while this one waited
        if run.finished:
            return run
        how = _how(run, device, compute)
        with tuned(how["threads"], device):
            trained = sum(p.numel() for p in objective.parameters() if p.requires_grad)
            run.start(device, how, _describe(dataset), trained)
            objective.bfloat16 = how["nets"] == "bfloat16"
            objective.to(device, memory_format=torch.channels_last)
            images = ResidentImages(dataset.train.images, config.batch_size, config.seed, device, objective.dtype)
            _fit(run, objective, images, device, how["compiled"], compute.checkpoint_seconds)
    return run


def threads(config: RunConfig, asked: int = 0, share: int = 0) -> int:
    """CPU threads for a run: as asked, else one for a narrow net, else its share of the cores, else torch's number."""
    return asked or (1 if config.width <= NARROW else share or torch.get_num_threads())


def _how(run: Run, device: torch.device, compute: Compute) -> dict:
    """How to compute: as asked, or as the checkpoint that is there was computed, since results depend on it."""
    graphs, asked = device.type == "cuda", compute.compile  # graphs: where compilation pays
    how = {
        "threads": threads(run.config, compute.threads),
        "nets": environment.net_precision(run.config.precision, device),
        "compiled": graphs if asked is None else asked,
    }
    if not run.begun:
        return how
    recorded = run.environment
    how |= {name: recorded[name] for name in ("threads", "nets") if name in recorded}
    if "compiled" in recorded and (recorded["device"] != "cpu") == graphs:  # on another kind of device it may not work
        if asked not in (None, recorded["compiled"]):
            raise RunMismatch(
                f"{run.directory} was begun with compile={recorded['compiled']}, and {asked} is asked; leave compile "
                "out to resume it, or train in another directory"
            )
        how["compiled"] = recorded["compiled"]
    return how


def _fit(
    run: Run,
    objective: methods.Objective,
    images: ResidentImages,
    device: torch.device,
    compile: bool,
    checkpoint_seconds: float,
) -> None:
    config = run.config
    steps = config.epochs * images.steps_per_epoch
    log_every = -(-steps // LOG_LINES)
    meters = {"line": Meter(), "epoch": Meter()}  # means of a log line; means of an epoch, for stop_at
    trainer = engine.Trainer(objective, steps, device, compile, config.seed)
    start, seconds = _restore(run, trainer, meters)
    if start == 0 and 0 in config.keep_epochs:
        run.save_weights(epoch_file(0), objective.state_dict(), 0, 0)
    clock = _Clock(seconds, start)
    step, epoch = start - 1, (start - 1) // images.steps_per_epoch
    rate = learning_rate(config, max(epoch, 0))  # of the last step, if a start finds none left
    objective.train()
    with bar(config.name, steps, initial=start, unit="step") as shown:
        for step in range(start, steps):
            epoch, end = step // images.steps_per_epoch, (step + 1) % images.steps_per_epoch == 0
            rate = learning_rate(config, epoch)
            for turn, terms in trainer.step(step, images.batch(step), rate):
                meters["line"].add(turn, terms, step)
                if config.stop_at:
                    meters["epoch"].add(turn, terms, step)
            shown.update()
            if (step + 1) % log_every == 0:
                _log(run, meters["line"], clock, step + 1, epoch + 1, rate)
            if end and epoch + 1 in config.keep_epochs:
                _check(meters["line"], run)
                run.save_weights(epoch_file(epoch + 1), objective.state_dict(), step + 1, epoch + 1)
            if end and config.stop_at and meters["epoch"].read().get("reconstruction", math.inf) <= config.stop_at:
                break
            if clock.since_checkpoint >= checkpoint_seconds:
                _check(meters["line"], run)
                run.save_checkpoint(_state(step + 1, trainer, meters, clock))
                clock.checkpointed()
    if any(meters["line"].counts.values()):  # steps since the last line
        _log(run, meters["line"], clock, step + 1, epoch + 1, rate)
    run.finish(objective.state_dict(), step + 1, epoch + 1)


def learning_rate(config: RunConfig, epoch: int) -> float:
    """Halved every `decay_every` epochs, for the last time at epoch `decay_until`; epoch counts from 0."""
    last = min(epoch, config.decay_until) if config.decay_until else epoch
    return config.learning_rate * 0.5 ** (last // config.decay_every if config.decay_every else 0)


@contextlib.contextmanager
def use_threads(threads: int) -> Iterator[None]:
    """Compute with so many threads, then give the process its own number back."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def tuned(threads: int, device: torch.device) -> Iterator[None]:
    """How training computes: with so many threads; on a GPU that is the current one, with its fastest convolutions."""
    before = torch.backends.cudnn.benchmark
    with use_threads(threads), torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
        torch.backends.cudnn.benchmark = device.type == "cuda" and not torch.backends.cudnn.deterministic
        try:
            yield
        finally:
            torch.backends.cudnn.benchmark = before


class _Clock:
    """Seconds of training over all starts, and since the last log line and checkpoint."""

    def __init__(self, seconds: float, step: int) -> None:
        self._before, self._start = seconds, time.monotonic()
        self._checkpoint = self._start
        self.logged = (seconds, step)

    @property
    def seconds(self) -> float:
        return self._before + time.monotonic() - self._start

    @property
    def since_checkpoint(self) -> float:
        return time.monotonic() - self._checkpoint

    def checkpointed(self) -> None:
        self._checkpoint = time.monotonic()


def _log(run: Run, meter: Meter, clock: _Clock, step: int, epoch: int, rate: float) -> None:
    _check(meter, run)
    run.append("metrics.jsonl", {"step": step, "epoch": epoch, **meter.read(), "learning_rate": rate})
    (seconds, before), now = clock.logged, clock.seconds
    speed = (step - before) * run.config.batch_size / max(now - seconds, 1e-9)
    run.append("timing.jsonl", {"step": step, "seconds": round(now, 3), "images_per_second": round(speed, 1)})
    clock.logged = (now, step)


def _check(meter: Meter, run: Run) -> None:
    try:
        meter.check()
    except NotFinite as error:
        kept = next((n for n in ("checkpoint.pt", "previous.pt") if (run.directory / n).exists()), None)
        good = f"the last good checkpoint is {run.directory / kept}" if kept else "no checkpoint was written yet"
        raise NotFinite(f"{error}; {good}. A lower learning_rate or weight may help") from None


def _state(step: int, trainer: engine.Trainer, meters: dict[str, Meter], clock: _Clock) -> dict:
    """Everything that a resumed run needs to equal an uninterrupted one."""
    meters = {name: meter.state() for name, meter in meters.items()}
    return trainer.state() | {"step": step, "meters": meters, "seconds": clock.seconds}


def _restore(run: Run, trainer: engine.Trainer, meters: dict[str, Meter]) -> tuple[int, float]:
    """Load the latest checkpoint, if any; return its step and seconds."""
    state = run.restore(trainer.device, trainer.objective.state_dict())
    if state is None:
        return 0, 0.0
    trainer.load(state)
    for name, meter in meters.items():
        meter.load(state["meters"][name])
    return state["step"], state["seconds"]


def _describe(dataset: Dataset) -> dict:
    counts = {"train": len(dataset.train.images), "test": len(dataset.test.images)}
    known = {"labels": dataset.train.labels is not None, "image_shape": list(dataset.image_shape)}
    left_out = {"left_out": dataset.left_out} if dataset.left_out else {}
    return {"fingerprint": dataset.fingerprint} | known | counts | left_out


def check_threads(threads: int) -> None:
    """Raise ValueError for threads that this machine does not have."""
    if threads > (most := environment.cores()):
        raise ValueError(f"threads = {threads}: at most the {most} cores that this process may use; 0 chooses")


def check_device(name: torch.device | str) -> torch.device:
    """The device of a name; ValueError if this machine cannot compute on it."""
    device = torch.device(Compute(device=name).device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device = {str(name)!r}: this machine has no CUDA device that torch can use; use 'cpu'")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device = {str(name)!r}: this machine has {torch.cuda.device_count()}, counted from cuda:0")
    return device
