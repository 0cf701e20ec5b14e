"""What the loop may rely on: pure losses, turns that name groups, float32 outside the nets."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import tiny

from mocalib import methods
from mocalib.config.methods import AE, DCVAE, RAE, VAE, WAEGAN, WAEMMD, TwoStageVAE
from mocalib.evaluation import metrics
from mocalib.methods import losses
from mocalib.training.step import Trainer

METHODS = (
    tiny().objective,
    AE(),
    VAE(),
    VAE("gaussian"),
    VAE("learned"),
    WAEMMD(),
    WAEMMD(prior="sphere"),
    WAEMMD(statistics="running"),
    WAEGAN(pretraining=0.25, critic_width=16),
    RAE(),
    RAE(regulariser="spectral_norm"),
    TwoStageVAE(first_stage=0.5, second_width=16),
    replace(tiny().objective, form="eq6_literal"),
    replace(tiny().objective, form="sliced_wasserstein", weight=30.0),  # without queue and key encoder, with noise
    DCVAE("pixel", adversarial=False, kl_weight=0.04),
    DCVAE("feature", every=2, critic="logistic"),
    DCVAE("contrast", adversarial=False, queue_size=32, momentum=0.9),
    DCVAE(every=2, queue_size=32, local=1, local_start=0.5, local_queue=20),
)
EACH = pytest.mark.parametrize("method", METHODS, ids=str)


def built(method, **changes):
    return methods.build(tiny(objective=method, **changes), (1, 16, 16)).train()


def batch(seed=0):
    return torch.rand(8, 1, 16, 16, generator=torch.Generator().manual_seed(seed))


def noise_for(objective, seed=1):
    return torch.randn(8, objective.noise, generator=torch.Generator().manual_seed(seed))


@EACH
def test_a_loss_changes_nothing_but_what_layers_count(method):
    """BatchNorm's statistics, and the vectors of spectral norms; no turn draws numbers of its own."""
    objective = built(method)
    counted = {"running_mean", "running_var", "num_batches_tracked", "_u", "_v"}
    drawn = torch.random.get_rng_state()
    for turn in objective.turns:
        before = {name: value.clone() for name, value in objective.state_dict().items()}
        objective.loss(turn.name, batch(), noise_for(objective)).total.backward()
        changed = {name for name, value in objective.state_dict().items() if not torch.equal(value, before[name])}
        assert {name.split(".")[-1] for name in changed} <= counted
        assert changed or turn.name == "second"
    assert torch.equal(torch.random.get_rng_state(), drawn)


@EACH
def test_each_turn_gives_gradients_to_what_it_updates_and_each_group_is_updated(method):
    objective = built(method)
    assert {name for turn in objective.turns for name in turn.updates} == set(objective.groups())
    for turn in objective.turns:
        objective.zero_grad()
        out = objective.loss(turn.name, batch(), noise_for(objective))
        out.total.backward()
        updated = [p for name in turn.updates for p in objective.groups()[name].parameters]
        assert sum(p.grad is not None for p in updated) > len(updated) / 3  # pretraining: the encoder's alone
        assert all(value.ndim == 0 and not value.requires_grad for value in out.terms.values())


# The loss of features starts anew as they are learned, and that of contrast is low until keys fill the queue.
FALLING = [method for method in METHODS if getattr(method, "instance", "pixel") == "pixel"]


@pytest.mark.parametrize("method", FALLING, ids=str)
def test_the_loss_falls(method):
    objective = built(method)
    trainer = Trainer(objective, 30, torch.device("cpu"))
    lines = [dict(trainer.step(step, batch(), 2e-3)) for step in range(30)]
    for turn in objective.turns:
        if turn.name != "critic":  # it and the encoder pull at one another
            total = next(iter(lines[0].get(turn.name) or next(x[turn.name] for x in lines if turn.name in x)))
            values = [line[turn.name][total].item() for line in lines if turn.name in line]
            assert sum(values[-5:]) < sum(values[:5])


@EACH
def test_in_bfloat16_losses_codes_and_pixels_are_float32_and_losses_near(method):
    """Only what nets compute inside is of less precision."""
    losses = []
    for precision in ("float32", "bfloat16"):
        objective = built(method, precision=precision)
        outs = [objective.loss(turn.name, batch(), noise_for(objective)) for turn in objective.turns]
        assert all(value.dtype == torch.float32 for out in outs for value in out.terms.values())
        losses.append(torch.stack([out.total for out in outs]))
        with objective.nets():
            inner, codes = objective.encoder[0](batch()), objective.encoder(batch())
            pixels = objective.decoder(codes[:, :8])
        assert (inner.dtype, codes.dtype, pixels.dtype) == (getattr(torch, precision), torch.float32, torch.float32)
        assert not method.spherical or torch.allclose(codes.norm(dim=1), torch.ones(8), atol=1e-6)
    assert torch.allclose(*losses, rtol=0.1, atol=0.1)


