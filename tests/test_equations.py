"""One test per equation, against NumPy, a closed form or a brute-force double."""

import math

import numpy as np
import pytest
import torch
from conftest import unit_vectors
from scipy.optimize import linear_sum_assignment
from scipy.special import gammaln, ive

from mocalib.evaluation import metrics
from mocalib.methods import latent, losses

SHAPES = [(4, 7, 3), (5, 1, 16), (3, 200, 8)]  # B, K, d
TAUS = [0.05, 0.3, 1.0]


def batch(B, K, d):
    return unit_vectors(B, d, 1), unit_vectors(B, d, 2), unit_vectors(K, d, 3)


def mean_exp(q, queue, tau):
    return [sum(math.exp(float(a @ b) / tau) for b in queue) / len(queue) for a in q]


def test_eq_5_reconstruction_is_summed_over_pixels_and_averaged_over_images():
    x, x_hat = torch.rand(3, 2, 4, 4, dtype=torch.float64), torch.rand(3, 2, 4, 4, dtype=torch.float64)
    by_hand = np.mean([np.sum((a - b) ** 2) for a, b in zip(x.numpy(), x_hat.numpy())])
    assert losses.reconstruction(x_hat, x).item() == pytest.approx(by_hand, rel=1e-12)


@pytest.mark.parametrize("tau", TAUS)
@pytest.mark.parametrize("shape", SHAPES)
def test_eq_4_negative_against_a_double_loop(shape, tau):
    q, _, queue = batch(*shape)
    by_hand = np.mean([math.log(v) for v in mean_exp(q.numpy(), queue.numpy(), tau)])
    assert losses.negative(q, queue, tau).item() == pytest.approx(by_hand, rel=1e-12)


