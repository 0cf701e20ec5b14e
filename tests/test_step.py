"""The training step: fast forms equal plain ones, nothing waits for a device, graphs leave no trace in training."""

import itertools
import re
import shutil
import statistics
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import says, tiny
from test_methods import METHODS, batch, built, noise_for
from test_training import assert_same, stopped, weights
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mocalib import Compute, Scoring, evaluate, methods, train
from mocalib.config.methods import RAE, WAEGAN, TwoStageVAE
from mocalib.data import batches, cache, datasets
from mocalib.data.batches import ResidentImages
from mocalib.data.cache import Dataset, Split
from mocalib.models.layers import ResizeConv2d
from mocalib.storage import environment
from mocalib.storage.run import RunMismatch
from mocalib.training import step as training_step
from mocalib.training.loop import AverageMeter
from mocalib.training.step import Trainer

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
BLOCKS = {"a1": 2, "a2": 1, "hq": 2}  # of each net


def test_upsampling_and_convolution_fold_into_one_transposed_convolution():
    """Value and every gradient in float64, against the two layers as written."""
    layer = ResizeConv2d(5, 7, scale=2).double()
    x = torch.randn(3, 5, 6, 4, dtype=torch.float64, requires_grad=True)
    plain = layer(x)
    folded = F.conv_transpose2d(x, layer.folded(), layer[-1].bias, stride=2, padding=1)
    assert torch.allclose(folded, plain, rtol=0, atol=1e-12)
    wanted = [x, *layer.parameters()]
    seen = torch.randn_like(plain)
    for one, other in zip(torch.autograd.grad(plain, wanted, seen), torch.autograd.grad(folded, wanted, seen)):
        assert torch.allclose(one, other, rtol=0, atol=1e-10)


def test_bfloat16_takes_the_folded_form_and_float32_does_not(monkeypatch):
    layer, x = ResizeConv2d(8, 4, scale=2), torch.randn(2, 8, 4, 4)
    plain = layer(x)
    near = layer.bfloat16()(x.bfloat16()).float()
    assert torch.allclose(near, plain, rtol=0.05, atol=0.02)
    monkeypatch.delattr(F, "conv_transpose2d")
    layer.float()(x)
    with pytest.raises(AttributeError):
        layer.bfloat16()(x.bfloat16())


# A power iteration draws vectors of its own, which no fake device can stand for.
FAKED = [method for method in METHODS[1:] if method != RAE(regulariser="spectral_norm")]


@pytest.mark.parametrize(
    ("model", "method"), [*((model, METHODS[0]) for model in BLOCKS), *(("a2", method) for method in FAKED)], ids=str
)
def test_a_step_on_a_gpu_mixes_no_devices_and_waits_for_nothing(monkeypatch, model, method):
    """Fake tensors raise where a value would be read back; autograd and Adam's kernel need a real GPU: left out."""
    objective, rates = built(method, model=model, blocks=BLOCKS[model], precision="bfloat16"), []

    def noise(self, step, x):  # a generator of a GPU needs one
        return torch.zeros(len(x), objective.noise, device=CUDA)

    def backward(loss):
        for p in objective.parameters():
            p.grad = torch.empty_like(p) if p.requires_grad else None

    monkeypatch.setattr(torch.Tensor, "backward", backward)
    monkeypatch.setattr(torch, "compile", lambda function, **settings: function)  # the next test is about it
    monkeypatch.setattr(training_step, "Replayed", training_step.Step)
    monkeypatch.setattr(Trainer, "noise", noise)
    monkeypatch.setattr(torch, "_fused_adam_", lambda *tensors, lr, **settings: rates.append(lr))
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        objective.to(CUDA)
        mode.allow_non_fake_inputs = False
        trainer, meter = Trainer(objective, 2, CUDA, compile=True), AverageMeter()
        for i in range(2):
            for turn, terms in trainer.step(i, torch.rand(32, 1, 16, 16, device=CUDA), 1e-3):
                meter.add(turn, terms, i)
        assert {value.device.type for value in [*terms.values(), *rates]} == {"cuda"}
        assert len({id(rate) for rate in rates}) <= len(trainer.optimizers)  # one address each, as a graph wants it
        with pytest.raises(DataDependentOutputException):  # as any read would have
            meter.check()


