"""DC-VAE: reconstructions are contrasted with images, and a critic judges samples (Parmar et al., CVPR 2021).

Follows its code (mlpc-ucsd/DC-VAE, commit 75c109c) where that and the paper differ. In the paper the discriminator
would work against the contrast too (Eq. 9), while its Theorem 1 needs one that works for it, as in the code. B batch,
C H W image, d latent.
"""

import copy
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mocalib.methods import losses
from mocalib.methods.base import Group, StepLoss, Turn, step_loss
from mocalib.methods.queue import KeyQueue, ema_update_
from mocalib.methods.vae import Variational, drawn
from mocalib.models.autogan import Discriminator
from mocalib.models.layers import at_least_float32

BETAS = (0.0, 0.9)  # Adam's, in its code
STATISTICS = ("running_mean", "running_var")  # of BatchNorm


class DCVAE(Variational):
    """Turns: the discriminator's; the generator's, against it; and the instance's, which ties an image to its
    reconstruction by pixels, by features of the discriminator, or by contrast in several of its layers.

    Without an adversary only the last is taken, at every step. Keys are of images, queries of reconstructions. The
    decoder's average decodes, that of its BatchNorm statistics included.
    """

    def setup(self) -> None:
        c, d = self.config, self.latent_dim
        self.contrasts, self.hinge = c.instance == "contrast", c.critic == "hinge"
        # Draws of posterior and prior, for the discriminator and the generator; of the posterior; a place.
        self.parts = [*([d, d, d, 2 * d] if c.adversarial else []), d, *([1] if c.local else [])]
        self.noise = sum(self.parts)
        self.averaged = copy.deepcopy(self.decoder).requires_grad_(False)
        if c.adversarial or self.contrasts:
            channels, size, _ = self.image_shape
            layers = c.layers if self.contrasts else ()
            self.discriminator = Discriminator(channels, size, self.width, layers, c.adversarial)
        if self.contrasts:
            self.key_discriminator = copy.deepcopy(self.discriminator).requires_grad_(False)
            sizes = dict.fromkeys([*self.discriminator.heads, "final"], (c.queue_size, c.embedding))
            sizes |= {"local": (c.local_queue, 2 * self.width)} if c.local else {}
            self.queues = nn.ModuleDict({name: KeyQueue(*size) for name, size in sizes.items()})
        self.turns = tuple(self._turns())

    def _turns(self) -> Iterator[Turn]:
        c, nets = self.config, ("encoder", "decoder")
        every, start = c.every if c.adversarial else 1, c.local_start if c.local else 1.0
        updates = tuple(name for name in self.groups() if name != "critic") if self.contrasts else nets
        if c.adversarial:
            yield from (Turn("discriminator", ("trunk", "critic")), Turn("generator", nets, every))
        if start:
            yield Turn("instance", updates, every, stop=start)
        if c.local:
            yield Turn("instance_patch", updates, every, start=start)

    def groups(self) -> dict[str, Group]:
        nets = {"encoder": [self.encoder], "decoder": [self.decoder]}
        if seen := getattr(self, "discriminator", None):
            nets |= {"trunk": [seen.blocks, seen.final], "critic": [seen.critic], "heads": [seen.heads]}
        found = {name: [p for net in filter(None, parts) for p in net.parameters()] for name, parts in nets.items()}
        return {name: Group(parameters, 1.0, BETAS) for name, parameters in found.items() if parameters}

    def loss(self, turn: str, x: Tensor, noise: Tensor | None = None) -> StepLoss:
        """Loss of a turn on images B C H W; noise: B N, cut into `parts`."""
        parts = noise.split(self.parts, dim=1)
        if turn == "discriminator":
            return self._discriminator(x, *parts[:2])
        if turn == "generator":
            return self._generator(x, parts[2], parts[3].reshape(-1, self.latent_dim))
        eps, place = parts[-2:] if self.config.local else (parts[-1], None)
        return self._instance(x, eps, place if turn == "instance_patch" else None)

    def _discriminator(self, x: Tensor, eps: Tensor, z: Tensor) -> StepLoss:
        """The critic's loss on images, and on samples and reconstructions, which weigh a half each."""
        with self.nets():
            real = self.discriminator(x).logits  # B 1
            with torch.no_grad():
                sample = self.decoder(z)  # B C H W
            sampled = self.discriminator(sample).logits
            with torch.no_grad():
                x_hat, *_ = self._reconstructed(x, eps)
            reconstructed = self.discriminator(x_hat).logits
        loss = losses.critic(real, sampled, reconstructed, hinge=self.hinge)
        terms = {"critic": loss, "real": real.mean(), "sampled": sampled.mean(), "reconstructed": reconstructed.mean()}
        return step_loss(loss, terms)

    def _generator(self, x: Tensor, eps: Tensor, z: Tensor) -> StepLoss:
        """Samples, decoded from z 2B d, and reconstructions deceive the critic; with the KL divergence."""
        with self.nets():
            sampled = self.discriminator(self.decoder(z)).logits  # 2B 1
            x_hat, *posterior = self._reconstructed(x, eps)
            reconstructed = self.discriminator(x_hat).logits  # B 1
        deceived = losses.deceived(sampled, reconstructed, hinge=self.hinge)
        total = deceived + self.config.kl_weight * losses.kl_divergence(*posterior)
        return step_loss(total, {"generator": total, "deceived": deceived})

    def _instance(self, x: Tensor, eps: Tensor, place: Tensor | None) -> StepLoss:
        """How far reconstructions are from their images, with the KL divergence."""
        with self.nets():
            x_hat, *posterior = self._reconstructed(x, eps)
            wanted, found = self._compared(x, x_hat, place)
        distance, more = self._contrast(found, wanted) if self.contrasts else (losses.reconstruction(found, wanted), {})
        kl = losses.kl_divergence(*posterior)
        total = distance + self.config.kl_weight * kl
        terms = {"loss": total, "reconstruction": losses.reconstruction(x_hat, x), "instance": distance, "kl": kl}
        # Untrained, a net with a sum pool may give variances of e^10 and more. Only the KL divergence brings them down.
        terms |= {"posterior_width": torch.exp(posterior[1] / 2).mean(), "largest_log_variance": posterior[1].amax()}
        return step_loss(total, terms | more, **(wanted if self.contrasts else {}))

    def _reconstructed(self, x: Tensor, eps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images B C H W decoded from draws of the posterior, with its mean and log-variance, B d each."""
        mean, log_variance = self.encoder(x).chunk(2, dim=1)
        return self.decoder(drawn(mean, log_variance, eps)), mean, log_variance

    def _compared(self, x: Tensor, x_hat: Tensor, place: Tensor | None) -> tuple:
        """What is compared of images and of reconstructions: pixels, maps, or unit vectors by layer."""
        if self.config.instance == "pixel":
            return x, x_hat
        if self.config.instance == "feature":
            with torch.no_grad():
                wanted = self.discriminator(x).maps[-1]
            return at_least_float32(wanted), at_least_float32(self.discriminator(x_hat).maps[-1])
        with torch.no_grad():
            keys = self._embedded(self.key_discriminator, x, place)
        return keys, self._embedded(self.discriminator, x_hat, place)

    def _embedded(self, net: Discriminator, x: Tensor, place: Tensor | None) -> dict[str, Tensor]:
        """The unit vectors of each contrasted layer, and of one place if it is given."""
        seen = net(x)
        found = net.embed(seen)
        if place is not None:
            found["local"] = at_place(at_least_float32(seen.maps[self.config.local - 1]), place)
        return found

    def _contrast(self, queries: dict[str, Tensor], keys: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Eq. 6 with a temperature, a mean over layers, plus that of a place; and what to log of the last layer."""
        tau, last = self.config.temperature, queries["final"]
        nce = {name: losses.info_nce(q, keys[name], self.queues[name].keys, tau) for name, q in queries.items()}
        local = {name: nce.pop(name) for name in ["local"] if name in nce}
        total = sum(nce.values()) / len(nce) + self.config.local_weight * sum(local.values())
        alignment = (last * keys["final"]).sum(dim=1).mean()  # cosine with the key
        far = last.mean(dim=0) @ self.queues["final"].keys.mean(dim=0)  # mean cosine with the queue's keys
        return total, {"final": nce["final"], "alignment": alignment, "negative_cosine": far, **local}

    def after(self, turn: str, out: StepLoss, progress: Tensor) -> None:
        """Average the key net before the next keys are made, the decoder after each of its cycles; push the keys."""
        last = turn.startswith("instance")
        if self.contrasts and (turn == "generator" if self.config.adversarial else last):
            ema_update_(self.key_discriminator, self.discriminator, self.config.momentum)
        for name, keys in out.keys.items():
            self.queues[name].push(keys)
        if last:
            ema_update_(self.averaged, self.decoder, self.config.averaging, STATISTICS)

    def decode(self, z: Tensor) -> Tensor:
        return self.averaged(z)


def at_place(maps: Tensor, noise: Tensor) -> Tensor:
    """The unit vectors B C at one place of maps B C h w; normal numbers B 1 choose it, each place as often."""
    maps = maps.flatten(2)  # B C places
    place = (torch.special.ndtr(noise) * maps.shape[2]).long().clamp_max(maps.shape[2] - 1)
    return F.normalize(maps.take_along_dim(place.unsqueeze(1), dim=2).squeeze(2), dim=1)
