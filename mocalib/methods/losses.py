"""The losses of MoCA and the baselines: pure functions of tensors, one for each equation.

B batch, C H W image, d latent, K keys. Images are in [0, 1]; `q`, `k`, `queue` and `keys` hold unit vectors. Inputs are
float32 or better, whatever the nets used. If nothing else is said, a function returns a 0-dim mean over the batch.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


def reconstruction(x_hat: Tensor, x: Tensor) -> Tensor:
    """Reconstruction term of Eq. 5, `1/B sum_i |x_i - g(f(x_i))|^2`, a sum over C H W; x_hat, x: B C H W."""
    return (x_hat - x).square().sum() / x.shape[0]


def batch_negative(q: Tensor, tau: float) -> Tensor:
    """Eq. 4 within a batch: `1/B sum_i log 1/(B - 1) sum_{j != i} exp(q_i . q_j / tau)`; q: B d, B at least 2."""
    return (torch.logsumexp(_others(q) / tau, dim=1) - math.log(len(q) - 1)).mean()


def uniformity(z: Tensor, t: float = 2.0) -> Tensor:
    """`log mean_{i != j} exp(-t |z_i - z_j|^2)` (Wang & Isola, 2020); z: B d, B at least 2."""
    return torch.logsumexp(2 * t * (_others(z) - 1), dim=(0, 1)) - math.log(len(z) * (len(z) - 1))


def _others(z: Tensor) -> Tensor:
    """Cosines of all pairs of rows, B B, with minus infinity for a row and itself."""
    return (z @ z.T).masked_fill(torch.eye(len(z), dtype=torch.bool, device=z.device), -math.inf)


def sliced_wasserstein(z: Tensor, points: Tensor, directions: Tensor) -> Tensor:
    """Squared Wasserstein distance of projections of z and points, both B d, averaged over unit directions, P d."""
    return ((z @ directions.T).sort(dim=0).values - (points @ directions.T).sort(dim=0).values).square().mean()


class Contrast(NamedTuple):
    """The two parts of every contrastive loss, for each sample."""

    negative: Tensor  # B, log 1/K sum_j exp(q_i . key_j / tau)
    positive: Tensor  # B, q_i . k_i / tau
    log_size: float  # log K


def contrast(q: Tensor, k: Tensor, queue: Tensor, tau: float) -> Contrast:
    """The negative and positive part of each sample; q, k: B d, queue: K d."""
    log_size = math.log(queue.shape[0])
    logits = q @ queue.T / tau  # B K
    return Contrast(torch.logsumexp(logits, dim=1) - log_size, (q * k).sum(dim=1) / tau, log_size)


def negative(q: Tensor, keys: Tensor, tau: float) -> Tensor:
    """Entropy estimate, Eq. 4: `1/B sum_i log 1/K sum_j exp(q_i . key_j / tau)`; q: B d, keys: K d.

    It is Eq. 4 if `keys` are latents of the same encoder. With keys from a queue it is the first term of Eq. 6.
    Its value on the uniform sphere is `evaluation.metrics.uniform_negative(d, tau)`.
    """
    return contrast(q, q, keys, tau).negative.mean()


def eq6(q: Tensor, k: Tensor, keys: Tensor, tau: float) -> Tensor:
    """Eq. 6: `1/B sum_i [log 1/K sum_j exp(q_i . key_j / tau) - q_i . k_i / tau]`; q, k: B d, keys: K d.

    `keys` are those of the K most recent images. If K >= B, all of k is among them, and this is a cross-entropy of the
    positive among the keys, minus log K.
    """
    return decoupled(q, k, keys, tau)


def decoupled(q: Tensor, k: Tensor, queue: Tensor, tau: float) -> Tensor:
    """The decoupled loss (Yeh et al., arXiv 2110.06848; not in the paper): Eq. 6 on a queue without the current k."""
    return decoupled_of(contrast(q, k, queue, tau)).mean()


def info_nce(q: Tensor, k: Tensor, queue: Tensor, tau: float) -> Tensor:
    """Cross-entropy of Algorithm 1: the positive against itself and the K keys, in nats; shapes as above."""
    return info_nce_of(contrast(q, k, queue, tau)).mean()


def decoupled_of(parts: Contrast) -> Tensor:
    """The decoupled loss of each sample, B."""
    return parts.negative - parts.positive


def info_nce_of(parts: Contrast) -> Tensor:
    """The cross-entropy of each sample, B.

    `-log e^p / (e^p + sum_j e^n_j) = log(1 + e^(lse - p)) = softplus(E + log K)`, where E is the decoupled loss. This
    form needs no B x (1 + K) copy of the logits.
    """
    return F.softplus(decoupled_of(parts) + parts.log_size)


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, diag variance) | N(0, I)) in nats (Kingma & Welling, appendix B); both B d."""
    return (mean.square() + log_variance.exp() - log_variance - 1).sum() / (2 * len(mean))


