"""One run's directory: config, environment, logs, checkpoints, scores and manifest."""

import contextlib
import hashlib
import json
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import filelock
import torch
from torch import Tensor

from mocalib.config.parameters import flat
from mocalib.config.run import RunConfig
from mocalib.storage import environment, files, manifest

CHECKPOINTS = ("checkpoint.pt", "previous.pt")  # the last two, newest first
LOGS = ("metrics.jsonl", "timing.jsonl")
PARTS = {"step", "config", "environment", "objective", "optimizers", "meters", "logs", "seconds"}  # of a checkpoint


class RunMismatch(ValueError):
    """The directory belongs to another config or other data, or none of its checkpoints loads."""


class Run:
    """A run's directory. Raises RunMismatch with the differing fields if it belongs to another config."""

    def __init__(self, directory: Path | str, config: RunConfig) -> None:
        self.directory, self.config = Path(directory), config
        # `finish` takes checksums of these copies, so damage on the disk cannot enter the manifest.
        self.started: dict = {}  # environment
        self.logs: dict[str, list[dict]] = {name: [] for name in LOGS}
        self.moved = False  # whether its images lie elsewhere than when it was trained, so that they may be others
        if (self.directory / "config.json").exists():
            recorded = read_config(self.directory)
            self.moved = recorded.root != config.root
            way_out = "Use another directory (MOCALIB_RUNS moves them all), or remove this one"
            self._refuse_other(self.directory, recorded, way_out)

    def __repr__(self) -> str:
        return f"Run({str(self.directory)!r})"

    def _refuse_other(self, path: Path, made_by: RunConfig, way_out: str) -> None:
        if found := [line for line in differences(made_by, self.config) if not line.startswith("root:")]:
            raise RunMismatch(f"{path} has another config (existing | requested): {'; '.join(found)}. {way_out}")

    @property
    def finished(self) -> bool:
        """Whether training has ended. The manifest is written last."""
        return (self.directory / "manifest.json").exists()

    @property
    def begun(self) -> bool:
        """Whether there is a checkpoint to resume from."""
        return any((self.directory / name).exists() for name in CHECKPOINTS)

    @property
    def environment(self) -> dict:
        """Versions, commit, device, threads, precision, data and parameter count at the first start; {} before it."""
        return manifest.read_json(self.directory, "environment.json", {})

    @property
    def manifest(self) -> dict:
        """Step, epoch and the sha256 of every record; {} while unfinished."""
        return manifest.load(self.directory)

    @property
    def epochs(self) -> list[int]:
        """Epochs of a finished run to score: those with kept weights, and the last."""
        last = self.manifest["epoch"]
        return [*(kept for kept in self.config.keep_epochs if kept < last), last]

    @property
    def metrics(self) -> list[dict]:
        """Logged lines, oldest first."""
        return manifest.lines(manifest.read(self.directory, "metrics.jsonl"))

    @property
    def timing(self) -> list[dict]:
        """Seconds and images/s at each logged line."""
        path = self.directory / "timing.jsonl"  # has no checksum: every repeat of a run has other times
        return manifest.lines(path.read_text("utf-8", errors="replace") if path.exists() else None)

    @property
    def scores(self) -> list[dict]:
        """Score rows; [] before the first evaluation."""
        return manifest.read_json(self.directory, "scores.json", [])

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the directory; wait if another process holds it."""
        lock = filelock.FileLock(self.directory / ".lock")
        with files.writing(self.directory / ".lock"):
            try:
                held = lock.acquire(timeout=0)
            except filelock.Timeout:
                print(f"another process uses {self.directory}; waiting for it to end", flush=True)
                held = lock.acquire()
        with held:
            for partial in self.directory.glob("*.tmp"):  # of killed processes
                partial.unlink(missing_ok=True)
            yield

    def start(self, device: torch.device, how: dict, data: dict, parameters: int) -> None:
        """Write config and environment before step 0, or keep those of a checkpoint. Raises RunMismatch: other data."""
        self.started = here = environment.describe(device) | how | {"data": data, "parameters": parameters}
        recorded = self.environment
        self.check_data(data)
        if not recorded:
            files.write_json(self.directory / "config.json", self.config.to_dict())
        elif self.begun:
            self.started = recorded
            used = [recorded["device"], *recorded.get("resumed_on", [])]
            if here["device"] in used:
                return
            self.started = recorded | {"resumed_on": [*used[1:], here["device"]]}
        files.write_json(self.directory / "environment.json", self.started)

    def check_data(self, data: dict) -> None:
        """Raise RunMismatch if a run that has begun was trained on other pixels or labels; where they lie is free."""
        if not (then := self.environment.get("data")) or then["fingerprint"] == data["fingerprint"]:
            return
        counts = [f"{about['train']} training and {about['test']} test images" for about in (then, data)]
        changed = f"{counts[0]} then, {counts[1]} now" if counts[0] != counts[1] else f"{counts[0]}, but other pixels"
        raise RunMismatch(
            f"{self.config.root or self.config.dataset} is not what {self.directory} was trained on: {changed} "
            f"(fingerprint {then['fingerprint'][:12]}, now {data['fingerprint'][:12]}). Restore these images, or move "
            f"{self.directory} away, or train in another directory"
        )

    def append(self, name: str, line: dict) -> None:
        """Append one JSON line to a log."""
        files.append(self.directory / name, _text([line]))
        self.logs[name].append(line)

    def save_checkpoint(self, state: dict) -> None:
        """Write a checkpoint with config, environment and logs. The one before it becomes previous.pt."""
        current, previous = (self.directory / name for name in CHECKPOINTS)
        about = {"config": self.config.to_dict(), "environment": self.started, "logs": self.logs}
        files.write_tensors(current, state | about, keep=previous)

    def restore(self, device: torch.device, expected: dict[str, Tensor]) -> dict | None:
        """Load the latest checkpoint that loads, and set the logs back to its step; None if there is no checkpoint.

        A checkpoint must have the names, shapes and dtypes of `expected`, the state of a new objective. Raises
        RunMismatch if no checkpoint loads, or if it has another config or environment.
        """
        found = [path for name in CHECKPOINTS if (path := self.directory / name).exists()]
        state = None
        for path in found:
            try:
                loaded = files.read_tensors(path, device)
                if lacks := PARTS - loaded.keys():
                    raise ValueError(f"it lacks {', '.join(sorted(lacks))}")
                made_by = RunConfig.from_dict(loaded["config"])
                if made_by == replace(self.config, root=made_by.root):  # else it is refused below
                    files.check_state(loaded["objective"], expected)
                state = loaded
                break
            except Exception as error:  # torch raises RuntimeError, EOFError, UnpicklingError and more
                warnings.warn(f"{path} does not load ({repr(error)[:300]})", stacklevel=2)
        if found and state is None:
            names = " and ".join(path.name for path in found)
            raise RunMismatch(f"{self.directory}: {names} do not load; remove them to train from the start")
        if state:
            self._refuse_other(path, made_by, "Restore config.json, or use another directory")
            anywhere = {"resumed_on": []}  # devices may differ
            if state["environment"] | anywhere != (self.started or self.environment) | anywhere:
                raise RunMismatch(f"{path} has another environment than environment.json; restore environment.json")
        self.logs = state["logs"] if state else {name: [] for name in LOGS}
        for name, lines in self.logs.items():
            files.write(self.directory / name, _text(lines).encode())
        return state

    def save_weights(self, name: str, weights: dict[str, Tensor], step: int, epoch: int) -> None:
        """Write the method's whole state (nets, key encoder, queue) and the image shape."""
        state = {"objective": weights, "step": step, "epoch": epoch, "image_shape": self.started["data"]["image_shape"]}
        files.write_tensors(self.directory / name, state)

    def finish(self, weights: dict[str, Tensor], step: int, epoch: int) -> None:
        """Write the final weights, then the manifest, and only then remove the checkpoints."""
        self.save_weights("weights.pt", weights, step, epoch)
        (self.directory / "scores.json").unlink(missing_ok=True)  # left over if a manifest was lost
        metrics = _text(self.logs["metrics.jsonl"]).encode()
        texts = files.json_bytes(self.config.to_dict()), files.json_bytes(self.started), metrics
        digests = {}
        for name, content in zip(manifest.RECORDED, texts, strict=True):
            files.write(self.directory / name, content)
            digests[name] = hashlib.sha256(content).hexdigest()
        files.write_json(self.directory / "manifest.json", {"step": step, "epoch": epoch, "files": digests})
        for name in CHECKPOINTS:
            (self.directory / name).unlink(missing_ok=True)

    def add_scores(self, rows: list[dict], records: dict[str, bytes]) -> None:
        """Add score rows, and record files that the manifest does not have yet.

        scores.json comes last, so the next evaluation repeats one that was killed; until then the old rows are valid.
        """
        before = {name: value for name, value in self.manifest.items() if name != manifest.REPLACING}
        new = {name: content for name, content in records.items() if name not in before["files"]}
        for name, content in new.items():
            files.write(self.directory / name, content)
        new["scores.json"] = files.json_bytes([*self.scores, *rows])
        digests = before["files"] | {name: hashlib.sha256(content).hexdigest() for name, content in new.items()}
        after = before | {"files": dict(sorted(digests.items()))}
        scores = self.directory / "scores.json"
        old = {"scores.json": files.sha256(scores)} if scores.exists() else {}
        files.write_json(self.directory / "manifest.json", after | {manifest.REPLACING: old})
        files.write(scores, new["scores.json"])
        files.write_json(self.directory / "manifest.json", after)

    def verify(self) -> None:
        """Raise ValueError naming every record that is missing or fails its checksum in the manifest."""
        manifest.verify(self.directory)


def read_config(directory: Path | str) -> RunConfig:
    """The config in a run's directory. Raises FileNotFoundError if there is none."""
    path = Path(directory) / "config.json"
    if (text := manifest.read(Path(directory), "config.json")) is None:
        raise FileNotFoundError(f"{path} does not exist; pass a run directory, which has the config.json of its run")
    try:
        return RunConfig.from_dict(json.loads(text))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def differences(mine: RunConfig, theirs: RunConfig) -> list[str]:
    """One line per field in which two runs differ: name, the first's value, the second's."""
    a, b = flat(mine), flat(theirs)
    return [f"{name}: {a.get(name)!r} | {b.get(name)!r}" for name in a | b if a.get(name) != b.get(name)]


def open_run(directory: Path | str) -> Run:
    """The run in a directory that has a config.json."""
    return Run(directory, read_config(directory))


def _text(lines: list[dict]) -> str:
    return "".join(json.dumps(line) + "\n" for line in lines)


def epoch_file(epoch: int) -> str:
    """File name of the weights kept at an epoch."""
    return f"epoch-{epoch:04d}.pt"


def samples_file(epoch: int) -> str:
    """File name of the grid of samples from the weights kept at an epoch."""
    return f"samples-epoch-{epoch:04d}.png"
