"""What every method gives the training loop: its losses, and the parameters that each of them trains.

B batch, C H W image, d latent, N normal numbers an image.
"""

import contextlib
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mocalib.config.run import RunConfig
from mocalib.methods import latent


class Group(NamedTuple):
    """Parameters that one Adam trains, at `rate` times the config's learning rate."""

    parameters: list[nn.Parameter]
    rate: float = 1.0
    betas: tuple[float, float] = (0.9, 0.999)


class Turn(NamedTuple):
    """One loss and the groups that it updates, every so many steps, from `start` to `stop` (fractions of training)."""

    name: str
    updates: tuple[str, ...]
    every: int = 1
    start: float = 0.0
    stop: float = 1.0


class StepLoss(NamedTuple):
    """The loss to minimise, the terms to log (0-dim tensors), and for each queue the keys (B d) for `after`."""

    total: Tensor
    terms: dict[str, Tensor]
    keys: dict[str, Tensor]


def step_loss(total: Tensor, terms: dict[str, Tensor], **keys: Tensor) -> StepLoss:
    """A loss with its terms; these are only logged, so they need no gradient."""
    return StepLoss(total, {name: value.detach() for name, value in terms.items()}, keys)


class Objective(nn.Module):
    """An autoencoder and its losses. A method overrides `loss`, and whatever else it does differently.

    The training step draws the noise and passes it to `loss`, so a loss is a function of its arguments.
    """

    turns: tuple[Turn, ...] = (Turn("autoencoder", ("autoencoder",)),)
    heads: int = 1  # vectors that the encoder gives for each image
    noise: int = 0  # N, normal numbers that a loss takes for each image

    def __init__(self, run: RunConfig, image_shape: tuple[int, ...], encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.config, self.encoder, self.decoder = run.objective, encoder, decoder
        self.width, self.image_shape = run.width, image_shape
        self.latent_dim, self.bfloat16 = run.latent_dim, run.precision == "bfloat16"
        self.setup()

    def setup(self) -> None:
        """Make the method's other parts. Their order must not change: a seed's initial weights depend on it."""

    def groups(self) -> dict[str, Group]:
        """The trainable parameters, each in one group."""
        return {"autoencoder": Group([*self.encoder.parameters(), *self.decoder.parameters()])}

    def loss(self, turn: str, x: Tensor, noise: Tensor | None = None) -> StepLoss:
        """Loss of a turn on images B C H W and noise B N; all turns of a step get the same noise.

        It changes only BatchNorm's statistics and the vectors of spectral norms.
        """
        raise NotImplementedError

    def after(self, turn: str, out: StepLoss, progress: Tensor) -> None:
        """Update averages and queues after the optimizer's step; progress is step / steps, 0-dim."""

    def encode(self, x: Tensor) -> Tensor:
        """B C H W -> B d."""
        return self.encoder(x)

    def decode(self, z: Tensor) -> Tensor:
        """B d -> B C H W in [0, 1]."""
        return self.decoder(z)

    def prior(self, n: int, generator: torch.Generator) -> Tensor:
        """n latents to generate from, n d; drawn on the CPU, so every device gets the same."""
        draw = latent.sphere_prior if self.config.spherical else latent.normal_prior
        return draw(n, self.latent_dim, generator)

    @property
    def dtype(self) -> torch.dtype:
        """float32 or float64, the type of the weights; the nets may compute in bfloat16."""
        return next(self.parameters()).dtype

    def nets(self) -> contextlib.AbstractContextManager:
        """A context in which nets run in the config's precision; losses outside it use float32 or better."""
        device = next(self.parameters()).device.type
        return torch.autocast(device, torch.bfloat16) if self.bfloat16 else contextlib.nullcontext()