FLOAT32, BFLOAT16 = ("float32", {"rtol": 1e-4, "atol": 1e-5}), ("bfloat16", {"rtol": 0.1, "atol": 0.1})
NEAR_FLOAT32 = ("float32", {"rtol": 1e-3, "atol": 1e-4})
QUICK = (WAEGAN, TwoStageVAE)  # with several turns, and nets that are switched to evaluation
COMPILED = [(model, METHODS[0], *FLOAT32) for model in BLOCKS]
COMPILED += [("hq", replace(METHODS[0], weight=0.0), *FLOAT32), ("hq", METHODS[0], *BFLOAT16)]  # the quickest net
COMPILED += [
    pytest.param(model, replace(METHODS[0], weight=weight), *near, marks=pytest.mark.soak)
    for model in ("a1", "a2")
    for weight, near in ((0.0, FLOAT32), (1.0, BFLOAT16))
]
# Some seconds each, and for DC-VAE half a minute: these two stand for the others, which are in `make soak`.
COMPILED += [
    pytest.param("a2", method, *NEAR_FLOAT32, marks=() if isinstance(method, QUICK) else pytest.mark.soak)
    for method in METHODS[1:]
]


@pytest.mark.parametrize(("model", "method", "precision", "near"), COMPILED, ids=str)
def test_every_turn_of_every_method_compiles_to_one_graph_without_a_break(model, method, precision, near):
    found = []
    for compiled in (False, True):
        torch._dynamo.reset()
        objective = built(method, model=model, blocks=BLOCKS[model], precision=precision)
        loss = torch.compile(objective.loss, backend="aot_eager", fullgraph=True) if compiled else objective.loss
        outs = [loss(turn.name, batch(), noise_for(objective)) for turn in objective.turns]
        sum(out.total for out in outs).backward()
        terms = [value for out in outs for value in (out.total, *out.terms.values())]
        found.append([*terms, *(p.grad for p in objective.parameters() if p.grad is not None)])
        assert objective.encoder.training
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, **near)


def test_every_run_of_a_process_is_compiled(monkeypatch):
    """Of one piece of code torch keeps a few compilations; after those it would quietly launch operations again."""
    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    with torch._dynamo.config.patch(recompile_limit=1):
        for seed in range(3):
            objective = methods.build(tiny(seed=seed, model="hq", blocks=2), (1, 8, 8)).train()
            trainer = Trainer(objective, 1, CPU, compile=True)
            list(trainer.step(0, torch.rand(8, 1, 8, 8), 1e-3))
    assert len(compiled) == 3


@pytest.mark.parametrize("stepped", [(), ("decoder",), ("encoder", "decoder")])
def test_what_is_trained_inside_unchanged_is_undone_in_place(stepped):
    """Weights, statistics, queue, key encoder and Adam's moments, whichever optimizers have stepped before."""
    objective = built(METHODS[0])
    optimizers = {name: torch.optim.Adam(getattr(objective, name).parameters()) for name in ("encoder", "decoder")}

    def step(*names):
        out = objective.loss("autoencoder", batch())
        out.total.backward()
        for name in names:
            optimizers[name].step()
        objective.after("autoencoder", out, torch.zeros(()))

    def tensors():
        return [
            *objective.state_dict().values(),
            *training_step._moments([optimizers["decoder"], optimizers["encoder"]]),
        ]

    step(*stepped)
    before, places = [value.clone() for value in tensors()], [value.data_ptr() for value in tensors()]
    with training_step.unchanged(objective, list(optimizers.values())):
        step("encoder", "decoder")
        step("encoder", "decoder")
        changed = sum(not torch.equal(old, new) for old, new in zip(before, tensors()))
    assert changed > 50
    after = tensors()
    assert all(torch.equal(old, new) for old, new in zip(before, after))
    assert [value.data_ptr() for value in after[: len(places)]] == places
    assert not any(value.any() for value in after[len(places) :])  # moments that are new start at zero


