"""A scale in seconds: a few steps of narrow nets on a few images, and only the two ends of each axis."""

from dataclasses import replace

from mocalib.config.run import RunConfig
from mocalib.paper.scale import Scale


def _small(config: RunConfig) -> RunConfig:
    """The same run in a few seconds: a few steps of a narrow net on a few images."""
    images = {"limit": 32 if config.limit else 320, "width": 4, "batch_size": 32}  # a limit means a single step
    if config.model == "autogan":  # whose width bounds d
        images["latent_dim"] = min(8, config.latent_dim)
    epochs = {"epochs": min(2, config.epochs), "decay_every": 1, "decay_until": 0}
    kept = {"keep_epochs": tuple(min(1, epoch) for epoch in config.keep_epochs)}
    most = {"queue_size": 128, "critic_width": 16, "second_width": 16}
    own = {name: min(high, value) for name, high in most.items() if (value := getattr(config.objective, name, None))}
    return replace(config, **images | epochs | kept, objective=replace(config.objective, **own))


def _of_one_dimension(configs: list[RunConfig]) -> list[RunConfig]:
    """Small runs of those with the largest d, each once."""
    largest = max(config.latent_dim for config in configs)
    return list(dict.fromkeys(_small(config) for config in configs if config.latent_dim == largest))


def thinned(scale: Scale) -> Scale:
    """The scale with small runs, one seed, and only the two ends of each axis."""

    def ends(axis: tuple) -> tuple:
        return (axis[0], axis[-1])

    def both(axes: dict) -> dict:
        low, high = ends(tuple(axes))
        return dict.fromkeys((low, high), ends(tuple(weight for weight in axes[low] if weight in axes[high])))

    return Scale(
        seeds=range(1),
        n_generated=300,
        features="",
        jobs=1,
        table1={key: _small(config) for key, config in scale.table1.items()},
        row=scale.row,
        baselines={
            of: {name: _small(config) for name, config in found.items()} for of, found in scale.baselines.items()
        },
        tried=scale.tried,
        convergence={key: _small(config) for key, config in scale.convergence.items()},
        quickstart=_small(scale.quickstart),
        one_step=_small(scale.one_step),
        ingredients={name: [_small(configs[0])] for name, configs in scale.ingredients.items()},
        best_ingredients={name: configs[0].objective.weight for name, configs in scale.ingredients.items()},
        ablation=_small(scale.ablation),
        stop_at=scale.stop_at,
        dimensions=both(scale.dimensions),
        fixed_dimensions=both(scale.fixed_dimensions),
        sized=_small(scale.sized),
        sizes=both({size: scale.sizes[size] for size in tuple(scale.sizes)[:2]}),  # the larger ones take longer
        momenta=ends(scale.momenta),
        tempered=_small(scale.tempered),
        temperatures=both(scale.temperatures),
        best_weights=scale.best_weights,
        queued=tuple(_small(config) for config in scale.queued),
        queue_sizes=(16, 128),
        weighed=_small(scale.weighed),
        weights=ends(scale.weights),
        a1_dimensions=tuple(_small(config) for config in scale.a1_dimensions),
        hq=_small(scale.hq),
        throughput=(replace(_small(scale.quickstart), precision="bfloat16"),),
        dcvae={name: _of_one_dimension(configs) for name, configs in scale.dcvae.items()},
    )