def gaussian_nll(x_hat: Tensor, x: Tensor, log_sigma: Tensor) -> Tensor:
    """Negative log density of x under N(x_hat, sigma^2 I) in nats, summed over each sample (2-Stage VAE).

    x_hat, x: B ...; log_sigma: 0-dim. It is negative for a small sigma, as a density may exceed one.
    """
    squares = ((x - x_hat) * torch.exp(-log_sigma)).square().sum() / (2 * len(x))
    return squares + (log_sigma + 0.5 * math.log(2 * math.pi)) * x[0].numel()


def bernoulli_nll(x_hat: Tensor, x: Tensor) -> Tensor:
    """Cross-entropy of pixels in nats, summed over C H W; x_hat, x: B C H W."""
    return F.binary_cross_entropy(x_hat, x, reduction="sum") / len(x)


SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)  # of the kernel's base (tolstikhin/wae, wae.py, commit 6351565)


def imq_mmd(z: Tensor, z_prior: Tensor, base: float) -> Tensor:
    """Squared MMD of latents and points of the prior, both B d, B at least 2 (WAE, Algorithm 2).

    The kernel is the sum over `SCALES` of C / (C + |x - y|^2) with C = scale * base. The estimate is unbiased, so it
    may be negative.
    """
    n = len(z)
    within = _imq(z, z, base) + _imq(z_prior, z_prior, base) - 2 * n * len(SCALES)  # without the diagonals, all ones
    return within / (n * (n - 1)) - 2 * _imq(z, z_prior, base) / n**2


def _imq(x: Tensor, y: Tensor, base: float) -> Tensor:
    """Sum of the kernel over all pairs."""
    distances = (x.square().sum(dim=1, keepdim=True) + y.square().sum(dim=1) - 2 * x @ y.T).clamp_min(0)
    if x is y:
        distances = distances * (1 - torch.eye(len(x), dtype=x.dtype, device=x.device))
    return sum((scale * base / (scale * base + distances)).sum() for scale in SCALES)


def critic(real: Tensor, *fakes: Tensor, hinge: bool = False) -> Tensor:
    """A critic's cross-entropy, or its hinge loss; real, fakes: its logits for what is real and what is not, n 1 each.

    Several sets of fakes weigh as much as the real ones together.
    """
    wrong = (lambda logits: F.relu(1 + logits)) if hinge else F.softplus
    return wrong(-real).mean() + sum(wrong(fake).mean() for fake in fakes) / len(fakes)


def deceived(*fakes: Tensor, hinge: bool = False) -> Tensor:
    """The penalty of who makes fakes: -log D (WAE, Algorithm 1), or for a hinge -logit; fakes: logits n 1 each."""
    penalties = (-fake if hinge else F.softplus(-fake) for fake in fakes)
    return sum(penalty.mean() for penalty in penalties) / len(fakes)


def moment_distance(z: Tensor, z_prior: Tensor) -> Tensor:
    """Mean squared difference of the means plus that of the covariances; both B d (WAE's code)."""
    means = (z.mean(dim=0) - z_prior.mean(dim=0)).square().mean()
    return means + (_covariance(z) - _covariance(z_prior)).square().mean()


def _covariance(z: Tensor) -> Tensor:
    """The unbiased covariance, d d; `torch.cov` would wait for the device."""
    centred = z - z.mean(dim=0)
    return centred.T @ centred / (len(z) - 1)


def latent_norm(z: Tensor) -> Tensor:
    """`1/B sum_i |z_i|^2`, z: B d (RAE; as in its code, the factor 1/2 is part of the regularisation weight)."""
    return z.square().sum() / len(z)
