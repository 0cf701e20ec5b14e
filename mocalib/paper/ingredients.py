"""Variants of MoCA that leave out a part of its algorithm: the paper asserts that each is needed, and tests none."""

from collections.abc import Iterable
from dataclasses import replace

from mocalib.config.methods import MoCA
from mocalib.config.run import RunConfig

WHOLE = {"form": "info_nce", "schedule": "cosine"}
VARIANTS = {  # name -> settings that differ from Algorithm 1
    "Algorithm 1": {},
    "literal Eq. 6": {"form": "eq6_literal"},
    "decoupled": {"form": "decoupled"},
    "no positive": {"form": "negative"},
    "no momentum": {"schedule": "constant", "momentum": 0.0},  # the current encoder makes the keys
    "constant momentum": {"schedule": "constant"},
    "Eq. 4 in the batch": {"form": "batch"},
    "uniformity in the batch": {"form": "uniformity"},
    "sliced Wasserstein": {"form": "sliced_wasserstein"},
}


def runs(base: RunConfig, weights: dict[str, Iterable[float]]) -> dict[str, list[RunConfig]]:
    """The runs of each variant of `base`, one for each lambda in `weights`."""
    return {
        name: [replace(base, objective=replace(base.objective, weight=weight, **VARIANTS[name])) for weight in found]
        for name, found in weights.items()
    }


def name_of(moca: MoCA) -> str:
    """The variant's name."""
    return next(name for name, settings in VARIANTS.items() if replace(moca, **WHOLE | settings) == moca)
