"""A pytest plugin for nbval: two notebooks at a time, each in a worker with its own runs and figures.

Kernels talk through socket files. With ports, of two kernels that start at once one may take the other's.
"""

import os
import tempfile
from pathlib import Path

import nbval.kernel
from jupyter_client.manager import KernelManager

SCRATCH = Path(os.environ["MOCALIB_RUNS"]).parent


def _with_files(**settings: object) -> KernelManager:
    return KernelManager(transport="ipc", ip=f"{tempfile.mkdtemp(dir=SCRATCH)}/kernel", **settings)


nbval.kernel.KernelManager = _with_files
if worker := os.environ.get("PYTEST_XDIST_WORKER"):  # the process that starts the workers is none
    for name in ("MOCALIB_RUNS", "MOCALIB_FIGURES"):
        os.environ[name] += f"-{worker}"
