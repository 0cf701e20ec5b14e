"""DC-VAE's official training loop on plain tensors, line by line. Tests compare our training with it.

It shares no code with the library. A net is a dict from a layer's name to its tensors: `weight`, `bias` where it has
one, and `u`, `v` where its weight is divided by its largest singular value. E encoder, G decoder, D discriminator, M
the key net, a slow average of D. B batch, C S S image in [0, 1], d latent, K keys.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Net = dict[str, dict[str, Tensor]]


class Settings(NamedTuple):
    """The numbers of the loop."""

    every: int  # steps of the discriminator for one of the autoencoder
    kl_weight: float  # of the mean over images
    tau: float
    m: float  # of the key net
    averaging: float  # of the averaged decoder
    layers: tuple[int, ...]  # blocks that are contrasted beside the last layer
    lr: float


# ------------------------------------------------------------------------------------------------------------- nets


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def spectrally_normed(layer: dict[str, Tensor]) -> Tensor:
    """The weight divided by an estimate of its largest singular value, better by one power iteration each time."""
    W = layer["weight"].flatten(1)  # a row for each output
    with torch.no_grad():
        layer["u"] = unit(W @ layer["v"])
        layer["v"] = unit(W.T @ layer["u"])
    return layer["weight"] / (layer["u"] @ W @ layer["v"])


def conv(layer: dict[str, Tensor], x: Tensor) -> Tensor:
    """A convolution that keeps the side."""
    weight = spectrally_normed(layer) if "u" in layer else layer["weight"]
    return F.conv2d(x, weight, layer["bias"], padding=weight.shape[-1] // 2)


def linear(layer: dict[str, Tensor], x: Tensor) -> Tensor:
    weight = spectrally_normed(layer) if "u" in layer else layer["weight"]
    return F.linear(x, weight, layer.get("bias"))


def trunk(net: Net, x: Tensor) -> tuple[list[Tensor], Tensor]:
    """The maps after each of the four blocks, and the sum over all places of the last: what E and D begin with."""
    h = 2 * x - 1
    maps = []
    for block in ("block1", "block2", "block3", "block4"):
        r = h if block == "block1" else F.relu(h)  # pixels are not rectified
        r = conv(net[f"{block}.conv2"], F.relu(conv(net[f"{block}.conv1"], r)))
        if block in ("block1", "block2"):
            r = F.avg_pool2d(r, 2)
            h = conv(net[f"{block}.shortcut"], F.avg_pool2d(h, 2))
        h = h + r
        maps.append(h)
    return maps, F.relu(h).sum(dim=(2, 3))


def encode(E: Net, x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and logarithm of the variance, B d each."""
    return linear(E["final"], trunk(E, x)[1]).chunk(2, dim=1)


def discriminate(D: Net, x: Tensor, layers: tuple[int, ...]) -> tuple[dict[str, Tensor], Tensor]:
    """The embeddings that are contrasted, B 16 each, and the critic's logit, linear in the last of them."""
    maps, h = trunk(D, x)
    embeddings = {"final": linear(D["final"], h)}
    for block in layers:
        at_each_place = conv(D[f"head{block}.conv"], maps[block - 1])  # B 1 H W
        embeddings[str(block)] = linear(D[f"head{block}.linear"], at_each_place.flatten(1))
    return embeddings, linear(D["critic"], embeddings["final"])


def generate(G: Net, z: Tensor) -> Tensor:
    """Latents B d to images B C S S."""
    h = linear(G["first"], z)
    gf = len(G["cell1.conv1"]["weight"])
    side = round((h.shape[1] / gf) ** 0.5)
    h = h.view(len(z), gf, side, side)
    skips = []
    for cell, mode in (("cell1", "nearest"), ("cell2", "bilinear"), ("cell3", "nearest")):
        side = 2 * side
        s = conv(G[f"{cell}.conv1"], F.interpolate(F.relu(h), size=(side, side), mode=mode))
        for i, skip in enumerate(skips):
            s = s + conv(G[f"{cell}.skip{i}"], F.interpolate(skip, size=(side, side), mode=mode))
        skips.append(s)  # the sum, not the convolution alone
        r = conv(G[f"{cell}.conv2"], F.relu(s))
        if cell != "cell3":
            r = r + conv(G[f"{cell}.shortcut"], F.interpolate(h, size=(side, side), mode=mode))
        h = r
    h = F.relu(batch_norm(G["norm"], h))
    return (torch.tanh(conv(G["to_rgb"], h)) + 1) / 2


def batch_norm(layer: dict[str, Tensor], h: Tensor) -> Tensor:
    """BatchNorm in training; it keeps running statistics for later."""
    mean, variance = h.mean(dim=(0, 2, 3)), h.var(dim=(0, 2, 3), unbiased=False)
    n = h.numel() / h.shape[1]
    with torch.no_grad():
        layer["running_mean"] = 0.9 * layer["running_mean"] + 0.1 * mean
        layer["running_var"] = 0.9 * layer["running_var"] + 0.1 * variance * n / (n - 1)
    scale, shift = layer["weight"] / torch.sqrt(variance + 1e-5), layer["bias"]
    return (h - mean[:, None, None]) * scale[:, None, None] + shift[:, None, None]


