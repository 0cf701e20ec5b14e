"""The loop: equal to Algorithm 1, resumable bit for bit, idempotent, locked, stopped by a loss that is not finite."""

import copy
import json
import math
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import filelock
import numpy as np
import pytest
import torch
from conftest import says, stopped, tiny

from mocalib import Compute, MoCA, load, methods, train
from mocalib.config import paths
from mocalib.config.methods import VAE, WAEGAN, TwoStageVAE
from mocalib.data import datasets
from mocalib.data.batches import ResidentImages
from mocalib.methods import Turn
from mocalib.methods.algorithm1 import Settings, algorithm1
from mocalib.storage import environment, files
from mocalib.storage.run import CHECKPOINTS, Run, RunMismatch, open_run
from mocalib.training import loop
from mocalib.training.loop import AverageMeter, Callbacks, NotFinite, learning_rate
from mocalib.training.step import Trainer, check_turns, due, make_optimizers

WITHOUT_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
HANGS = 600  # seconds after which a test is given up; none depends on it


def weights(run) -> dict:
    return files.read_tensors(run.directory / "weights.pt")["objective"]


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of 24 steps; what changes it takes a copy."""
    return train(tiny(decay_every=1, keep_epochs=(1, 3)), runs=tmp_path_factory.mktemp("finished"))


@pytest.fixture
def mine(finished, tmp_path):
    """A copy of it."""
    return open_run(shutil.copytree(finished.directory, tmp_path / "mine"))


@pytest.fixture(scope="module")
def died(finished, tmp_path_factory):
    """Directory of the same run, killed with checkpoints of steps 13 and 14."""
    return stopped(tmp_path_factory.mktemp("died") / "run", 14, finished.config)


@pytest.mark.parametrize(("model", "weight"), [("hq", 0.0), ("a2", 20.0), ("a1", 20.0), ("hq", 20.0)])
def test_fifty_float64_steps_equal_algorithm_1(tmp_path, monkeypatch, model, weight):
    monkeypatch.setattr(loop, "LOG_LINES", 50)  # a line a step
    moca = MoCA(temperature=0.2, momentum=0.9, queue_size=100, weight=weight)
    net = {"model": model, "blocks": 1 if model == "a2" else 2}
    config = tiny(epochs=10, limit=160, precision="float64", decay_every=0, objective=moca, **net)
    run = train(config, tmp_path, Compute(threads=1))
    objective = methods.build(config, (1, 16, 16)).double()
    resident = ResidentImages(datasets.load(config).train.images, 32, config.seed, dtype=torch.float64)
    batches = [resident.batch(step).contiguous() for step in range(50)]
    nets = objective.encoder.train(), copy.deepcopy(objective.encoder), objective.decoder.train()
    settings = Settings(m0=0.9, T=50, lambda_=weight, tau=0.2, lr=config.learning_rate)
    reference = algorithm1(nets, objective.queue.keys.T.clone(), batches, settings)
    lines = run.metrics
    assert len(lines) == 50
    for line, expected in zip(lines, reference, strict=True):
        ours = [line[name] for name in ("loss", "reconstruction", "contrastive")]
        assert ours == pytest.approx([expected[name] for name in ("L", "L_rec", "L_con")], rel=1e-9)
    for name, value in objective.encoder.state_dict().items():  # trained in place by the reference
        if model == "a1" and value.ndim < 2:
            continue  # BatchNorm subtracts A1's biases: their gradient is rounding noise, which Adam scales up
        assert torch.allclose(weights(run)[f"encoder.{name}"], value, rtol=1e-6, atol=1e-9), name


@pytest.mark.parametrize(("form", "logged"), [("decoupled", "eq6"), ("negative", "negative")])
def test_other_forms_minimise_their_own_equation(tmp_path, form, logged):
    config = tiny(objective=MoCA(temperature=0.2, momentum=0.9, queue_size=100, weight=5.0, form=form))
    for line in train(config, runs=tmp_path).metrics:
        assert line["contrastive"] == line[logged]
        assert line["loss"] == pytest.approx(line["reconstruction"] + 5 * line[logged], rel=1e-5)


def test_the_literal_eq_6_sees_the_current_keys_and_trains_as_algorithm_1_does(tmp_path):
    """One step by hand: a queue as a list, pushed before the loss; and only queries carry a gradient."""
    config = tiny(objective=MoCA(temperature=0.2, momentum=0.9, queue_size=50, form="eq6_literal"), precision="float64")
    method = methods.build(config, (1, 16, 16)).double().train()
    x = torch.rand(32, 1, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    method.queue.push(torch.nn.functional.normalize(torch.randn(70, 8, dtype=torch.float64), dim=1))
    older = list(torch.roll(method.queue.keys, -int(method.queue.head), dims=0))
    out = method.loss("all", x)
    newest = torch.stack([*older, *out.keys["queue"]][-50:])
    q = method.encoder(x)
    entropy = torch.nn.functional.cross_entropy(q @ newest.T / 0.2, torch.arange(50 - 32, 50))
    assert out.terms["contrastive"].item() == pytest.approx(entropy.item() - math.log(50), abs=1e-6)
    assert not out.keys["queue"].requires_grad
    lines = train(config, runs=tmp_path).metrics
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert open_run(tmp_path / config.name).config == config


@pytest.mark.parametrize(("model", "size"), [("a1", 16), ("a2", 16), ("hq", 8), ("hq", 32)])
def test_the_loss_falls_within_thirty_steps(tmp_path, model, size):
    net = {"model": model, "blocks": 1 if model == "a2" else 2, "size": size}
    lines = train(tiny(epochs=4, **net), runs=tmp_path).metrics
    assert lines[-1]["reconstruction"] < lines[0]["reconstruction"] * 0.6


def test_an_epoch_of_pretraining_alone_has_no_loss_to_stop_at(tmp_path):
    method = WAEGAN(pretraining=0.5, critic_width=16)
    run = train(tiny(objective=method, epochs=4, stop_at=1000.0), runs=tmp_path)
    assert run.manifest["epoch"] == 3  # the first whose reconstruction was trained


def test_noise_is_of_seed_and_step_and_shared_by_the_turns_of_a_step():
    objective = methods.build(tiny(objective=WAEGAN(critic_width=16)), (1, 16, 16))
    x, cpu = torch.zeros(8, 1, 16, 16), torch.device("cpu")
    trainers = [Trainer(objective, 20, cpu, seed=seed) for seed in (0, 0, 1)]
    first, again, other = (trainer.noise(3, x) for trainer in trainers)
    assert first.shape == (8, objective.noise)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, trainers[0].noise(4, x))
    seen = []
    for name, turn in trainers[0].turns.items():
        trainers[0].turns[name] = lambda x, noise, turn=turn: (seen.append(noise), turn(x, noise))[1]
    assert [name for name, _ in trainers[0].step(10, x, 1e-3)] == ["autoencoder", "critic"]
    assert torch.equal(*seen)
    drawn = torch.cat([trainers[0].noise(step, x).flatten() for step in range(500)])
    assert abs(drawn.mean()) < 0.02
    assert drawn.std() == pytest.approx(1, abs=0.02)


def test_a_run_draws_the_noise_of_its_own_seed(tmp_path, monkeypatch):
    seeds, noise = set(), Trainer.noise
    monkeypatch.setattr(Trainer, "noise", lambda self, *batch: seeds.add(self.seed) or noise(self, *batch))
    train(tiny(objective=VAE(), epochs=1, seed=5), runs=tmp_path)
    assert seeds == {5}


class Seen(Callbacks):
    """Writes down each call."""

    def __init__(self, trainer):
        self.objective, self.calls = trainer.objective, []

    def on_step(self, step, state):
        assert state()["step"] == step
        self.calls.append(step)

    def on_line(self, line):
        self.calls.append(line)

    def on_epoch(self, step, epoch):
        self.calls.append((step, epoch))


def test_a_watcher_sees_all_that_the_loop_says_and_of_a_resumed_run_the_lines_before(finished, tmp_path):
    seen = []

    def watch(trainer):
        seen.append(Seen(trainer))
        return seen[-1]

    config, lines = finished.config, finished.metrics
    directory = stopped(tmp_path / "parts", 14, config, watch=watch)
    resumed = train(config, directory=directory, watch=watch)
    first, second = (watcher.calls for watcher in seen)
    assert [call for call in first if type(call) is int] == [*range(1, 15)]
    assert [call for call in second if type(call) is int] == [*range(15, 25)]
    assert [call for call in first if type(call) is dict] == [line for line in lines if line["step"] <= 14]
    assert [call for call in second if type(call) is dict] == lines == resumed.metrics
    epochs = [call for call in first + second if type(call) is tuple]
    assert epochs == [(0, 0), (8, 1), (16, 2), (24, 3)]
    assert_same(weights(resumed), seen[1].objective.state_dict())
    train(config, directory=directory, watch=watch)
    assert len(seen) == 2  # of a finished run there is nothing to see


def test_a_finished_run_returns_before_data_or_device_is_touched_and_refuses_another_config(finished, monkeypatch):
    before = {path.name: path.stat().st_mtime_ns for path in finished.directory.iterdir()}
    monkeypatch.setattr(datasets, "load", None)
    assert train(finished.config, directory=finished.directory, compute=Compute("cuda:99")).finished
    other = replace(finished.config, seed=4, objective=replace(tiny().objective, weight=9.0))
    with pytest.raises(RunMismatch, match=says("seed: 0 | 4", "objective.weight: 1.0 | 9.0")):
        train(other, directory=finished.directory)
    assert {path.name: path.stat().st_mtime_ns for path in finished.directory.iterdir()} == before


def test_an_edited_config_or_other_data_are_refused_on_resume(died, finished, tmp_path, monkeypatch):
    directory, edited = shutil.copytree(died, tmp_path / "run"), replace(finished.config, learning_rate=0.5)
    files.write_json(directory / "config.json", edited.to_dict())
    with pytest.raises(RunMismatch, match=says("checkpoint.pt", "another config", "learning_rate: 0.001 | 0.5")):
        train(edited, directory=directory)
    other = datasets.load(finished.config)._replace(fingerprint="other")
    monkeypatch.setattr(datasets, "load", lambda config: other)
    with pytest.raises(RunMismatch, match=says("digits", died, "other pixels", "now other", "Restore", "move", died)):
        train(finished.config, directory=died)


def test_a_process_that_waited_is_refused_another_config(tmp_path, monkeypatch):
    started = Run.locked

    def late(self):
        files.write_json(self.directory / "config.json", tiny(seed=1).to_dict())  # the first process began meanwhile
        return started(self)

    monkeypatch.setattr(Run, "locked", late)
    with pytest.raises(RunMismatch, match=says("seed: 1 | 0")):
        train(tiny(), directory=tmp_path / "run")


def test_a_run_that_resumes_on_another_device_says_so_in_its_record(tmp_path, monkeypatch):
    describe, config = environment.describe, tiny(epochs=1)
    monkeypatch.setattr(environment, "describe", lambda device: describe(device) | {"device": "another"})
    directory = stopped(tmp_path / "run", 2, config)
    monkeypatch.setattr(environment, "describe", describe)
    run = train(config, directory=directory)
    assert (run.environment["device"], run.environment["resumed_on"]) == ("another", ["cpu"])
    run.verify()


def first_weight(change):
    """What changes a checkpoint's first weight, or takes it out."""

    def changed(path):
        state = files.read_tensors(path)
        weight = state["objective"].pop("encoder.0.weight")
        if change:
            state["objective"]["encoder.0.weight"] = change(weight)
        files.write_tensors(path, state)

    return changed


