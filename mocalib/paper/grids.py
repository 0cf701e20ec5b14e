"""The numbers of each scale, from which `experiments` makes the runs of every table and figure.

`PAPER` holds the paper's own numbers with their source; comments mark what the paper does not give. The other scales
keep the paper's dimensionless ratios (`experiments.ratios`) as far as their data allow.
"""

import os
from dataclasses import dataclass, field, replace

from mocalib.config.methods import MoCA
from mocalib.config.run import RunConfig
from mocalib.paper import baselines, dcvae

CIFAR, CELEBA = "CIFAR-10", "CelebA"  # the paper's names; each scale uses its own data for them
A1, A2 = "MoCA-A1", "MoCA-A2"  # Table 1's names of the two nets under MoCA


@dataclass(frozen=True)
class Scale:
    """One scale: base runs, all with seed 0, and the axes along which tables and figures vary them."""

    seeds: int  # how many its notebooks run
    n_generated: int  # samples a score
    features: str  # extractor of the distances; "": the dataset's own classifier if it has labels
    jobs: int  # runs at a time; 0: one a core
    table1: dict[tuple[str, str], RunConfig]  # (dataset, net) -> run
    baselines: dict[str, dict[str, RunConfig]]  # dataset -> method -> run, with the net of MoCA-A2
    convergence: dict[str, RunConfig]  # method -> run that keeps some epochs; all except MoCA's are in `baselines`
    forms: RunConfig  # temperature .05, for the forms of the contrastive loss
    ablation: RunConfig  # section 5's defaults
    dimension: RunConfig  # Figure 3: trained until `stop_at`
    dimensions: dict[int, tuple[float, ...]]  # d -> lambdas
    sized: RunConfig  # Table 2 and Figure 15
    sizes: dict[int, tuple[float, ...]]  # pixels a side -> lambdas
    momenta: tuple[float, ...]  # Table 3
    tempered: RunConfig  # Figure 4
    temperatures: dict[float, tuple[float, ...]]  # temperature -> lambdas
    best_weights: dict[float, float]  # temperature -> the lambda that trials on seeds from 100 on chose, if any did
    queue_sizes: tuple[int, ...]  # Table 4
    weights: tuple[float, ...]  # lambdas of Figure 5
    a1_dimensions: tuple[RunConfig, ...]  # Appendix A: A1 on CelebA with d 64 and 128
    hq: RunConfig  # CelebA-HQ: Figures 1, 6, 7 and 8
    throughput: tuple[RunConfig, ...]  # nets that are timed; the first also with longer queues
    dcvae: dcvae.Experiments  # DC-VAE's own
    most_seeds: dict[str, int] = field(default_factory=dict)  # experiment -> seeds, if it has fewer than the others
    one_step: RunConfig | None = None  # trained for a single step: what bad samples look like
    partial: bool = False  # whether Table 1 is shown before all its rows are finished


def vary(config: RunConfig, **objective: float | str) -> RunConfig:
    """The same run with other settings of its method."""
    return replace(config, objective=replace(config.objective, **objective))


# -------------------------------------------------------------------------------------------------------------- paper

_CIFAR_A2 = RunConfig(dataset="cifar10")  # RunConfig's defaults are Table 1 and Appendix A: 100 epochs, K 30,000
_CELEBA_A2 = RunConfig(dataset="celeba", epochs=200, objective=MoCA(queue_size=60_000))  # Appendix A
_SECTION_5 = replace(  # "unless specified otherwise"
    _CELEBA_A2, objective=MoCA(temperature=1.0, momentum=0.999, queue_size=60_000, weight=3_000.0)
)
_CIFAR_A1 = vary(replace(_CIFAR_A2, model="a1"), weight=1_000.0)  # Appendix A
_CELEBA_A1 = vary(replace(_CELEBA_A2, model="a1"), weight=1_000.0)
_HQ = RunConfig(  # Appendix A
    dataset="celebahq",
    model="hq",
    epochs=1_000,
    learning_rate=2.0e-3,
    decay_every=40,
    decay_until=400,
    keep_epochs=(850,),  # Figure 6
    objective=MoCA(temperature=1.0, momentum=0.99, queue_size=30_000, weight=20_000.0),
)
_KEPT = (1, 2, 5, 10, 20, 50)  # epochs; ours
_CIFAR_BASELINES = baselines.runs(_CIFAR_A2, baselines.CIFAR10, _KEPT)
_LOG_WEIGHTS = (100.0, 300.0, 1_000.0, 3_000.0, 9_000.0, 18_000.0, 36_000.0, 72_000.0)
_MORE_WEIGHTS = (*_LOG_WEIGHTS, 144_000.0)  # "on the log scale between 100 and 144,000 (in some cases)"; steps are ours
_APPENDIX_C = (100.0, 200.0, 500.0, 1_000.0, 2_000.0, 5_000.0, 10_000.0, 20_000.0, 50_000.0)
_FIGURE_4 = (100.0, 500.0, 1_000.0, 3_000.0, 6_000.0, 10_000.0)  # its axis goes to 10,000; the steps are ours


