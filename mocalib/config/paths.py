"""All folders. `MOCALIB_DATA`, `MOCALIB_RUNS` and `MOCALIB_FIGURES` move the large ones to another disk."""

import os
import shlex
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("MOCALIB_DATA") or ROOT / "data").expanduser().resolve()
RUNS = Path(os.environ.get("MOCALIB_RUNS") or DATA / "runs").expanduser().resolve()
RAW = DATA / "raw"
CACHE = DATA / "cache"
RECORDS = ROOT / "data" / "runs"  # records of finished runs; committed, so this and the next three never move
THROUGHPUT = ROOT / "data" / "throughput"  # measurements
FEATURES = ROOT / "data" / "features"  # weights of classifiers
WEIGHTS = ROOT / "data" / "weights"  # trained models
FIGURES = Path(os.environ.get("MOCALIB_FIGURES") or ROOT / "figures").expanduser().resolve()
SHELL = f"{shlex.quote(sys.executable)} -m mocalib"  # in messages: a command that can be pasted
