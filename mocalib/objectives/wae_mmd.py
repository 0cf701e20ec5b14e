"""WAE-MMD: codes are drawn to a prior by a kernel's discrepancy from it (Tolstikhin et al., 2018, Algorithm 2)."""

from torch import Tensor, nn

from mocalib import losses, methods
from mocalib.objectives.base import StepLoss, step_loss
from mocalib.objectives.wae import WAE


class WAEMMD(WAE):
    """Squared error and weighted MMD; on the sphere the encoder and the prior are MoCA's own."""

    def __init__(
        self, config: methods.WAEMMD, encoder: nn.Module, decoder: nn.Module, latent_dim: int, bfloat16: bool = False
    ) -> None:
        super().__init__(config, encoder, decoder, latent_dim, bfloat16)
        self.base = 2.0 if config.spherical else 2.0 * latent_dim * config.prior_variance  # E|x - y|^2 of the prior

    def loss(self, turn: str, x: Tensor, noise: Tensor | None = None) -> StepLoss:
        """Loss on images B C H W and as many points of the prior, made from noise B d."""
        with self.nets():
            z = self.encoder(x)  # B d
            x_hat = self.decoder(z)  # B C H W
        reconstruction = losses.reconstruction(x_hat, x)
        mmd = losses.imq_mmd(z, self.prior_points(noise), self.base)
        total = reconstruction + self.config.weight * mmd
        terms = {"loss": total, "reconstruction": reconstruction, "mmd": mmd}
        return step_loss(total, terms)
