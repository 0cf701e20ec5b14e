"""DC-VAE and its nets: against a listing of the official training loop, closed forms, and doubles written by hand."""

import math

import dcvae_listing as listing
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import says, unit_vectors
from scipy import stats
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from mocalib import RunConfig, methods
from mocalib.config.methods import DCVAE, VAE
from mocalib.evaluation.metrics import uniform_negative
from mocalib.methods import losses
from mocalib.methods.dcvae import at_place
from mocalib.models import autogan
from mocalib.training.step import Trainer

CPU, B = torch.device("cpu"), 4
SMALL = {"queue_size": 10, "momentum": 0.9, "averaging": 0.8, "kl_weight": 0.01, "temperature": 0.2}  # 10: it wraps
PATCH = {"local": 1, "local_start": 0.0, "local_queue": 7}


@pytest.fixture(autouse=True)
def _seed():
    """Nets that are built without a run start the same each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def built(objective, shape=(1, 8, 8), model="autogan", width=2, latent_dim=4):
    """The objective in float64."""
    config = RunConfig(
        model=model, width=width, latent_dim=latent_dim, blocks=1 if model == "a2" else 2, precision="float64",
        objective=objective,
    )  # fmt: skip
    return methods.build(config, shape).train()


def contrast(**changes):
    return DCVAE(**SMALL | changes)


def images(step=0, shape=(1, 8, 8), n=B):
    return torch.rand(n, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(step))


def numbers(objective, n=B, seed=1):
    """Noise of a step, n N."""
    return torch.randn(n, objective.noise, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def near(one, other, tolerance=1e-9):
    return torch.allclose(one, other, rtol=tolerance, atol=tolerance)


# --------------------------------------------------------------------------------- the listing's names for our layers


def tensors(module):
    """A layer's tensors by the listing's names, copied; of a module with resampling, those of its only layer."""
    [layer] = [m for m in module.modules() if isinstance(m, (nn.Conv2d, nn.Linear, nn.BatchNorm2d))]
    short = {"parametrizations.weight.original": "weight", "parametrizations.weight.0._u": "u"}
    short |= {"parametrizations.weight.0._v": "v"}
    return {short.get(name, name): value.clone() for name, value in layer.state_dict().items() if value.ndim}


def trunk_of(net):
    blocks = [module for module in net.modules() if hasattr(module, "conv1")]
    assert len(blocks) == 4
    layers = {}
    for i, block in enumerate(blocks, start=1):
        layers |= {f"block{i}.conv1": tensors(block.conv1), f"block{i}.conv2": tensors(block.conv2)}
        if i <= 2:
            layers[f"block{i}.shortcut"] = tensors(block.shortcut)
    return layers


def encoder_of(net):
    return trunk_of(net) | {"final": tensors([m for m in net.modules() if isinstance(m, nn.Linear)][-1])}


def discriminator_of(net):
    layers = trunk_of(net.blocks) | {"final": tensors(net.final)}
    if net.critic is not None:
        layers["critic"] = tensors(net.critic)
    for block, (conv, _, linear) in net.heads.items():
        layers |= {f"head{block}.conv": tensors(conv), f"head{block}.linear": tensors(linear)}
    return layers


def decoder_of(net):
    layers = {"first": tensors(net.first), "norm": tensors(net.to_rgb[0])}
    layers["to_rgb"] = tensors(next(m for m in net.to_rgb.modules() if isinstance(m, nn.Conv2d)))
    for i, cell in enumerate(net.cells, start=1):
        layers |= {f"cell{i}.conv1": tensors(cell.conv1), f"cell{i}.conv2": tensors(cell.conv2)}
        layers |= {f"cell{i}.skip{j}": tensors(skip) for j, skip in enumerate(cell.skips)}
        if cell.shortcut is not None:
            layers[f"cell{i}.shortcut"] = tensors(cell.shortcut)
    return layers


def nets_of(objective):
    nets = {"E": encoder_of(objective.encoder), "G": decoder_of(objective.decoder)}
    nets |= {"D": discriminator_of(objective.discriminator), "M": discriminator_of(objective.key_discriminator)}
    nets["A"] = decoder_of(objective.averaged)
    for tensor in listing.parameters(nets["E"], nets["G"], nets["D"]):
        tensor.requires_grad_()
    return nets


def queues_of(objective):
    """The keys of each layer, the oldest first."""
    return {name: torch.roll(q.keys, -int(q.head), dims=0) for name, q in objective.queues.items()}


# -------------------------------------------------------------------------------------------------- the training loop


# BatchNorm subtracts this bias: its gradient is rounding noise, which Adam scales up.
SHIFTS = (("cell3.conv2", "bias"), ("norm", "running_mean"))


@pytest.mark.parametrize(
    ("shape", "width", "every", "layers"),
    [((1, 8, 8), 2, 5, (1,)), ((1, 16, 16), 2, 2, (1, 2)), ((3, 24, 24), 3, 5, (1,))],
)
def test_eleven_float64_steps_equal_the_official_loop(shape, width, every, layers):
    """All weights and singular vectors, queues, the key net, and the averaged decoder with its statistics."""
    settings = contrast(every=every, layers=layers)
    objective = built(settings, shape, width=width)
    trainer = Trainer(objective, 11, CPU, seed=3)
    batches = [(x, trainer.noise(step, x)) for step, x in enumerate(images(step, shape) for step in range(11))]
    nets, queues = nets_of(objective), queues_of(objective)
    loop = listing.Settings(every, 0.01, tau=0.2, m=0.9, averaging=0.8, layers=layers, lr=2e-4)
    reference = listing.dcvae(nets, queues, batches, loop)
    lines = [dict(trainer.step(step, x, 2e-4)) for step, (x, _) in enumerate(batches)]
    expected = list(reference)  # trains its nets and queues
    for net, ours in nets_of(objective).items():
        assert ours.keys() == nets[net].keys()
        for layer, found in ours.items():
            for name, value in found.items():
                tolerance = 1e-6 if (layer, name) in SHIFTS else 1e-9
                assert near(value, nets[net][layer][name], tolerance), (net, layer, name)
    assert queues.keys() == {"final", *map(str, layers)}
    for layer, keys in queues_of(objective).items():
        assert near(keys, queues[layer]), layer
    for line, totals in zip(lines, expected, strict=True):  # the first term that a turn logs is its loss
        logged = {turn: next(iter(terms.values())).item() for turn, terms in line.items()}
        assert logged == pytest.approx(totals, rel=1e-9)


def test_without_an_adversary_keys_come_from_the_same_average_of_the_discriminator():
    objective = built(contrast(adversarial=False))
    trainer = Trainer(objective, 4, CPU)
    M = discriminator_of(objective.key_discriminator)
    for step in range(4):
        listing.average(M, discriminator_of(objective.discriminator), 0.9, ("weight", "bias"))
        maps, h = listing.trunk(M, images(step))
        places = listing.conv(M["head1.conv"], maps[0]).flatten(1)
        keys = [listing.linear(M["final"], h), listing.linear(M["head1.linear"], places)]
        assert [name for name, _ in trainer.step(step, images(step), 0.01)] == ["instance"]
        for name, expected in zip(("final", "1"), keys):
            assert near(queues_of(objective)[name][-B:], listing.unit(expected))


def test_turns_come_in_the_official_order_and_the_queue_takes_keys_at_every_fifth_step_only():
    objective = built(contrast())
    trainer, taken = Trainer(objective, 23, CPU), []
    for step in range(23):
        before = queues_of(objective)
        taken.append([name for name, _ in trainer.step(step, images(step), 1e-4)])
        for name, keys in queues_of(objective).items():
            pushed = 0 if step % 5 else B
            assert torch.equal(keys[: 10 - pushed], before[name][pushed:])
            assert near(keys.norm(dim=1), torch.ones(10, dtype=torch.float64), 1e-6)
    cycle = [["discriminator", "generator", "instance"], *4 * [["discriminator"]]]
    assert taken == (5 * cycle)[:23]


@pytest.mark.parametrize("stop", [6, 8])
def test_a_run_that_stops_within_a_cycle_goes_on_bit_for_bit(stop):
    settings = contrast(**PATCH | {"local_start": 0.5})
    whole, first, second = (Trainer(built(settings), 12, CPU) for _ in range(3))
    for step in range(12):
        whole.step(step, images(step), 1e-3)
    for step in range(stop):
        first.step(step, images(step), 1e-3)
    second.load(first.state())
    for step in range(stop, 12):
        second.step(step, images(step), 1e-3)
    one, other = (trainer.objective.state_dict() for trainer in (whole, second))
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def parts(objective):
    """Copies of all parameters, by the part of the method that they belong to."""
    found = {"encoder": objective.encoder, "decoder": objective.decoder, "averaged": objective.averaged}
    if (D := getattr(objective, "discriminator", None)) is not None:
        found |= {"trunk": nn.ModuleList([*D.blocks, D.final]), "heads": D.heads}
        found |= {"critic": D.critic} if D.critic is not None else {}
    if hasattr(objective, "key_discriminator"):
        found["key"] = objective.key_discriminator
    return {name: [p.clone() for p in net.parameters()] for name, net in found.items()}


AUTOENCODER, JUDGE = {"encoder", "decoder"}, {"discriminator": {"trunk", "critic"}}
ROUTES = [  # settings, and what each turn may change
    (contrast(), JUDGE | {"generator": AUTOENCODER, "instance": AUTOENCODER | {"trunk", "heads", "key", "averaged"}}),
    (contrast(adversarial=False), {"instance": AUTOENCODER | {"trunk", "heads", "key", "averaged"}}),
    (contrast(layers=()), JUDGE | {"generator": AUTOENCODER, "instance": AUTOENCODER | {"trunk", "key", "averaged"}}),
    (contrast(instance="feature"), JUDGE | {"generator": AUTOENCODER, "instance": AUTOENCODER | {"averaged"}}),
    (contrast(instance="pixel"), JUDGE | {"generator": AUTOENCODER, "instance": AUTOENCODER | {"averaged"}}),
    (contrast(instance="pixel", adversarial=False), {"instance": AUTOENCODER | {"averaged"}}),
    (
        contrast(**PATCH),
        JUDGE | {"generator": AUTOENCODER, "instance_patch": AUTOENCODER | {"trunk", "heads", "key", "averaged"}},
    ),
]


@pytest.mark.parametrize(
    ("settings", "routes"), ROUTES, ids=[f"{settings.layers}, {settings}" for settings, _ in ROUTES]
)
def test_a_turn_changes_its_own_parts_and_not_a_bit_of_the_others(settings, routes):
    objective = built(settings, (1, 16, 16))
    trainer = Trainer(objective, 10, CPU)
    x = images(shape=(1, 16, 16))
    trainer.step(0, x, 1e-3)  # from now on averages differ from what they follow
    key_moved = set()
    for turn, allowed in routes.items():
        before = parts(objective)
        trainer.turns[turn](x, numbers(objective))
        after = parts(objective)
        moved = {name for name in after if any(not torch.equal(*p) for p in zip(before[name], after[name]))}
        if turn != "discriminator":  # the key net follows D, which a generator's turn leaves as it is
            key_moved, moved, allowed = key_moved | moved & {"key"}, moved - {"key"}, allowed - {"key"}
        assert moved == allowed
        for name in moved:
            assert not any(torch.equal(*p) for p in zip(before[name], after[name]) if p[0].ndim > 1), name
    assert key_moved == ({"key"} if settings.instance == "contrast" else set())


def test_no_gradient_flows_through_keys():
    objective = built(contrast(**PATCH))
    objective.loss("instance_patch", images(), numbers(objective)).total.backward()
    assert all(p.grad is None for p in [*objective.key_discriminator.parameters(), *objective.averaged.parameters()])


def averaging_state(net):
    """Parameters and statistics, without BatchNorm's counter."""
    return [value.clone() for value in net.state_dict().values() if value.is_floating_point()]


