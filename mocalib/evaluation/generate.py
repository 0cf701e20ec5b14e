"""The trained nets of a run: images to latents and back, samples, interpolations. B batch, C H W image, d latent."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from mocalib import methods
from mocalib.config import paths
from mocalib.config.checks import check
from mocalib.data import arrays, datasets
from mocalib.data.arrays import as_uint8
from mocalib.data.cache import Dataset
from mocalib.methods import latent, losses
from mocalib.storage import environment, files
from mocalib.storage.run import Run, epoch_file, open_run
from mocalib.training.device import use_threads

BATCH = 250  # images a forward pass outside of training
# Parts of methods that only training needs.
TRAINING = ("key_encoder", "queue", "critic", "discriminator", "key_discriminator", "queues")
COMPONENTS = 10  # of the Gaussian mixture, as in RAE


class Autoencoder:
    """A trained run's nets in evaluation mode and float32.

    Images may be anything that `data.arrays.like` takes: a path, a Pillow image, an array or tensor, one or several, in
    uint8 or in [0, 1]. They are cropped and resized as the run's own were, unless they are arrays of its shape. A crop
    that is only usual for the run's dataset is taken of images of about its size. Raises ValueError for what does not
    fit.
    """

    def __init__(
        self, objective: methods.Objective, about: dict, device: torch.device, crop: int = 0, usual: int = 0
    ) -> None:
        self.objective = objective.to(device).eval().requires_grad_(False)
        self.epoch, self.step, self.image_shape = about["epoch"], about["step"], tuple(about["image_shape"])
        self.device, self.white, self.threads = device, about["white"], about["threads"]
        self.crop, self.usual = crop, usual
        self.spherical = objective.config.spherical  # whether latents are unit vectors

    def images(self, x: Any) -> Tensor:
        """Anything as images B C H W of the run's shape, uint8 or in [0, 1]."""
        return arrays.like(x, self.image_shape, self.crop, self.white, self.usual)

    @torch.no_grad()
    def encode(self, x: Any) -> Tensor:
        """One image or B of them to latents B d on the CPU."""
        x = self.images(x)
        scale = 255 if x.dtype == torch.uint8 else 1
        with use_threads(self.threads):
            parts = (part.to(self.device).float().div(scale) for part in x.split(BATCH))
            return torch.cat([self.objective.encode(part).cpu() for part in parts])

    @torch.no_grad()
    def decode(self, z: Tensor | np.ndarray) -> Tensor:
        """Latents B d, or one of d, to images B C H W in [0, 1] on the CPU."""
        z, d = torch.as_tensor(z, dtype=torch.float32), self.objective.latent_dim
        if z.ndim not in (1, 2) or z.shape[-1] != d or not len(z) or not z.isfinite().all():
            raise ValueError(f"latents of shape {tuple(z.shape)}; pass finite numbers, B {d}, or {d} for one")
        with use_threads(self.threads):
            return torch.cat([self.objective.decode(part.to(self.device)).cpu() for part in z.view(-1, d).split(BATCH)])

    def reconstruct(self, x: Any) -> Tensor:
        """The decoded latents of one image or B of them: B C H W in [0, 1]."""
        return self.decode(self.encode(x))

    def prior(self, n: int, seed: int = 0) -> Tensor:
        """n latents to generate from, n d; a seed gives the same on every device."""
        generator = torch.Generator().manual_seed(check("seed", seed, int))
        return self.objective.prior(check("n", n, int, {"low": 1}), generator)

    def sample(self, n: int, seed: int = 0) -> Tensor:
        """n new images, n C H W in [0, 1], decoded from the prior."""
        return self.decode(self.prior(n, seed))

    def interpolate(self, x0: Any, x1: Any, steps: int) -> Tensor:
        """Images decoded from points between the latents of x0 and x1, one image or B of them each: B steps C H W."""
        steps, z0, z1 = check("steps", steps, int, {"low": 2}), self.encode(x0), self.encode(x1)
        if len(z0) != len(z1):
            raise ValueError(f"{len(z0)} images and {len(z1)}; pass as many to as from")
        z = (latent.interpolate if self.spherical else latent.line)(z0, z1, steps)  # B steps d
        return self.decode(z.flatten(0, 1)).unflatten(0, z.shape[:2])


