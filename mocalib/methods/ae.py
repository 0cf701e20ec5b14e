"""The plain autoencoder, without any regulariser."""

from torch import Tensor

from mocalib.methods import losses
from mocalib.methods.base import Objective, StepLoss, step_loss


class AE(Objective):
    def loss(self, turn: str, x: Tensor, noise: Tensor | None = None) -> StepLoss:
        """Squared error of images B C H W."""
        with self.nets():
            x_hat = self.decoder(self.encoder(x))  # B C H W
        total = losses.reconstruction(x_hat, x)
        return step_loss(total, {"loss": total, "reconstruction": total})
