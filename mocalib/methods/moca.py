"""MoCA: an autoencoder on the sphere; its latents repel those of past images, kept in a queue (Algorithm 1)."""

import copy

import torch
from torch import Tensor

from mocalib.methods import losses
from mocalib.methods.base import Objective, StepLoss, step_loss
from mocalib.methods.queue import KeyQueue, ema_update_, momentum_schedule


class MoCA(Objective):
    """Eq. 5 with one of four contrastive losses (`config.methods.FORMS`); at lambda 0 it is only logged.

    The key encoder starts as a copy of the encoder and averages its parameters. As in MoCo, it keeps its own BatchNorm
    statistics.
    """

    def setup(self) -> None:
        self.key_encoder = copy.deepcopy(self.encoder).requires_grad_(False)
        self.queue = KeyQueue(self.config.queue_size, self.latent_dim)

    def loss(self, turn: str, x: Tensor, noise: Tensor | None = None) -> StepLoss:
        """Eq. 5 on images B C H W. The parts of the loss against the queue are logged, whichever form is trained."""
        with self.nets():
            q = self.encoder(x)  # B d
            x_hat = self.decoder(q)  # B C H W
            with torch.no_grad():
                k = self.key_encoder(x)  # B d
        reconstruction = losses.reconstruction(x_hat, x)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.config.weight > 0):
            parts = losses.contrast(q, k, self.queue.keys, self.config.temperature)
            info_nce, decoupled = losses.info_nce_of(parts), losses.decoupled_of(parts).mean()
            forms = {"info_nce": info_nce.mean(), "decoupled": decoupled, "negative": parts.negative.mean()}
            if self.config.form == "eq6_literal":
                forms["eq6_literal"] = losses.eq6(q, k, self.queue.with_newest(k), self.config.temperature)
        contrastive = forms[self.config.form]
        total = reconstruction + self.config.weight * contrastive
        terms = {
            "loss": total,
            "reconstruction": reconstruction,
            "contrastive": contrastive,
            "negative": forms["negative"],
            "eq6": decoupled,  # the name in committed records
            "positive_probability": torch.exp(-info_nce).mean(),  # softmax probability of the positive
            "alignment": (parts.positive * self.config.temperature).mean(),  # q . k
        }
        return step_loss(total, terms, queue=k)

    def after(self, turn: str, out: StepLoss, progress: Tensor) -> None:
        m = momentum_schedule(self.config.momentum, progress, 1.0)
        ema_update_(self.key_encoder, self.encoder, m)
        self.queue.push(out.keys["queue"])
        out.terms["momentum"] = m
