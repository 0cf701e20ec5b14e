"""WAE, the Wasserstein autoencoder: a kernel or a critic pulls latents to a prior (Tolstikhin et al., 2018)."""

import math

import torch
from torch import Tensor, nn

from mocalib.methods import latent, losses
from mocalib.methods.base import Group, Objective, StepLoss, Turn, step_loss
from mocalib.models.layers import perceptron

BETAS = (0.5, 0.999)  # Adam's, in WAE's code


class WAE(Objective):
    """What both WAEs share: the prior, N(0, variance I) or the uniform sphere, and Adam's betas."""

    def setup(self) -> None:
        self.noise = self.latent_dim

    def groups(self) -> dict[str, Group]:
        return {"autoencoder": super().groups()["autoencoder"]._replace(betas=BETAS)}

    def prior_points(self, noise: Tensor) -> Tensor:
        """Points of the prior n d, made from normal numbers n d."""
        if self.config.spherical:
            return nn.functional.normalize(noise, dim=1)
        return noise * self.config.prior_variance**0.5

    def prior(self, n: int, generator: torch.Generator) -> Tensor:
        return self.prior_points(latent.normal_prior(n, self.latent_dim, generator))


class WAEMMD(WAE):
    """WAE's Algorithm 2: squared error and weighted MMD. On the sphere, encoder and prior are the same as MoCA's.

    With BatchNorm a latent depends on its batch, so a net can place the latents of each batch better than independent
    ones would lie: the penalty is then far below zero. The statistics "running" penalise the latents of single images.
    """

    def setup(self) -> None:
        super().setup()
        # E|x - y|^2 of two draws from the prior
        self.base = 2.0 if self.config.spherical else 2.0 * self.latent_dim * self.config.prior_variance

    def loss(self, turn: str, x: Tensor, noise: Tensor | None = None) -> StepLoss:
        """Loss on images B C H W and B points of the prior, made from noise B d."""
        alone = self.independent(x) if self.config.statistics == "running" else None  # before the statistics move
        with self.nets():
            z = self.encoder(x)  # B d
            x_hat = self.decoder(z)  # B C H W
        reconstruction = losses.reconstruction(x_hat, x)
        mmd = losses.imq_mmd(z if alone is None else alone, self.prior_points(noise), self.base)
        total = reconstruction + self.config.weight * mmd
        terms = {"loss": total, "reconstruction": reconstruction, "mmd": mmd}
        return step_loss(total, terms)

    def independent(self, x: Tensor) -> Tensor:
        """Latents B d of images B C H W that do not depend on the rest of their batch."""
        self.encoder.eval()
        with self.nets():
            z = self.encoder(x)
        self.encoder.train()
        return z


class WAEGAN(WAE):
    """WAE's Algorithm 1: squared error and the critic's penalty; then the critic's turn on the same images and noise.

    First, as in its code, the encoder alone learns the prior's mean and covariance. Its code stops this below a
    distance of .1. Here it is a fixed part of training, so that every method sees equally many images.
    """

    def setup(self) -> None:
        super().setup()
        hidden = perceptron(self.latent_dim, self.config.critic_width, self.config.critic_layers)
        self.critic = nn.Sequential(*hidden, nn.Linear(self.config.critic_width, 1))  # B d -> B 1
        start = self.config.pretraining
        self.turns = (Turn("autoencoder", ("autoencoder",), start=start), Turn("critic", ("critic",), start=start))
        if start:  # the decoder has no gradient then, and does not change
            self.turns = (Turn("pretraining", ("autoencoder",), stop=start), *self.turns)

    def groups(self) -> dict[str, Group]:
        critic = Group([*self.critic.parameters()], self.config.critic_rate, BETAS)
        return super().groups() | {"critic": critic}

    def loss(self, turn: str, x: Tensor, noise: Tensor | None = None) -> StepLoss:
        """Loss of a turn on images B C H W and B points of the prior, made from noise B d."""
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
        """The critic's logits B 1 for latents B d. With `log_prior` the net has to learn only -log q(z).

        log p(z) is then added to its output, with the constant of WAE's code.
        """
        if not self.config.log_prior:
            return self.critic(z)
        variance = self.config.prior_variance
        constant = 0.5 * (math.log(2 * math.pi) + self.latent_dim * math.log(variance))
        return self.critic(z) - z.square().sum(dim=1, keepdim=True) / (2 * variance) - constant