def decode_uint8(autoencoder: Autoencoder, z: Tensor) -> Tensor:
    """Decode latents n d to uint8 images, in parts: 10,000 float images of 256 pixels would take 8 GB."""
    return torch.cat([as_uint8(autoencoder.decode(part)) for part in z.split(BATCH)])


class Reconstruction(NamedTuple):
    """Latents n d of n images, the images decoded from them (uint8 n C H W), and the error of Eq. 5 on [0, 1]."""

    latents: Tensor
    images: Tensor
    error: float


def reconstruct(autoencoder: Autoencoder, images: Tensor) -> Reconstruction:
    """Encode and decode images (uint8 n C H W) once, for all scores."""
    latents, decoded, errors = zip(*((z, as_uint8(x), error) for z, x, error in _reconstructed(autoencoder, images)))
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
    """The trained autoencoder of a finished run, or of a kept epoch; the path may also start at the repository's root.

    Raises FileNotFoundError if its weights are missing, with the command that trains it again, and ValueError if they
    do not load or fail the checksum beside them.
    """
    places = Path(directory), paths.ROOT / directory
    run = open_run(next(filter(Path.exists, places), directory))
    path = run.directory / ("weights.pt" if epoch is None else epoch_file(epoch))
    if not path.exists():
        raise FileNotFoundError(_no_weights(run, path))
    if path.with_suffix(".json").exists():
        files.committed_digest(path)
    try:
        state = files.read_tensors(path)
        objective = methods.build(run.config, tuple(state["image_shape"]))
        new = objective.state_dict()
        left_out = {name: new[name] for name in new if name.split(".")[0] in state.get("left_out", ())}
        found = left_out | {name: _unhalved(value) for name, value in state["objective"].items()}
        files.check_state(found, new)
    except Exception as error:  # as for checkpoints
        raise ValueError(f"{path} does not load ({repr(error)[:300]}). {_retrain(run)}") from None
    objective.load_state_dict(found)
    threads = min(run.environment.get("threads", 1), environment.cores())  # it may come from a larger machine
    about = {"white": run.environment.get("data", {}).get("white", 0), "threads": threads}
    crops = run.config.crop, datasets.size_and_crop(run.config)[1]
    return Autoencoder(objective.float(), state | about, torch.device(device), *crops)


def dataset_of(run: Run) -> Dataset:
    """The images that a run was trained on and is scored against. Raises RunMismatch if they have changed."""
    dataset = datasets.load(run.config)
    run.check_data(dataset.description)
    return dataset


def _unhalved(value: Tensor) -> Tensor:
    """A tensor that may be stored in half its bytes, as the nets hold it."""
    return value.float() if value.dtype == torch.bfloat16 else value


def share(run: Run, directory: Path | str, half: bool = False) -> None:
    """Write what others need to use a finished run to a new directory: its records, and weights without TRAINING's.

    With `half` the weights are rounded to bfloat16, which halves the file. weights.json has the sha256 of weights.pt,
    which `load` checks. Raises FileExistsError for an existing directory.
    """
    directory, state = Path(directory), files.read_tensors(run.directory / "weights.pt")
    kept = {name: value for name, value in state["objective"].items() if name.split(".")[0] not in TRAINING}
    if half:
        kept = {name: x.bfloat16() if x.is_floating_point() else x for name, x in kept.items()}
    directory.mkdir(parents=True)
    for name in (*run.manifest["files"], "manifest.json"):
        files.write(directory / name, (run.directory / name).read_bytes())
    files.write_tensors(directory / "weights.pt", state | {"objective": kept, "left_out": TRAINING})
    files.write_json(directory / "weights.json", {"sha256": files.sha256(directory / "weights.pt")})


def _no_weights(run: Run, path: Path) -> str:
    if not run.finished:
        return f"{path} does not exist: the run is not finished. Finish it with: {paths.SHELL} run {run.directory}"
    kept = [found.name for found in sorted(run.directory.glob("*.pt"))]
    return (
        f"{path} does not exist (weights here: {', '.join(kept) or 'none'}): weights are not committed, and earlier "
        f"epochs are kept only if keep_epochs lists them. {_retrain(run)}"
    )


def _retrain(run: Run) -> str:
    return f"Retrain the run elsewhere with: {paths.SHELL} run {run.directory} --runs {paths.RUNS / 'custom' / 'again'}"


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
