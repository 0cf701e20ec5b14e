"""RAE: an autoencoder with small latents and a smooth decoder (Ghosh et al., 2020)."""

from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from mocalib.methods import losses
from mocalib.methods.base import Objective, StepLoss, step_loss

CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)


class RAE(Objective):
    """Squared error, weighted |z|^2, and a regulariser: the decoder's squared kernels, or spectral normalisation.

    As in its code, spectral normalisation is of encoder and decoder, with one power iteration a forward pass, and
    BatchNorm stays. In bfloat16 the iteration is rounded too, so norms are within some thousandths of one.
    """

    def setup(self) -> None:
        if self.config.regulariser == "spectral_norm":
            for layer in [*self.encoder.modules(), *self.decoder.modules()]:
                if isinstance(layer, (*CONVOLUTIONS, nn.Linear)):
                    spectral_norm(layer)

    def loss(self, turn: str, x: Tensor, noise: Tensor | None = None) -> StepLoss:
        """Loss on images B C H W."""
        with self.nets():
            z = self.encoder(x)  # B d
            x_hat = self.decoder(z)  # B C H W
        reconstruction, norm = losses.reconstruction(x_hat, x), losses.latent_norm(z)
        total = reconstruction + self.config.weight * norm
        if self.config.regulariser == "l2":
            total = total + self.config.decay * self.kernels()
        terms = {"loss": total, "reconstruction": reconstruction, "code_norm": norm}
        return step_loss(total, terms)

    def kernels(self) -> Tensor:
        """Sum of squares of the decoder's convolution kernels, without biases."""
        return sum(m.weight.square().sum() for m in self.decoder.modules() if isinstance(m, CONVOLUTIONS))