@pytest.mark.parametrize("settings", [contrast(every=2), contrast(instance="pixel", adversarial=False)], ids=str)
def test_the_averaged_decoder_is_the_closed_sum_of_all_decoders(settings):
    """(1 - a) sum_i a^(n - i) G_i + a^n G_0, i of all n instance turns, and its statistics too."""
    objective = built(settings)
    trainer, seen = Trainer(objective, 10, CPU), [averaging_state(objective.decoder)]
    for step in range(10):
        if "instance" in dict(trainer.step(step, images(step), 1e-3)):
            seen.append(averaging_state(objective.decoder))
    n = len(seen) - 1
    assert n == (5 if settings.adversarial else 10)
    weights = [0.8**n, *(0.2 * 0.8 ** (n - i) for i in range(1, n + 1))]
    for i, ours in enumerate(averaging_state(objective.averaged)):
        assert near(ours, sum(w * state[i] for w, state in zip(weights, seen)), 1e-12)


def test_statistics_of_the_averaged_decoder_fit_its_own_maps():
    """On 512 codes, drawn as in training, it gives nearly the same images with their statistics and with its own."""
    objective = built(contrast(every=1), (1, 16, 16), width=4, latent_dim=8)
    trainer = Trainer(objective, 40, CPU)
    for step in range(40):
        trainer.step(step, images(step, (1, 16, 16), 16), 1e-3)
    objective.eval()
    with torch.no_grad():
        mean, log_variance = objective.encoder(images(99, (1, 16, 16), 256)).chunk(2, dim=1)
        prior, eps = torch.randn(2, 256, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        codes = torch.cat([prior, mean + torch.exp(log_variance / 2) * eps])
        kept = objective.decode(codes)
        own = objective.averaged.train()(codes)
        objective.averaged.to_rgb[0].reset_running_stats()
        none = objective.averaged.eval()(codes)
    assert (kept - own).abs().mean() < 0.05
    assert (none - own).abs().mean() > 0.1


def test_decode_is_the_averaged_decoder_and_encode_the_mean():
    objective = built(contrast()).eval()
    with torch.no_grad():
        objective.averaged.to_rgb[0].bias.add_(1.0)
    z = unit_vectors(3, 4)
    assert torch.equal(objective.decode(z), objective.averaged(z))
    assert not torch.equal(objective.decode(z), objective.decoder(z))
    mean, log_variance = objective.encoder(images()).chunk(2, dim=1)
    assert torch.equal(objective.encode(images()), mean)
    assert mean.shape == log_variance.shape == (B, 4)
    drawn = objective.prior(5_000, torch.Generator().manual_seed(0))
    assert stats.kstest(drawn.flatten(), "norm").pvalue > 0.01


# -------------------------------------------------------------------------------------------------------------- losses

LOGITS = torch.tensor([-2.0, -1.5, -0.3, 0.0, 0.4, 0.9, 1.7, 3.0], dtype=torch.float64)[:, None]


@pytest.mark.parametrize("c", [-2.0, -0.5, 0.0, 0.5, 2.0])
def test_hinge_of_a_constant_critic_is_two_ramps(c):
    same = torch.full((6, 1), c, dtype=torch.float64)
    assert losses.critic(same, same, hinge=True).item() == pytest.approx(max(0, 1 - c) + max(0, 1 + c))
    assert losses.deceived(same, hinge=True).item() == pytest.approx(-c)


PIECES = {  # hinge -> loss of a real and of a fake logit, and what a fake costs the autoencoder, in plain numbers
    True: (lambda a: max(0.0, 1 - a), lambda a: max(0.0, 1 + a), lambda a: -a),
    False: (lambda a: math.log1p(math.exp(-a)), lambda a: math.log1p(math.exp(a)), lambda a: math.log1p(math.exp(-a))),
}


@pytest.mark.parametrize("hinge", PIECES)
def test_each_set_of_fakes_weighs_the_same_and_all_together_as_much_as_the_real_images(hinge):
    """Against loops, with sets of unequal size: a mean of means, not of the concatenation."""
    real, one, two = LOGITS, LOGITS[:3] + 0.25, LOGITS[2:7] - 0.5
    of_real, of_fake, fooled = PIECES[hinge]

    def mean(f, logits):
        return np.mean([f(a) for a in logits.flatten().tolist()])

    expected = mean(of_real, real) + 0.5 * mean(of_fake, one) + 0.5 * mean(of_fake, two)
    assert losses.critic(real, one, two, hinge=hinge).item() == pytest.approx(expected, rel=1e-12)
    expected = 0.5 * mean(fooled, one) + 0.5 * mean(fooled, two)
    assert losses.deceived(one, two, hinge=hinge).item() == pytest.approx(expected, rel=1e-12)


def test_the_hinge_has_a_gradient_exactly_where_an_image_is_not_yet_told():
    real, fake = LOGITS.clone().requires_grad_(), LOGITS.clone().requires_grad_()
    losses.critic(real, fake, hinge=True).backward()
    assert torch.equal(real.grad, -(real < 1).double() / 8)
    assert torch.equal(fake.grad, (fake > -1).double() / 8)


def test_a_loss_of_equal_embeddings_is_the_log_of_their_number_and_others_keep_the_bounds():
    same = unit_vectors(1, 16)
    for K in (1, 10, 640):
        equal = losses.info_nce(same.expand(5, -1), same.expand(5, -1), same.expand(K, -1), 0.07)
        assert equal.item() == pytest.approx(math.log(1 + K), abs=1e-12)
        best = losses.info_nce(same, same, -same.expand(K, -1), 1.0)
        worst = losses.info_nce(same, -same, same.expand(K, -1), 1.0)
        assert best.item() == pytest.approx(math.log1p(K * math.exp(-2.0)), rel=1e-12)
        assert worst.item() == pytest.approx(math.log1p(K * math.exp(2.0)), rel=1e-12)


def test_aligned_and_uniform_embeddings_reach_the_closed_value():
    q, keys = unit_vectors(400, 16, 1), unit_vectors(8_192, 16, 2)
    expected = math.log1p(math.exp(uniform_negative(16, 0.07) + math.log(8_192) - 1 / 0.07))
    assert expected == pytest.approx(0.595, abs=1e-3)
    assert losses.info_nce(q, q, keys, 0.07).item() == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("turn", ["generator", "instance"])
def test_the_weight_of_the_kl_is_the_official_one_and_does_not_depend_on_the_batch(turn):
    """The official sum over a batch of 64, times 1e-6; torch's own divergence."""
    x, totals = images(n=64), []
    for weight in (6.4e-5, 0.0):
        objective = built(contrast(kl_weight=weight)).eval()
        noise = numbers(objective, 64)
        totals.append(objective.loss(turn, x, noise).total)
    mean, log_variance = objective.encoder(x).chunk(2, dim=1)
    posterior = torch.distributions.Normal(mean, torch.exp(log_variance / 2))
    kl = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(torch.zeros_like(mean), 1.0))
    assert (totals[0] - totals[1]).item() == pytest.approx(1e-6 * kl.sum().item(), rel=1e-6)
    twice = objective.loss(turn, x.repeat(2, 1, 1, 1), noise.repeat(2, 1)).total
    assert twice.item() == pytest.approx(totals[1].item(), rel=1e-9)


