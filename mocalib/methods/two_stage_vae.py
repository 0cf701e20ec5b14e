"""2-Stage VAE: a second, small VAE learns the latents of the first (Dai & Wipf, 2019)."""

import torch
from torch import Tensor, nn

from mocalib.methods import latent, losses
from mocalib.methods.base import Group, StepLoss, Turn, step_loss
from mocalib.methods.vae import VAE, drawn
from mocalib.models.layers import perceptron


class TwoStageVAE(VAE):
    """Two VAEs with learned sigmas, trained one after the other. To generate: u from N(0, I), then z, then pixels."""

    def setup(self) -> None:
        super().setup()
        self.noise = 2 * self.latent_dim
        self.second = SecondStage(self.latent_dim, self.config.second_width, self.config.second_layers)
        self.turns = (
            Turn("autoencoder", ("autoencoder",), stop=self.config.first_stage),
            Turn("second", ("second",), start=self.config.first_stage),
        )

    def groups(self) -> dict[str, Group]:
        return super().groups() | {"second": Group([*self.second.parameters()], self.config.second_rate)}

    def loss(self, turn: str, x: Tensor, noise: Tensor | None = None) -> StepLoss:
        """Loss of a stage on images B C H W; noise B 2d has d numbers to draw z from x, and d to draw u from z."""
        of_z, of_u = noise.chunk(2, dim=1)  # B d each
        if turn == "autoencoder":
            return super().loss(turn, x, of_z)
        self.encoder.eval()  # the first stage is finished: BatchNorm uses its running statistics
        with torch.no_grad(), self.nets():
            z = drawn(*self.encoder(x).chunk(2, dim=1), of_z)  # B d
        self.encoder.train()
        total, kl = self.second.loss(z, of_u)
        terms = {"second_loss": total, "second_kl": kl, "second_sigma": self.second.log_sigma.exp()}
        return step_loss(total, terms)

    def prior(self, n: int, generator: torch.Generator) -> Tensor:
        """Latents that the second stage decodes from N(0, I), n d."""
        u, noise = (latent.normal_prior(n, self.latent_dim, generator).to(self.log_sigma) for _ in range(2))
        with torch.no_grad():
            return (self.second.decode(u) + self.second.log_sigma.exp() * noise).cpu()


class SecondStage(nn.Module):
    """A fully connected VAE of latents B d with a learned sigma; the last layer also sees the input."""

    def __init__(self, latent_dim: int, width: int, layers: int) -> None:
        super().__init__()
        self.encoder, self.to_u = perceptron(latent_dim, width, layers), nn.Linear(latent_dim + width, 2 * latent_dim)
        self.decoder, self.to_z = perceptron(latent_dim, width, layers), nn.Linear(latent_dim + width, latent_dim)
        self.log_sigma = nn.Parameter(torch.zeros(()))

    def loss(self, z: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The negative evidence lower bound, and its KL; z, noise: B d."""
        mean, log_variance = self.to_u(torch.cat([z, self.encoder(z)], dim=1)).chunk(2, dim=1)  # B d each
        z_hat = self.decode(drawn(mean, log_variance, noise))
        kl = losses.kl_divergence(mean, log_variance)
        return losses.gaussian_nll(z_hat, z, self.log_sigma) + kl, kl

    def decode(self, u: Tensor) -> Tensor:
        """B d -> B d."""
        return self.to_z(torch.cat([u, self.decoder(u)], dim=1))
