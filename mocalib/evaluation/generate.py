"""The trained nets of a run: images to latents and back, samples and interpolations.

B batch, C H W image, d latent.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from mocalib import methods
from mocalib.config import paths
from mocalib.methods import latent, losses
from mocalib.storage import files
from mocalib.storage.run import Run, epoch_file, open_run

BATCH = 250  # images a forward pass outside of training
COMPONENTS = 10  # of the Gaussian mixture, as in RAE


class Autoencoder:
    """A trained run's nets in evaluation mode and float32."""

    def __init__(self, objective: methods.Objective, epoch: int, step: int, device: torch.device) -> None:
        self.objective = objective.to(device).eval().requires_grad_(False)
        self.epoch, self.step, self.device = epoch, step, device
        self.spherical = objective.config.spherical  # whether latents are unit vectors

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Images B C H W, uint8 or in [0, 1], to latents B d on the CPU."""
        scale = 255 if x.dtype == torch.uint8 else 1
        parts = (part.to(self.device).float().div(scale) for part in x.split(BATCH))
        return torch.cat([self.objective.encode(part).cpu() for part in parts])

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """Latents B d to images B C H W in [0, 1] on the CPU."""
        return torch.cat([self.objective.decode(part.to(self.device)).cpu() for part in z.split(BATCH)])

    def prior(self, n: int, seed: int = 0) -> Tensor:
        """n latents to generate from, n d; a seed gives the same on every device."""
        return self.objective.prior(n, torch.Generator().manual_seed(seed))

    def sample(self, n: int, seed: int = 0) -> Tensor:
        """n new images, n C H W in [0, 1], decoded from the prior."""
        return self.decode(self.prior(n, seed))

    def interpolate(self, x0: Tensor, x1: Tensor, steps: int) -> Tensor:
        """Images decoded from points between the latents of x0 and x1 (B C H W each): B steps C H W."""
        path = latent.interpolate if self.spherical else latent.line
        z = path(self.encode(x0), self.encode(x1), steps)  # B steps d
        return self.decode(z.flatten(0, 1)).unflatten(0, z.shape[:2])


def to_uint8(x: Tensor) -> Tensor:
    """Round [0, 1] to 0..255, as an image file holds it; truncation would shift every score."""
    return (x.clamp(0, 1) * 255).round().to(torch.uint8)


def decode_uint8(autoencoder: Autoencoder, z: Tensor) -> Tensor:
    """Decode latents n d to uint8 images, in parts: 10,000 float images of 256 pixels would take 8 GB."""
    return torch.cat([to_uint8(autoencoder.decode(part)) for part in z.split(BATCH)])


class Reconstruction(NamedTuple):
    """Latents n d of n images, the images decoded from them (uint8 n C H W), and the error of Eq. 5 on [0, 1]."""

    latents: Tensor
    images: Tensor
    error: float


def reconstruct(autoencoder: Autoencoder, images: Tensor) -> Reconstruction:
    """Encode and decode images (uint8 n C H W) once, for all scores."""
    latents, decoded, errors = zip(*((z, to_uint8(x), error) for z, x, error in _reconstructed(autoencoder, images)))
    return Reconstruction(torch.cat(latents), torch.cat(decoded), sum(errors) / len(images))


def reconstruction_error(autoencoder: Autoencoder, images: Tensor) -> float:
    """The error of Eq. 5 on [0, 1], a mean over images (uint8 n C H W), without keeping the decoded images."""
    return sum(error for *_, error in _reconstructed(autoencoder, images)) / len(images)


def _reconstructed(autoencoder: Autoencoder, images: Tensor) -> Iterator[tuple[Tensor, Tensor, float]]:
    """For each part of uint8 images: latents, decoded images in [0, 1], and summed error."""
    for part in images.split(BATCH):
        z = autoencoder.encode(part)
        x_hat = autoencoder.decode(z)
        yield z, x_hat, losses.reconstruction(x_hat, part / 255).item() * len(part)


def load(directory: Path | str, epoch: int | None = None, device: torch.device | str = "cpu") -> Autoencoder:
    """The trained autoencoder of a finished run, or of a kept epoch.

    Raises FileNotFoundError if its weights are missing, as in a fresh clone, and ValueError if they do not load. The
    message gives the command that trains the run again.
    """
    run = open_run(directory)
    path = run.directory / ("weights.pt" if epoch is None else epoch_file(epoch))
    if not path.exists():
        raise FileNotFoundError(_no_weights(run, path))
    try:
        state = files.read_tensors(path)
        objective = methods.build(run.config, tuple(state["image_shape"]))
        files.check_state(state["objective"], objective.state_dict())
    except Exception as error:  # as for checkpoints
        raise ValueError(f"{path} does not load ({repr(error)[:300]}). {_retrain(run)}") from None
    objective.load_state_dict(state["objective"])
    return Autoencoder(objective.float(), state["epoch"], state["step"], torch.device(device))


def _no_weights(run: Run, path: Path) -> str:
    if not run.finished:
        return f"{path} does not exist: the run is not finished. Finish it with: python -m mocalib run {run.directory}"
    kept = [found.name for found in sorted(run.directory.glob("*.pt"))]
    return (
        f"{path} does not exist (weights here: {', '.join(kept) or 'none'}): weights are not committed, and earlier "
        f"epochs are kept only if keep_epochs lists them. {_retrain(run)}"
    )


def _retrain(run: Run) -> str:
    elsewhere = paths.RUNS / "custom"
    if run.directory.resolve().parent == elsewhere:
        elsewhere = elsewhere / "again"
    return f"Retrain the run elsewhere with: python -m mocalib run {run.directory} --runs {elsewhere}"


def mixture(z: Tensor, n: int, seed: int) -> Tensor:
    """n points, n d, of a mixture of Gaussians fitted to latents z, m d.

    This is RAE's ex-post density estimation (its section 3): full covariances, and scikit-learn with the settings of
    RAE's code. Raises ValueError for fewer latents than Gaussians.
    """
    from sklearn.mixture import GaussianMixture  # takes a second to import

    check_mixture(len(z))
    fitted = GaussianMixture(COMPONENTS, max_iter=2_000, tol=1e-3, random_state=seed)
    with threadpool_limits(torch.get_num_threads()):  # results depend on the number of threads
        try:
            points, _ = fitted.fit(z.double().numpy()).sample(n)
        except ValueError as error:  # scikit-learn's message names settings that a user cannot change
            raise ValueError(
                f"{COMPONENTS} Gaussians cannot be fitted to {len(z)} latents of d {z.shape[1]} ({str(error)[:80]}); "
                "train on more images or with a smaller d, or score the prior alone"
            ) from None
    return torch.from_numpy(points).float()


def check_mixture(n: int) -> None:
    """Raise ValueError for fewer latents than Gaussians."""
    if n < COMPONENTS:
        raise ValueError(f"a mixture of {COMPONENTS} Gaussians needs at least {COMPONENTS} training images, not {n}")