HERE = ("in the file and", (4, 1, 3, 3), torch.float32)
DAMAGE = {  # what is wrong with a checkpoint -> how it comes about, and what is said of it; test_damage has bytes
    "nearly empty": (lambda path: files.write_tensors(path, {"step": 3}), ("it lacks config, env",)),
    "of another shape": (first_weight(lambda x: x.repeat(1, 2, 1, 1)), ((4, 2, 3, 3), torch.float32, *HERE)),
    "of another precision": (first_weight(torch.Tensor.double), ((4, 1, 3, 3), torch.float64, *HERE)),
    "of other names": (first_weight(None), ("missing", *HERE)),
}


@pytest.mark.parametrize("wrong", DAMAGE)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(finished, died, tmp_path, wrong):
    """Not if that is damaged, too: nothing is trained from the start unasked, and the files stay as they are."""
    damage, said = DAMAGE[wrong]
    first, both = (shutil.copytree(died, tmp_path / name) for name in ("first", "both"))
    for path in (first / "checkpoint.pt", both / "checkpoint.pt", both / "previous.pt"):
        damage(path)
    with pytest.warns(UserWarning, match=says(first, "checkpoint.pt does not load", *said)):
        run = train(finished.config, directory=first)
    assert_same(weights(finished), weights(run))
    assert run.metrics == finished.metrics  # the line logged after the older checkpoint was made again
    before = [(both / name).read_bytes() for name in CHECKPOINTS]
    with (
        pytest.warns(UserWarning, match=says(*said)),
        pytest.raises(RunMismatch, match=says("checkpoint.pt and previous.pt do not load; remove them")),
    ):
        train(finished.config, directory=both)
    assert [(both / name).read_bytes() for name in CHECKPOINTS] == before


