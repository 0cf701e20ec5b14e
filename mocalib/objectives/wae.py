"""What both Wasserstein autoencoders are: one prior, drawn from the noise of a step, and one Adam."""

import torch
from torch import Tensor, nn

from mocalib import latent, methods
from mocalib.objectives.base import Group, Objective

BETAS = (0.5, 0.999)  # of Adam, in WAE's code


class WAE(Objective):
    """An autoencoder whose codes are drawn to a prior: N(0, variance I), or the uniform sphere."""

    def __init__(
        self,
        config: methods.WAEMMD | methods.WAEGAN,
        encoder: nn.Module,
        decoder: nn.Module,
        latent_dim: int,
        bfloat16: bool = False,
    ) -> None:
        super().__init__(config, encoder, decoder, latent_dim, bfloat16)
        self.noise = latent_dim

    def groups(self) -> dict[str, Group]:
        return {"autoencoder": super().groups()["autoencoder"]._replace(betas=BETAS)}

    def prior_points(self, noise: Tensor) -> Tensor:
        """Points of the prior from normal numbers, n d."""
        if self.config.spherical:
            return nn.functional.normalize(noise, dim=1)
        return noise * self.config.prior_variance**0.5

    def prior(self, n: int, generator: torch.Generator) -> Tensor:
        return self.prior_points(latent.normal_prior(n, self.latent_dim, generator))
