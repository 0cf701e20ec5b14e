"""MoCA: an autoencoder on the sphere; its latents repel those of past images, kept in a queue (Algorithm 1)."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor

from mocalib.config.methods import QUEUELESS
from mocalib.methods import losses
from mocalib.methods.base import Objective, StepLoss, step_loss
from mocalib.methods.queue import KeyQueue, ema_update_, momentum_schedule


class MoCA(Objective):
    """Eq. 5 with one of the contrastive losses of `config.methods.FORMS`; at lambda 0 it is only logged.

    The key encoder starts as a copy of the encoder and averages its parameters. As in MoCo, it keeps its own BatchNorm
    statistics. The forms in `QUEUELESS` leave out the key encoder and the queue.
    """

    def setup(self) -> None:
        self.has_queue = self.config.form not in QUEUELESS
        if self.has_queue:
            self.key_encoder = copy.deepcopy(self.encoder).requires_grad_(False)
            self.queue = KeyQueue(self.config.queue_size, self.latent_dim)
        elif self.config.form == "sliced_wasserstein":
            self.noise = 2 * self.latent_dim

    def loss(self, turn: str, x: Tensor, noise: Tensor | None = None) -> StepLoss:
        """Eq. 5 on images B C H W. The parts of the loss against the queue are logged, whichever form is trained.

        noise: B 2d for the sliced Wasserstein distance, to make B uniform points and B directions of.
        """
        with self.nets():
            q = self.encoder(x)  # B d
            x_hat = self.decoder(q)  # B C H W
        reconstruction = losses.reconstruction(x_hat, x)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.config.weight > 0):
            contrastive, parts, keys = self._against_queue(q, x) if self.has_queue else (self._within(q, noise), {}, {})
        total = reconstruction + self.config.weight * contrastive
        terms = {"loss": total, "reconstruction": reconstruction, "contrastive": contrastive}
        return step_loss(total, terms | parts, **keys)

    def _against_queue(self, q: Tensor, x: Tensor) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """The contrastive loss of latents B d of images B C H W, its parts, and the new keys."""
        with torch.no_grad(), self.nets():
            k = self.key_encoder(x)  # B d
        tau, form = self.config.temperature, self.config.form
        parts = losses.contrast(q, k, self.queue.keys, tau)
        info_nce, decoupled = losses.info_nce_of(parts), losses.decoupled_of(parts).mean()
        forms = {"info_nce": info_nce.mean(), "decoupled": decoupled, "negative": parts.negative.mean()}
        if form == "eq6_literal":
            forms[form] = losses.eq6(q, k, self.queue.with_newest(k), tau)
        terms = {
            "negative": forms["negative"],
            "eq6": decoupled,  # the name in committed records
            "positive_probability": torch.exp(-info_nce).mean(),  # softmax probability of the positive
            "alignment": (parts.positive * tau).mean(),  # q . k
        }
        return forms[form], terms, {"queue": k}

    def _within(self, q: Tensor, noise: Tensor | None) -> Tensor:
        """The loss of the latents B d of one batch; noise: see `loss`."""
        if self.config.form == "batch":
            return losses.batch_negative(q, self.config.temperature)
        if self.config.form == "uniformity":
            return losses.uniformity(q)
        points, directions = (F.normalize(part, dim=1) for part in noise.chunk(2, dim=1))  # B d each
        return losses.sliced_wasserstein(q, points, directions)

    def after(self, turn: str, out: StepLoss, progress: Tensor) -> None:
        if not self.has_queue:
            return
        m0 = self.config.momentum
        m = momentum_schedule(m0, progress, 1.0) if self.config.schedule == "cosine" else torch.full_like(progress, m0)
        ema_update_(self.key_encoder, self.encoder, m)
        self.queue.push(out.keys["queue"])
        out.terms["momentum"] = m