def test_final_weights_of_other_nets_are_named_with_the_way_out(mine):
    first_weight(lambda x: x[:2])(mine.directory / "weights.pt")
    said = says("weights.pt does not load", "encoder.0.weight is", (2, 1, 3, 3), "Retrain", "python -m mocalib")
    with pytest.raises(ValueError, match=said):
        load(mine.directory)


@pytest.mark.parametrize("lines", [40, 1])  # seen at a log line, or before a checkpoint
def test_a_loss_that_is_not_finite_stops_the_run_and_poisons_no_checkpoint(tmp_path, monkeypatch, lines):
    monkeypatch.setattr(loop, "LOG_LINES", lines)
    loss = methods.moca.MoCA.loss
    calls = iter(range(1_000))

    def explode(self, turn, x, noise=None):
        return loss(self, turn, x * float("nan") if next(calls) == 13 else x)

    monkeypatch.setattr(methods.moca.MoCA, "loss", explode)
    said = says("not finite at step 13 (autoencoder)", "loss nan, reconstruction nan", "last good checkpoint", ".pt")
    with pytest.raises(NotFinite, match=said):
        train(tiny(), directory=tmp_path, compute=Compute(checkpoint_seconds=0))
    for name in CHECKPOINTS:
        state = files.read_tensors(tmp_path / name)
        assert state["step"] <= 13
        assert all(torch.isfinite(value).all() for value in state["objective"].values())
    assert all(line["step"] <= 13 for line in open_run(tmp_path).metrics)


