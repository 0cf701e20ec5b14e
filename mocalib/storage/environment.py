"""The machine and the code that compute a run."""

import os
import platform
import subprocess
from importlib import metadata

import torch

from mocalib.config import paths

PACKAGES = ("mocalib", "torch", "torchvision", "torch-fidelity", "numpy", "scipy", "pillow", "mlxtend")


def describe(device: torch.device) -> dict:
    """Versions, commit and device for a run's record; no host or user name."""
    commit = _git("rev-parse", "HEAD")
    return {
        "versions": {"python": platform.python_version()} | {name: metadata.version(name) for name in PACKAGES},
        "commit": commit,
        "dirty": None if commit is None else bool(_git("status", "--porcelain", "--", "mocalib")),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processor": processor(),
    }


def cores() -> int:
    """CPU cores that this process may use; on a cluster the machine may have more."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """The CPU's name, if torch knows it, and the instruction sets that matter most for speed."""
    known = torch.cpu.get_capabilities()
    fast = [name for name in ("amx_bf16", "avx512_bf16", "avx512_f", "avx2", "bf16") if known.get(name)]
    return f"{known.get('cpu_name') or platform.machine()} ({', '.join(fast)})"


def net_precision(precision: str, device: torch.device) -> str:
    """The precision to compute in: bfloat16 becomes float32 on a device that lacks it and would be slower."""
    return "float32" if precision == "bfloat16" and not has_bfloat16(device) else precision


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 natively; False if torch cannot tell."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    known = torch.cpu.get_capabilities()
    return any(known.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))  # bf16: ARM


def _git(*arguments: str) -> str | None:
    try:
        command = ["git", "-C", str(paths.ROOT), *arguments]
        return subprocess.run(command, capture_output=True, encoding="utf-8", check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None  # no git, or not a checkout