def pieces(objective, x, noise):
    """What the turns compare, by hand: logits of images, samples and reconstructions of each turn, and the KL."""
    d = 4
    mean, log_variance = objective.encoder(x).chunk(2, dim=1)
    kl = losses.kl_divergence(mean, log_variance)

    def rebuilt(a):
        return objective.decoder(mean + torch.exp(log_variance / 2) * noise[:, a : a + d])

    D = objective.discriminator
    return mean, kl, rebuilt, (lambda image: D(image).logits)


@pytest.mark.parametrize("critic", ["hinge", "logistic"])
@pytest.mark.parametrize("instance", ["contrast", "feature", "pixel"])
def test_the_adversarial_turns_are_their_equations(critic, instance):
    objective = built(contrast(critic=critic, instance=instance)).eval()
    x, noise, d, hinge = images(), numbers(objective), 4, critic == "hinge"
    assert noise.shape == (B, 6 * d)
    _, kl, rebuilt, logits = pieces(objective, x, noise)
    sample, rec = objective.decoder(noise[:, d : 2 * d]), rebuilt(0)
    samples = objective.decoder(noise[:, 3 * d : 5 * d].reshape(2 * B, d))
    of_real, of_fake, fooled = PIECES[hinge]

    def mean(f, image):
        return np.mean([f(a) for a in logits(image).flatten().tolist()])

    expected = mean(of_real, x) + 0.5 * mean(of_fake, sample) + 0.5 * mean(of_fake, rec)
    assert objective.loss("discriminator", x, noise).total.item() == pytest.approx(expected, rel=1e-9)
    expected = 0.5 * mean(fooled, samples) + 0.5 * mean(fooled, rebuilt(2 * d)) + 0.01 * kl.item()
    assert objective.loss("generator", x, noise).total.item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("adversarial", [True, False])
