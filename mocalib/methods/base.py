"""What the training loop knows of a method: which losses it has, which parameters they step, and what follows a step.

B batch, C H W image, d latent, N normal numbers of an image.
"""

import contextlib
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mocalib.config.methods import Method
from mocalib.methods import latent


class Group(NamedTuple):
    """Parameters that one Adam steps; `rate` times the config's learning rate."""

    parameters: list[nn.Parameter]
    rate: float = 1.0
    betas: tuple[float, float] = (0.9, 0.999)


class Turn(NamedTuple):
    """One loss and the groups it updates, every so many steps, between two parts of training in [0, 1]."""

    name: str
    updates: tuple[str, ...]
    every: int = 1
    start: float = 0.0
    stop: float = 1.0


class StepLoss(NamedTuple):
    """The loss to minimise, the terms to log (0-dim tensors), and keys that `after` may need (B d)."""

    total: Tensor
    terms: dict[str, Tensor]
    keys: Tensor | None = None


def step_loss(total: Tensor, terms: dict[str, Tensor], keys: Tensor | None = None) -> StepLoss:
    """A loss with its terms, which are to be logged and no longer to be differentiated."""
    return StepLoss(total, {name: value.detach() for name, value in terms.items()}, keys)


class Objective(nn.Module):
    """An autoencoder and its losses; a method overrides `loss`, and what it has and does differently.

    A loss that needs noise takes it as an argument, so that it stays a function: N is `noise`, and the loop draws it.
    """

    turns: tuple[Turn, ...] = (Turn("autoencoder", ("autoencoder",)),)
    heads: int = 1  # vectors that the encoder gives for an image
    noise: int = 0  # N, normal numbers that a loss takes for an image

    def __init__(
        self, config: Method, encoder: nn.Module, decoder: nn.Module, latent_dim: int, bfloat16: bool = False
    ) -> None:
        super().__init__()
        self.config, self.encoder, self.decoder = config, encoder, decoder
        self.latent_dim, self.bfloat16 = latent_dim, bfloat16
        self.setup()

    def setup(self) -> None:
        """Make what a method has beside its two nets, in a fixed order, as a seed's weights follow from it."""

    def groups(self) -> dict[str, Group]:
        """A partition of the trainable parameters."""
        return {"autoencoder": Group([*self.encoder.parameters(), *self.decoder.parameters()])}

    def loss(self, turn: str, x: Tensor, noise: Tensor | None = None) -> StepLoss:
        """Loss of a turn on images B C H W and noise B N, the same in all turns of a step.

        Changes nothing but what layers count in training: BatchNorm's statistics, spectral norms' vectors.
        """
        raise NotImplementedError

    def after(self, turn: str, out: StepLoss, progress: Tensor) -> None:
        """What follows the optimizer's step (averages, queues); progress = step / steps, 0-dim."""

    def encode(self, x: Tensor) -> Tensor:
        """B C H W -> B d."""
        return self.encoder(x)

    def decode(self, z: Tensor) -> Tensor:
        """B d -> B C H W in [0, 1]."""
        return self.decoder(z)

    def prior(self, n: int, generator: torch.Generator) -> Tensor:
        """n latents to generate from, n d, drawn on the CPU so that all devices have the same."""
        draw = latent.sphere_prior if self.config.spherical else latent.normal_prior
        return draw(n, self.latent_dim, generator)

    @property
    def dtype(self) -> torch.dtype:
        """Of weights: float32 or float64; bfloat16 is for the nets' arithmetic only."""
        return next(self.parameters()).dtype

    def nets(self) -> contextlib.AbstractContextManager:
        """Run nets in the config's precision; everything outside this context stays in float32 or better."""
        device = next(self.parameters()).device.type
        return torch.autocast(device, torch.bfloat16) if self.bfloat16 else contextlib.nullcontext()
