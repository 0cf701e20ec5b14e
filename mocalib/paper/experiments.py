"""Experiments as data: which runs every table and figure of the paper is made of, at which scale."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from mocalib.config.run import RunConfig
from mocalib.paper.grids import A2, CELEBA, CIFAR, SCALES, Scale, vary

Name = TypeVar("Name")
FORMS = ("info_nce", "eq6", "negative")  # Algorithm 1, Eq. 6, and Eq. 4 alone: no positive


def configs(name: str, scale: str, seeds: int = 1) -> list[RunConfig]:
    """Every run that a table or figure shows, seeds 0 to `seeds` - 1; runs that two of them share are equal.

    `name`: "table1" to "table4", "figure1" to "figure15", and

    - "rivals_cifar10", "rivals_celeba": Table 1's other methods, re-run;
    - "table1_wae": MoCA-A2 and WAE-MMD on the sphere;
    - "table1_forms": Algorithm 1, Eq. 6 and the negative term alone at temperature .05;
    - "convergence": MoCA and some baselines along training;
    - "appendix_a": A1 on CelebA with d 64 beside 128;
    - "quickstart": Table 1's A2 beside the same autoencoder with weight 0, smoke and laptop only.

    What a scale does not run is an empty list.
    Raises ValueError for an unknown name or scale.
    """
    for what, value, known in (("experiment", name, NAMES), ("scale", scale, SCALES)):
        if value not in known:
            raise ValueError(f"{what} = {value!r} is not one of {', '.join(map(repr, known))}")
    if seeds < 1:
        raise ValueError(f"seeds = {seeds}: at least 1")
    runs = _EXPERIMENTS[name](SCALES[scale])
    return [replace(config, seed=seed) for config in runs for seed in range(seeds)]


OF_DATA = ("dataset", "root", "crop", "limit", "skip_broken")  # fields of a run that its images set


def named(config: RunConfig, table: dict[Name, RunConfig]) -> Name | None:
    """The name under which a table lists a run; whatever its seed, and on data of one's own too. None: it does not."""

    def key(run: RunConfig) -> dict:
        return {name: value for name, value in run.to_dict().items() if name not in ("seed", *OF_DATA)}

    sought = key(config)
    return next((name for name, listed in table.items() if key(listed) == sought), None)


def listed(scale: str, seeds: int) -> dict[str, list[RunConfig]]:
    """The runs of every table and figure of a scale, in the order of `NAMES`; of some, as of pictures, fewer seeds."""
    most = SCALES[scale].most_seeds | dict.fromkeys(PICTURES, 1)
    return {name: configs(name, scale, min(seeds, most.get(name, seeds))) for name in NAMES}


def everything(scale: str, seeds: int) -> list[RunConfig]:
    """Every run of a scale once."""
    return list(dict.fromkeys(config for found in listed(scale, seeds).values() for config in found))


