"""Train one run, from its dataset to its finished directory."""

import time
from collections.abc import Callable
from pathlib import Path

import torch
from tqdm import tqdm

from mocalib import methods
from mocalib.config import paths
from mocalib.config.compute import Compute
from mocalib.config.run import RunConfig
from mocalib.data import datasets
from mocalib.data.batches import ResidentImages
from mocalib.storage import environment
from mocalib.storage.progress import bar
from mocalib.storage.run import CHECKPOINTS, Run, RunMismatch, epoch_file
from mocalib.training.device import check_device, check_threads, compiled, place, threads, tuned
from mocalib.training.interrupt import Interrupted, held
from mocalib.training.loop import Callbacks, NotFinite, fit
from mocalib.training.step import Trainer, check_turns


def train(
    config: RunConfig,
    runs: Path | str = paths.RUNS / "custom",
    compute: Compute = Compute(),
    directory: Path | str | None = None,
    watch: Callable[[Trainer], Callbacks] | None = None,
) -> Run:
    """Train a run to its end and return it. A finished run returns at once; a partial one resumes.

    The run lives in `runs`/<config.name>, or in `directory`. `watch(trainer)` makes callbacks that only look on, such
    as `figures.Live`. Results depend on threads, on `compile` (which needs Triton on a GPU and a C++ compiler on a
    CPU), and on the nets' precision: bfloat16 falls back to float32 on processors without it. All three are recorded
    and kept from the first checkpoint on, so on a CPU a run that is resumed equals an uninterrupted one bit for bit.

    Raises RunMismatch for a directory of another config, other data or the other `compile`, NotFinite if a loss is not
    finite, ValueError for a batch larger than the dataset, an unknown device, or more threads than this machine has.
    Ctrl-C and SIGTERM write a checkpoint and raise Interrupted, a KeyboardInterrupt.
    """
    check_threads(compute.threads)
    run = Run(Path(directory) if directory else Path(runs) / config.name, config)
    if run.finished and not run.moved:
        return run
    device = check_device(compute.device)
    dataset = datasets.load(config)  # errors in data or nets are raised before anything is written
    run.check_data(dataset.description)
    if run.finished:
        return run
    objective = methods.build(config, dataset.image_shape)
    images = ResidentImages(dataset.train.images, config.batch_size, config.seed, device, objective.dtype)
    check_turns(objective, steps := config.epochs * images.steps_per_epoch)
    with run.locked():
        run = Run(run.directory, config)  # another process may have begun or finished it meanwhile
        if run.finished:
            return run
        how = _how(run, device, compute)
        with tuned(how["threads"], device):
            trained = sum(p.numel() for p in objective.parameters() if p.requires_grad)
            run.start(device, how, dataset.description, trained)
            place(objective, device, how["nets"])
            trainer = Trainer(objective, steps, device, how["compiled"], config.seed)
            try:
                _fit(run, trainer, images, compute.checkpoint_seconds, watch(trainer) if watch else Callbacks())
            except Interrupted as stopped:
                raise stopped.with_traceback(None) from None  # its message says all
    return run


def _how(run: Run, device: torch.device, compute: Compute) -> dict:
    """How to compute: as asked, or as the run's checkpoint was computed, since results depend on it."""
    recorded = run.environment if run.begun else {}
    how = {
        "threads": recorded.get("threads", threads(run.config, compute.threads)),
        "nets": recorded.get("nets", environment.net_precision(run.config.precision, device)),
        "compiled": compiled(compute.compile, device),
    }
    on_gpu = device.type == "cuda"
    if "compiled" in recorded and (recorded["device"] != "cpu") == on_gpu:  # another kind of device may not support it
        if compute.compile not in (None, recorded["compiled"]):
            raise RunMismatch(
                f"{run.directory} was begun with compile={recorded['compiled']}, and {compute.compile} is asked; "
                "leave compile out to resume it, or train in another directory"
            )
        how["compiled"] = recorded["compiled"]
    return how


def _fit(run: Run, trainer: Trainer, images: ResidentImages, checkpoint_seconds: float, watcher: Callbacks) -> None:
    """Train from the latest checkpoint, if any, to the end of the run."""
    state = run.restore(trainer.device, trainer.objective.state_dict())
    first = state["step"] if state else 0
    if state:
        tqdm.write(f"{run.config.name}: resumes at step {first:,} of {trainer.steps:,}")
    with held() as signals, bar(run.config.name, trainer.steps, initial=first, unit="step") as shown:
        recorder = Recorder(run, trainer, shown, checkpoint_seconds, state, watcher)
        recorder.signals = signals
        try:
            step, epoch = fit(trainer, images.batch, run.config, images.steps_per_epoch, recorder, state)
        except NotFinite as error:
            kept = next((name for name in CHECKPOINTS if (run.directory / name).exists()), None)
            good = f"the last good checkpoint is {run.directory / kept}" if kept else "no checkpoint was written yet"
            raise NotFinite(f"{error}; {good}. A lower learning_rate or weight may help") from None
        run.finish(trainer.objective.state_dict(), step, epoch)


class Recorder(Callbacks):
    """Writes log lines, kept epochs and checkpoints into a run's directory, updates the bar, lets a watcher look."""

    def __init__(
        self, run: Run, trainer: Trainer, shown: tqdm, checkpoint_seconds: float, state: dict | None, watcher: Callbacks
    ) -> None:
        self.run, self.objective, self.shown, self.watcher = run, trainer.objective, shown, watcher
        for line in run.logs["metrics.jsonl"]:  # of a resumed run
            watcher.on_line(line)
        self.checkpoint_seconds = checkpoint_seconds
        self.signals: list[int] = []  # that ask to stop
        self.before = state["seconds"] if state else 0.0  # of training, before this start
        self.started = self.checkpointed = time.monotonic()
        self.logged = (self.before, state["step"] if state else 0)

    @property
    def seconds(self) -> float:
        """Seconds of training, over all starts."""
        return self.before + time.monotonic() - self.started

    def on_step(self, step: int, state: Callable[[], dict]) -> None:
        self.shown.update()
        stopping = bool(self.signals) and step < self.shown.total  # after its last step a run is finished first
        if stopping or time.monotonic() - self.checkpointed >= self.checkpoint_seconds:
            self.run.save_checkpoint(state() | {"seconds": self.seconds})
            self.checkpointed = time.monotonic()
        self.watcher.on_step(step, state)
        if stopping:
            raise Interrupted(f"stopped at step {step:,} of {self.shown.total:,}", self.signals[0])

    def on_line(self, line: dict[str, float]) -> None:
        self.run.append("metrics.jsonl", line)
        (before, first), now, step = self.logged, self.seconds, line["step"]
        speed = (step - first) * self.run.config.batch_size / max(now - before, 1e-9)
        self.run.append("timing.jsonl", {"step": step, "seconds": round(now, 3), "images_per_second": round(speed, 1)})
        self.logged = (now, step)
        self.watcher.on_line(line)

    def on_epoch(self, step: int, epoch: int) -> None:
        if epoch in self.run.config.keep_epochs:
            self.run.save_weights(epoch_file(epoch), self.objective.state_dict(), step, epoch)
        self.watcher.on_epoch(step, epoch)
