"""Scores: distances between features, by torch-fidelity, and how evenly latents cover the sphere.

n D, m D features; n d latents, unit vectors if nothing else is said.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import gammaln, logsumexp
from torch import Tensor
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, isc_features_to_metric

NEIGHBOURS = 3  # for precision and recall, torch-fidelity's default
CHUNK = 2_000  # rows a block of a matrix product
BLOCK = 500
LAPLACE = torch.tensor([[[[0.0, 1, 0], [1, -4, 1], [0, 1, 0]]]])
CLASS_SCORES = {"inception": "inception_score", "classifier": "classifier_score"}  # what each extractor's is called
SPLITS, SPLIT = 10, 1_000  # parts for the class score, as usual; fewer if they have fewer images: it is low for few


def row(metric: str, value: float, sampler: str, split: str, n_generated: int, n_reference: int = 0) -> dict:
    """A score without an extractor; `sampler` names what was scored."""
    subject = {"sampler": sampler, "split": split, "n_generated": n_generated, "n_reference": n_reference}
    return {"metric": metric, "value": float(value), "features": "", "digest": ""} | subject


def distance_name(kind: str, extractor: str) -> str:
    """A distance's recorded name; only Inception's are called fid and kid."""
    if extractor == "inception":
        return {"fd": "fid", "kid": "kid"}[kind]
    return f"{kind}_{extractor}"


def frechet_distance(found: Tensor, reference: Tensor) -> float:
    """Fréchet distance of Gaussians fitted to features n D and m D, by torch-fidelity in float64.

    Raises ValueError for fewer than two rows.
    """
    if min(len(found), len(reference)) < 2:
        raise ValueError(f"a covariance needs two images or more: {len(found)} against {len(reference)} given")
    statistics = [fid_features_to_statistics(x.double()) for x in (found, reference)]
    return fid_statistics_to_metric(*statistics, verbose=False)[KEY_METRIC_FID]


def kernel_distance(found: Tensor, reference: Tensor) -> float:
    """KID, the unbiased squared MMD of features n D and m D with the kernel (x . y / D + 1)^3 (Binkowski et al., 2018).

    It is over all pairs, and so the mean that averages over random subsets estimate, without their noise.
    """
    n, m = len(found), len(reference)
    within = sum((_kernel_sum(x, x) - _diagonal(x)) / (len(x) * (len(x) - 1)) for x in (found, reference))
    return within - 2 * _kernel_sum(found, reference) / (n * m)


def _kernel_sum(x: Tensor, y: Tensor) -> float:
    """KID's kernel summed over all pairs of rows, in blocks that stay in a processor's cache."""
    one, total = torch.ones((), dtype=torch.float64), 0.0
    for block in x.double().split(BLOCK):
        for other in y.double().split(BLOCK):
            base = torch.addmm(one, block, other.T, alpha=1 / x.shape[1]).flatten()
            total += (base.square() @ base).item()
    return total


def _diagonal(x: Tensor) -> float:
    """KID's kernel of each row with itself, summed."""
    return (x.double().square().mean(dim=1) + 1).pow(3).sum().item()


def precision_and_recall(found: Tensor, reference: Tensor) -> dict[str, float]:
    """Improved precision and recall of features n D against m D (Kynkaanniemi et al., 2019); {} for too few images.

    Precision is the share of `found` that lies in a ball around some row of `reference`, which reaches to its third
    neighbour; recall is the reverse. They are torch-fidelity's, whose k-th smallest value takes ten times as long.
    """
    if min(len(found), len(reference)) <= NEIGHBOURS:
        return {}
    return {"precision": _covered(found, reference), "recall": _covered(reference, found)}


def _covered(points: Tensor, centres: Tensor) -> float:
    """The share of points that lie in the ball of some centre, up to its neighbour among the centres."""
    nearest = (torch.cdist(part, centres).topk(NEIGHBOURS + 1, largest=False).values for part in centres.split(CHUNK))
    radii = torch.cat(list(nearest))[:, -1]  # the first neighbour is the centre itself
    inside = [(torch.cdist(part, centres) <= radii).any(dim=1) for part in points.split(CHUNK)]
    return torch.cat(inside).float().mean().item()


