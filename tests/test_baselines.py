"""The baselines' losses, each against another library, a closed form, a double loop, or a number made by hand."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import tiny
from test_methods import METHODS, batch, built, noise_for
from torch import distributions as D
from torch import nn

from mocalib import methods
from mocalib.config import methods as settings
from mocalib.methods import latent, losses
from mocalib.paper import baselines, experiments
from mocalib.paper.grids import CELEBA, CIFAR, LAPTOP, PAPER, SCALES
from mocalib.paper.overnight import OVERNIGHT
from mocalib.training.loop import learning_rate

FIXTURE = json.loads((Path(__file__).parent / "fixtures" / "pythae_wae_mmd.json").read_text("utf-8"))


def codes(n=7, d=5, seed=0, scale=1.0):
    return scale * torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# -------------------------------------------------------------------------------------------------------------- losses


def test_kl_and_likelihoods_are_torchs():
    mean, log_variance = codes(seed=1), codes(seed=2)
    kl = D.kl_divergence(D.Normal(mean, torch.exp(log_variance / 2)), D.Normal(torch.zeros(5).double(), 1.0))
    assert losses.kl_divergence(mean, log_variance).item() == pytest.approx(kl.sum(1).mean().item(), rel=1e-12)
    x, x_hat = torch.rand(2, 4, 3, 5, 5, dtype=torch.float64)
    theirs = {s: D.Normal(x_hat, math.exp(s)) for s in (0.0, -2.3, 0.7)}
    found = {s: losses.gaussian_nll(x_hat, x, torch.tensor(s, dtype=torch.float64)) for s in theirs}
    theirs["bernoulli"] = D.Bernoulli(probs=x_hat, validate_args=False)
    found["bernoulli"] = losses.bernoulli_nll(x_hat, x)
    for name, distribution in theirs.items():
        expected = -distribution.log_prob(x).sum(dim=(1, 2, 3)).mean().item()
        assert found[name].item() == pytest.approx(expected, rel=1e-12), name


def mmd_by_hand(x, y, base):
    """Algorithm 2 of WAE, pair by pair."""

    def k(a, b):
        distance = float(((a - b) ** 2).sum())
        return sum(s * base / (s * base + distance) for s in (0.1, 0.2, 0.5, 1, 2, 5, 10))

    n = len(x)
    within = sum(k(z[i], z[j]) for z in (x, y) for i in range(n) for j in range(n) if i != j)
    return within / (n * (n - 1)) - 2 * sum(k(a, b) for a in x for b in y) / n**2


@pytest.mark.parametrize(("n", "d", "base"), [(2, 1, 2.0), (9, 3, 2.0), (12, 8, 16.0)])
def test_mmd_is_that_of_a_double_loop(n, d, base):
    x, y = codes(n, d, 1), codes(n, d, 2, scale=2.0) + 0.5
    assert losses.imq_mmd(x, y, base).item() == pytest.approx(mmd_by_hand(x.numpy(), y.numpy(), base), abs=1e-12)


def test_a_codes_distance_to_itself_is_exactly_nothing():
    """In float32 the squares of far codes cancel badly; one that seemed apart from itself would count as a pair."""
    x, y = codes(6, 5, 1, scale=100.0), codes(6, 5, 2, scale=100.0)
    exact = losses.imq_mmd(x, y, 0.1).item()
    assert losses.imq_mmd(x.float(), y.float(), 0.1).item() == pytest.approx(exact, abs=1e-6)


def test_mmd_is_pythaes():
    """Tensors and value of that library's own loss; base is its 2 d bandwidth^2."""
    base = 2 * FIXTURE["settings"]["latent_dim"] * FIXTURE["settings"]["kernel_bandwidth"] ** 2
    z, z_prior = (torch.tensor(FIXTURE[name]) for name in ("z", "z_prior"))
    assert losses.imq_mmd(z, z_prior, base).item() == pytest.approx(FIXTURE["mmd"], abs=1e-5)
    assert FIXTURE["settings"]["scales"] == list(losses.SCALES)


