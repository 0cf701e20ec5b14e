"""VAE: images are encoded as Gaussians, pulled towards N(0, I) (Kingma & Welling, 2014)."""

import torch
from torch import Tensor, nn

from mocalib.methods import losses
from mocalib.methods.base import Group, Objective, StepLoss, step_loss


class Variational(Objective):
    """What methods share whose encoder gives Gaussians: images are encoded to the means."""

    heads = 2  # mean and logarithm of the variance

    def encode(self, x: Tensor) -> Tensor:
        """The means: B C H W -> B d."""
        return self.encoder(x).chunk(2, dim=1)[0]


class VAE(Variational):
    """The negative evidence lower bound, with the pixels' distribution that the settings name.

    With a fixed sigma it is multiplied by 2 sigma^2, so that its first term is the squared error, as elsewhere.
    """

    def setup(self) -> None:
        self.noise = self.latent_dim
        self.log_sigma = nn.Parameter(torch.zeros(())) if self.config.likelihood == "learned" else None

    def groups(self) -> dict[str, Group]:
        own = [] if self.log_sigma is None else [self.log_sigma]
        return {"autoencoder": Group([*self.encoder.parameters(), *self.decoder.parameters(), *own])}

    def loss(self, turn: str, x: Tensor, noise: Tensor | None = None) -> StepLoss:
        """The bound on images B C H W, with one latent drawn for each; noise: B d."""
        with self.nets():
            mean, log_variance = self.encoder(x).chunk(2, dim=1)  # B d each
            x_hat = self.decoder(drawn(mean, log_variance, noise))  # B C H W
        kl, reconstruction = losses.kl_divergence(mean, log_variance), losses.reconstruction(x_hat, x)
        total = self._bound(x_hat, x, reconstruction, self.config.kl_weight * kl)
        terms = {"loss": total, "reconstruction": reconstruction, "kl": kl}
        if self.log_sigma is not None:
            terms["sigma"] = self.log_sigma.exp()
        return step_loss(total, terms)

    def _bound(self, x_hat: Tensor, x: Tensor, reconstruction: Tensor, kl: Tensor) -> Tensor:
        if self.config.likelihood == "bernoulli":
            return losses.bernoulli_nll(x_hat, x) + kl
        if self.config.likelihood == "gaussian":
            return reconstruction + 2 * self.config.sigma**2 * kl
        return losses.gaussian_nll(x_hat, x, self.log_sigma) + kl


def drawn(mean: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
    """Draws from N(mean, diag variance), made from normal numbers; all B d."""
    return mean + torch.exp(log_variance / 2) * noise