PAPER = Scale(
    seeds=3,  # ours: the paper reports single numbers
    n_generated=10_000,  # Appendix A
    features="inception",
    jobs=1,
    table1={(CIFAR, A1): _CIFAR_A1, (CIFAR, A2): _CIFAR_A2, (CELEBA, A1): _CELEBA_A1, (CELEBA, A2): _CELEBA_A2},
    baselines={CIFAR: _CIFAR_BASELINES, CELEBA: baselines.runs(_CELEBA_A2, baselines.FACES)},
    convergence=baselines.compared(_CIFAR_A2, _CIFAR_BASELINES),
    forms=_CIFAR_A2,  # temperature .05 is Table 1's own
    ablation=_SECTION_5,
    dimension=replace(_SECTION_5, stop_at=50.0),  # section 5.1
    dimensions={64: _LOG_WEIGHTS, 128: _LOG_WEIGHTS, 256: _MORE_WEIGHTS, 512: _MORE_WEIGHTS},  # section 5.1
    sized=replace(_HQ, epochs=400, decay_until=0, keep_epochs=()),  # Appendix C
    sizes={32: _APPENDIX_C, 64: _APPENDIX_C, 256: _APPENDIX_C[5:]},  # "quality rapidly deteriorates" below 5,000
    momenta=(0.0, 0.9, 0.99, 0.999),  # Table 3; the text leaves one out
    tempered=replace(_SECTION_5, epochs=50),  # section 5.4
    temperatures=dict.fromkeys((0.05, 0.1, 0.2, 0.5, 1.0), _FIGURE_4),  # the figure's legend is lost; .05 is Table 1's
    best_weights={1.0: 3_000.0},  # section 5's own
    queue_sizes=(100, 5_000, 10_000, 30_000, 60_000, 120_000),  # Table 4
    weights=(0.0, 500.0, 1_000.0, 3_000.0),  # Figure 5
    a1_dimensions=(replace(_CELEBA_A1, latent_dim=64), _CELEBA_A1),  # Appendix A
    hq=_HQ,
    throughput=(_CIFAR_A2, _CIFAR_A1, replace(_CELEBA_A2, size=64), replace(_HQ, size=256)),
    dcvae=dcvae.PAPER,
    partial=True,
)

# ------------------------------------------------------------------------------------------------------------- laptop

# A real run of about a core-minute. All settings of this scale were tuned on seeds 100 and above.
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
_HALF = replace(QUICKSTART, epochs=20, decay_every=12)
_DIGITS_32 = replace(_HALF, size=32, objective=MoCA(0.1, 0.9, 2048, 4.0))
# d 64 is more than digits need, as in section 5.1. The notebooks print the ratios. K/N, lambda per pixel value and
# temperature * sqrt(d) are within about twice the paper's. The key encoder's horizon must be short, as there are only
# 1,240 steps: at momentum .9 it is .3 of K/B and .008 of training (paper: 1.1 and .002). K/B and K/d are smaller than
# the paper's, as there are only 4,000 images.
_DIGITS_5 = replace(_HALF, latent_dim=64, objective=MoCA(1.0, 0.9, 2048, 30.0))

_DIGITS_BASELINES = baselines.runs(QUICKSTART, baselines.DIGITS, (1, 2, 5, 10, 20))
_FULL_SIZE = replace(_CIFAR_A2, dataset="cifar10-jpeg", precision="bfloat16")