def test_mmd_is_unbiased():
    """Of equal distributions it is zero in the mean, and as often negative; of others it is not."""
    found = torch.stack([losses.imq_mmd(codes(8, 3, 2 * i), codes(8, 3, 2 * i + 1), 6.0) for i in range(1000)])
    assert abs(found.mean()) < 4 * found.std() / 1000**0.5
    assert 0.3 < (found < 0).double().mean() < 0.8
    other = torch.stack([losses.imq_mmd(codes(8, 3, 2 * i), codes(8, 3, 2 * i + 1) + 0.5, 6.0) for i in range(200)])
    assert other.mean() > 10 * found.std() / 200**0.5


def test_gradients_of_the_mmd_are_finite_and_right():
    """Where codes coincide, too: there a root of the distance would have none."""
    z = torch.cat([codes(3, 4), codes(3, 4)]).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: losses.imq_mmd(x, codes(6, 4, 3), 8.0), z)


def test_the_critics_losses_are_cross_entropies_and_pull_from_two_sides():
    real, fake = codes(6, 1, 1), codes(6, 1, 2).requires_grad_()
    ones, zeros = torch.ones(6, 1).double(), torch.zeros(6, 1).double()
    theirs = F.binary_cross_entropy_with_logits(real, ones) + F.binary_cross_entropy_with_logits(fake, zeros)
    assert losses.critic(real, fake).item() == pytest.approx(theirs.item(), rel=1e-12)
    encoders = F.binary_cross_entropy_with_logits(fake, ones)
    assert losses.deceived(fake).item() == pytest.approx(encoders.item(), rel=1e-12)
    assert (torch.autograd.grad(losses.critic(real, fake), fake)[0] > 0).all()
    assert (torch.autograd.grad(losses.deceived(fake), fake)[0] < 0).all()


def test_moments_are_numpys():
    x, y = codes(9, 4, 1), codes(9, 4, 2, scale=1.5)
    means = np.mean((x.numpy().mean(0) - y.numpy().mean(0)) ** 2)
    covariances = np.mean((np.cov(x.numpy(), rowvar=False) - np.cov(y.numpy(), rowvar=False)) ** 2)
    assert losses.moment_distance(x, y).item() == pytest.approx(means + covariances, rel=1e-12)


# ------------------------------------------------------------------------------------------------------------- methods


def test_a_fixed_sigma_scales_the_bound_by_a_constant():
    """2 sigma^2 times the negative bound, but for the Gaussian's constant: the gradient has the same direction."""
    sigma = 0.3
    objective = built(settings.VAE("gaussian", sigma))
    x, noise = batch(), noise_for(objective)
    out = objective.loss("autoencoder", x, noise)
    mean, log_variance = objective.encoder(x).chunk(2, dim=1)
    x_hat = objective.decoder(mean + torch.exp(log_variance / 2) * noise)
    bound = losses.gaussian_nll(x_hat, x, torch.tensor(math.log(sigma))) + losses.kl_divergence(mean, log_variance)
    constant = 256 * (math.log(sigma) + 0.5 * math.log(2 * math.pi))
    assert out.total.item() == pytest.approx(2 * sigma**2 * (bound.item() - constant), rel=1e-4)
    assert torch.equal(objective.encode(x), mean)


@pytest.mark.parametrize(("likelihood", "share"), [("bernoulli", 1.0), ("gaussian", 2 * 0.3**2), ("learned", 1.0)])
def test_a_weight_multiplies_the_kls_share_of_the_bound_and_a_weight_of_one_changes_no_bit(likelihood, share):
    outs = {}
    for weight in (0.0, 1.0, 4.0):
        objective = built(settings.VAE(likelihood, 0.3, weight))
        x, noise = batch(), noise_for(objective)
        outs[weight] = objective.loss("autoencoder", x, noise)
    plain, *others = (out.total.item() for out in outs.values())
    kl = outs[1.0].terms["kl"].item()
    assert {out.terms["kl"].item() for out in outs.values()} == {kl}
    for weight, total in zip((1.0, 4.0), others):
        assert total - plain == pytest.approx(weight * share * kl, rel=1e-3)
    mean, log_variance = objective.encoder(x).chunk(2, dim=1)
    x_hat, kl = objective.decoder(latent_of(mean, log_variance, noise)), losses.kl_divergence(mean, log_variance)
    without = {
        "bernoulli": losses.bernoulli_nll(x_hat, x) + kl,
        "gaussian": losses.reconstruction(x_hat, x) + 2 * 0.3**2 * kl,
        "learned": losses.gaussian_nll(x_hat, x, torch.zeros(())) + kl,
    }
    assert torch.equal(outs[1.0].total, without[likelihood])


