"""What the loop may rely on: pure losses, turns that name groups, float32 outside the nets."""

import pytest
import torch
from conftest import tiny

from mocalib import MoCA, objectives


@pytest.fixture
def objective():
    return objectives.build(tiny(), (1, 16, 16)).train()


def batch(seed=0):
    return torch.rand(8, 1, 16, 16, generator=torch.Generator().manual_seed(seed))


def test_turns_name_real_groups_and_groups_partition_the_trainable_parameters(objective):
    groups = objective.groups()
    assert {name for turn in objective.turns for name in turn.updates} == set(groups)
    listed = [id(p) for group in groups.values() for p in group.parameters]
    assert sorted(listed) == sorted(id(p) for p in objective.parameters() if p.requires_grad)


def test_a_loss_changes_nothing_but_batchnorm_statistics(objective):
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    objective.loss("autoencoder", batch()).total.backward()
    changed = {name for name, value in objective.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert {name.split(".")[-1] for name in changed} == {"running_mean", "running_var", "num_batches_tracked"}


def test_what_follows_a_step_moves_the_key_encoder_and_the_queue_alone(objective):
    out = objective.loss("autoencoder", batch())
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    objective.encoder[0].weight.data.add_(1)
    objective.after("autoencoder", out, torch.tensor(0.5, dtype=torch.float64))
    state = objective.state_dict()
    changed = {name.split(".")[0] for name, value in state.items() if not torch.equal(value, before[name])}
    assert changed == {"encoder", "key_encoder", "queue"}
    assert torch.equal(state["queue.keys"][:8], out.keys)
    assert out.terms["momentum"].item() == pytest.approx(0.95)  # half way from 0.9 to 1


def test_the_weight_multiplies_the_contrastive_gradient_alone():
    def gradient(weight):
        moca = MoCA(temperature=0.1, momentum=0.9, queue_size=100, weight=weight)
        objective = objectives.build(tiny(objective=moca), (1, 16, 16)).train().double()
        objective.loss("autoencoder", batch().double()).total.backward()
        return torch.cat([p.grad.flatten() for p in objective.encoder.parameters()])

    zero, one, three = (gradient(weight) for weight in (0.0, 1.0, 3.0))
    assert torch.allclose(three - zero, 3 * (one - zero), rtol=1e-6, atol=1e-9)
    assert not torch.allclose(one, zero)


def test_terms_are_logged_at_weight_zero_too_and_satisfy_their_identity():
    moca = MoCA(temperature=0.1, momentum=0.9, queue_size=100, weight=0.0)
    terms = objectives.build(tiny(objective=moca), (1, 16, 16)).train().loss("autoencoder", batch()).terms
    assert terms["loss"] == terms["reconstruction"]
    assert terms["eq6"].item() == pytest.approx((terms["negative"] - terms["alignment"] / 0.1).item(), rel=1e-5)
    assert 0 < terms["positive_probability"] < 1


def test_in_bfloat16_codes_pixels_and_losses_are_float32():
    objective = objectives.build(tiny(precision="bfloat16"), (1, 16, 16)).train()
    with objective.nets():
        inner = objective.encoder[0](batch())
        z = objective.encoder(batch())
        x = objective.decoder(z)
    assert (inner.dtype, z.dtype, x.dtype) == (torch.bfloat16, torch.float32, torch.float32)
    assert torch.allclose(z.norm(dim=1), torch.ones(8), atol=1e-6)
    assert all(value.dtype == torch.float32 for value in objective.loss("autoencoder", batch()).terms.values())


def test_the_same_seed_gives_the_same_weights_and_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    a, b, c = (objectives.build(tiny(seed=seed), (1, 16, 16)).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["queue.keys"], c["queue.keys"])
