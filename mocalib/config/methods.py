"""Settings of MoCA and of the baselines of Table 1, in frozen dataclasses that reject wrong values.

Regularisation weights are converted to a squared error that is summed over pixels in [0, 1].
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from mocalib.config.checks import option, validate


class Method:
    """The base class of all settings."""

    spherical: ClassVar[bool] = False  # latents are unit vectors, and the prior is uniform on the sphere
    stages: ClassVar[int] = 1  # stages of training; each trains different nets

    def __post_init__(self) -> None:
        validate(self)


FORMS = (
    "info_nce",  # Algorithm 1: a cross-entropy; the current keys are pushed after the step
    "eq6_literal",  # Eq. 6: the current keys are pushed first; the same cross-entropy, minus log K
    "decoupled",  # without the positive in the denominator; not in the paper (Yeh et al., 2021)
    "negative",  # Eq. 6 without its second term, on frozen keys; unlike Eq. 4, only one side is trained
    # Of the latents of one batch, without queue and key encoder; not in the paper's algorithm.
    "batch",  # Eq. 4 itself, with the other latents of the batch as keys: both sides are trained
    "uniformity",  # Wang & Isola (2020), with t = 2
    "sliced_wasserstein",  # to as many uniform points; the paper names it in section 2
)
QUEUELESS = FORMS[4:]
WRITTEN = {"form": {"decoupled": "eq6"}}  # field -> value -> what names and files say: an older, wrong word
READ = {field: {theirs: ours for ours, theirs in words.items()} for field, words in WRITTEN.items()}


@dataclass(frozen=True)
class MoCA(Method):
    """Momentum contrastive autoencoder, Algorithm 1. Defaults: Table 1's for CIFAR-10 with A2 (Appendix A)."""

    temperature: float = option(0.05, above=0.0)  # tau
    momentum: float = option(0.99, low=0.0, high=1.0)  # m0, the start of the cosine schedule
    queue_size: int = option(30_000, low=1, high=10**8)  # K
    weight: float = option(100.0, low=0.0)  # lambda; 0: a plain autoencoder on the sphere
    form: str = option("info_nce", choices=FORMS)
    schedule: str = option("cosine", choices=("cosine", "constant"))  # of the momentum; constant: always m0

    spherical: ClassVar[bool] = True

    def __str__(self) -> str:
        return f"weight {self.weight:g}"


@dataclass(frozen=True)
class AE(Method):
    """The same autoencoder without regularisation: latents anywhere in R^d, samples decoded from N(0, I)."""

    def __str__(self) -> str:
        return "autoencoder"


@dataclass(frozen=True)
class VAE(Method):
    """Variational autoencoder (Kingma & Welling, 2014), or with another `kl_weight` a beta-VAE (Higgins, 2017)."""

    likelihood: str = option("bernoulli", choices=("bernoulli", "gaussian", "learned"))  # learned: Gaussian, sigma too
    sigma: float = option(0.19, above=0.0)  # for "gaussian"; RAE's VAE on CIFAR-10: KL weight .024 * 3 = 2 sigma^2
    kl_weight: float = option(1.0, low=0.0)  # beta, of the bound's second term

    def __str__(self) -> str:
        return f"VAE, {self.likelihood}{f' of sigma {self.sigma:g}' if self.likelihood == 'gaussian' else ''}"


@dataclass(frozen=True)
class WAEMMD(Method):
    """Wasserstein autoencoder with an MMD penalty (Tolstikhin et al., 2018). Defaults: its code's, for CelebA."""

    weight: float = option(500.0, low=0.0)  # lambda; 100 for .05 times the error on [-1, 1], so 100 / .05 / 4 on [0, 1]
    prior: str = option("normal", choices=("normal", "sphere"))  # its code's options `pz`
    prior_variance: float = option(2.0, above=0.0)  # for "normal"; from two ports for CelebA (its own code has 1)
    statistics: str = option("batch", choices=("batch", "running"))  # BatchNorm's, for the latents that are penalised

    @property
    def spherical(self) -> bool:
        return self.prior == "sphere"

    def __str__(self) -> str:
        return f"WAE-MMD, {self.prior}, weight {self.weight:g}"


@dataclass(frozen=True)
class WAEGAN(Method):
    """Wasserstein autoencoder with a critic of latents (Tolstikhin et al., 2018). Defaults: its code's, for CelebA."""

    weight: float = option(5.0, low=0.0)  # lambda; 1 / .05 / 4, converted as for WAEMMD
    prior_variance: float = option(2.0, above=0.0)  # as for WAEMMD
    log_prior: bool = True  # add log p(z) to the critic's logit ("gan_p_trick")
    critic_layers: int = option(4, low=1, high=100)
    critic_width: int = option(512, low=1, high=2**16)  # from the paper's appendix; its code has 1,024 for CelebA
    critic_rate: float = option(3.33, above=0.0)  # times the learning rate: its code has 1e-3 and 3e-4
    pretraining: float = option(0.0025, low=0.0, below=1.0)  # part of training; 200 CIFAR-10 steps, its code's maximum

    def __str__(self) -> str:
        return f"WAE-GAN, weight {self.weight:g}"