def test_the_instance_turn_is_the_mean_over_layers_of_cross_entropies(adversarial):
    """By torch's cross-entropy, with the key net moved away from the discriminator."""
    objective = built(contrast(adversarial=adversarial, layers=(1, 3))).eval()
    moved_away(objective.key_discriminator)
    x, noise = images(), numbers(objective)
    _, kl, rebuilt, _ = pieces(objective, x, noise)
    seen, keys = objective.discriminator(rebuilt(20 if adversarial else 0)), objective.key_discriminator(x)
    entropies = []
    for name in ("final", "1", "3"):
        q, k = (
            embedding(net, of, name)
            for net, of in ((objective.discriminator, seen), (objective.key_discriminator, keys))
        )
        logits = torch.cat([(q * k).sum(1, keepdim=True), q @ objective.queues[name].keys.T], dim=1) / 0.2
        entropies.append(F.cross_entropy(logits, torch.zeros(B, dtype=torch.long)).item())
    assert len(set(entropies)) == 3
    total = objective.loss("instance", x, noise).total.item()
    assert total == pytest.approx(np.mean(entropies) + 0.01 * kl.item(), rel=1e-9)


def moved_away(net):
    with torch.no_grad():
        for i, p in enumerate(net.parameters()):
            p.add_(0.1 * torch.randn(p.shape, dtype=p.dtype, generator=torch.Generator().manual_seed(i)))


