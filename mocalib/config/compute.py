"""How to compute and score runs, in three small frozen objects. `RunConfig` says what a run is."""

import re
from dataclasses import dataclass

from mocalib.config.checks import option, validate
from mocalib.config.run import FEATURES, PRIOR, SAMPLERS

ENGINES = ("local", "ray")


@dataclass(frozen=True)
class Compute:
    """How to train a run. Raises ValueError with field, value and what is allowed.

    All fields except `checkpoint_seconds` can change results, so a run records them.
    """

    device: str = "cpu"  # cpu, cuda, or one GPU by number: cuda:1
    threads: int = option(0, low=0)  # CPU threads; 0: one for a narrow net, else torch's number
    compile: bool | None = None  # compile the step; on a GPU, capture it as a CUDA graph; None: on a GPU only
    checkpoint_seconds: float = option(60.0, low=0.0)  # time between checkpoints

    def __post_init__(self) -> None:
        object.__setattr__(self, "device", str(self.device))  # accepts a torch.device
        if not re.fullmatch(r"cpu|cuda(:\d+)?", self.device):
            raise ValueError(f"Compute.device = {self.device!r} is not a device to train on; use 'cpu' or 'cuda'")
        validate(self)


@dataclass(frozen=True)
class Scoring:
    """How to score a run. Raises ValueError with field, value and what is allowed."""

    features: str = option("", choices=("", *FEATURES, "none"))  # for the distances; "": classifier if labelled
    n: int = option(10_000, low=2)  # number of samples; a covariance needs 2
    weights: str = ""  # file of Inception's weights; "": the file in torch's hub folder, downloaded if missing
    sampler: str = option(PRIOR, choices=SAMPLERS)  # gmm10: also sample ten Gaussians fitted to the latents
    grids: bool = True  # of samples, reconstructions and interpolations, as pictures in the run's directory

    def __post_init__(self) -> None:
        validate(self)


@dataclass(frozen=True)
class Pool:
    """Where to compute the runs of a sweep. Raises ValueError with field, value and what is allowed.

    - "local": on this machine, `jobs` runs at a time (default 1; 0: one per core, or as many as the GPUs take).
    - "ray": on a cluster, `jobs` runs at a time (default: as many as fit).
    """

    engine: str = option("local", choices=ENGINES)
    jobs: int | None = option(None, low=0)
    gpus: float | None = option(None, above=0.0, high=1.0)  # per run on cuda; None: 1; 0.5: two runs share one
    retries: int = option(2, low=0)  # of a run whose process or node dies, since its last progress; not if it raises
    address: str | None = None  # Ray cluster; None: RAY_ADDRESS, else the one running here, else a new one

    def __post_init__(self) -> None:
        validate(self)
        if self.address is not None and (self.engine != "ray" or not self.address):
            raise ValueError(f"Pool.address = {self.address!r} must name a Ray cluster; use engine 'ray', or None")
