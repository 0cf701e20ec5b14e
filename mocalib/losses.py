"""The paper's losses as pure functions of tensors, one per equation.

B batch, C H W image, d latent, K keys. `q`, `k` and `keys` hold unit vectors; logits and their reductions are computed
in float32 or better, whatever the nets used.
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

    q: B d, keys: K d. Returns a 0-dim tensor; its value for the uniform sphere is `latent.uniform_negative(d, tau)`.
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
