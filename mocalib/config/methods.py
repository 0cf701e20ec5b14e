"""The settings of each method in a frozen dataclass that cannot hold a wrong value: MoCA, and the rivals of Table 1.

Weights stand beside squared errors summed over an image's values in [0, 1], whatever their source's own scale is.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from mocalib.config.checks import option, validate


class Method:
    """What all settings have."""

    spherical: ClassVar[bool] = False  # whether codes are unit vectors, and the prior uniform on the sphere
    stages: ClassVar[int] = 1  # of training, each of which trains other nets

    def __post_init__(self) -> None:
        validate(self)


@dataclass(frozen=True)
class MoCA(Method):
    """Momentum contrastive autoencoder, Algorithm 1; the defaults are Table 1's for CIFAR-10 with A2 (Appendix A)."""

    temperature: float = option(0.05, above=0.0)  # tau
    momentum: float = option(0.99, low=0.0, high=1.0)  # m0, the base of the cosine schedule
    queue_size: int = option(30_000, low=1, high=10**8)  # K
    weight: float = option(100.0, low=0.0)  # lambda; 0 is the plain autoencoder on the sphere
    form: str = option("info_nce", choices=("info_nce", "eq6", "negative"))  # Algorithm 1 | Eq. 6 | Eq. 4 alone

    spherical: ClassVar[bool] = True

    def __str__(self) -> str:
        return f"weight {self.weight:g}"


@dataclass(frozen=True)
class AE(Method):
    """The same autoencoder, unregularised: codes anywhere in R^d, decoded noise N(0, I)."""

    def __str__(self) -> str:
        return "autoencoder"


@dataclass(frozen=True)
class VAE(Method):
    """Variational autoencoder (Kingma & Welling, 2014), by the distribution of its pixels."""

    likelihood: str = option("bernoulli", choices=("bernoulli", "gaussian", "learned"))  # learned: Gaussian, own sigma
    sigma: float = option(0.19, above=0.0)  # of "gaussian"; RAE's VAE on CIFAR-10: KL weight .024 * 3 = 2 sigma^2

    def __str__(self) -> str:
        return f"VAE, {self.likelihood}{f' of sigma {self.sigma:g}' if self.likelihood == 'gaussian' else ''}"


@dataclass(frozen=True)
class WAEMMD(Method):
    """Wasserstein autoencoder with an MMD penalty (Tolstikhin et al., 2018); defaults: its code's, for CelebA.

    Its weight of 100 stands beside .05 times the squared error on [-1, 1]: on [0, 1] that is 100 / .05 / 4.
    """

    weight: float = option(500.0, low=0.0)  # lambda
    prior: str = option("normal", choices=("normal", "sphere"))  # its code's options `pz`
    prior_variance: float = option(2.0, above=0.0)  # of "normal"; of two ports for CelebA, its own code has 1

    @property
    def spherical(self) -> bool:
        return self.prior == "sphere"

    def __str__(self) -> str:
        return f"WAE-MMD, {self.prior}, weight {self.weight:g}"


@dataclass(frozen=True)
class WAEGAN(Method):
    """Wasserstein autoencoder with a critic of codes (Tolstikhin et al., 2018); defaults: its code's, for CelebA."""

    weight: float = option(5.0, low=0.0)  # lambda: 1 / .05 / 4, as for WAEMMD
    prior_variance: float = option(2.0, above=0.0)  # as for WAEMMD
    log_prior: bool = True  # the critic's logit is log p(z) and what the net adds ("gan_p_trick")
    critic_layers: int = option(4, low=1, high=100)
    critic_width: int = option(512, low=1, high=2**16)  # the paper's appendix; its code has 1,024 for CelebA
    critic_rate: float = option(3.33, above=0.0)  # times the learning rate: 1e-3 beside 3e-4
    pretraining: float = option(0.0025, low=0.0, below=1.0)  # part of training: 200 steps on CIFAR-10, its code's most

    def __str__(self) -> str:
        return f"WAE-GAN, weight {self.weight:g}"


@dataclass(frozen=True)
class RAE(Method):
    """Regularised autoencoder (Ghosh et al., 2020); defaults: RAE-L2's for CIFAR-10 in its code.

    Its weights stand beside the mean squared error: beside the sum they are times C H W, and over d for |z|^2.
    RAE-SN's for CIFAR-10 is .03 * 3072 / 128 = .72.
    """

    weight: float = option(0.024, low=0.0)  # beta of |z|^2: 1e-3 * 3072 / 128
    regulariser: str = option("l2", choices=("none", "l2", "spectral_norm"))
    decay: float = option(3.07e-3, low=0.0)  # of "l2": 1e-6 * 3072, times the sum of squares of the decoder's kernels

    def __str__(self) -> str:
        return f"RAE, {self.regulariser}, weight {self.weight:g}"


@dataclass(frozen=True)
class TwoStageVAE(Method):
    """A VAE with learned sigma, then a second one on its codes (Dai & Wipf, 2019); defaults: its code's."""

    first_stage: float = option(1 / 3, above=0.0, below=1.0)  # part of training: 1,000 of 3,000 epochs on CIFAR-10
    second_layers: int = option(3, low=1, high=100)
    second_width: int = option(1024, low=1, high=2**16)
    second_rate: float = option(1.0, above=0.0)  # times the learning rate

    stages: ClassVar[int] = 2
    likelihood: ClassVar[str] = "learned"  # of both

    def __str__(self) -> str:
        return "2-Stage VAE"


OBJECTIVES = {  # name in files and directories -> dataclass
    "moca": MoCA,
    "ae": AE,
    "vae": VAE,
    "wae-mmd": WAEMMD,
    "wae-gan": WAEGAN,
    "rae": RAE,
    "two-stage-vae": TwoStageVAE,
}


def objective_name(objective: Any) -> str:
    """The short name under which an objective's dataclass is stored."""
    return next(name for name, kind in OBJECTIVES.items() if type(objective) is kind)