@EACH
def test_codes_images_and_prior_have_the_shapes_and_ranges_they_are_said_to_have(method):
    objective = built(method).eval()
    z, points = objective.encode(batch()), objective.prior(8, torch.Generator().manual_seed(0))
    assert z.shape == points.shape == (8, 8)
    assert z.dtype == points.dtype == torch.float32
    on_sphere = [torch.allclose(codes.norm(dim=1), torch.ones(8), atol=1e-5) for codes in (z, points)]
    assert on_sphere == [method.spherical] * 2
    images = objective.decode(points)
    assert images.shape == (8, 1, 16, 16)
    assert 0 <= images.min() <= images.max() <= 1


def test_what_follows_a_step_moves_the_key_encoder_and_the_queue_alone():
    objective = built(tiny().objective)
    out = objective.loss("autoencoder", batch())
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    objective.encoder[0].weight.data.add_(1)
    objective.after("autoencoder", out, torch.tensor(0.5, dtype=torch.float64))
    state = objective.state_dict()
    changed = {name.split(".")[0] for name, value in state.items() if not torch.equal(value, before[name])}
    assert changed == {"encoder", "key_encoder", "queue"}
    assert torch.equal(state["queue.keys"][:8], out.keys["queue"])
    assert out.terms["momentum"].item() == pytest.approx(0.95)  # half way from 0.9 to 1


WITHIN = {  # form -> numbers an image, and its loss on latents and these, put together here
    "batch": (0, lambda q, _: torch.stack([losses.negative(q[[i]], q[torch.arange(8) != i], 0.1) for i in range(8)])),
    "uniformity": (0, lambda q, _: torch.tensor(metrics.uniformity(q))),
    "sliced_wasserstein": (16, lambda q, numbers: along(q, *(x / x.norm(dim=1, keepdim=True) for x in numbers))),
}


def along(q, points, directions):
    """Sorted, latents and points are neighbours on each direction."""
    pairs = [[np.sort((x @ u).detach().numpy()) for x in (q, points)] for u in directions]
    return torch.tensor(np.mean([(a - b) ** 2 for a, b in pairs]))


@pytest.mark.parametrize("form", WITHIN)
def test_a_form_within_a_batch_has_neither_queue_nor_key_encoder_and_is_trained(form):
    objective, (count, loss) = built(replace(tiny().objective, form=form, weight=3.0)), WITHIN[form]
    assert {name.split(".")[0] for name in objective.state_dict()} == {"encoder", "decoder"}
    assert objective.noise == count
    noise = noise_for(objective)
    out = objective.loss("autoencoder", batch(), noise)
    expected = loss(objective.encoder(batch()), noise.split(8, dim=1)).mean().item()
    assert out.terms.keys() == {"loss", "reconstruction", "contrastive"}
    assert out.terms["contrastive"].item() == pytest.approx(expected, rel=1e-4)
    assert out.total.item() == pytest.approx(out.terms["reconstruction"].item() + 3 * expected, rel=1e-5)
    trainer = Trainer(objective, 20, torch.device("cpu"))
    values = [dict(trainer.step(step, batch(), 2e-3))["autoencoder"]["loss"].item() for step in range(20)]
    assert sum(values[-5:]) < sum(values[:5])


def test_the_weight_multiplies_the_contrastive_gradient_alone():
    def gradient(weight):
        objective = built(replace(tiny().objective, weight=weight)).double()
        objective.loss("autoencoder", batch().double()).total.backward()
        return torch.cat([p.grad.flatten() for p in objective.encoder.parameters()])

    zero, one, three = (gradient(weight) for weight in (0.0, 1.0, 3.0))
    assert torch.allclose(three - zero, 3 * (one - zero), rtol=1e-6, atol=1e-9)
    assert not torch.allclose(one, zero)


def test_terms_are_logged_at_weight_zero_too_and_satisfy_their_identity():
    terms = built(replace(tiny().objective, weight=0.0)).loss("autoencoder", batch()).terms
    assert terms["loss"] == terms["reconstruction"]
    assert terms["eq6"].item() == pytest.approx((terms["negative"] - terms["alignment"] / 0.1).item(), rel=1e-5)
    assert 0 < terms["positive_probability"] < 1
