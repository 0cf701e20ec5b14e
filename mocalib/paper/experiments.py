"""The experiments: which runs make each table and figure of the paper, at each scale."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from mocalib.config.run import RunConfig
from mocalib.paper import dcvae
from mocalib.paper.baselines import SPHERE
from mocalib.paper.grids import A1, A2, CELEBA, CIFAR, SCALES, Scale, vary

Name = TypeVar("Name")


def configs(name: str, scale: str, seeds: int = 1) -> list[RunConfig]:
    """Every run that a table or figure shows, for the first seeds of its own; [] if the scale does not run it.

    `name`: "table1" to "table4", "figure1" to "figure15", and

    - "baselines_cifar10", "baselines_celeba": the baselines of Table 1, re-run on what stands for these datasets;
    - "table1_nets": MoCA-A1 and MoCA-A2, with more seeds;
    - "table1_wae": MoCA and WAE-MMD on the sphere;
    - "table1_plain": MoCA with lambda 0;
    - "ingredients": variants of MoCA that leave out a part;
    - "ingredients_ema": MoCA with and without momentum, with more seeds;
    - "figure3_fixed": Figure 3 without a stop;
    - "convergence": MoCA and some baselines during training;
    - "appendix_a": A1 on CelebA with d 64 and 128;
    - "dcvae_table1", "dcvae_table5", "dcvae_figure11": DC-VAE's own experiments;
    - "quickstart": a small MoCA-A2, and the same autoencoder with lambda 0; not at paper scale.

    Runs that two experiments share are equal. Raises ValueError for an unknown name or scale, or for seeds below 1.
    """
    for what, value, known in (("experiment", name, NAMES), ("scale", scale, SCALES)):
        if value not in known:
            raise ValueError(f"{what} = {value!r} is not one of {', '.join(map(repr, known))}")
    if seeds < 1:
        raise ValueError(f"seeds = {seeds}: at least 1")
    first = own_seeds(name, scale).start
    runs = dict.fromkeys(_EXPERIMENTS[name](SCALES[scale]))
    return [replace(config, seed=seed) for config in runs for seed in range(first, first + seeds)]


def own_seeds(name: str, scale: str) -> range:
    """The seeds with which a scale runs an experiment; pictures have one."""
    found = SCALES[scale].seeds_of.get(name, SCALES[scale].seeds)
    return found[:1] if name in PICTURES else found


OF_DATA = ("dataset", "root", "crop", "limit", "skip_broken")  # fields of a run that depend on the images


def named(config: RunConfig, table: dict[Name, RunConfig]) -> Name | None:
    """The name under which a table lists a run, for any seed and any data; None if it does not.

    Of two names of the same run on different data, the one on the run's own data counts.
    """

    def key(run: RunConfig) -> dict:
        return {name: value for name, value in run.to_dict().items() if name not in ("seed", *OF_DATA)}

    sought = key(config)
    found = [name for name, listed in table.items() if key(listed) == sought]
    return next((name for name in found if table[name].dataset == config.dataset), next(iter(found), None))


def listed(scale: str, seeds: int | None = None) -> dict[str, list[RunConfig]]:
    """The runs of every table and figure of a scale, in the order of `NAMES`, with so many seeds or (None) its own.

    Pictures and the experiments of `Scale.seeds_of` never have more than their own.
    """

    def count(name: str) -> int:
        own, bound = len(own_seeds(name, scale)), name in PICTURES or name in SCALES[scale].seeds_of
        return own if seeds is None or (bound and seeds > own) else seeds

    return {name: configs(name, scale, count(name)) for name in NAMES}


def everything(scale: str, seeds: int | None = None) -> list[RunConfig]:
    """Every run of a scale, once; seeds as in `listed`."""
    return list(dict.fromkeys(config for found in listed(scale, seeds).values() for config in found))


def ratios(config: RunConfig, n: int, image_shape: tuple[int, int, int]) -> dict[str, float]:
    """The paper's dimensionless ratios: an ablation acts as in the paper only if these are similar.

    `n` is the number of training images, of shape C H W. A queue holds the keys of K/B steps; the key encoder should
    move little within them. A method without queue, lambda or temperature has fewer ratios.
    """
    method, steps = config.objective, config.epochs * (n // config.batch_size)
    found = {"d": config.latent_dim, "training images N": n, "steps": steps}
    if getattr(method, "instance", "contrast") != "contrast":  # a row of DC-VAE's that has no queue
        return found
    # DC-VAE contrasts embeddings of its own dimension, and with a critic moves its queue once in `every` steps.
    d = getattr(method, "embedding", config.latent_dim)
    steps //= method.every if getattr(method, "adversarial", False) else 1
    if hasattr(method, "queue_size"):
        horizon, size = 1 / max(1 - method.momentum, 1e-9), method.queue_size
        found |= {
            "K / N": size / n,
            "K / B, in steps": size / config.batch_size,
            "K / d": size / d,
            "key encoder's horizon 1 / (1 - m0), in steps": horizon,
            "that horizon / (K / B)": horizon * config.batch_size / size,
            "that horizon / steps": horizon / max(steps, 1),  # `train` refuses a run without steps
        }
    if hasattr(method, "weight"):
        found["weight / (C H W)"] = method.weight / math.prod(image_shape)
    if hasattr(method, "temperature"):
        found["temperature * sqrt(d)"] = method.temperature * d**0.5
    return found


def of_first_seed(members: list) -> list:
    """Those runs or configs that have the least seed among them."""
    seeds = [getattr(member, "config", member).seed for member in members]
    return [member for member, seed in zip(members, seeds) if seed == min(seeds)]


def _pictures(*datasets: str) -> Callable[[Scale], list[RunConfig]]:
    """Table 1's MoCA on these datasets, for pictures."""
    return lambda scale: [scale.moca(dataset) for dataset in datasets]


