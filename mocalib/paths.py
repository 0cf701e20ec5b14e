"""The only place that knows the tree.

`MOCALIB_DATA` and `MOCALIB_RUNS` move the two folders that grow to a scratch disk.
"""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("MOCALIB_DATA") or ROOT / "data").expanduser().resolve()
RUNS = Path(os.environ.get("MOCALIB_RUNS") or DATA / "runs").expanduser().resolve()
RAW = DATA / "raw"
CACHE = DATA / "cache"
RECORDS = ROOT / "data" / "runs"  # committed records of finished runs: evidence, so they never move
FEATURES = ROOT / "data" / "features"  # committed weights: they belong to the code and never move
FIGURES = ROOT / "figures"
