"""How latents cover the sphere: densities fitted to them, their spectrum, uniformity and holes.

n latents, d dimensions. Latents are unit vectors, n d, where nothing else is said.
"""

import math

import numpy as np
import torch
from scipy.special import gammaln, logsumexp
from threadpoolctl import threadpool_limits
from torch import Tensor

COMPONENTS = 10  # of a mixture, as of RAE's
CHUNK = 2_000  # latents a block of pairwise products


def mixture(z: Tensor, n: int, seed: int) -> Tensor:
    """n points, n d, of a Gaussian mixture fitted to codes: RAE's ex-post density estimation (section 3 there).

    z: any codes, m d; covariances are full, settings those of RAE's code, by scikit-learn. Raises ValueError for fewer
    codes than Gaussians.
    """
    from sklearn.mixture import GaussianMixture  # takes a second to import

    check_mixture(len(z))
    fitted = GaussianMixture(COMPONENTS, max_iter=2_000, tol=1e-3, random_state=seed)
    with threadpool_limits(torch.get_num_threads()):  # results depend on them, as torch's own do
        try:
            points, _ = fitted.fit(z.double().numpy()).sample(n)
        except ValueError as error:  # scikit-learn speaks of settings that are not ours to give
            raise ValueError(
                f"{COMPONENTS} Gaussians cannot be fitted to {len(z)} codes of d {z.shape[1]} ({str(error)[:80]}); "
                "train on more images or with a smaller d, or score the prior alone"
            ) from None
    return torch.from_numpy(points).float()


def check_mixture(codes: int) -> None:
    """Raise ValueError for fewer codes than components."""
    if codes < COMPONENTS:
        raise ValueError(f"a mixture of {COMPONENTS} Gaussians needs as many training images; there are {codes}")


def singular_values(z: Tensor) -> Tensor:
    """Singular values of the n d matrix of codes, uncentred, descending (section 5.6); about sqrt(n/d) if uniform."""
    return torch.linalg.svdvals(z.double())


def uniformity(z: Tensor, t: float = 2.0) -> float:
    """Wang & Isola's uniformity: `log mean_{i != j} exp(-t |z_i - z_j|^2)`; lower is more uniform.

    z: n d. Its value for the uniform sphere, the least possible, is `uniform_uniformity(d, t)`.
    """
    n, total = len(z), 0.0
    for block in z.split(CHUNK):
        total += torch.exp(2 * t * (block @ z.T - 1)).double().sum().item()
    return math.log((total - n) / (n * (n - 1)))  # each code's product with itself counts exp(0)


def nearest_cosine(points: Tensor, codes: Tensor) -> float:
    """Mean cosine from each point to its nearest code: low where there are "holes" between codes (section 5.1).

    points: n d, codes: m d. What is lower than for m uniform codes is more holes than chance leaves.
    """
    nearest = [(block @ codes.T).amax(dim=1) for block in points.split(CHUNK)]
    return torch.cat(nearest).double().mean().item()


def uniform_negative(d: int, tau: float) -> float:
    """Exact value of Eq. 3 for the uniform sphere in R^d: `log E exp(x . y / tau)`.

    With v = d/2 - 1 it is `lgamma(d/2) + v log(2 tau) + log I_v(1/tau)`, here by the Bessel function's power series
    `sum_k (1/2tau)^2k / (k! (d/2)_k)` in logarithms: no part of it over- or underflows, whatever d and tau.
    """
    k = np.arange(int(2 / tau) + 200)  # terms grow up to about k = 1/(2 tau), then fall faster than any power
    return float(logsumexp(-2 * k * math.log(2 * tau) - gammaln(k + 1) - gammaln(d / 2 + k) + gammaln(d / 2)))


def uniform_uniformity(d: int, t: float = 2.0) -> float:
    """Exact `uniformity` of the uniform sphere: `|x - y|^2 = 2 - 2 x . y` makes it Eq. 3 at tau = 1/(2t), less 2t."""
    return uniform_negative(d, 1 / (2 * t)) - 2 * t