def embedding(net, seen, name):
    """Unit vectors B 16 of a layer."""
    raw = seen.embedding if name == "final" else net.heads[name](seen.maps[int(name) - 1])
    return raw / raw.norm(dim=1, keepdim=True)


def test_the_feature_turn_is_the_squared_distance_of_the_last_maps():
    objective = built(contrast(instance="feature")).eval()
    x, noise = images(), numbers(objective)
    _, kl, rebuilt, _ = pieces(objective, x, noise)
    one, other = (objective.discriminator(image).maps[3].detach().numpy() for image in (x, rebuilt(20)))
    expected = np.mean([np.sum((a - b) ** 2) for a, b in zip(one, other)])
    total = objective.loss("instance", x, noise).total.item()
    assert total == pytest.approx(expected + 0.01 * kl.item(), rel=1e-9)


@pytest.mark.parametrize("sigma", [0.19, 1.0])
def test_pixels_without_an_adversary_are_the_gaussian_vae(sigma):
    """Equal nets and noise give an equal loss and equal gradients."""
    vae = built(VAE("gaussian", sigma))
    ours = built(DCVAE(instance="pixel", adversarial=False, kl_weight=2 * sigma**2))
    for net in ("encoder", "decoder"):
        getattr(ours, net).load_state_dict(getattr(vae, net).state_dict())
    noise = numbers(vae)
    one, other = ours.loss("instance", images(), noise).total, vae.loss("autoencoder", images(), noise).total
    assert one.item() == pytest.approx(other.item(), rel=1e-12)
    for net in ("encoder", "decoder"):
        pairs = zip(getattr(ours, net).parameters(), getattr(vae, net).parameters(), strict=True)
        for p, q in pairs:
            gradients = torch.autograd.grad(one, p, retain_graph=True), torch.autograd.grad(other, q, retain_graph=True)
            assert near(gradients[0][0], gradients[1][0])


def test_features_without_an_adversary_are_refused():
    with pytest.raises(ValueError, match=says("feature", "adversarial")):
        DCVAE(instance="feature", adversarial=False)


@pytest.mark.parametrize("model", ["a1", "a2", "hq"])
def test_other_nets_are_trained_against_the_same_discriminator(model):
    objective = built(contrast(**PATCH), (1, 16, 16), model, width=4, latent_dim=8)
    assert isinstance(objective.discriminator, autogan.Discriminator)
    trainer, before = Trainer(objective, 2, CPU), parts(objective)
    lines = trainer.step(0, images(shape=(1, 16, 16)), 1e-3)
    assert [name for name, _ in lines] == ["discriminator", "generator", "instance_patch"]
    for name in ("encoder", "decoder", "trunk", "critic", "heads"):
        assert any(not torch.equal(*p) for p in zip(before[name], parts(objective)[name])), name


# ----------------------------------------------------------------------------------------------------------- the nets

SIZES = [  # side, channels, width, d -> parameters of the encoder, the decoder, and the discriminator with block 1
    (32, 3, 64, 128, 1_086_464, 4_405_251, 1_059_986),
    (32, 3, 16, 64, 70_912, 310_787, 71_474),
    (32, 1, 8, 24, 17_472, 73_921, 21_090),
    (16, 1, 64, 128, 1_083_904, 4_004_353, 1_054_354),
    (16, 1, 8, 24, 17_472, 64_321, 18_018),
    (16, 1, 6, 24, 10_032, 36_913, 10_702),
    (16, 1, 4, 24, 4_640, 17_057, 5_434),
]


