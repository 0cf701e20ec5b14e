"""How a run is computed: what its record says of the machine and the code."""

import platform
import subprocess
from importlib import metadata

import torch

from mocalib import paths

PACKAGES = ("mocalib", "torch", "torchvision", "torch-fidelity", "numpy", "scipy", "pillow", "mlxtend")


def describe(device: torch.device, threads: int) -> dict:
    """How a run is computed: versions, commit, device and threads; no host or user name."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    versions = {package: metadata.version(package) for package in PACKAGES}
    commit = _git("rev-parse", "HEAD")
    return {
        "versions": {"python": platform.python_version()} | versions,
        "commit": commit,
        "dirty": None if commit is None else bool(_git("status", "--porcelain", "--", "mocalib")),
        "device": name,
        "threads": threads,
    }


def _git(*arguments: str) -> str | None:
    try:
        command = ["git", "-C", str(paths.ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None  # not a checkout, or no git
