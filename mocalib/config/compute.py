"""How runs are computed and scored, in three small frozen objects that are passed along.

`RunConfig` says what a run is; nothing here changes that. No torch, so that the shell's help is quick.
"""

import re
from dataclasses import dataclass

from mocalib.config.checks import option, validate
from mocalib.config.run import FEATURES, PRIOR, SAMPLERS

ENGINES = ("local", "ray")


@dataclass(frozen=True)
class Compute:
    """How to train a run. Results depend on all but `checkpoint_seconds`, and a run's record says what was used.

    Raises ValueError with field, value and what is allowed.
    """

    device: str = "cpu"  # cpu, cuda, or one GPU by its number: cuda:1
    threads: int = option(0, low=0)  # CPU threads; 0: one for a narrow net, else torch's number (`training.threads`)
    compile: bool | None = None  # the step, on a GPU into one CUDA graph; None: on a GPU
    checkpoint_seconds: float = option(60.0, low=0.0)  # between checkpoints

    def __post_init__(self) -> None:
        object.__setattr__(self, "device", str(self.device))  # a torch.device will do
        if not re.fullmatch(r"cpu|cuda(:\d+)?", self.device):
            raise ValueError(f"Compute.device = {self.device!r} is not a device to train on; use 'cpu' or 'cuda'")
        validate(self)


@dataclass(frozen=True)
class Scoring:
    """How to score a run. Raises ValueError with field, value and what is allowed."""

    features: str = option("", choices=("", *FEATURES, "none"))  # of the distances; "": classifier if there are labels
    n: int = option(10_000, low=2)  # samples: fewer than 2 have no covariance
    weights: str = ""  # file of Inception's weights; "": the one in torch's hub folder, else it is downloaded
    sampler: str = option(PRIOR, choices=SAMPLERS)  # gmm10: samples of ten Gaussians fitted to the latents, too

    def __post_init__(self) -> None:
        validate(self)


@dataclass(frozen=True)
class Pool:
    """Where the runs of a sweep are computed, and how many at a time.

    - "local": `jobs` at a time on this machine (default 1; 0: one a core, or as many as the GPUs take).
    - "ray": on the cluster at `address` (default: the one that RAY_ADDRESS names or that runs here, else one is started
      here), as many as it has room for, or `jobs`.

    Raises ValueError with field, value and what is allowed.
    """

    engine: str = option("local", choices=ENGINES)
    jobs: int | None = option(None, low=0)
    gpus: float | None = option(None, above=0.0, high=1.0)  # of a run on cuda, where None is 1; .5: two share one
    retries: int = option(2, low=0)  # of a run whose process or node died; an error would only come again
    address: str | None = None  # of a Ray cluster

    def __post_init__(self) -> None:
        validate(self)
        if self.address is not None and (self.engine != "ray" or not self.address):
            raise ValueError(f"Pool.address = {self.address!r} is of a Ray cluster; use engine 'ray'")