def sharpness(images: Tensor) -> float:
    """Mean over images (uint8 n C H W) of the variance of their Laplace filter, in grey from 0 to 1 (WAE, section 4).

    It is low for blurred images; compare it with that of real ones.
    """
    filtered = (F.conv2d(part.float().mean(dim=1, keepdim=True) / 255, LAPLACE) for part in images.split(CHUNK))
    return torch.cat([x.flatten(1).var(dim=1, correction=0) for x in filtered]).double().mean().item()


def class_score(logits: Tensor) -> float:
    """`exp E KL(p(y|x) | p(y))` from logits N K of K classes, by torch-fidelity: 1 if all are alike, at most K."""
    splits = min(SPLITS, max(1, len(logits) // SPLIT))
    return isc_features_to_metric(logits, splits, shuffle=True, rng_seed=2020)[KEY_METRIC_ISC_MEAN]  # its own seed


def pca_variances(images: Tensor, device: torch.device | str = "cpu") -> Tensor:
    """Variances of images (uint8 n C H W, scaled to [0, 1]) along their principal components, descending, float64.

    There are min(n, C H W) of them; their sum is the mean squared distance from the mean image.
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


def singular_values(z: Tensor) -> Tensor:
    """Singular values of latents n d, uncentred, descending (section 5.6); about sqrt(n/d) if uniform."""
    return torch.linalg.svdvals(z.double())


def effective_rank(singular_values: Tensor) -> float:
    """How many directions latents use: exp of the entropy of the squared singular values' shares; from 1 to d.

    It is d if all are equal (Roy & Vetterli, 2007, who take the shares of the singular values themselves), and 0 if all
    are 0: latents that are the same for all images use no direction.
    """
    shares = singular_values.double().square()
    if not shares.any():
        return 0.0
    return torch.special.entr(shares / shares.sum()).sum().exp().item()


def uniformity(z: Tensor, t: float = 2.0) -> float:
    """Wang & Isola's uniformity of latents n d: `log mean_{i != j} exp(-t |z_i - z_j|^2)`; lower is more uniform.

    The least possible value is that of the uniform sphere, `uniform_uniformity(d, t)`.
    """
    n, total = len(z), 0.0
    for block in z.split(CHUNK):
        total += torch.exp(2 * t * (block @ z.T - 1)).double().sum().item()
    return math.log((total - n) / (n * (n - 1)))  # without the n pairs i = j, each exp(0)


def nearest_cosine(points: Tensor, latents: Tensor) -> float:
    """Mean cosine from each point to its nearest latent: low if there are "holes" between latents (section 5.1).

    points: n d, latents: m d. Compare it with the value for m uniform latents: a lower one means more holes.
    """
    nearest = [(block @ latents.T).amax(dim=1) for block in points.split(CHUNK)]
    return torch.cat(nearest).double().mean().item()


def uniform_negative(d: int, tau: float) -> float:
    """Exact value of Eq. 3 on the uniform sphere in R^d: `log E exp(x . y / tau)`.

    With v = d/2 - 1 it is `lgamma(d/2) + v log(2 tau) + log I_v(1/tau)`. We sum the Bessel function's power series
    `sum_k (1/2tau)^2k / (k! (d/2)_k)` in logarithms, so that nothing over- or underflows for any d and tau.
    """
    k = np.arange(int(2 / tau) + 200)  # terms grow up to about k = 1/(2 tau), then fall faster than any power
    return float(logsumexp(-2 * k * math.log(2 * tau) - gammaln(k + 1) - gammaln(d / 2 + k) + gammaln(d / 2)))


def uniform_uniformity(d: int, t: float = 2.0) -> float:
    """Exact `uniformity` of the uniform sphere: as `|x - y|^2 = 2 - 2 x . y`, it is Eq. 3 at tau = 1/(2t), minus 2t."""
    return uniform_negative(d, 1 / (2 * t)) - 2 * t