def count(net):
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize(("side", "channels", "width", "d", "encoder", "decoder", "judge"), SIZES)
def test_parameter_counts_are_those_of_the_official_nets_and_their_closed_forms(
    side, channels, width, d, encoder, decoder, judge
):
    made = autogan.build(channels, side, d, width, 2)
    assert [*map(count, made)] == [encoder, decoder]
    assert count(autogan.Discriminator(channels, side, width, layers=(1,))) == judge
    assert [encoder, decoder, judge] == closed_forms(side, channels, width, d, [side // 2])


def closed_forms(side, channels, width, d, sides):
    """Parameters by the widths alone; `sides` of the maps that are contrasted."""
    df, gf = 2 * width, 4 * width
    trunk = 64 * df**2 + 10 * df + 10 * channels * df
    decoder = (d + 1) * (side // 8) ** 2 * gf + 59 * gf**2 + 13 * gf + 9 * gf * channels + channels
    heads = sum(df + 1 + 16 * s**2 for s in sides)
    return [trunk + 2 * d * df, decoder, trunk + 16 * df + 17 + heads]


@pytest.mark.parametrize(
    ("side", "channels", "width", "layers", "sides"),
    [(8, 1, 2, (), []), (24, 3, 3, (1, 2), [12, 6]), (16, 3, 2, (1, 2, 3, 4), [8, 4, 4, 4]), (48, 1, 2, (3,), [12])],
)
def test_other_sizes_and_heads_have_the_same_closed_forms_and_these_shapes(side, channels, width, layers, sides):
    d = 2 * width
    encoder, decoder = autogan.build(channels, side, d, width, 2)
    judge = autogan.Discriminator(channels, side, width, layers=layers)
    assert [*map(count, (encoder, decoder, judge))] == closed_forms(side, channels, width, d, sides)
    x = torch.rand(3, channels, side, side)
    seen = judge(x)
    maps = [(3, 2 * width, side // s, side // s) for s in (2, 4, 4, 4)]
    assert [tuple(m.shape) for m in seen.maps] == maps
    assert seen.embedding.shape == (3, 16)
    assert seen.logits.numel() == 3
    assert set(judge.heads) == set(map(str, layers))
    assert all(judge.heads[str(k)](seen.maps[k - 1]).shape == (3, 16) for k in layers)
    assert encoder(x).shape == (3, 2 * d)
    assert decoder(torch.randn(3, d)).shape == x.shape
    assert autogan.Discriminator(channels, side, width, critic=False)(x).logits is None


def exact(layers):
    """A net whose weights are divided by their largest singular value, found by a decomposition."""

    def normed(layer):
        if "u" not in layer:
            return layer
        layer = dict(layer)
        sigma = torch.linalg.matrix_norm(layer["weight"].flatten(1), 2)
        return {name: t / sigma if name == "weight" else t for name, t in layer.items() if name not in ("u", "v")}

    return {name: normed(layer) for name, layer in layers.items()}


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 16, 16)])
def test_encoder_and_discriminator_equal_doubles_with_weights_over_their_singular_value(shape):
    """Each map, embedding and logit. Power iterations come near the singular vectors; then those take their place."""
    encoder, _ = autogan.build(shape[0], shape[1], 6, 3, 2)
    judge = autogan.Discriminator(*shape[:2], 3, layers=(1, 2))
    for net in (encoder.double(), judge.double()):
        with torch.no_grad():
            for _ in range(100):
                net(images(shape=shape, n=1))
        for layer in (m for m in net.eval().modules() if is_parametrized(m)):
            assert torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() == pytest.approx(1, abs=0.02)
            left, _, right = torch.linalg.svd(layer.parametrizations.weight.original.detach().flatten(1))
            layer.parametrizations.weight[0]._u.copy_(left[:, 0])
            layer.parametrizations.weight[0]._v.copy_(right[0])
    x = images(1, shape)
    E, D = encoder_of(encoder), discriminator_of(judge)
    assert [name for net in (E, D) for name in net if ("u" in net[name]) == name.startswith("head")] == []
    E, D = exact(E), exact(D)
    assert near(encoder(x), torch.cat(listing.encode(E, x), dim=1), 1e-10)
    seen, (maps, _) = judge(x), listing.trunk(D, x)
    embeddings, logits = listing.discriminate(D, x, (1, 2))
    for ours, double in zip(seen.maps, maps, strict=True):
        assert near(ours, double, 1e-10)
    assert near(seen.embedding, embeddings["final"], 1e-10)
    assert near(seen.logits.flatten(), logits.flatten(), 1e-10)
    for k in (1, 2):
        assert near(judge.heads[str(k)](seen.maps[k - 1]), embeddings[str(k)], 1e-10)


def test_the_last_layer_takes_sums_of_rectified_maps_and_the_critic_its_numbers():
    judge = autogan.Discriminator(1, 16, 2, layers=()).double().eval()
    seen = judge(images(shape=(1, 16, 16)))
    assert seen.maps[3].shape == (B, 4, 4, 4)
    pooled = np.maximum(seen.maps[3].detach().numpy(), 0).sum(axis=(2, 3))
    assert near(seen.embedding, torch.from_numpy(pooled) @ judge.final.weight.T)
    assert near(seen.logits.flatten(), seen.embedding @ judge.critic.weight[0] + judge.critic.bias)


def test_the_decoder_equals_its_double_in_training_and_evaluation():
    _, decoder = autogan.build(3, 24, 6, 3, 2)
    moved_away(decoder.double())
    double, z = decoder_of(decoder), unit_vectors(5, 6)
    assert near(decoder(z), listing.generate(double, z), 1e-10)
    for name in ("running_mean", "running_var"):
        assert near(decoder.to_rgb[0].state_dict()[name], double["norm"][name], 1e-10)
    one = decoder.eval()(z)
    assert near(one[:1], decoder(z[:1]))  # statistics of the past: each latent by itself


def test_plain_convolutions_start_by_xaviers_rule_and_normed_ones_by_torchs():
    """By the largest weight, which is near its bound: sqrt(6 / (fan in + fan out)), or sqrt(1 / fan in)."""
    _, decoder = autogan.build(1, 16, 16, 8, 2)
    judge = autogan.Discriminator(1, 16, 64, layers=(1, 2))
    plain = [m for net in (decoder, judge.heads) for m in net.modules() if isinstance(m, nn.Conv2d)]
    assert len(plain) == 3 + 3 + 3 + 2 + 1 + 2  # of cells: conv1, conv2, skips, shortcuts; to_rgb; heads
    for layer in plain:
        into, out = layer.weight[0].numel(), layer.weight[:, 0].numel()
        assert 0.9 < layer.weight.abs().max().item() / math.sqrt(6 / (into + out)) <= 1
    for block in judge.blocks:
        original = block.conv2.parametrizations.weight.original
        assert 0.9 < original.abs().max().item() * math.sqrt(original[0].numel()) <= 1
        assert torch.linalg.matrix_norm(block.conv2.weight.flatten(1), 2).item() == pytest.approx(1, abs=0.1)
    assert decoder.to_rgb[0].weight.std().item() == pytest.approx(0.02, rel=0.4)
    assert decoder.to_rgb[0].weight.mean().item() == pytest.approx(1, abs=0.02)
    assert not decoder.to_rgb[0].bias.any()


def near_up(x, factor):
    return np.kron(x, np.ones((factor, factor)))


def bilinear_up(x):
    """Twice the side; the middles of pixels are interpolated, and edges are held."""
    n = len(x)
    places = np.clip((np.arange(2 * n) + 0.5) / 2 - 0.5, 0, n - 1)
    matrix = np.maximum(0, 1 - np.abs(places[:, None] - np.arange(n)))
    return matrix @ x @ matrix.T


def near_bilinear_near(x):
    return near_up(bilinear_up(near_up(x, 2)), 2)


WAYS = {  # layers that copy their first channel, where all others are zero -> what a 2x2 map becomes
    "shortcuts": (("0.shortcut", "1.shortcut", "2.conv1", "2.conv2"), near_bilinear_near),
    "convolutions": (("0.conv1", "0.conv2", "1.conv1", "1.conv2", "2.conv1", "2.conv2"), near_bilinear_near),
    "skip from 1 to 2": (("0.conv1", "1.skips.0", "1.conv2", "2.conv1", "2.conv2"), near_bilinear_near),
    "skip from 1 to 3": (("0.conv1", "2.skips.0", "2.conv2"), lambda x: near_up(x, 8)),
    "skip from 2 to 3": (("0.shortcut", "1.conv1", "2.skips.1", "2.conv2"), near_bilinear_near),
    "skip of a skip": (("0.conv1", "1.skips.0", "2.skips.1", "2.conv2"), near_bilinear_near),  # taken after the sum
    "a shortcut of cell 3": (("0.conv1", "0.conv2", "1.conv1", "1.conv2"), lambda x: 0 * near_up(x, 8)),  # has none
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_through_the_decoder_resizes_as_published(way):
    """One way open at a time, on a 2x2 map by hand."""
    _, decoder = autogan.build(1, 16, 4, 1, 2)
    decoder.double().eval()
    with torch.no_grad():
        for p in decoder.parameters():
            p.zero_()
        decoder.to_rgb[0].weight.fill_(1.0)
        x = np.array([[0.1, 0.7], [1.3, 0.4]])
        [first] = [m for m in decoder.first.modules() if isinstance(m, nn.Linear)]
        first.bias[:4] = torch.from_numpy(x).flatten()
        copying = [decoder.cells.get_submodule(name) for name in WAYS[way][0]]
        for module in [*copying, decoder.to_rgb]:
            [layer] = [m for m in module.modules() if isinstance(m, nn.Conv2d)]
            middle = layer.kernel_size[0] // 2
            layer.weight[0, 0, middle, middle] = 1.0
        image = decoder(torch.zeros(1, 4, dtype=torch.float64))[0, 0].numpy()
    before = WAYS[way][1](x) / math.sqrt(1 + 1e-5)
    assert np.allclose(image, (np.tanh(before) + 1) / 2, rtol=0, atol=1e-12)


# -------------------------------------------------------------------------------------------------------- local patches

FIELDS = {1: (2, -2, 3), 2: (4, -6, 9), 3: (4, -14, 17), 4: (4, -22, 25)}  # block -> stride, first and last pixel


@pytest.mark.parametrize("place", [(8, 8), (0, 0), (3, 15)])
@pytest.mark.parametrize("block", FIELDS)
def test_a_place_sees_exactly_the_pixels_of_its_receptive_field(block, place):
    judge = autogan.Discriminator(1, 64, 3, layers=()).double()
    x = images(shape=(1, 64, 64), n=3).requires_grad_()
    judge(x).maps[block - 1][:, :, place[0], place[1]].square().sum().backward()
    stride, first, last = FIELDS[block]
    rows, columns = (range(max(0, stride * p + first), min(63, stride * p + last) + 1) for p in place)
    expected = torch.zeros(64, 64, dtype=torch.bool)
    expected[rows.start : rows.stop, columns.start : columns.stop] = True
    assert torch.equal((x.grad != 0).any(dim=0)[0], expected)


def patch_term(objective, x, noise):
    """What the patch adds to the instance turn's loss."""
    turns = [objective.loss(turn, x, noise).total for turn in ("instance_patch", "instance")]
    return (turns[0] - turns[1]).item()


@pytest.mark.parametrize(("local", "side"), [(1, 4), (2, 2), (4, 2)])
@pytest.mark.parametrize("adversarial", [True, False])
def test_the_patch_is_contrasted_at_one_place_of_each_image_in_both_nets(local, side, adversarial):
    settings = contrast(**PATCH | {"local": local, "adversarial": adversarial, "local_weight": 0.3})
    objective = built(settings).eval()
    moved_away(objective.key_discriminator)
    assert objective.queues["local"].keys.shape == (7, 4)
    x, noise = images(), numbers(objective)
    assert noise.shape == (B, 25 if adversarial else 5)
    _, _, rebuilt, _ = pieces(objective, x, noise)
    seen = objective.discriminator(rebuilt(20 if adversarial else 0)), objective.key_discriminator(x)
    entropies = []
    for i in range(B):
        place = math.floor(stats.norm.cdf(noise[i, -1].item()) * side**2)
        q, k = (listing.unit(of.maps[local - 1][i, :, place // side, place % side]) for of in seen)
        logits = torch.cat([(q @ k)[None], objective.queues["local"].keys @ q]) / 0.2
        entropies.append(-torch.log_softmax(logits, dim=0)[0].item())
    assert patch_term(objective, x, noise) == pytest.approx(0.3 * np.mean(entropies), rel=1e-8)


def test_a_patch_of_the_image_itself_is_aligned_and_where_a_map_is_constant_the_place_is_nothing():
    objective = built(contrast(**PATCH)).eval()
    x, noise = images(), numbers(objective)
    objective.decoder = Always(x)
    other = torch.cat([noise[:, :-1], -noise[:, -1:]], dim=1)
    assert patch_term(objective, x, noise) != pytest.approx(patch_term(objective, x, other), rel=1e-6)
    for net in (objective.discriminator, objective.key_discriminator):
        net.blocks[0].register_forward_hook(lambda *of: of[-1].mean(dim=(2, 3), keepdim=True).expand_as(of[-1]))
    q = listing.unit(objective.discriminator(x).maps[0][:, :, 0, 0])
    negatives = torch.logsumexp(q @ objective.queues["local"].keys.T / 0.2, dim=1)
    aligned = 0.125 * F.softplus(negatives - 1 / 0.2).mean().item()  # a cosine of one
    for numbers_of_places in (noise, other):
        assert patch_term(objective, x, numbers_of_places) == pytest.approx(aligned, rel=1e-9)


@pytest.mark.parametrize("side", [2, 3, 8])
def test_each_place_is_drawn_as_often(side):
    """Each place of these maps has a channel of its own."""
    n = 200 * side**2
    maps = torch.eye(side**2).unflatten(1, (side, side)).expand(n, -1, -1, -1)
    noise = torch.randn(n, 1, generator=torch.Generator().manual_seed(side))
    assert stats.chisquare(at_place(maps, noise).sum(dim=0)).pvalue > 0.01
    ends = torch.tensor([[-40.0], [40.0]])  # so far out that the share rounds to 0 and to 1
    assert at_place(maps[:2], ends).argmax(dim=1).tolist() == [0, side**2 - 1]


class Always(nn.Module):
    """A decoder that gives the same images for all latents."""

    def __init__(self, x):
        super().__init__()
        self.x = x

    def forward(self, z):
        return self.x


def test_the_patch_joins_at_its_part_of_training():
    objective = built(contrast(**PATCH | {"local_start": 0.5, "every": 2}))
    trainer = Trainer(objective, 8, CPU)
    taken, queues = [], [queues_of(objective)["local"]]
    for step in range(8):
        taken += [name for name, _ in trainer.step(step, images(step), 1e-3) if name.startswith("instance")]
        queues.append(queues_of(objective)["local"])
    assert taken == ["instance", "instance", "instance_patch", "instance_patch"]
    assert [torch.equal(*pair) for pair in zip(queues[1:], queues)] == [True] * 4 + [False, True, False, True]
