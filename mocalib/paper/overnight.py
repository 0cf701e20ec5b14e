"""Real images on two CPU cores: faces and CIFAR-10 at 32x32, and nets of width 16 in bfloat16.

`make overnight` runs the grid, faces first. With `width` 64 it is a grid for a GPU.
"""

from dataclasses import replace

from mocalib.config.methods import MoCA
from mocalib.config.run import RunConfig
from mocalib.paper import baselines, dcvae, ingredients
from mocalib.paper.scale import A1, A2, CELEBA, CIFAR, Scale, vary

# The paper's K/N and batch size. 20 epochs are 2,500 steps on faces, and 10 are 7,810 on CIFAR-10. The key encoder's
# horizon is .04 and .013 of them (the paper: .013). A2 of this width pools 128 features, which bound the rank of 32
# latents only from afar.
# Tried on seed 100 of faces, fd of 5,000 samples: at temperature .1 in `baselines.TRIED_FACES`; at 1 lambda 30, 100,
# 300, 1,000: 455, 449, 420, 518, and 429 for lambda 300 at half the learning rate.
BEST = {0.1: 10.0, 1.0: 300.0}  # temperature -> lambda
_FACES = RunConfig(
    dataset="faces10k",
    size=32,
    width=16,
    blocks=1,
    latent_dim=32,
    epochs=20,
    learning_rate=2.0e-3,
    decay_every=12,
    precision="bfloat16",
    objective=MoCA(temperature=0.1, momentum=0.99, queue_size=2_600, weight=BEST[0.1]),
)
_FACES_A1 = vary(replace(_FACES, model="a1", blocks=2), weight=30.0)
_CIFAR = vary(replace(_FACES, dataset="cifar10-jpeg", epochs=10, decay_every=6), queue_size=30_000, weight=3.0)
_SECTION_5 = vary(_FACES, temperature=1.0, weight=BEST[1.0])
_HQ = replace(_SECTION_5, model="hq", blocks=2, size=64, epochs=40, decay_every=4, decay_until=16, keep_epochs=(34,))
_CIFAR_BASELINES = baselines.runs(_CIFAR, baselines.SMALL_CIFAR10, (1, 2, 4, 6, 7, 8, 9))
_WEIGHTS, _NEAR_BEST = (3.0, 30.0, 300.0), (3.0, 10.0, 30.0)  # across temperatures; at temperature .1
_AROUND = (30.0, 300.0, 3_000.0)  # the best at temperature 1
_VARIANTS = dict.fromkeys(("Algorithm 1", "decoupled", "no positive", "no momentum"), _NEAR_BEST)

OVERNIGHT = Scale(
    seeds=range(10, 13),
    seeds_of=dict.fromkeys(("figure1", "figure6", "figure7", "figure8"), range(1)),
    n_generated=5_000,
    features="imagenet",
    jobs=0,
    table1={
        (CIFAR, A1): replace(_CIFAR, model="a1", blocks=2),  # A2's lambda: none was tried on A1
        (CIFAR, A2): _CIFAR,
        (CELEBA, A1): _FACES_A1,
        (CELEBA, A2): _FACES,
    },
    row=A2,
    baselines={CIFAR: _CIFAR_BASELINES, CELEBA: baselines.runs(_FACES, baselines.SMALL_FACES)},
    tried={CIFAR: baselines.TRIED_CIFAR10, CELEBA: baselines.TRIED_FACES},
    quickstart=_FACES,
    convergence=baselines.compared(_CIFAR, _CIFAR_BASELINES),
    ingredients=ingredients.runs(_FACES, _VARIANTS),
    best_ingredients=dict.fromkeys(_VARIANTS, BEST[0.1]),
    ablation=_SECTION_5,
    stop_at=70.0,  # twice the final loss, as the paper's 50
    dimensions=dict.fromkeys((8, 16, 32), _AROUND),
    fixed_dimensions=dict.fromkeys((8, 16, 32), _AROUND),
    sized=_SECTION_5,
    sizes=dict.fromkeys((16, 32, 64), _AROUND),
    momenta=(0.0, 0.9, 0.99),
    tempered=_SECTION_5,
    temperatures={0.1: (*_NEAR_BEST, 300.0), 0.3: _WEIGHTS, 1.0: _WEIGHTS},
    best_weights=BEST,
    queued=(_FACES, _SECTION_5),
    queue_sizes=(16, 300, 2_600),
    weighed=_FACES,
    weights=(0.0, *_NEAR_BEST, 300.0),
    a1_dimensions=tuple(replace(_FACES_A1, latent_dim=d) for d in (16, 32)),
    hq=_HQ,
    throughput=(_FACES, _FACES_A1, _HQ),
    dcvae=dcvae.OVERNIGHT,
    partial=True,
)
