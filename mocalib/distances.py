"""How far two sets of features are apart, by torch-fidelity, and what a linear code loses. n D, m D features."""

import torch
from torch import Tensor
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

SUBSETS = 100  # of KID, torch-fidelity's default
NEIGHBOURS = 3  # of precision and recall, torch-fidelity's default
CHUNK = 2_000  # images a block of a matrix product


def distance_name(kind: str, extractor: str) -> str:
    """Only Inception's distances bear the names fid and kid."""
    if extractor == "inception":
        return {"fd": "fid", "kid": "kid"}[kind]
    return f"{kind}_{extractor}"


def frechet_distance(found: Tensor, reference: Tensor) -> float:
    """Fréchet distance of Gaussians fitted to two sets of features (n D, m D), by torch-fidelity in float64.

    Raises ValueError for fewer than two rows.
    """
    if min(len(found), len(reference)) < 2:
        raise ValueError(f"a covariance needs two images or more: {len(found)} against {len(reference)} given")
    statistics = [fid_features_to_statistics(x.double()) for x in (found, reference)]
    return fid_statistics_to_metric(*statistics, verbose=False)[KEY_METRIC_FID]


def kernel_distance(found: Tensor, reference: Tensor) -> float:
    """KID, the unbiased cubic-kernel MMD of two sets of features, by torch-fidelity; subsets shrink for small sets."""
    size = min(1_000, len(found), len(reference))
    settings = {"kid_subsets": SUBSETS, "kid_subset_size": size, "rng_seed": 0, "verbose": False}
    return kid_features_to_metric(found.double(), reference.double(), **settings)[KEY_METRIC_KID_MEAN]


def precision_and_recall(found: Tensor, reference: Tensor) -> dict[str, float]:
    """Improved precision and recall of two sets of features, by torch-fidelity; {} for too few for neighbours."""
    if min(len(found), len(reference)) <= NEIGHBOURS:
        return {}
    settings = {"prc_neighborhood": NEIGHBOURS, "save_cpu_ram": True, "verbose": False}
    scores = prc_features_to_metric(found, reference, **settings)
    return {name: scores[name] for name in ("precision", "recall")}


def pca_variances(images: Tensor, device: torch.device | str = "cpu") -> Tensor:
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
