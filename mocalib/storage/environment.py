"""How a run is computed: what its record says of the machine and the code."""

import os
import platform
import subprocess
from importlib import metadata

import torch

from mocalib.config import paths

PACKAGES = ("mocalib", "torch", "torchvision", "torch-fidelity", "numpy", "scipy", "pillow", "mlxtend")


def describe(device: torch.device) -> dict:
    """Where a run is computed: versions, commit and device; no host or user name."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    versions = {package: metadata.version(package) for package in PACKAGES}
    commit = _git("rev-parse", "HEAD")
    return {
        "versions": {"python": platform.python_version()} | versions,
        "commit": commit,
        "dirty": None if commit is None else bool(_git("status", "--porcelain", "--", "mocalib")),
        "device": name,
        "processor": processor(),
    }


def cores() -> int:
    """CPU cores that this process may use: on a cluster fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """The CPU's name, as far as torch knows it, and those of its instructions on which speed depends most."""
    known = _capabilities()
    fast = [name for name in ("amx_bf16", "avx512_bf16", "avx512_f", "avx2", "bf16") if known.get(name)]
    return f"{known.get('cpu_name') or platform.machine()} ({', '.join(fast)})"


def _capabilities() -> dict:
    return torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}


def net_precision(precision: str, device: torch.device) -> str:
    """What nets of a precision compute in on a device: bfloat16 without its instructions is slower than float32."""
    return "float32" if precision == "bfloat16" and not has_bfloat16(device) else precision


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 natively; a torch that cannot tell of its CPU counts as no."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    known = _capabilities()
    return any(known.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))  # the last is ARM's


def _git(*arguments: str) -> str | None:
    try:
        command = ["git", "-C", str(paths.ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None  # not a checkout, or no git