def test_a_second_process_waits_and_takes_the_result(finished, tmp_path, monkeypatch):
    directory, said, waits = tmp_path / "mine", [], threading.Event()
    directory.mkdir()
    monkeypatch.setattr("mocalib.training.train.fit", None)  # nothing is left to do
    monkeypatch.setattr("mocalib.storage.run.print", lambda text, **_: (said.append(text), waits.set()), raising=False)
    with ThreadPoolExecutor() as pool:
        with filelock.FileLock(directory / ".lock"):
            waiting = pool.submit(train, finished.config, directory=directory)
            assert waits.wait(HANGS)
            shutil.copytree(finished.directory, directory, dirs_exist_ok=True, ignore=lambda *_: [".lock"])
            assert not waiting.done()
        assert waiting.result(HANGS).finished
    assert said == [f"another process uses {directory}; waiting for it to end"]


def test_the_learning_rate_is_halved_by_epoch_and_held_after_the_last(finished):
    config = replace(tiny(), epochs=1000, learning_rate=2e-3, decay_every=40, decay_until=400)  # Appendix A, CelebA-HQ
    rates = [learning_rate(config, epoch) for epoch in (0, 39, 40, 79, 80, 399, 400, 999)]
    assert rates == pytest.approx([2e-3, 2e-3, 1e-3, 1e-3, 5e-4, 2e-3 / 2**9, 2e-3 / 2**10, 2e-3 / 2**10])
    celeba = replace(tiny(), epochs=200)  # section 5: half every 60 epochs
    assert [learning_rate(celeba, e) / 1e-3 for e in (59, 60, 120, 180, 199)] == [1, 0.5, 0.25, 0.125, 0.125]
    assert learning_rate(replace(tiny(), decay_every=0), 2) == 1e-3
    assert {line["epoch"]: line["learning_rate"] for line in finished.metrics} == {1: 1e-3, 2: 5e-4, 3: 2.5e-4}


def test_a_run_stops_after_the_epoch_whose_mean_reconstruction_is_low_enough(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "LOG_LINES", 6)  # a line an epoch
    free = train(tiny(epochs=6), runs=tmp_path)
    means = [np.mean([line["reconstruction"] for line in free.metrics if line["epoch"] == e]) for e in range(1, 7)]
    target = (means[2] + means[3]) / 2
    stopped = train(tiny(epochs=6, stop_at=target), runs=tmp_path)
    assert (stopped.manifest["epoch"], stopped.manifest["step"]) == (4, 32)
    assert stopped.metrics == free.metrics[: len(stopped.metrics)]  # schedules are planned for the full length