@pytest.mark.parametrize("tau", TAUS)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_decoupled_loss_against_a_double_loop(shape, tau):
    q, k, queue = batch(*shape)
    values = mean_exp(q.numpy(), queue.numpy(), tau)
    by_hand = np.mean([math.log(v) - float(a @ b) / tau for v, a, b in zip(values, q.numpy(), k.numpy())])
    assert losses.decoupled(q, k, queue, tau).item() == pytest.approx(by_hand, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("tau", TAUS)
@pytest.mark.parametrize("shape", SHAPES)
def test_eq_6_is_the_cross_entropy_among_the_newest_keys_minus_log_k(shape, tau):
    """The current keys are among the K: torch's cross-entropy finds each positive in its place."""
    q, k, queue = batch(*shape)
    if len(k) > len(queue):
        k, q = k[: len(queue)], q[: len(queue)]
    newest = torch.cat([k, queue[: len(queue) - len(k)]])
    entropy = torch.nn.functional.cross_entropy(q @ newest.T / tau, torch.arange(len(q)))
    assert losses.eq6(q, k, newest, tau).item() == pytest.approx(entropy.item() - math.log(len(newest)), abs=1e-12)


@pytest.mark.parametrize("tau", TAUS)
@pytest.mark.parametrize("shape", SHAPES)
def test_algorithm_1_info_nce_against_cross_entropy_and_a_double_loop(shape, tau):
    q, k, queue = batch(*shape)
    logits = torch.cat([(q * k).sum(1, keepdim=True), q @ queue.T], dim=1) / tau
    entropy = torch.nn.functional.cross_entropy(logits, torch.zeros(len(q), dtype=torch.long))
    by_hand = 0.0
    for a, b in zip(q.numpy(), k.numpy()):
        positive = math.exp(float(a @ b) / tau)
        by_hand -= math.log(positive / (positive + sum(math.exp(float(a @ c) / tau) for c in queue.numpy()))) / len(q)
    assert losses.info_nce(q, k, queue, tau).item() == pytest.approx(entropy.item(), rel=1e-10)
    assert losses.info_nce(q, k, queue, tau).item() == pytest.approx(by_hand, rel=1e-10)


@pytest.mark.parametrize("tau", TAUS)
def test_cross_entropy_is_softplus_of_the_decoupled_loss_plus_log_k(tau):
    q, k, queue = batch(1, 50, 8)  # one sample: the identity holds for each, not for their means
    logits = torch.cat([(q * k).sum(1, keepdim=True), q @ queue.T], dim=1) / tau
    entropy = torch.nn.functional.cross_entropy(logits, torch.zeros(1, dtype=torch.long)).item()
    decoupled = math.log(mean_exp(q.numpy(), queue.numpy(), tau)[0]) - float(q[0] @ k[0]) / tau
    assert entropy == pytest.approx(math.log1p(math.exp(decoupled + math.log(50))), rel=1e-10)


BATCHES = [(2, 3), (7, 5), (40, 16)]  # B, d


@pytest.mark.parametrize("tau", TAUS)
@pytest.mark.parametrize("shape", BATCHES)
def test_eq_4_within_a_batch_against_a_double_loop(shape, tau):
    q = unit_vectors(*shape).numpy()
    by_hand = np.mean([math.log(mean_exp(q[[i]], np.delete(q, i, axis=0), tau)[0]) for i in range(len(q))])
    assert losses.batch_negative(torch.from_numpy(q), tau).item() == pytest.approx(by_hand, rel=1e-12)


def test_eq_4_within_a_batch_trains_both_sides():
    """Its gradient is that of each latent as a query and that of each as a key; neither is nothing."""
    q = unit_vectors(6, 4).requires_grad_()
    queries, keys = (q.detach().clone().requires_grad_() for _ in range(2))
    loss = sum(losses.negative(queries[[i]], torch.cat([keys[:i], keys[i + 1 :]]), 0.3) for i in range(6)) / 6
    sides = torch.autograd.grad(loss, (queries, keys))
    [found] = torch.autograd.grad(losses.batch_negative(q, 0.3), q)
    assert torch.allclose(found, sum(sides), rtol=1e-10)
    assert all(side.norm(dim=1).min() > 1e-2 for side in sides)


@pytest.mark.parametrize("t", [0.5, 2.0])
@pytest.mark.parametrize("shape", BATCHES)
def test_the_uniformity_loss_is_the_score_and_a_double_loop(shape, t):
    z = unit_vectors(*shape)
    pairs = [math.exp(-t * ((a - b) ** 2).sum()) for i, a in enumerate(z) for j, b in enumerate(z) if i != j]
    assert losses.uniformity(z, t).item() == pytest.approx(math.log(np.mean(pairs)), rel=1e-10)
    assert losses.uniformity(z, t).item() == pytest.approx(metrics.uniformity(z, t), rel=1e-10)


@pytest.mark.parametrize("shape", BATCHES)
def test_sliced_wasserstein_is_the_best_assignment_along_each_direction(shape):
    n, d = shape
    z, points, directions = unit_vectors(n, d, 1), unit_vectors(n, d, 2), unit_vectors(9, d, 3)
    by_hand = []
    for direction in directions.numpy():
        cost = (z.numpy() @ direction)[:, None] - (points.numpy() @ direction)
        by_hand.append((cost[linear_sum_assignment(cost**2)] ** 2).mean())
    assert losses.sliced_wasserstein(z, points, directions).item() == pytest.approx(np.mean(by_hand), rel=1e-10)
    assert losses.sliced_wasserstein(z, z.flip(0), directions).item() == 0


@pytest.mark.parametrize(
    "loss",
    [
        lambda z: losses.batch_negative(z, 0.3),
        losses.uniformity,
        lambda z: losses.sliced_wasserstein(z, unit_vectors(5, 4, 2), unit_vectors(6, 4, 3)),
    ],
    ids=("batch", "uniformity", "sliced_wasserstein"),
)
def test_gradients_of_the_losses_of_a_batch_against_finite_differences(loss):
    assert torch.autograd.gradcheck(loss, unit_vectors(5, 4).requires_grad_())


@pytest.mark.parametrize("form", [losses.info_nce, losses.eq6, losses.decoupled])
def test_gradients_of_the_contrastive_forms_against_finite_differences(form):
    q, k, queue = batch(4, 20, 5)
    assert torch.autograd.gradcheck(lambda x: form(x, k, queue, 0.5), q.clone().requires_grad_())


@pytest.mark.parametrize(("d", "tau"), [(3, 1.0), (8, 0.5), (32, 0.2), (128, 1.0)])
def test_eq_3_exact_uniform_value_against_monte_carlo(d, tau):
    x, y = latent.sphere_prior(200_000, d, torch.Generator().manual_seed(1)).double(), None
    y = latent.sphere_prior(200_000, d, torch.Generator().manual_seed(2)).double()
    weights = torch.exp((x * y).sum(1) / tau)
    estimate, error = weights.mean().log().item(), (weights.std() / weights.mean() / math.sqrt(len(x))).item()
    assert abs(metrics.uniform_negative(d, tau) - estimate) < 4 * error


@pytest.mark.parametrize("tau", [0.05, 0.3, 1.0])
def test_eq_3_on_the_sphere_in_three_dimensions_is_elementary(tau):
    assert metrics.uniform_negative(3, tau) == pytest.approx(math.log(tau * math.sinh(1 / tau)), rel=1e-12)


@pytest.mark.parametrize(("d", "tau"), [(4, 0.05), (24, 0.1), (128, 0.05), (128, 1.0)])
def test_eq_3_is_the_bessel_form_where_that_is_finite(d, tau):
    v = d / 2 - 1
    bessel = gammaln(d / 2) + v * math.log(2 * tau) + math.log(ive(v, 1 / tau)) + 1 / tau
    assert metrics.uniform_negative(d, tau) == pytest.approx(bessel, rel=1e-9)


@pytest.mark.parametrize(("d", "tau"), [(512, 0.1), (1024, 0.05), (200, 100.0), (24, 1e-3)])
def test_eq_3_is_finite_where_the_bessel_function_is_not(d, tau):
    second = 1 / (2 * d * tau**2)  # log E exp = Var / 2 + ..., from below for large d
    value = metrics.uniform_negative(d, tau)
    assert 0 < value < min(second, 1 / tau) * (1 + 1e-9)
    if second < 5:
        assert value == pytest.approx(second, rel=0.05)


def test_uniform_codes_reach_the_exact_value_of_eq_4():
    d, tau = 16, 0.2
    q, keys = (latent.sphere_prior(n, d, torch.Generator().manual_seed(n)).double() for n in (500, 40_000))
    assert losses.negative(q, keys, tau).item() == pytest.approx(metrics.uniform_negative(d, tau), abs=0.02)


def test_uniformity_is_wang_and_isolas():
    z = unit_vectors(300, 6)
    expected = torch.pdist(z).square().mul(-2).exp().mean().log().item()
    assert metrics.uniformity(z) == pytest.approx(expected, rel=1e-10)


def test_uniformity_of_uniform_codes_is_its_exact_value_and_collapse_is_zero():
    z = latent.sphere_prior(5_000, 8, torch.Generator().manual_seed(0)).double()
    assert metrics.uniformity(z) == pytest.approx(metrics.uniform_uniformity(8), abs=0.01)
    assert metrics.uniformity(z[:1].expand(100, -1)) == pytest.approx(0, abs=1e-6)  # float32 norms


def test_the_prior_covers_the_sphere_and_not_an_orthant():
    z = latent.sphere_prior(4_000, 16, torch.Generator().manual_seed(3))
    assert torch.allclose(z.norm(dim=1), torch.ones(4_000), atol=1e-6)
    cosine = (z @ z.T).triu(1).sum() / (4_000 * 3_999 / 2)
    assert abs(cosine) < 0.01  # normalised positive coordinates would give .75
    assert torch.allclose((z > 0).float().mean(0), torch.full((16,), 0.5), atol=0.05)


def test_interpolation_runs_along_the_great_circle_from_end_to_end():
    z0, z1 = unit_vectors(5, 7, 1), unit_vectors(5, 7, 2)
    path = latent.interpolate(z0, z1, 9)
    assert torch.allclose(path[:, 0], z0)
    assert torch.allclose(path[:, -1], z1)
    assert torch.allclose(path.norm(dim=-1), torch.ones(5, 9, dtype=torch.float64))
    whole = torch.arccos((z0 * z1).sum(1))
    parts = torch.arccos((path[:, 1:] * path[:, :-1]).sum(-1).clamp(max=1)).sum(1)
    assert torch.allclose(parts, whole)  # the shortest path: no detour
    assert torch.allclose(path[:, 4], (z0 + z1) / (z0 + z1).norm(dim=1, keepdim=True))


def test_interpolation_between_antipodes_is_refused():
    z = unit_vectors(1, 4)
    with pytest.raises(ValueError, match="opposite latents"):
        latent.interpolate(z, -z, 5)


def test_singular_values_are_uncentred_and_near_their_theory_for_uniform_codes():
    z = latent.sphere_prior(10_000, 128, torch.Generator().manual_seed(0))
    values = metrics.singular_values(z)
    assert np.allclose(values.numpy(), np.linalg.svd(z.double().numpy(), compute_uv=False))
    assert values.mean().item() == pytest.approx(8.83, abs=0.01)  # sqrt(10000 / 128) = 8.84
    assert metrics.singular_values(z.abs())[0] > 5 * values[0]  # a shared mean shows