def latent_of(mean, log_variance, noise):
    return mean + torch.exp(log_variance / 2) * noise


def test_a_learned_sigma_finds_the_root_of_the_mean_squared_error():
    """The bound's optimum in closed form (Dai & Wipf)."""
    objective = built(settings.VAE("learned"))
    x, noise = batch(), noise_for(objective)
    error = objective.loss("autoencoder", x, noise).terms["reconstruction"].item()
    with torch.no_grad():
        objective.log_sigma.fill_(0.5 * math.log(error / 256))
    objective.loss("autoencoder", x, noise).total.backward()
    assert abs(objective.log_sigma.grad.item()) < 1e-2
    assert objective.encoder[0].weight.grad.abs().max() > 1e-2


def test_the_second_stages_loss_on_two_numbers():
    """One image's code is 3, its second code has mean .5 and variance e^.2, its decoder says 2, sigma is e^-1."""
    second = built(settings.TwoStageVAE(second_width=4)).second.double()
    second.to_u.forward = lambda z: torch.tensor([[0.5, 0.2]], dtype=torch.float64)
    second.to_z.forward = lambda u: torch.tensor([[2.0]], dtype=torch.float64)
    second.encoder = second.decoder = nn.Identity()
    with torch.no_grad():
        second.log_sigma.fill_(-1.0)
    total, kl = second.loss(torch.tensor([[3.0]], dtype=torch.float64), torch.tensor([[0.7]], dtype=torch.float64))
    by_hand = (0.25 + math.exp(0.2) - 0.2 - 1) / 2
    assert kl.item() == pytest.approx(by_hand, rel=1e-12)
    assert total.item() == pytest.approx(by_hand + 0.5 * math.exp(2) - 1 + 0.5 * math.log(2 * math.pi), rel=1e-12)


def test_the_second_stage_sees_the_first_as_it_will_be_used_and_leaves_it_alone():
    objective = built(settings.TwoStageVAE(second_width=16))
    seen = []
    objective.second.loss = lambda z, noise: (seen.append(z), (z.sum() * 0, z.sum() * 0))[1]
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    noise = noise_for(objective)
    objective.loss("second", batch(), noise)
    assert all(torch.equal(value, before[name]) for name, value in objective.state_dict().items())
    assert objective.encoder.training
    mean, log_variance = objective.eval().encoder(batch()).chunk(2, dim=1)
    assert torch.equal(seen[0], mean + torch.exp(log_variance / 2) * noise[:, :8])


def test_a_two_stage_prior_goes_through_the_second_decoder():
    objective = built(settings.TwoStageVAE(second_width=16)).eval()
    generator = torch.Generator().manual_seed(3)
    u, noise = torch.randn(5, 8, generator=generator), torch.randn(5, 8, generator=generator)
    expected = objective.second.decode(u) + objective.second.log_sigma.exp() * noise
    assert torch.equal(objective.prior(5, torch.Generator().manual_seed(3)), expected)


@pytest.mark.parametrize("variance", [1.0, 2.0])
def test_the_log_prior_trick_adds_the_priors_log_density_to_each_logit(variance):
    objective = built(settings.WAEGAN(prior_variance=variance, critic_width=8))
    z = codes(6, 8).float()
    added = objective.logits(z) - objective.critic(z)
    density = D.Normal(0.0, variance**0.5).log_prob(z).sum(dim=1, keepdim=True)
    assert added.shape == (6, 1)
    assert torch.allclose(added - density, (added - density)[0], atol=1e-5)  # up to its constant
    assert added[0].item() - density[0].item() == pytest.approx(3.5 * math.log(2 * math.pi), abs=1e-4)  # the code's
    plain = built(settings.WAEGAN(log_prior=False, critic_width=8))
    assert torch.equal(plain.logits(z), plain.critic(z))


