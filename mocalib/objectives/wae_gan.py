"""WAE-GAN: codes are drawn to a prior by a critic that tells the two apart (Tolstikhin et al., 2018, Algorithm 1)."""

import math

import torch
from torch import Tensor, nn

from mocalib import losses, methods
from mocalib.models.layers import perceptron
from mocalib.objectives.base import Group, StepLoss, Turn, step_loss
from mocalib.objectives.wae import BETAS, WAE


class WAEGAN(WAE):
    """Squared error and what the critic makes of the codes; then the critic's turn, on the same images and noise.

    Before both, as in its code, the encoder alone learns the prior's first two moments: part of training here, so that
    every method sees equally many images, and of a fixed length, where its code stops below a distance of .1.
    """

    def __init__(
        self, config: methods.WAEGAN, encoder: nn.Module, decoder: nn.Module, latent_dim: int, bfloat16: bool = False
    ) -> None:
        super().__init__(config, encoder, decoder, latent_dim, bfloat16)
        hidden = perceptron(latent_dim, config.critic_width, config.critic_layers)
        self.critic = nn.Sequential(*hidden, nn.Linear(config.critic_width, 1))  # B d -> B 1
        self.turns = (
            Turn("autoencoder", ("autoencoder",), start=config.pretraining),
            Turn("critic", ("critic",), start=config.pretraining),
        )
        if config.pretraining:  # the decoder has no gradient then, and rests
            self.turns = (Turn("pretraining", ("autoencoder",), stop=config.pretraining), *self.turns)

    def groups(self) -> dict[str, Group]:
        critic = Group([*self.critic.parameters()], self.config.critic_rate, BETAS)
        return super().groups() | {"critic": critic}

    def loss(self, turn: str, x: Tensor, noise: Tensor | None = None) -> StepLoss:
        """Loss of a turn on images B C H W and as many points of the prior, made from noise B d."""
        return getattr(self, f"_{turn}")(x, self.prior_points(noise))

    def _pretraining(self, x: Tensor, z_prior: Tensor) -> StepLoss:
        with self.nets():
            z = self.encoder(x)  # B d
        moments = losses.moment_distance(z, z_prior)
        return step_loss(moments, {"moments": moments})

    def _autoencoder(self, x: Tensor, z_prior: Tensor) -> StepLoss:
        with self.nets():
            z = self.encoder(x)  # B d
            x_hat = self.decoder(z)  # B C H W
        reconstruction, penalty = losses.reconstruction(x_hat, x), losses.deceived(self.logits(z))
        total = reconstruction + self.config.weight * penalty
        terms = {"loss": total, "reconstruction": reconstruction, "penalty": penalty}
        return step_loss(total, terms)

    def _critic(self, x: Tensor, z_prior: Tensor) -> StepLoss:
        with torch.no_grad(), self.nets():
            z = self.encoder(x)  # B d
        loss = losses.critic(self.logits(z_prior), self.logits(z))
        return step_loss(loss, {"critic": loss})

    def logits(self, z: Tensor) -> Tensor:
        """The critic's logits of codes B d, B 1: with the log-prior trick, what the net has to learn is -log q(z).

        The constant is the code's. The prior's density keeps its B 1: without that the sum would be B B.
        """
        if not self.config.log_prior:
            return self.critic(z)
        variance = self.config.prior_variance
        constant = 0.5 * (math.log(2 * math.pi) + self.latent_dim * math.log(variance))
        return self.critic(z) - z.square().sum(dim=1, keepdim=True) / (2 * variance) - constant