@dataclass(frozen=True)
class RAE(Method):
    """Regularised autoencoder (Ghosh et al., 2020). Defaults: RAE-L2's for CIFAR-10 in its code.

    Its code averages where we sum, so its weights are multiplied by C H W; the one for |z|^2 is also divided by d.
    """

    weight: float = option(0.024, low=0.0)  # beta of |z|^2: 1e-3 * 3072 / 128; RAE-SN: .03 * 3072 / 128 = .72
    regulariser: str = option("l2", choices=("none", "l2", "spectral_norm"))
    decay: float = option(3.07e-3, low=0.0)  # for "l2": 1e-6 * 3072, times the squared norm of the decoder's kernels

    def __str__(self) -> str:
        return f"RAE, {self.regulariser}, weight {self.weight:g}"


@dataclass(frozen=True)
class TwoStageVAE(Method):
    """A VAE with learned sigma, then a second VAE on its latents (Dai & Wipf, 2019). Defaults: its code's."""

    first_stage: float = option(1 / 3, above=0.0, below=1.0)  # part of training: 1,000 of 3,000 epochs on CIFAR-10
    second_layers: int = option(3, low=1, high=100)
    second_width: int = option(1024, low=1, high=2**16)
    second_rate: float = option(1.0, above=0.0)  # times the learning rate

    stages: ClassVar[int] = 2
    likelihood: ClassVar[str] = "learned"  # in both stages
    kl_weight: ClassVar[float] = 1.0

    def __str__(self) -> str:
        return "2-Stage VAE"


@dataclass(frozen=True)
class DCVAE(Method):
    """Dual contradistinctive generative autoencoder (Parmar et al., CVPR 2021). Defaults: its code's, for CIFAR-10.

    Its Table 1 compares four rows: `instance` "pixel" without an adversary is "VAE", "feature" with one "VAE/GAN",
    "contrast" without one "VAE-Contrastive", and "contrast" with one "DC-VAE".
    """

    instance: str = option("contrast", choices=("pixel", "feature", "contrast"))  # how images and reconstructions meet
    adversarial: bool = True  # train a critic of samples and reconstructions, and the autoencoder against it
    critic: str = option("hinge", choices=("hinge", "logistic"))  # logistic: the paper's Eq. 4, non-saturating
    every: int = option(5, low=1)  # the critic's steps for each step of the autoencoder
    kl_weight: float = option(6.4e-5, low=0.0)  # an image; its code sums over 64 images and takes 1e-6
    temperature: float = option(0.07, above=0.0)  # tau, of the contrast
    queue_size: int = option(8192, low=1, high=10**8)  # K, keys of each contrasted layer
    momentum: float = option(0.999, low=0.0, high=1.0)  # of the key net, constant
    averaging: float = option(0.999, low=0.0, high=1.0)  # momentum of the averaged decoder, which samples
    layers: tuple = option((1,), low=1, high=4)  # blocks of the discriminator contrasted beside its last layer
    local: int = option(0, low=0, high=4)  # block of which one random place is contrasted, too; 0: none
    local_start: float = option(0.5, low=0.0, below=1.0)  # part of training before that; ours
    local_weight: float = option(0.125, low=0.0)  # as the file name of a run of its authors says
    local_queue: int = option(1024, low=1, high=10**8)  # keys of places; from the same name

    embedding: ClassVar[int] = 16  # numbers of a contrasted layer

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.instance == "feature" and not self.adversarial:
            raise ValueError("DCVAE.instance = 'feature' needs the features of a critic; pass adversarial=True")
        if self.local and self.instance != "contrast":
            raise ValueError(f"DCVAE.local = {self.local} is for instance 'contrast'; pass 0 with {self.instance!r}")

    def __str__(self) -> str:
        names = {"contrast": ("VAE-Contrastive", "DC-VAE"), "pixel": ("VAE", "VAE with a critic")}
        name = names.get(self.instance, (None, "VAE/GAN"))[self.adversarial]
        return name + (f", places of block {self.local}" if self.local else "")


OBJECTIVES = {  # name in files and directories -> dataclass
    "moca": MoCA,
    "ae": AE,
    "vae": VAE,
    "wae-mmd": WAEMMD,
    "wae-gan": WAEGAN,
    "rae": RAE,
    "two-stage-vae": TwoStageVAE,
    "dc-vae": DCVAE,
}


def objective_name(objective: Any) -> str:
    """The objective's short name in files and directories."""
    return next(name for name, kind in OBJECTIVES.items() if type(objective) is kind)
