"""The losses of MoCA and of its rivals as pure functions of tensors, one per equation.

B batch, C H W image, d latent, K keys. `q`, `k` and `keys` hold unit vectors; logits and their reductions are computed
in float32 or better, whatever the nets used. Every function returns a 0-dim tensor, a mean over the batch, unless it
says otherwise.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


def reconstruction(x_hat: Tensor, x: Tensor) -> Tensor:
    """Reconstruction term of Eq. 5: `1/B sum_i |x_i - g(f(x_i))|^2`, summed over C H W, not averaged.

    x_hat, x: B C H W in [0, 1]. Returns a 0-dim tensor.
    """
    return (x_hat - x).square().sum() / x.shape[0]


class Contrast(NamedTuple):
    """The two parts from which every contrastive form is made, per sample."""

    negative: Tensor  # B, log 1/K sum_j exp(q_i . key_j / tau)
    positive: Tensor  # B, q_i . k_i / tau
    log_size: float  # log K


def contrast(q: Tensor, k: Tensor, queue: Tensor, tau: float) -> Contrast:
    """Log-mean-exp over the queue and positive logit of each sample; q, k: B d, queue: K d."""
    log_size = math.log(queue.shape[0])
    logits = q @ queue.T / tau  # B K
    return Contrast(torch.logsumexp(logits, dim=1) - log_size, (q * k).sum(dim=1) / tau, log_size)


def negative(q: Tensor, keys: Tensor, tau: float) -> Tensor:
    """Entropy estimate, Eq. 4: `1/B sum_i log 1/K sum_j exp(q_i . key_j / tau)`.

    q: B d, keys: K d. Returns a 0-dim tensor; its value for the uniform sphere is `metrics.uniform_negative(d, tau)`.
    """
    return contrast(q, q, keys, tau).negative.mean()


def eq6(q: Tensor, k: Tensor, queue: Tensor, tau: float) -> Tensor:
    """Momentum contrast, Eq. 6: Eq. 4 minus `1/B sum_i q_i . k_i / tau`.

    q, k: B d, queue: K d. Returns a 0-dim tensor.
    """
    return eq6_of(contrast(q, k, queue, tau)).mean()


def info_nce(q: Tensor, k: Tensor, queue: Tensor, tau: float) -> Tensor:
    """Cross-entropy of Algorithm 1: the positive against itself and the K keys, natural log.

    q, k: B d, queue: K d. Returns a 0-dim tensor.
    """
    return info_nce_of(contrast(q, k, queue, tau)).mean()


def eq6_of(parts: Contrast) -> Tensor:
    """Eq. 6 per sample, B."""
    return parts.negative - parts.positive


def info_nce_of(parts: Contrast) -> Tensor:
    """Algorithm 1 per sample, B.

    `-log e^p / (e^p + sum_j e^n_j) = log(1 + e^(lse - p)) = softplus(E + log K)` with E the Eq. 6 term: no B x (1+K)
    copy of the logits is made, and one reduction serves every form.
    """
    return F.softplus(eq6_of(parts) + parts.log_size)


# ------------------------------------------------------------------------------------------- variational autoencoders


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, diag variance) | N(0, I)) in nats (Kingma & Welling, appendix B); both B d."""
    return (mean.square() + log_variance.exp() - log_variance - 1).sum() / (2 * len(mean))


def gaussian_nll(x_hat: Tensor, x: Tensor, log_sigma: Tensor) -> Tensor:
    """Negative log density of x under N(x_hat, sigma^2 I) in nats, summed over all but the batch (2-Stage VAE).

    x_hat, x: B ...; log_sigma: 0-dim. Negative where sigma is small: a density is not bounded by one.
    """
    squares = ((x - x_hat) * torch.exp(-log_sigma)).square().sum() / (2 * len(x))
    return squares + (log_sigma + 0.5 * math.log(2 * math.pi)) * x[0].numel()


def bernoulli_nll(x_hat: Tensor, x: Tensor) -> Tensor:
    """Cross-entropy of pixels in nats, summed over C H W; x_hat, x: B C H W in [0, 1]."""
    return F.binary_cross_entropy(x_hat, x, reduction="sum") / len(x)


# ----------------------------------------------------------------------------------------- Wasserstein autoencoders

SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)  # of the kernel's base (tolstikhin/wae, wae.py, commit 6351565)


def imq_mmd(z: Tensor, z_prior: Tensor, base: float) -> Tensor:
    """Squared MMD of two samples of B codes, unbiased: it may be negative (WAE, Algorithm 2).

    z, z_prior: B d, B at least 2. Kernel: the sum over `SCALES` of C / (C + |x - y|^2) with C = scale * base.
    """
    n = len(z)
    within = _imq(z, z, base) + _imq(z_prior, z_prior, base) - 2 * n * len(SCALES)  # less the diagonals, of ones
    return within / (n * (n - 1)) - 2 * _imq(z, z_prior, base) / n**2


def _imq(x: Tensor, y: Tensor, base: float) -> Tensor:
    """The kernel, summed over all pairs."""
    distances = (x.square().sum(dim=1, keepdim=True) + y.square().sum(dim=1) - 2 * x @ y.T).clamp_min(0)
    if x is y:
        distances = distances * (1 - torch.eye(len(x), dtype=x.dtype, device=x.device))
    return sum((scale * base / (scale * base + distances)).sum() for scale in SCALES)


def critic(real: Tensor, fake: Tensor) -> Tensor:
    """Cross-entropies of a critic of codes: logits B 1 of the prior's (real) and of the encoder's (fake)."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def deceived(fake: Tensor) -> Tensor:
    """The encoder's penalty, -log D(z), which does not saturate (WAE, Algorithm 1); fake: logits B 1."""
    return F.softplus(-fake).mean()


def moment_distance(z: Tensor, z_prior: Tensor) -> Tensor:
    """Mean squared difference of the means, plus that of the covariances, of two samples of codes, B d (WAE's code)."""
    means = (z.mean(dim=0) - z_prior.mean(dim=0)).square().mean()
    return means + (_covariance(z) - _covariance(z_prior)).square().mean()


def _covariance(z: Tensor) -> Tensor:
    """d d, unbiased; `torch.cov` waits for the device."""
    centred = z - z.mean(dim=0)
    return centred.T @ centred / (len(z) - 1)


# --------------------------------------------------------------------------------------- regularised autoencoders


def code_norm(z: Tensor) -> Tensor:
    """`1/B sum_i |z_i|^2`, z: B d (RAE, whose factor 1/2 its code leaves to the weight)."""
    return z.square().sum() / len(z)
