"""The key queue, the averaged encoder and its schedule."""

from collections import deque

import pytest
import torch
from conftest import tiny

from mocalib import MoCA, methods
from mocalib.methods.queue import KeyQueue, ema_update_, momentum_schedule
from mocalib.training.step import Trainer


@pytest.mark.parametrize(
    ("size", "batch"), [(10, 3), (10, 10), (100, 64), (7, 20), (1, 5), (64, 1), (30, 16), (64, 4096)]
)
def test_the_ring_equals_a_deque_and_no_slot_is_written_twice_in_a_push(monkeypatch, size, batch):
    """With more threads, or on a GPU, the order of two writes to one slot would be open."""
    written, copy = [], torch.Tensor.index_copy_

    def recording(self, dim, index, source):
        written.append(index.tolist())
        return copy(self, dim, index, source)

    monkeypatch.setattr(torch.Tensor, "index_copy_", recording)
    queue = KeyQueue(size, 2, torch.Generator().manual_seed(0))
    expected = deque(queue.keys.clone(), maxlen=size)
    for push in range(25):
        keys = torch.randn(batch, 2, generator=torch.Generator().manual_seed(push))
        foreseen, before = queue.with_newest(keys), queue.keys.clone()
        assert torch.equal(queue.keys, before)
        queue.push(keys)
        assert torch.equal(queue.keys, foreseen)
        expected.extend(keys)
        assert torch.equal(torch.roll(queue.keys, -int(queue.head), dims=0), torch.stack(list(expected)))
    assert len(written) == 25
    assert all(len(set(slots)) == len(slots) == min(size, batch) for slots in written)


def test_the_queue_starts_as_unit_vectors_travels_in_state_dict_and_is_never_empty():
    queue, other = KeyQueue(50, 5, torch.Generator().manual_seed(1)), KeyQueue(50, 5)
    assert torch.allclose(queue.keys.norm(dim=1), torch.ones(50))
    queue.push(torch.ones(7, 5))
    other.load_state_dict(queue.state_dict())
    assert torch.equal(other.keys, queue.keys)
    assert int(other.head) == 7
    with pytest.raises(ValueError, match=r"KeyQueue\(0, 5\)"):
        KeyQueue(0, 5)


def test_the_schedule_rises_from_m0_to_one_with_byols_values_and_takes_tensors():
    assert [momentum_schedule(0.99, step, 100) for step in (25, 75)] == pytest.approx([0.99146, 0.99854], abs=1e-5)
    steps = torch.arange(101, dtype=torch.float64)
    for m0 in (0.0, 0.9, 0.999):
        values = [momentum_schedule(m0, step, 100) for step in range(101)]
        assert [values[0], values[50], values[100]] == pytest.approx([m0, (1 + m0) / 2, 1])
        assert values == sorted(values)
        assert momentum_schedule(m0, steps, 100).tolist() == pytest.approx(values, rel=1e-12)


@pytest.mark.parametrize("m", [0.9, torch.tensor(0.9, dtype=torch.float64)])
def test_the_average_is_over_parameters_and_leaves_batchnorm_statistics_alone(m):
    torch.manual_seed(0)
    target, source = (torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)) for _ in range(2))
    source[1].running_mean.fill_(7)
    before = [p.clone() for p in target.parameters()]
    ema_update_(target, source, m)
    for new, old, other in zip(target.parameters(), before, source.parameters()):
        assert torch.allclose(new, 0.9 * old + 0.1 * other)
    assert torch.equal(target[1].running_mean, torch.zeros(4))


def test_the_key_encoder_keeps_batchnorm_statistics_of_its_own():
    objective = methods.build(tiny(), (1, 16, 16)).train()
    key, query = objective.key_encoder[1], objective.encoder[1]
    objective.loss("autoencoder", torch.rand(8, 1, 16, 16))
    assert torch.equal(key.running_mean, query.running_mean)  # both saw these images through equal weights
    objective.encoder[0].weight.data.mul_(2)
    objective.loss("autoencoder", torch.rand(8, 1, 16, 16))
    before = key.running_mean.clone()
    objective.after("autoencoder", objective.loss("autoencoder", torch.rand(8, 1, 16, 16)), torch.tensor(0.0))
    assert not torch.allclose(key.running_mean, query.running_mean)
    assert not torch.equal(key.running_mean, before)  # trained on, not frozen


@pytest.mark.parametrize("m", [0.0, 0.9])
def test_with_a_constant_momentum_the_key_encoder_is_the_closed_sum_of_all_encoders(m):
    """(1 - m) sum_i m^(n - i) E_i + m^n E_0 after step n; for 0 the encoder itself."""
    moca = MoCA(momentum=m, schedule="constant", queue_size=20, weight=1.0)
    objective = methods.build(tiny(objective=moca, precision="float64"), (1, 16, 16)).train()
    trainer, seen = Trainer(objective, 3, torch.device("cpu")), []
    for step in range(4):
        seen.append([p.detach().clone() for p in objective.encoder.parameters()])
        weights = [m**step, *((1 - m) * m ** (step - i) for i in range(1, step + 1))]
        for i, key in enumerate(objective.key_encoder.parameters()):
            assert torch.allclose(key, sum(w * each[i] for w, each in zip(weights, seen)), rtol=1e-12, atol=1e-12)
        if step < 3:
            x = torch.rand(8, 1, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(step))
            assert dict(trainer.step(step, x, 1e-2))["autoencoder"]["momentum"].item() == m


def test_no_gradient_reaches_keys_or_queue():
    objective = methods.build(tiny(), (1, 16, 16)).train()
    out = objective.loss("autoencoder", torch.rand(8, 1, 16, 16))
    out.total.backward()
    assert not out.keys["queue"].requires_grad
    assert all(p.grad is None for p in objective.key_encoder.parameters())
    assert all(p.grad is not None for p in objective.encoder.parameters())