class Recorder(TorchDispatchMode):
    """Notes every operation with its arguments and results, as a CUDA graph does kernels with their addresses."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, function, types, arguments=(), settings=None):
        results = function(*arguments, **(settings or {}))
        self.calls.append((function, arguments, settings or {}, results))
        return results

    @torch.no_grad()
    def replay(self):
        for function, arguments, settings, results in self.calls:
            found = function(*arguments, **settings)
            for old, new in zip(tree_leaves(results), tree_leaves(found), strict=True):
                if isinstance(old, torch.Tensor):
                    old.copy_(new)


@pytest.fixture
def replayed(monkeypatch):
    """Steps of a CPU that are recorded once and replayed without Python: what was a number stays what it was."""

    def record(step):
        with Recorder() as recorder:
            terms = step()  # a graph would compute nothing yet: so the first replay has been done
        replays = itertools.chain([lambda: None], itertools.repeat(recorder.replay))
        return terms, lambda: next(replays)()

    def start(tensors=True):
        place = Trainer._place_rates

        def as_on_a_gpu(self):
            self.graphed = tensors
            place(self)

        monkeypatch.setattr(Trainer, "_place_rates", as_on_a_gpu)
        monkeypatch.setattr(training_step, "Step", training_step.Replayed)
        monkeypatch.setattr(training_step, "record", record)
        monkeypatch.setattr(training_step, "warm_up", lambda step: [step() for _ in range(3)])

    return start


EXACT = tiny(learning_rate=2.0**-7, decay_every=1)  # rates that float32, the tensors' precision, holds exactly


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """A run of steps that are not replayed."""
    return train(EXACT, directory=tmp_path_factory.mktemp("launched"))


def test_replayed_steps_equal_launched_ones_bitwise_through_a_kill(launched, tmp_path, replayed):
    """Warm-up steps leave no trace, neither at the start nor at a resume; rate and progress reach the replays."""
    replayed()
    whole = train(EXACT, directory=tmp_path / "whole")
    parts = train(EXACT, directory=stopped(tmp_path / "parts", 12, EXACT))
    for run in (whole, parts):
        assert_same(weights(launched), weights(run))
        assert (launched.directory / "metrics.jsonl").read_bytes() == (run.directory / "metrics.jsonl").read_bytes()


def test_a_learning_rate_that_is_a_number_would_never_change_in_replays(launched, tmp_path, replayed):
    """So the test above can fail."""
    replayed(tensors=False)
    wrong = train(EXACT, runs=tmp_path)
    per_epoch = len(launched.metrics) // 3
    assert launched.metrics[: per_epoch - 1] == wrong.metrics[: per_epoch - 1]
    assert launched.metrics[-1]["loss"] != wrong.metrics[-1]["loss"]


def test_a_learning_rate_tensor_of_a_gpu_is_a_number_on_a_cpu():
    """Checkpoints go from one kind of device to the other."""
    objective = methods.build(tiny(), (1, 16, 16))
    trainer = Trainer(objective, 1, CPU)
    cpu, state = trainer.optimizers, trainer.state()
    [setting] = state["optimizers"]["autoencoder"]["param_groups"]
    assert not setting["capturable"]
    setting |= {"lr": torch.tensor(0.5), "capturable": True}  # as a GPU's checkpoint has them
    trainer.load(state)
    [setting] = cpu["autoencoder"].param_groups
    assert (setting["lr"], setting["capturable"]) == (0.5, False)
    training_step.set_rate(cpu, 0.25)
    assert setting["lr"] == 0.25
    with FakeTensorMode():
        trainer.device, trainer.graphed = CUDA, True
        trainer._place_rates()
        [setting] = cpu["autoencoder"].param_groups
        assert setting["lr"].device.type == "cuda"
        assert setting["capturable"]
        training_step.set_rate(cpu, 0.25)  # in place, or a graph would not see it
        assert isinstance(setting["lr"], torch.Tensor)


def test_images_of_a_gpu_are_dealt_there_in_the_order_of_the_cpu(monkeypatch):
    images = torch.randint(0, 256, (10, 1, 4, 4), dtype=torch.uint8)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (images.nbytes * 2, 0))
    assert batches._fits(images, CUDA)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (images.nbytes * 2 - 1, 0))
    assert not batches._fits(images, CUDA)
    assert not batches._fits(images, CPU)
    with FakeTensorMode():
        resident = ResidentImages(torch.empty(10, 1, 4, 4, dtype=torch.uint8, device=CUDA), 5, 0)
        resident.device = CUDA
        batch = resident.batch(1)
        assert (batch.device.type, tuple(batch.shape)) == ("cuda", (5, 1, 4, 4))


def test_without_its_instructions_bfloat16_is_computed_in_float32_and_recorded_so(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "has_bfloat16", lambda device: False)
    exact, asked = (train(tiny(precision=p), runs=tmp_path) for p in ("float32", "bfloat16"))
    assert exact.metrics == asked.metrics
    assert [run.environment["nets"] for run in (exact, asked)] == ["float32", "float32"]
    monkeypatch.setattr(environment, "has_bfloat16", lambda device: True)
    assert environment.net_precision("bfloat16", CPU) == "bfloat16"
    assert environment.net_precision("float64", CPU) == "float64"


def test_a_run_is_not_resumed_with_the_other_compilation(tmp_path, monkeypatch):
    """Before a checkpoint nothing was computed, so that a compilation that fails can be left out."""
    directory = stopped(tmp_path, 0, compute=Compute(compile=True))
    monkeypatch.setattr(torch, "compile", None)
    stopped(directory, 2, compute=Compute(compile=False))
    with pytest.raises(RunMismatch, match=says("compile=False", "True", "leave compile out")):
        train(tiny(), directory=directory, compute=Compute(compile=True))


FAST = tiny(latent_dim=16, epochs=6, learning_rate=2e-3, decay_every=5)


def assert_follows(fast, exact):
    """Reconstruction within 10 % at every line, contrast within 0.25."""
    for one, other in zip(exact.metrics, fast.metrics, strict=True):
        assert other["reconstruction"] == pytest.approx(one["reconstruction"], rel=0.1)
        assert other["contrastive"] == pytest.approx(one["contrastive"], abs=0.25)


def test_the_fast_path_follows_the_reference(tmp_path, monkeypatch):
    """Mean scores lie within the range of three seeds, too."""
    monkeypatch.setattr(environment, "has_bfloat16", lambda device: True)
    scores = {"float32": [], "bfloat16": []}
    for seed in range(3):
        found = [train(replace(FAST, seed=seed, precision=precision), runs=tmp_path) for precision in scores]
        assert_follows(found[1], found[0])
        assert found[0].metrics != found[1].metrics
        assert {value.dtype for value in weights(found[1]).values()} == {torch.float32, torch.int64}
        for run in found:
            rows = {(row["metric"], row["sampler"]): row["value"] for row in evaluate(run, Scoring(n=300))}
            scores[run.config.precision].append(rows["fd_classifier", "prior"])
    exact, fast = scores.values()
    assert abs(statistics.mean(fast) - statistics.mean(exact)) <= max(exact) - min(exact)


@pytest.mark.soak
@pytest.mark.skipif(shutil.which("g++") is None, reason="compilation for a CPU needs a C++ compiler")
@pytest.mark.filterwarnings("ignore")  # of the compiler
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_compiled_run_follows_the_reference(tmp_path, precision):
    """By the real compiler, about a minute each."""
    fast = train(replace(FAST, precision=precision), tmp_path / "compiled", Compute(compile=True))
    assert fast.environment["compiled"]
    assert_follows(fast, train(FAST, runs=tmp_path))


def anonymous() -> int:
    """Megabytes that this process holds and no file backs."""
    status = Path("/proc/self/status").read_text("utf-8")
    return int(re.search(r"RssAnon:\s*(\d+)", status)[1]) // 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="anonymous memory is read from Linux's /proc")
def test_a_cache_larger_than_memory_stays_on_the_disk(tmp_path, monkeypatch):
    """6 GB, memory-mapped and sparse."""
    np.lib.format.open_memmap(tmp_path / "train.npy", mode="w+", dtype=np.uint8, shape=(490_000, 3, 64, 64))
    images, test = cache._open(tmp_path / "train.npy"), torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
    found = Dataset(Split(images, None), Split(test, None), "0" * 64, {})
    monkeypatch.setattr(datasets, "load", lambda config: found)
    used, batch = [anonymous()], ResidentImages.batch
    monkeypatch.setattr(ResidentImages, "batch", lambda self, i: (used.append(anonymous()), batch(self, i))[1])
    config = tiny(dataset="folder", root="images", size=64, limit=0, epochs=1)
    stopped(tmp_path / "run", 10, config)
    assert len(used) == 11
    assert max(used) - used[0] < 500
