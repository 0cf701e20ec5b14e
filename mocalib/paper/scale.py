"""What a scale is: its base runs, and the axes along which the paper's tables and figures vary them."""

from dataclasses import dataclass, field, fields, replace
from typing import TypeVar

from mocalib.config.run import RunConfig
from mocalib.paper import dcvae

Part = TypeVar("Part")

CIFAR, CELEBA = "CIFAR-10", "CelebA"  # the paper's names; each scale uses its own data for them
A1, A2 = "MoCA-A1", "MoCA-A2"  # Table 1's names of the two nets under MoCA


@dataclass(frozen=True)
class Scale:
    """One scale: base runs, all with seed 0, and the axes along which tables and figures vary them."""

    seeds: range  # that its notebooks run
    n_generated: int  # samples a score
    features: str  # extractor of the distances; "": the dataset's own classifier if it has labels
    jobs: int  # runs at a time; 0: one a core
    table1: dict[tuple[str, str], RunConfig]  # (dataset, row) -> run of MoCA
    row: str  # the row of `table1` that is compared with the baselines; they have its net
    baselines: dict[str, dict[str, RunConfig]]  # dataset -> method -> run
    convergence: dict[str, RunConfig]  # method -> run that keeps some epochs; all except MoCA's are in `baselines`
    ingredients: dict[str, list[RunConfig]]  # variant without a part of the algorithm -> runs
    best_ingredients: dict[str, float]  # variant -> the lambda that trials on seeds from 100 on chose
    ablation: RunConfig  # section 5's defaults
    stop_at: float  # Figure 3: the reconstruction loss at which training stops
    dimensions: dict[int, tuple[float, ...]]  # d -> lambdas
    fixed_dimensions: dict[int, tuple[float, ...]]  # the same without a stop; not in the paper
    sized: RunConfig  # Table 2 and Figure 15
    sizes: dict[int, tuple[float, ...]]  # pixels a side -> lambdas
    momenta: tuple[float, ...]  # Table 3
    tempered: RunConfig  # Figure 4
    temperatures: dict[float, tuple[float, ...]]  # temperature -> lambdas
    best_weights: dict[float, float]  # temperature -> the lambda that trials on seeds from 100 on chose, if any did
    queued: tuple[RunConfig, ...]  # Table 4: base runs
    queue_sizes: tuple[int, ...]
    weighed: RunConfig  # Figure 5
    weights: tuple[float, ...]  # its lambdas
    a1_dimensions: tuple[RunConfig, ...]  # Appendix A: A1 on CelebA with d 64 and 128
    hq: RunConfig  # CelebA-HQ: Figures 1, 6, 7 and 8
    throughput: tuple[RunConfig, ...]  # nets that are timed; the first also with longer queues
    dcvae: dcvae.Experiments  # DC-VAE's own
    seeds_of: dict[str, range] = field(default_factory=dict)  # experiment -> its seeds, if they are others
    tried: dict[str, dict] = field(default_factory=dict)  # dataset -> method -> setting, values of the trials
    quickstart: RunConfig | None = None
    one_step: RunConfig | None = None  # trained for a single step: what bad samples look like
    partial: bool = False  # whether tables and figures are drawn before all their runs are finished

    def moca(self, dataset: str) -> RunConfig:
        """The run of MoCA that is compared with the baselines on what stands for a dataset of the paper."""
        return self.table1[dataset, self.row]


def vary(config: RunConfig, **objective: float | str) -> RunConfig:
    """The same run with other settings of its method."""
    return replace(config, objective=replace(config.objective, **objective))


def widened(part: Part, width: int) -> Part:
    """A scale, or a part of one, with nets of another width (0: their own). AutoGAN's bounds its d."""
    if not width:
        return part
    if isinstance(part, RunConfig):
        d = min(part.latent_dim, 2 * width) if part.model == "autogan" else part.latent_dim
        return replace(part, width=width, latent_dim=d)
    if isinstance(part, Scale):
        return replace(part, **{field.name: widened(getattr(part, field.name), width) for field in fields(part)})
    if isinstance(part, dict):
        return {key: widened(value, width) for key, value in part.items()}
    return type(part)(widened(value, width) for value in part) if isinstance(part, tuple | list) else part
