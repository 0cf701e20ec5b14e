"""The trained nets of a run: images to codes, codes to images, samples and interpolations.

B batch, C H W image, d latent.
"""

from pathlib import Path

import torch
from torch import Tensor

from mocalib import methods
from mocalib.config import paths
from mocalib.methods import latent
from mocalib.storage import files
from mocalib.storage.run import Run, check_state, epoch_file, open_run

BATCH = 250  # images a forward pass outside of training


class Autoencoder:
    """A trained run's nets in evaluation mode and float32: images to codes, and back."""

    def __init__(self, objective: methods.Objective, epoch: int, step: int, device: torch.device) -> None:
        self.objective = objective.to(device).eval().requires_grad_(False)
        self.epoch, self.step, self.device = epoch, step, device
        self.spherical = objective.config.spherical  # whether codes are unit vectors

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Images B C H W, uint8 or in [0, 1], to codes B d on the CPU."""
        return torch.cat([self.objective.encode(_unit(part.to(self.device))).cpu() for part in x.split(BATCH)])

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """Codes B d to images B C H W in [0, 1] on the CPU."""
        return torch.cat([self.objective.decode(part.to(self.device)).cpu() for part in z.split(BATCH)])

    def prior(self, n: int, seed: int = 0) -> Tensor:
        """n latents to generate from, n d; the same for a seed on every device."""
        return self.objective.prior(n, torch.Generator().manual_seed(seed))

    def sample(self, n: int, seed: int = 0) -> Tensor:
        """n new images, n C H W in [0, 1]: decoded points of the prior, MoCA's on the sphere."""
        return self.decode(self.prior(n, seed))

    def interpolate(self, x0: Tensor, x1: Tensor, steps: int) -> Tensor:
        """Decoded points between the codes of images x0 and x1 (B C H W each): B steps C H W."""
        path = latent.interpolate if self.spherical else latent.line
        z = path(self.encode(x0), self.encode(x1), steps)  # B steps d
        return self.decode(z.flatten(0, 1)).unflatten(0, z.shape[:2])


def _unit(x: Tensor) -> Tensor:
    return x.float().div(255) if x.dtype == torch.uint8 else x.float()


def load(directory: Path | str, epoch: int | None = None, device: torch.device | str = "cpu") -> Autoencoder:
    """The trained autoencoder of a finished run, or of a kept epoch.

    Raises FileNotFoundError if its weights are not there, as in a fresh clone, and ValueError if they are cut short or
    of other nets, with the command that retrains it elsewhere.
    """
    run = open_run(directory)
    path = run.directory / ("weights.pt" if epoch is None else epoch_file(epoch))
    if not path.exists():
        raise FileNotFoundError(_no_weights(run, path))
    try:
        state = files.read_tensors(path)
        objective = methods.build(run.config, tuple(state["image_shape"]))
        check_state(state["objective"], objective.state_dict())
    except Exception as error:  # as for checkpoints
        raise ValueError(f"{path} does not load ({repr(error)[:300]}). {_retrain(run)}") from None
    objective.load_state_dict(state["objective"])
    return Autoencoder(objective.float(), state["epoch"], state["step"], torch.device(device))


def _no_weights(run: Run, path: Path) -> str:
    if not run.finished:
        return f"{path} is not there: the run is not finished. Finish it with: python -m mocalib run {run.directory}"
    kept = [found.name for found in sorted(run.directory.glob("*.pt"))]
    return (
        f"{path} is not there (weights here: {', '.join(kept) or 'none'}): weights are not committed, and of earlier "
        f"epochs only those in keep_epochs are kept. {_retrain(run)}"
    )


def _retrain(run: Run) -> str:
    elsewhere = paths.RUNS / "custom"
    if run.directory.resolve().parent == elsewhere:
        elsewhere = elsewhere / "again"
    return f"Retrain the run elsewhere with: python -m mocalib run {run.directory} --runs {elsewhere}"