LAPTOP = Scale(
    seeds=3,
    most_seeds={"baselines_celeba": 2} | dict.fromkeys(dcvae.NAMES, 1),  # to save time
    n_generated=10_000,
    features="",
    jobs=0,
    table1={
        (CIFAR, A1): replace(QUICKSTART, model="a1", blocks=2),
        (CIFAR, A2): QUICKSTART,
        (CELEBA, A1): replace(_DIGITS_32, model="a1", blocks=2),
        (CELEBA, A2): _DIGITS_32,
    },
    baselines={CIFAR: _DIGITS_BASELINES, CELEBA: baselines.runs(_DIGITS_32, baselines.DIGITS_32)},
    convergence=baselines.compared(QUICKSTART, _DIGITS_BASELINES),
    one_step=replace(QUICKSTART, limit=64, epochs=1, keep_epochs=(0,)),
    forms=replace(_HALF, objective=MoCA(0.05, 0.9, 2048, 1.0)),
    ablation=_DIGITS_5,
    dimension=replace(_DIGITS_5, stop_at=4.0),  # about twice the final loss, like the paper's 50
    dimensions=dict.fromkeys((12, 32, 96), (3.0, 30.0, 300.0)),  # section 5's lambda, a tenth of it, and ten times it
    sized=replace(_DIGITS_5, model="hq", blocks=2, latent_dim=24),  # 8x8 images hardly have 64 dimensions
    sizes={8: (10.0, 30.0, 100.0, 300.0), 16: (30.0, 100.0, 300.0), 32: (30.0, 100.0, 300.0, 1_000.0)},
    momenta=(0.0, 0.5, 0.9),
    tempered=_DIGITS_5,
    temperatures={0.1: (1.0, 3.0, 10.0, 30.0), 0.3: (3.0, 10.0, 30.0), 1.0: (3.0, 10.0, 30.0, 100.0)},
    best_weights={0.1: 3.0, 1.0: 30.0},  # of 1, 3, 10, 30 (three seeds), and of those of Figure 5
    queue_sizes=(50, 500, 2048, 4096),  # from K/d below 1, like the paper's 100, to K/N 1
    weights=(0.0, 3.0, 10.0, 30.0),
    a1_dimensions=(),  # a claim about faces
    hq=RunConfig(
        dataset="photos",
        model="hq",
        width=8,
        latent_dim=64,
        epochs=20,
        learning_rate=2.0e-3,
        decay_every=2,
        decay_until=8,
        keep_epochs=(17,),
        objective=MoCA(1.0, 0.9, 2048, 1_000.0),
    ),
    # full-size nets, which take most of a laptop's time, and the net of this scale
    throughput=(_FULL_SIZE, replace(_FULL_SIZE, width=32), replace(_FULL_SIZE, size=64), QUICKSTART),
    dcvae=dcvae.LAPTOP,
)

# -------------------------------------------------------------------------------------------------------------- smoke


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


def _thinned(scale: Scale) -> Scale:
    """The scale with small runs, one seed, and only the two ends of each axis."""

    def ends(axis: tuple) -> tuple:
        return (axis[0], axis[-1])

    def both(axes: dict) -> dict:
        low, high = ends(tuple(axes))
        return dict.fromkeys((low, high), ends(tuple(weight for weight in axes[low] if weight in axes[high])))

    return Scale(
        seeds=1,
        n_generated=300,
        features="",
        jobs=1,
        table1={key: _small(config) for key, config in scale.table1.items()},
        baselines={
            of: {name: _small(config) for name, config in found.items()} for of, found in scale.baselines.items()
        },
        convergence={key: _small(config) for key, config in scale.convergence.items()},
        one_step=_small(scale.one_step),
        forms=_small(scale.forms),
        ablation=_small(scale.ablation),
        dimension=_small(scale.dimension),
        dimensions=both(scale.dimensions),
        sized=_small(scale.sized),
        sizes=both({size: scale.sizes[size] for size in tuple(scale.sizes)[:2]}),  # the larger ones take longer
        momenta=ends(scale.momenta),
        tempered=_small(scale.tempered),
        temperatures=both(scale.temperatures),
        best_weights=scale.best_weights,
        queue_sizes=(16, 128),
        weights=ends(scale.weights),
        a1_dimensions=tuple(_small(config) for config in scale.a1_dimensions),
        hq=_small(scale.hq),
        throughput=(replace(_small(QUICKSTART), precision="bfloat16"),),
        dcvae={name: _of_one_dimension(configs) for name, configs in scale.dcvae.items()},
    )


SMOKE = _thinned(LAPTOP)
SCALES = {"smoke": SMOKE, "laptop": LAPTOP, "paper": PAPER}


def scale_of(name: str) -> str:
    """The named scale; for "", that of the environment's MOCALIB_SCALE, or laptop."""
    found = name or os.environ.get("MOCALIB_SCALE") or "laptop"
    if found not in SCALES:
        raise ValueError(f"MOCALIB_SCALE = {found!r} is not one of {', '.join(SCALES)}; set it to one, or unset it")
    return found
