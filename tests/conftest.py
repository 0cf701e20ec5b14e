"""Shared by all tests: no network, no display, and a scratch place for runs, caches and figures."""

import math
import os
import re
import runpy
import signal
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from mocalib import Compute, MoCA, RunConfig, train
from mocalib.config import paths
from mocalib.data import datasets
from mocalib.data.batches import ResidentImages
from mocalib.figures import live

OFFLINE = Path(__file__).parent / "offline"
sys.path.insert(0, str(paths.ROOT / "notebooks"))  # for the benchmark beside them
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(OFFLINE), os.environ.get("PYTHONPATH"))))
runpy.run_path(str(OFFLINE / "sitecustomize.py"))  # in this process, as in all that tests start

signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell ignores it
mpl.use("Agg")
torch.set_num_threads(1)  # tiny nets gain nothing from two, and lose much where cores are shared


@pytest.fixture(autouse=True)
def _closed_figures():
    yield
    plt.close("all")


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    """Caches, raw data, runs and figures in a temporary folder."""
    for name in ("CACHE", "RAW", "RUNS", "FIGURES"):
        monkeypatch.setattr(paths, name, tmp_path / name.lower())
    return tmp_path


@pytest.fixture
def no_death():
    """A SIGTERM that nothing handles fails the test; it does not end the tests."""

    def fail(*_):
        raise AssertionError("nothing handles SIGTERM")

    before = signal.signal(signal.SIGTERM, fail)
    yield fail
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="session")
def digits():
    """The digits at 16x16."""
    return datasets.load(RunConfig())


@pytest.fixture
def drawn(monkeypatch) -> list[bytes]:
    """All that `figures.Live` shows, at each step, as if this process were a notebook's kernel; nothing is rendered."""
    shown = []
    monkeypatch.setattr(live, "get_ipython", lambda: SimpleNamespace(kernel=None))
    monkeypatch.setattr(live, "display", lambda display_id: SimpleNamespace(update=shown.append))
    monkeypatch.setattr(live, "Image", bytes)
    monkeypatch.setattr(Figure, "savefig", lambda *_, **__: None)
    monkeypatch.setattr(live, "SECONDS", 0.0)
    monkeypatch.setattr(live, "SHARE", math.inf)
    return shown


def tiny(**changes) -> RunConfig:
    """A run of a few seconds: 8 steps an epoch on 256 digits with a narrow net."""
    moca = MoCA(temperature=0.1, momentum=0.9, queue_size=100, weight=1.0)
    settings = {
        "limit": 256,
        "width": 4,
        "blocks": 1,
        "latent_dim": 8,
        "batch_size": 32,
        "epochs": 3,
        "objective": moca,
    }
    return RunConfig(**settings | changes)


def says(*words: object) -> str:
    """A pattern of a message that has these in this order, whatever the words between them."""
    return "(?s)" + ".*".join(re.escape(str(word)) for word in words)


def unit_vectors(n: int, d: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Random unit vectors n d."""
    x = torch.randn(n, d, dtype=dtype, generator=torch.Generator().manual_seed(seed))
    return x / x.norm(dim=1, keepdim=True)


def picture(path: Path, size=(20, 16), mode: str = "RGB", seed: int = 0) -> Path:
    """Write a random image file whose format follows from its name."""
    bands = {"L": (), "RGB": (3,), "RGBA": (4,), "CMYK": (4,), "LA": (2,)}[mode]
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], *bands), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.frombytes(mode, size, pixels.tobytes()).save(path)
    return path


class Stopped(Exception):
    """Stands for a kill, at a chosen step."""


def stopped(directory, step: int, config=None, compute=None, watch=None):
    """Train with a checkpoint a step until the loop asks for the batch of `step`, and die; return the directory."""
    batch = ResidentImages.batch

    def dying(self, i):
        if i == step:
            raise Stopped
        return batch(self, i)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ResidentImages, "batch", dying)
        compute = replace(compute or Compute(), checkpoint_seconds=0)
        with pytest.raises(Stopped):
            train(config or tiny(), compute=compute, directory=directory, watch=watch)
    return directory
