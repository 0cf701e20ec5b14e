"""Latent spaces: priors, paths between codes, densities fitted to codes, and how uniformly codes cover the sphere.

n codes, d latent. Codes are unit vectors, n d, where nothing else is said.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import gammaln, logsumexp
from threadpoolctl import threadpool_limits
from torch import Tensor

COMPONENTS = 10  # of a mixture, as of RAE's
CHUNK = 2_000  # codes a block of pairwise products


def sphere_prior(n: int, d: int, generator: torch.Generator | None = None) -> Tensor:
    """n uniform points of the unit sphere in R^d (section 3, inference): normalised Gaussians, n d float32."""
    return F.normalize(torch.randn(n, d, generator=generator), dim=1)


def normal_prior(n: int, d: int, generator: torch.Generator | None = None) -> Tensor:
    """n points of N(0, I) in R^d, n d float32."""
    return torch.randn(n, d, generator=generator)


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


def line(z0: Tensor, z1: Tensor, steps: int) -> Tensor:
    """Equally spaced points between any codes: z0, z1 ... d; returns ... steps d."""
    a = torch.linspace(0, 1, steps, dtype=z0.dtype, device=z0.device).unsqueeze(1)  # steps 1
    return (1 - a) * z0.unsqueeze(-2) + a * z1.unsqueeze(-2)


def interpolate(z0: Tensor, z1: Tensor, steps: int) -> Tensor:
    """Points on the sphere between codes (section 4): the chord `(1 - a) z0 + a z1`, projected.

    z0, z1: ... d. Returns ... steps d, from z0 to z1 with a equally spaced; the path is the great circle's. Raises
    ValueError where the chord passes through the centre, as it does for antipodes.
    """
    chord = line(z0, z1, steps)  # ... steps d
    length = chord.norm(dim=-1, keepdim=True)
    if (length < 1e-8).any():
        raise ValueError("interpolate: the chord between opposite codes passes through the centre; move one of them")
    return chord / length


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


def variances(images: Tensor, device: torch.device | str = "cpu") -> Tensor:
    """Variances of images (uint8 n C H W, taken in [0, 1]) along their principal components, descending, float64.

    Of min(n, C H W) components, from the smaller of the two products of the centred matrix; their sum is the mean
    squared distance from the mean image.
    """
    n, values = len(images), images[0].numel()
    mean = sum(part.flatten(1).sum(dim=0) for part in images.split(CHUNK)).double() / n
    product = torch.zeros(min(n, values), min(n, values), dtype=torch.float64, device=device)
    rows = (((part.double().flatten(1) - mean) / 255).to(device) for part in images.split(CHUNK))
    if n < values:
        x = torch.cat(list(rows))
        product = x @ x.T
    else:
        for x in rows:
            product.addmm_(x.T, x)
    return torch.linalg.eigvalsh(product / n).flip(0).clamp_min(0).cpu()


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
