"""Experiments as data: which runs a table or figure is made of, at which scale."""

from dataclasses import replace

from mocalib.config import MoCA, RunConfig

SCALES = ("laptop",)
NAMES = ("quickstart",)

# The quickstart's own defaults: a real run of about a core-minute on 16x16 digits, found by trials on seeds 100 and up.
QUICKSTART = RunConfig(
    dataset="digits",
    size=16,
    width=8,
    blocks=1,
    latent_dim=24,
    epochs=40,
    learning_rate=2.0e-3,
    decay_every=24,
    objective=MoCA(temperature=0.1, momentum=0.99, queue_size=2048, weight=1.0),
)


def configs(name: str, scale: str, seeds: int = 1) -> list[RunConfig]:
    """Every run that an experiment shows, seeds 0 to `seeds` - 1.

    "quickstart": MoCA and its twin, the same autoencoder with weight 0. Raises ValueError for an unknown name or scale.
    """
    for what, value, known in (("experiment", name, NAMES), ("scale", scale, SCALES)):
        if value not in known:
            raise ValueError(f"{what} = {value!r} is not one of {', '.join(map(repr, known))}")
    if seeds < 1:
        raise ValueError(f"seeds = {seeds}: at least 1")
    twin = replace(QUICKSTART, objective=replace(QUICKSTART.objective, weight=0.0))
    return [replace(config, seed=seed) for config in (QUICKSTART, twin) for seed in range(seeds)]