def test_critic_and_encoder_learn_in_turns_of_their_own_and_pretraining_moves_the_encoder_alone():
    objective = built(settings.WAEGAN(log_prior=False, critic_width=8))
    x, noise = batch(), noise_for(objective)
    of_critic, of_encoder = objective.loss("critic", x, noise), objective.loss("autoencoder", x, noise)
    of_critic.total.backward()
    assert all(p.grad is None for p in objective.encoder.parameters())
    assert all(p.grad is not None for p in objective.critic.parameters())
    penalty = F.softplus(-objective.critic(objective.encoder(x))).mean()
    assert of_encoder.terms["penalty"].item() == pytest.approx(penalty.item(), rel=1e-4)
    objective.zero_grad()
    objective.loss("pretraining", x, noise).total.backward()
    assert objective.encoder[0].weight.grad.abs().max() > 0
    assert all(p.grad is None for net in (objective.decoder, objective.critic) for p in net.parameters())


def test_wae_draws_from_its_prior():
    sphere, normal = built(settings.WAEMMD(prior="sphere")), built(settings.WAEMMD(prior_variance=2.0))
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(sphere.prior(50, generator), latent.sphere_prior(50, 8, torch.Generator().manual_seed(0)))
    assert normal.prior(20_000, generator).var(dim=0) == pytest.approx(torch.full((8,), 2.0), rel=0.05)
    assert (sphere.base, normal.base) == (2.0, 2 * 8 * 2.0)  # E|x - y|^2 of two draws
    assert built(settings.WAEGAN(prior_variance=3.0)).prior(20_000, generator).var().item() == pytest.approx(
        3, rel=0.05
    )


def test_the_mmd_is_of_the_codes_and_the_noise():
    objective = built(settings.WAEMMD(30.0, prior="sphere"))
    x, noise = batch(), noise_for(objective)
    out = objective.loss("autoencoder", x, noise)
    mmd = losses.imq_mmd(objective.encoder(x), F.normalize(noise, dim=1), 2.0)
    assert out.terms["mmd"].item() == pytest.approx(mmd.item(), abs=1e-5)
    assert out.total.item() == pytest.approx((out.terms["reconstruction"] + 30 * mmd).item(), rel=1e-4)


@pytest.mark.parametrize("statistics", ["batch", "running"])
def test_the_penalised_latent_of_an_image_depends_on_the_rest_of_its_batch_only_with_its_statistics(
    statistics, monkeypatch
):
    """BatchNorm's own are updated once a step in both, and equally."""
    objective, plain = (built(settings.WAEMMD(prior="sphere", statistics=s)) for s in (statistics, "batch"))
    penalised, mmd = [], losses.imq_mmd
    monkeypatch.setattr(losses, "imq_mmd", lambda z, *given: penalised.append(z) or mmd(z, *given))
    x, noise = batch().requires_grad_(), noise_for(objective)
    objective.loss("autoencoder", x, noise)
    [of_each] = torch.autograd.grad(penalised[0][0, 0], x)
    others = of_each.flatten(1).abs().amax(dim=1) > 0
    assert others.tolist() == [True] + [statistics == "batch"] * 7
    assert objective.encoder.training
    plain.loss("autoencoder", batch(), noise)
    for name, value in objective.state_dict().items():
        assert torch.equal(value, plain.state_dict()[name]), name
        assert "num_batches_tracked" not in name or value == 1
    if statistics == "running":
        before = built(settings.WAEMMD(prior="sphere", statistics="running")).eval()  # the batch moved them
        assert torch.allclose(penalised[0], before.encode(batch()), atol=1e-5)
        alone = torch.cat([before.independent(image[None]) for image in batch()])
        assert torch.allclose(penalised[0], alone, atol=1e-5)


def test_rae_penalises_codes_and_the_decoders_kernels():
    objective = built(settings.RAE(0.5, "l2", 0.25))
    out = objective.loss("autoencoder", batch())
    z = objective.encode(batch())
    kernels = sum((m.weight.detach().numpy() ** 2).sum() for m in objective.decoder.modules() if hasattr(m, "stride"))
    norm = np.mean((z.detach().numpy() ** 2).sum(axis=1))
    expected = out.terms["reconstruction"].item() + 0.5 * norm + 0.25 * kernels
    assert out.total.item() == pytest.approx(expected, rel=1e-5)