def _at_best(scale: Scale, *variants: str) -> list[RunConfig]:
    """The runs of these variants at their best lambda; [] if the scale lacks one of them."""
    if not set(variants) <= set(scale.ingredients):
        return []
    best = scale.best_ingredients
    return [run for name in variants for run in scale.ingredients[name] if run.objective.weight == best[name]]


def _weights(base: RunConfig, axis: str, values: dict[float, tuple[float, ...]]) -> list[RunConfig]:
    """A run for each value of an axis and each lambda that is tried with it."""
    inner = hasattr(base.objective, axis)
    along = {value: vary(base, **{axis: value}) if inner else replace(base, **{axis: value}) for value in values}
    return [vary(along[value], weight=weight) for value, weights in values.items() for weight in weights]


_EXPERIMENTS: dict[str, Callable[[Scale], list[RunConfig]]] = {  # in the order in which they are run
    "quickstart": lambda s: [s.quickstart, vary(s.quickstart, weight=0.0)] if s.quickstart else [],
    "table1": lambda s: [*s.table1.values(), *([s.one_step] if s.one_step else [])],
    "baselines_cifar10": lambda s: [*s.baselines[CIFAR].values()],
    "baselines_celeba": lambda s: [*s.baselines[CELEBA].values()],
    "convergence": lambda s: [*s.convergence.values()],
    "table1_plain": lambda s: [vary(s.moca(of), weight=0.0) for of in (CIFAR, CELEBA)],
    "table1_nets": lambda s: [config for (_, net), config in s.table1.items() if net in (A1, A2)],
    "table1_wae": lambda s: [s.moca(CIFAR), s.baselines[CIFAR][SPHERE]],
    "ingredients": lambda s: [config for found in s.ingredients.values() for config in found],
    "ingredients_ema": lambda s: _at_best(s, "Algorithm 1", "no momentum"),
    "table3": lambda s: [vary(s.ablation, momentum=momentum) for momentum in s.momenta],
    "table4": lambda s: [vary(base, queue_size=size) for base in s.queued for size in s.queue_sizes],
    "figure5": lambda s: [vary(s.weighed, weight=weight) for weight in s.weights],
    "figure4": lambda s: _weights(s.tempered, "temperature", s.temperatures),
    "figure3": lambda s: _weights(replace(s.ablation, stop_at=s.stop_at), "latent_dim", s.dimensions),
    "figure3_fixed": lambda s: _weights(s.ablation, "latent_dim", s.fixed_dimensions),
    "table2": lambda s: _weights(s.sized, "size", s.sizes),
    "figure15": lambda s: _weights(s.sized, "size", s.sizes),
    "appendix_a": lambda s: [*s.a1_dimensions],
    "figure2": _pictures(CIFAR, CELEBA),
    **{f"figure{n}": _pictures(CIFAR if n % 2 else CELEBA) for n in range(9, 15)},  # in turn
    **dict.fromkeys(("figure1", "figure6", "figure7", "figure8"), lambda s: [s.hq]),
    **{name: lambda s, name=name: s.dcvae[name] for name in dcvae.NAMES},
}
NAMES = tuple(_EXPERIMENTS)
PICTURES = tuple(f"figure{n}" for n in (1, 2, *range(6, 15)))  # of one seed
OF = dict.fromkeys(  # experiment -> the dataset of its paper that all its images stand for; others: CelebA
    (
        "quickstart",
        "baselines_cifar10",
        "convergence",
        "table1_wae",
        "ingredients",
        "ingredients_ema",
        dcvae.TABLE1,
        dcvae.FIGURE11,
    ),
    CIFAR,
) | dict.fromkeys(("table3", "table4", "figure4"), CELEBA)  # before table2, which shares some of their runs
OF |= {"figure1": "CelebA-HQ", "table2": "CelebA-HQ", dcvae.TABLE5: "MNIST"}
MIXED = ("table1", "baselines_cifar10", "baselines_celeba", "table1_wae")  # also sampled from ten Gaussians
