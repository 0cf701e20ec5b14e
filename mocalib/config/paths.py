"""The only place that knows the tree.

`MOCALIB_DATA`, `MOCALIB_RUNS` and `MOCALIB_FIGURES` move the folders that grow to a scratch disk.
"""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("MOCALIB_DATA") or ROOT / "data").expanduser().resolve()
RUNS = Path(os.environ.get("MOCALIB_RUNS") or DATA / "runs").expanduser().resolve()
RAW = DATA / "raw"
CACHE = DATA / "cache"
RECORDS = ROOT / "data" / "runs"  # committed records of finished runs: evidence, so they never move
THROUGHPUT = ROOT / "data" / "throughput"  # committed measurements, likewise
FEATURES = ROOT / "data" / "features"  # committed weights: they belong to the code and never move
FIGURES = Path(os.environ.get("MOCALIB_FIGURES") or ROOT / "figures").expanduser().resolve()
