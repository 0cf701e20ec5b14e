"""The device and the number of threads that a run is computed with."""

import contextlib
from collections.abc import Iterator

import torch

from mocalib.config.compute import Compute
from mocalib.config.run import RunConfig
from mocalib.methods import Objective
from mocalib.storage import environment

NARROW = 16  # channels of the first stage; for a net this narrow, a second thread gains little and may cost much


def check_threads(threads: int) -> None:
    """Raise ValueError for more threads than this machine has."""
    if threads > (most := environment.cores()):
        raise ValueError(f"threads = {threads}: at most the {most} cores that this process may use; 0 chooses")


def check_device(name: torch.device | str) -> torch.device:
    """The device of this name; ValueError if this machine does not have it."""
    device = torch.device(Compute(device=name).device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device = {str(name)!r}: this machine has no CUDA device that torch can use; use 'cpu'")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device = {str(name)!r}: this machine has {torch.cuda.device_count()}, counted from cuda:0")
    return device


def threads(config: RunConfig, asked: int = 0, share: int = 0) -> int:
    """CPU threads for a run: as asked, else one for a narrow net, else its share of the cores, else torch's number."""
    return asked or (1 if config.width <= NARROW else share or torch.get_num_threads())


def compiled(asked: bool | None, device: torch.device) -> bool:
    """Whether a step is compiled: as asked, else only on a GPU."""
    return device.type == "cuda" if asked is None else asked


def place(objective: Objective, device: torch.device, nets: str) -> Objective:
    """Move a method to a device, with channels last; its nets compute in bfloat16 if `nets` says so."""
    objective.bfloat16 = nets == "bfloat16"
    return objective.to(device, memory_format=torch.channels_last)


@contextlib.contextmanager
def use_threads(threads: int) -> Iterator[None]:
    """Compute with this many threads, then restore the process's own number."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def tuned(threads: int, device: torch.device) -> Iterator[None]:
    """Compute as training does: with this many threads and, on a GPU, with cuDNN's fastest convolutions."""
    before = torch.backends.cudnn.benchmark
    with use_threads(threads), torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
        torch.backends.cudnn.benchmark = device.type == "cuda" and not torch.backends.cudnn.deterministic
        try:
            yield
        finally:
            torch.backends.cudnn.benchmark = before