def test_kept_epochs_can_be_loaded_beside_the_final_weights(finished):
    assert [load(finished.directory, epoch).step for epoch in (1, 3, None)] == [8, 24, 24]
    first, last = (load(finished.directory, epoch).sample(2) for epoch in (1, 3))
    assert not torch.equal(first, last)
    assert torch.equal(last, load(finished.directory).sample(2))


def test_weights_that_are_not_there_are_explained(died, mine, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=says("not finished", "python -m mocalib", died)):
        load(died)
    with pytest.raises(FileNotFoundError, match=says("epoch-0002.pt", "keep_epochs")):
        load(mine.directory, epoch=2)
    (mine.directory / "weights.pt").unlink()
    with pytest.raises(FileNotFoundError, match=says("Retrain", "python -m mocalib", "--runs", "custom")):
        load(mine.directory)
    monkeypatch.setattr(paths, "RUNS", tmp_path)
    custom = shutil.copytree(mine.directory, tmp_path / "custom" / mine.config.name)
    with pytest.raises(FileNotFoundError, match=r"--runs .*custom/again$"):  # not the finished directory itself
        load(custom)


def test_the_environment_is_recorded_before_the_first_step_and_torchs_own_threads_are_given_back(tmp_path):
    """Without names of host or user; the run dies before two threads on one core wait for each other."""
    before = torch.get_num_threads()
    asked = 1 if before > 1 else 2
    text = (stopped(tmp_path / "run", 0, compute=Compute(threads=asked)) / "environment.json").read_text("utf-8")
    assert torch.get_num_threads() == before
    environment = json.loads(text)
    assert environment["threads"] == asked
    assert environment["versions"]["torch"] == torch.__version__.split("+")[0]
    assert environment["data"]["train"] == 256
    assert os.uname().nodename not in text
    assert str(paths.ROOT) not in text


@pytest.mark.parametrize(
    ("changes", "how", "said"),
    [
        ({}, {"threads": 10**5}, ["threads = 100000", environment.cores()]),
        ({}, {"device": "gpu"}, ["device = 'gpu'", "'cpu' or 'cuda'"]),
        ({}, {"device": "meta"}, ["device = 'meta'", "'cpu' or 'cuda'"]),
        pytest.param({}, {"device": "cuda"}, ["device = 'cuda'", "no CUDA device", "'cpu'"], marks=WITHOUT_GPU),
        ({"batch_size": 300}, {}, ["batch_size = 300", 256]),
        ({"objective": WAEGAN(pretraining=0.99), "epochs": 1}, {}, ["'autoencoder'", "8 steps", "train longer"]),
        ({"objective": TwoStageVAE(first_stage=0.999), "epochs": 1}, {}, ["'second'", "8 steps", "train longer"]),
    ],
)
def test_what_cannot_be_computed_is_refused_before_anything_is_written(tmp_path, changes, how, said):
    with pytest.raises(ValueError, match=says(*said)):
        train(tiny(**changes), tmp_path / "runs", Compute(**how))
    assert not (tmp_path / "runs").exists()


def test_meter_means_are_over_the_steps_on_which_a_turn_was_due():
    meter = AverageMeter()
    for step in range(6):
        meter.add("a", {"x": torch.tensor(float(step))}, step)
        if step % 3 == 0:
            meter.add("b", {"y": torch.tensor(10.0 * step)}, step)
    assert meter.read() == {"x": 2.5, "y": 15.0}
    assert meter.read() == {}


def test_turns_are_due_by_step_and_part_of_training_and_one_that_a_method_goes_without_is_not_missed():
    early = Turn("a", ("g",), stop=0.5)
    late = Turn("b", ("g",), every=3, start=0.5)
    assert [step for step in range(10) if due(early, step, 10)] == [0, 1, 2, 3, 4]
    assert [step for step in range(10) if due(late, step, 10)] == [6, 9]
    check_turns(methods.build(tiny(objective=WAEGAN(pretraining=0.0)), (1, 16, 16)), 8)


def test_groups_that_miss_or_repeat_a_parameter_are_refused():
    objective = methods.build(tiny(), (1, 16, 16))
    make_optimizers(objective)
    encoder = list(objective.encoder.parameters())
    for broken in (encoder, [*encoder, *encoder]):
        objective.groups = lambda broken=broken: {"autoencoder": methods.Group(broken)}
        with pytest.raises(ValueError, match="every trainable parameter exactly once"):
            make_optimizers(objective)