# ------------------------------------------------------------------------------------------------------------ losses


def kl(m: Tensor, v: Tensor) -> Tensor:
    """From N(m, e^v) to N(0, I): a sum over the latent, a mean over images."""
    return 0.5 * (m**2 + v.exp() - v - 1).sum(dim=1).mean()


def instance_loss(q: Tensor, k: Tensor, queue: Tensor, tau: float) -> Tensor:
    """Cross-entropy of k among itself and the queue's keys."""
    logits = torch.cat([(q * k).sum(dim=1, keepdim=True), q @ queue.T], dim=1) / tau  # B (1 + K)
    return F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.long))


# ---------------------------------------------------------------------------------------------------------- the loop


def parameters(*nets: Net) -> list[Tensor]:
    """What Adam trains."""
    return [layer[name] for net in nets for layer in net.values() for name in ("weight", "bias") if name in layer]


@torch.no_grad()
def average(target: Net, source: Net, m: float, names: tuple[str, ...]) -> None:
    """target <- m target + (1 - m) source."""
    for layer in target:
        for name in names:
            if name in target[layer]:
                target[layer][name] = m * target[layer][name] + (1 - m) * source[layer][name]


def part(net: Net, *beginnings: str) -> Net:
    return {name: layer for name, layer in net.items() if name.startswith(beginnings)}


def dcvae(
    nets: dict[str, Net],  # "E", "G", "D", "M", and "A": G averaged
    queues: dict[str, Tensor],  # layer -> K 16, the oldest key first
    batches: Iterable[tuple[Tensor, Tensor]],  # images B C S S and normal numbers B 6d
    settings: Settings,
) -> Iterator[dict[str, float]]:
    """Train nets and queues in place; yield the losses of each step. M begins as D, and A as G."""
    E, G, D, M, A = (nets[name] for name in "EGDMA")
    every, kl_weight, tau, m, averaging, layers, lr = settings
    groups = {
        "encoder": parameters(E),
        "decoder": parameters(G),
        "trunk": parameters(part(D, "block", "final")),
        "critic": parameters(part(D, "critic")),
        "heads": parameters(part(D, "head")),
    }
    adam = {name: torch.optim.Adam(group, lr=lr, betas=(0.0, 0.9)) for name, group in groups.items()}

    def update(loss: Tensor, *names: str) -> float:
        for optimizer in adam.values():
            optimizer.zero_grad()
        loss.backward()
        for name in names:
            adam[name].step()
        return loss.item()

    def reconstruct(x: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = encode(E, x)
        return generate(G, mean + torch.exp(log_variance / 2) * eps), kl(mean, log_variance)

    for t, (x, noise) in enumerate(batches):  # a minibatch x of B images
        d = noise.shape[1] // 6
        eps_D, z_D, eps_G, z_G, eps_I = noise.split([d, d, d, 2 * d, d], dim=1)
        z_G = z_G.reshape(2 * len(x), d)  # two draws for each image
        losses = {}

        # the discriminator: images against samples and reconstructions, which weigh half each
        real = discriminate(D, x, layers)[1]
        fake = discriminate(D, generate(G, z_D), layers)[1]
        rec = discriminate(D, reconstruct(x, eps_D)[0], layers)[1]
        loss = F.relu(1 - real).mean() + 0.5 * F.relu(1 + fake).mean() + 0.5 * F.relu(1 + rec).mean()
        losses["discriminator"] = update(loss, "trunk", "critic")

        if t % every == 0:
            # the autoencoder against the discriminator
            fake = discriminate(D, generate(G, z_G), layers)[1]
            x_rec, divergence = reconstruct(x, eps_G)
            rec = discriminate(D, x_rec, layers)[1]
            loss = -0.5 * fake.mean() - 0.5 * rec.mean() + kl_weight * divergence
            losses["generator"] = update(loss, "encoder", "decoder")

            # each reconstruction must be told from other images as its own; here D helps
            x_rec, divergence = reconstruct(x, eps_I)
            average(M, D, m, ("weight", "bias"))  # u and v of M are its own
            with torch.no_grad():  # no gradient through keys
                keys = {layer: unit(e) for layer, e in discriminate(M, x, layers)[0].items()}
            queries = {layer: unit(e) for layer, e in discriminate(D, x_rec, layers)[0].items()}
            contrast = sum(instance_loss(queries[layer], keys[layer], queues[layer], tau) for layer in keys) / len(keys)
            loss = contrast + kl_weight * divergence
            losses["instance"] = update(loss, "encoder", "decoder", "trunk", "heads")
            for layer, k in keys.items():  # enqueue these keys, dequeue the oldest
                queues[layer] = torch.cat([queues[layer], k])[-len(queues[layer]) :]
            average(A, G, averaging, ("weight", "bias", "running_mean", "running_var"))
        yield losses
