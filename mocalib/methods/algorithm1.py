"""Algorithm 1 of the paper in plain PyTorch, line by line. Tests compare our training step with it.

It shares no code with that step, and says where the listing leaves something open. B batch, d latent, K keys.
"""

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import nn


class Settings(NamedTuple):
    """The numbers of the listing."""

    m0: float  # base momentum
    T: int  # total number of iterations
    lambda_: float
    tau: float
    lr: float = 1e-3


def algorithm1(
    nets: tuple[nn.Module, nn.Module, nn.Module],  # Enc_q, Enc_k, Dec
    Q: torch.Tensor,  # d K: dictionary as a queue of K randomly initialised keys
    data_loader: Iterable[torch.Tensor],
    settings: Settings,
) -> Iterator[dict[str, float]]:
    """Train in place; yield `L`, `L_rec` and `L_con` of each iteration.

    Enc_q and Enc_k end in L2 normalisation and start with equal parameters; the listing leaves the start open, and we
    follow MoCo. The optimizer is Adam with PyTorch's defaults and rate `lr` (section 5). m rises from m0 to 1 (section
    3).
    """
    (Enc_q, Enc_k, Dec), (m0, T, lambda_, tau, lr) = nets, settings
    optimizer = torch.optim.Adam([*Enc_q.parameters(), *Dec.parameters()], lr=lr)
    cross_entropy_loss = nn.CrossEntropyLoss()
    d, K = Q.shape
    for t, x in enumerate(data_loader):  # load a minibatch x with B samples
        B = x.shape[0]
        z_q = Enc_q(x)  # queries: Bxd
        z_k = Enc_k(x).detach()  # keys: Bxd, no gradient through keys
        x_rec = Dec(z_q)  # reconstructed input
        # positive logits: Bx1
        l_pos = torch.bmm(z_q.view(B, 1, d), z_k.view(B, d, 1)).view(B, 1)
        # negative logits: BxK
        l_neg = torch.mm(z_q.view(B, d), Q.view(d, K))
        # logits: Bx(1 + K)
        logits = torch.cat([l_pos, l_neg], dim=1)
        # compute loss
        labels = torch.zeros(B, dtype=torch.long, device=x.device)  # positive elements are in the 0-th index
        L_con = cross_entropy_loss(logits / tau, labels)  # contrastive loss maximizing entropy of z_q
        L_rec = ((x_rec - x) ** 2).sum() / B  # reconstruction loss
        L = L_rec + lambda_ * L_con  # momentum contrastive autoencoder loss
        # update Enc_q and Dec networks
        optimizer.zero_grad()
        L.backward()
        optimizer.step()
        # update Enc_k
        m = 1 - (1 - m0) * (math.cos(math.pi * t / T) + 1) / 2
        with torch.no_grad():
            for p_k, p_q in zip(Enc_k.parameters(), Enc_q.parameters()):
                p_k.copy_(m * p_k + (1 - m) * p_q)
        # update dictionary
        Q = torch.cat([Q, z_k.T], dim=1)  # enqueue the current minibatch
        Q = Q[:, -K:].contiguous()  # dequeue the earliest minibatch
        yield {"L": L.item(), "L_rec": L_rec.item(), "L_con": L_con.item()}