def test_spectral_norms_come_to_one():
    """Every convolution and linear layer's largest singular value, by SVD, once the power iteration has converged."""
    objective = built(settings.RAE(0.5, "spectral_norm"), model="a1", blocks=2, width=2)
    with torch.no_grad():
        for _ in range(100):
            objective.loss("autoencoder", batch())
    objective.eval()
    layers = [m for m in objective.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear))]
    assert len(layers) == 5 + 5
    for layer in layers:
        matrix = layer.weight.transpose(0, 1) if isinstance(layer, nn.ConvTranspose2d) else layer.weight
        assert np.linalg.svd(matrix.flatten(1).detach().numpy(), compute_uv=False)[0] == pytest.approx(1, rel=5e-3)


# ------------------------------------------------------------------------------------------------------------ settings


def test_weights_are_those_of_their_authors_code_in_sums_of_squares():
    """methods of 32x32x3 and d 128: .05 of the squared error, pixels twice as wide; a mean of 3,072 values."""
    assert settings.WAEMMD().weight == 100 / 0.05 / 4
    assert settings.WAEGAN().weight == 1 / 0.05 / 4
    assert settings.RAE().weight == pytest.approx(1e-3 * 3072 / 128)
    assert settings.RAE().decay == pytest.approx(1e-6 * 3072, rel=1e-3)
    assert baselines.CIFAR10["RAE-SN"].weight == pytest.approx(0.03 * 3072 / 128)
    assert baselines.FACES["RAE-L2"].weight == pytest.approx(1e-4 * 12288 / 128)
    assert baselines.FACES["RAE-L2"].decay == pytest.approx(1e-7 * 12288, rel=1e-2)
    assert baselines.FACES["RAE-SN"].weight == pytest.approx(2.4e-3 * 12288 / 128, rel=0.01)
    assert 2 * settings.VAE().sigma ** 2 == pytest.approx(0.024 * 3, rel=0.01)


def test_every_cited_method_is_re_run_with_the_net_of_moca_a2():
    cited = {CIFAR: {"VAE", "WAE-MMD", "2-Stage VAE", "RAE-SN"}}
    cited[CELEBA] = cited[CIFAR] | {"WAE-GAN"}
    for dataset, names in cited.items():
        found, moca = PAPER.baselines[dataset], PAPER.table1[dataset, "MoCA-A2"]
        assert names <= set(found)
        for run in found.values():
            same = ("dataset", "model", "width", "blocks", "latent_dim", "batch_size", "precision", "learning_rate")
            assert all(getattr(run, name) == getattr(moca, name) for name in same)
            assert round(run.epochs * getattr(run.objective, "first_stage", 1)) == moca.epochs


@pytest.mark.parametrize("scale", SCALES)
def test_a_second_stage_begins_at_the_rate_of_the_first(scale):
    for found in SCALES[scale].baselines.values():
        if run := found.get("2-Stage VAE"):
            begins = round(run.epochs * run.objective.first_stage)
            rate = learning_rate(run, begins) * run.objective.second_rate
            assert rate == run.learning_rate or scale == "smoke"  # where epochs are cut
            assert run.epochs > begins


def test_of_data_of_ones_own_runs_keep_their_names():
    for of, found in PAPER.baselines.items():
        table = {(of, name): run for name, run in found.items()}
        for name, run in found.items():
            own = replace(run, dataset="folder", root="/images", seed=3, limit=90)
            assert experiments.named(own, table) == (of, name)
    assert experiments.named(tiny(), table) is None


def test_every_method_has_settings_a_name_and_a_place_in_the_registry():
    assert (
        {getattr(settings, name) for name in methods.BY_NAME}
        == set(settings.OBJECTIVES.values())
        == {type(method) for method in METHODS}
    )


TRIED = [(scale, of, name, *tried) for scale in (LAPTOP, OVERNIGHT) for of, found in scale.tried.items()
         for name, tried in found.items()]  # fmt: skip


@pytest.mark.parametrize(("scale", "of", "name", "field", "tried"), TRIED)
def test_settings_are_among_those_that_were_tried(scale, of, name, field, tried):
    runs = scale.baselines[of] | {net: run for (data, net), run in scale.table1.items() if data == of}
    chosen = runs[name].objective
    values = [getattr(chosen, part) for part in field.split(", ")]
    assert len(tried) >= 4
    assert (values[0] if len(values) == 1 else tuple(values)) in tried
