"""What a net with classes sees: classes of samples, distances to reconstructions, and speed along latent paths.

B batch, C H W image, C' H' W' maps of a layer, d latent. Decoded images are compared as they are, not rounded.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from mocalib.config.run import PRIOR
from mocalib.evaluation.features import Extractor
from mocalib.evaluation.generate import BATCH, Autoencoder
from mocalib.evaluation.metrics import CLASS_SCORES, class_score, row

PATH_LENGTH = "ppl_classifier"
PAIRS = 2_000  # at most; the mean over so many has a standard error of 2 to 3 % on digits
STEP = 1.0e-4  # StyleGAN's
Maps = Callable[[Tensor], list[Tensor]]  # B C H W in [0, 1] to one B C' H' W' a layer


def score(
    autoencoder: Autoencoder, images: Tensor, extractor: Extractor, features: dict[str, Tensor], n: int, seed: int
) -> tuple[list[dict], dict]:
    """Rows by an extractor with logits, and the classifier's shares of classes among the prior's n samples.

    images: the test images, uint8 m C H W; features: of samples and of reconstructions, n D and m D.
    """
    m, pairs = len(images), min(n, PAIRS)
    logits = {sampler: extractor.logits(features[sampler]) for sampler in (PRIOR, "reconstruction")}
    rows = [row(CLASS_SCORES[extractor.name], class_score(x), name, "test", len(x)) for name, x in logits.items()]
    arrays = {}
    if maps := extractor.maps:
        error = reconstruction_distance(autoencoder, images, maps)
        length = path_length(autoencoder, partial(layer_distance, maps=maps), pairs, seed)
        rows.append(row("perceptual_classifier", error, "reconstruction", "test", m, m))
        rows.append(row(PATH_LENGTH, length, PRIOR, "test", pairs))
        arrays["class_shares"] = F.one_hot(logits[PRIOR].argmax(dim=1), logits[PRIOR].shape[1]).double().mean(0).numpy()
    return [found | {"features": extractor.name, "digest": extractor.digest} for found in rows], arrays


def layer_distance(x: Tensor, y: Tensor, maps: Maps) -> Tensor:
    """B distances of images B C H W in the form of LPIPS, without its learned weights.

    The maps' vectors at each place get length 1. Their squared distance is averaged over places and summed over layers.
    """
    units = ((F.normalize(a, dim=1), F.normalize(b, dim=1)) for a, b in zip(maps(x), maps(y)))
    return sum((a - b).square().sum(dim=1).mean(dim=(1, 2)) for a, b in units)


@torch.no_grad()
def reconstruction_distance(autoencoder: Autoencoder, images: Tensor, maps: Maps) -> float:
    """Mean of `1/(C' H' W') |phi(x) - phi(x_hat)|^2` over images (uint8 n C H W), where phi is the last of the maps."""
    differences = (maps(x / 255)[-1] - maps(autoencoder.reconstruct(x))[-1] for x in images.split(BATCH))
    return torch.cat([part.square().mean(dim=(1, 2, 3)) for part in differences]).double().mean().item()


@torch.no_grad()
def path_length(autoencoder: Autoencoder, distance: Callable[[Tensor, Tensor], Tensor], n: int, seed: int) -> float:
    """Perceptual path length (Karras et al., 2019): how fast decoded images change between two latents of the prior.

    It is the mean of `distance(G(z_t), G(z_{t + STEP})) / STEP^2` over n pairs of latents, with t uniform in [0, 1].
    Paths are straight lines; on the sphere these are projected, as for interpolations.
    """
    generator, found = torch.Generator().manual_seed(seed), []
    z0, z1 = autoencoder.objective.prior(2 * n, generator).double().chunk(2)  # n d each
    t = torch.rand(n, 1, generator=generator, dtype=torch.float64)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # its 10 bits would drown so small a step
        for a, b, at in zip(z0.split(BATCH), z1.split(BATCH), t.split(BATCH)):
            points = [torch.lerp(a, b, at + step) for step in (0, STEP)]
            if autoencoder.spherical:
                points = [F.normalize(z, dim=1) for z in points]
            found.append(distance(*map(autoencoder.decode, points)))
    return torch.cat(found).double().mean().item() / STEP**2