def ratios(config: RunConfig, n: int, image_shape: tuple[int, int, int]) -> dict[str, float]:
    """The paper's dimensionless ratios: what must stay alike for an ablation to act in the regime that it studies.

    `n` training images of `image_shape` C H W; keys of one queue come from K/B steps, over which the key encoder
    should move little. A method without queue, weight or temperature has fewer of them.
    """
    method, steps = config.objective, config.epochs * (n // config.batch_size)
    found = {"d": config.latent_dim, "training images N": n, "steps": steps}
    if hasattr(method, "queue_size"):
        horizon, size = 1 / max(1 - method.momentum, 1e-9), method.queue_size
        found |= {
            "K / N": size / n,
            "K / B, in steps": size / config.batch_size,
            "K / d": size / config.latent_dim,
            "key encoder's horizon 1 / (1 - m0), in steps": horizon,
            "that horizon / (K / B)": horizon * config.batch_size / size,
            "that horizon / steps": horizon / steps,
        }
    if hasattr(method, "weight"):
        found["weight / (C H W)"] = method.weight / math.prod(image_shape)
    if hasattr(method, "temperature"):
        found["temperature * sqrt(d)"] = method.temperature * config.latent_dim**0.5
    return found


def _quickstart(scale: Scale) -> list[RunConfig]:
    moca = scale.table1[CIFAR, A2]
    return [moca, vary(moca, weight=0.0)] if scale.one_step else []


def _table1(scale: Scale) -> list[RunConfig]:
    return [*scale.table1.values(), *([scale.one_step] if scale.one_step else [])]


def _baselines(of: str) -> Callable[[Scale], list[RunConfig]]:
    return lambda scale: list(scale.baselines[of].values())


def _pair(scale: Scale) -> list[RunConfig]:
    return list(scale.pair.values())


def _convergence(scale: Scale) -> list[RunConfig]:
    return list(scale.convergence.values())


def _forms(scale: Scale) -> list[RunConfig]:
    return [vary(scale.forms, form=form) for form in FORMS]


def _appendix_a(scale: Scale) -> list[RunConfig]:
    return list(scale.a1_dimensions)


def _table2(scale: Scale) -> list[RunConfig]:
    return [vary(replace(scale.sized, size=size), weight=w) for size, weights in scale.sizes.items() for w in weights]


def _table3(scale: Scale) -> list[RunConfig]:
    return [vary(scale.ablation, momentum=momentum) for momentum in scale.momenta]


def _table4(scale: Scale) -> list[RunConfig]:
    return [vary(scale.ablation, queue_size=size) for size in scale.queue_sizes]


def _figure3(scale: Scale) -> list[RunConfig]:
    axes = scale.dimensions.items()
    return [vary(replace(scale.dimension, latent_dim=d), weight=weight) for d, weights in axes for weight in weights]


def _figure4(scale: Scale) -> list[RunConfig]:
    axes = scale.temperatures.items()
    return [vary(scale.tempered, temperature=tau, weight=weight) for tau, weights in axes for weight in weights]


def _figure5(scale: Scale) -> list[RunConfig]:
    return [vary(scale.ablation, weight=weight) for weight in scale.weights]


def _faces_hq(scale: Scale) -> list[RunConfig]:
    return [scale.hq]


def _a2(*datasets: str) -> Callable[[Scale], list[RunConfig]]:
    """Table 1's A2, for pictures."""
    return lambda scale: [scale.table1[dataset, A2] for dataset in datasets]


_EXPERIMENTS: dict[str, Callable[[Scale], list[RunConfig]]] = {  # in the order in which a grid is run: the first first
    "quickstart": _quickstart,
    "table1": _table1,
    "rivals_cifar10": _baselines(CIFAR),
    "rivals_celeba": _baselines(CELEBA),
    "convergence": _convergence,
    "table1_wae": _pair,
    "table1_forms": _forms,
    "table3": _table3,
    "table4": _table4,
    "figure5": _figure5,
    "figure4": _figure4,
    "figure3": _figure3,
    "table2": _table2,
    "figure15": _table2,
    "appendix_a": _appendix_a,
    "figure2": _a2(CIFAR, CELEBA),
    "figure9": _a2(CIFAR),
    "figure10": _a2(CELEBA),
    "figure11": _a2(CIFAR),
    "figure12": _a2(CELEBA),
    "figure13": _a2(CIFAR),
    "figure14": _a2(CELEBA),
    "figure1": _faces_hq,
    "figure6": _faces_hq,
    "figure7": _faces_hq,
    "figure8": _faces_hq,
}
NAMES = tuple(_EXPERIMENTS)
PICTURES = tuple(f"figure{n}" for n in (1, 2, *range(6, 15)))  # of seed 0
SHOWN_WITH = {"table1": ("rivals_cifar10", "rivals_celeba", "table1_wae")}  # whose runs stand in a table, too
ROWS = ("table1", "rivals_cifar10", "rivals_celeba")  # of which each run is a row that means something by itself
