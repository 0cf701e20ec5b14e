"""The loop: equal to Algorithm 1, resumable bit for bit, idempotent, locked, stopped by a loss that is not finite."""

import copy
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import picture, tiny
from test_objectives import METHODS

from mocalib import MoCA, algorithm1, data, engine, environment, files, load, objectives, paths, runs, train, training
from mocalib.meter import Meter, NotFinite
from mocalib.methods import VAE, WAEGAN, TwoStageVAE
from mocalib.objectives import Turn
from mocalib.runs import RunMismatch

WITHOUT_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
STOPPED = "stopped by the test"


class Stopped(Exception):
    """Stands for a kill, at a chosen step."""


def stop_at_step(monkeypatch, step: int):
    """Let the loop die when it asks for the batch of `step`."""
    batch = data.ResidentImages.batch

    def dying(self, i):
        if i == step:
            raise Stopped(STOPPED)
        return batch(self, i)

    monkeypatch.setattr(data.ResidentImages, "batch", dying)
    return lambda: monkeypatch.setattr(data.ResidentImages, "batch", batch)


def weights(run) -> dict:
    return files.read_tensors(run.directory / "weights.pt")["objective"]


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


@pytest.mark.parametrize(("model", "weight"), [("a2", 0.0), ("a2", 20.0), ("a1", 20.0), ("hq", 20.0)])
def test_fifty_float64_steps_equal_algorithm_1(tmp_path, monkeypatch, model, weight):
    monkeypatch.setattr(training, "LOG_LINES", 50)  # a line a step
    moca = MoCA(temperature=0.2, momentum=0.9, queue_size=100, weight=weight)
    net = {"model": model, "blocks": 1 if model == "a2" else 2}
    config = tiny(epochs=10, limit=160, precision="float64", decay_every=0, objective=moca, **net)
    run = train(config, runs=tmp_path, threads=1)
    engine = objectives.build(config, (1, 16, 16)).double()
    resident = data.ResidentImages(data.load(config).train.images, 32, config.seed, dtype=torch.float64)
    batches = [resident.batch(step).contiguous() for step in range(50)]
    reference = algorithm1.algorithm1(
        engine.encoder.train(), copy.deepcopy(engine.encoder), engine.decoder.train(), engine.queue.keys.T.clone(),
        batches, m0=0.9, T=50, lambda_=weight, tau=0.2, lr=config.learning_rate,
    )  # fmt: skip
    lines = run.metrics
    assert len(lines) == 50
    for line, expected in zip(lines, reference, strict=True):
        assert line["loss"] == pytest.approx(expected["L"], rel=1e-9)
        assert line["reconstruction"] == pytest.approx(expected["L_rec"], rel=1e-9)
        assert line["contrastive"] == pytest.approx(expected["L_con"], rel=1e-9)
    for name, value in engine.encoder.state_dict().items():  # trained in place by the reference
        if model == "a1" and value.ndim < 2:
            continue  # BatchNorm subtracts A1's biases: their gradient is rounding noise, which Adam scales up
        assert torch.allclose(weights(run)[f"encoder.{name}"], value, rtol=1e-6, atol=1e-9), name


@pytest.mark.parametrize("form", ["eq6", "negative"])
def test_other_forms_minimise_their_own_equation(tmp_path, form):
    config = tiny(objective=MoCA(temperature=0.2, momentum=0.9, queue_size=100, weight=5.0, form=form))
    for line in train(config, runs=tmp_path).metrics:
        assert line["contrastive"] == line[form]
        assert line["loss"] == pytest.approx(line["reconstruction"] + 5 * line[form], rel=1e-5)


@pytest.mark.parametrize(("model", "size"), [("a1", 16), ("a2", 16), ("hq", 8), ("hq", 32)])
def test_the_loss_falls_within_thirty_steps(tmp_path, model, size):
    net = {"model": model, "blocks": 1 if model == "a2" else 2, "size": size}
    lines = train(tiny(epochs=4, **net), runs=tmp_path).metrics
    assert lines[-1]["reconstruction"] < lines[0]["reconstruction"] * 0.6


@pytest.mark.parametrize("kill", [5, 12, 23])
def test_killed_and_resumed_equals_uninterrupted_bitwise(tmp_path, monkeypatch, kill):
    config = tiny(learning_rate=0.01, decay_every=1, keep_epochs=(2,))
    whole = train(config, runs=tmp_path / "whole", threads=2)
    go_on = stop_at_step(monkeypatch, kill)
    with pytest.raises(Stopped):
        train(config, runs=tmp_path / "parts", threads=2, checkpoint_seconds=0)
    go_on()
    parts = train(config, runs=tmp_path / "parts", threads=1)  # the recorded two threads are kept
    assert parts.environment["threads"] == 2
    assert_same(weights(whole), weights(parts))
    for name in ("metrics.jsonl", "config.json"):
        assert (whole.directory / name).read_bytes() == (parts.directory / name).read_bytes()
    kept = [files.read_tensors(run.directory / "epoch-0002.pt")["objective"] for run in (whole, parts)]
    assert_same(*kept)
    assert [line["step"] for line in parts.timing] == [line["step"] for line in whole.timing]


# In pretraining and after it, in the first stage and in the second
STAGED = [method for method in METHODS if hasattr(method, "pretraining") or method.stages > 1]
KILLS = [*((method, 6) for method in METHODS), *((method, 1) for method in STAGED)]


@pytest.mark.parametrize(("method", "kill"), KILLS, ids=str)
def test_every_method_resumes_bitwise(tmp_path, monkeypatch, method, kill):
    config = tiny(objective=method, epochs=1)
    whole = train(config, runs=tmp_path / "whole")
    go_on = stop_at_step(monkeypatch, kill)
    with pytest.raises(Stopped):
        train(config, runs=tmp_path / "parts", checkpoint_seconds=0)
    go_on()
    parts = train(config, runs=tmp_path / "parts")
    assert_same(weights(whole), weights(parts))
    assert whole.metrics == parts.metrics
    assert len(whole.metrics) == 8


def test_an_epoch_of_pretraining_alone_has_no_loss_to_stop_at(tmp_path):
    method = WAEGAN(pretraining=0.5, critic_width=16)
    run = train(tiny(objective=method, epochs=4, stop_at=1000.0), runs=tmp_path)
    assert run.manifest["epoch"] == 3  # the first whose reconstruction was trained


@pytest.mark.parametrize("method", [WAEGAN(pretraining=0.99), TwoStageVAE(first_stage=0.999)], ids=str)
def test_a_stage_without_a_step_is_refused_and_nothing_is_written(tmp_path, method):
    with pytest.raises(ValueError, match=r"never take its turn '(autoencoder|second)' in 8 steps: .* train longer"):
        train(tiny(objective=method, epochs=1), runs=tmp_path)
    assert not list(tmp_path.iterdir())
    assert train(tiny(objective=WAEGAN(pretraining=0.0, critic_width=16), epochs=1), runs=tmp_path).finished


def test_noise_is_of_seed_and_step_and_shared_by_the_turns_of_a_step():
    objective = objectives.build(tiny(objective=METHODS[7]), (1, 16, 16))
    x, cpu = torch.zeros(8, 1, 16, 16), torch.device("cpu")
    trainers = [engine.Trainer(objective, 20, cpu, seed=seed) for seed in (0, 0, 1)]
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
    seeds, noise = set(), engine.Trainer.noise
    monkeypatch.setattr(engine.Trainer, "noise", lambda self, *batch: seeds.add(self.seed) or noise(self, *batch))
    train(tiny(objective=VAE(), epochs=1, seed=5), runs=tmp_path)
    assert seeds == {5}


def test_killed_by_the_system_resumes_to_the_same_scores(tmp_path):
    """SIGKILL of the real command, from a checkpoint above step 0, with scores at the end."""
    config = tiny(epochs=40)
    command = [sys.executable, "-m", "mocalib", "--threads", "1", "--n", "200", "--checkpoint-seconds", "0.2"]
    places = [tmp_path / name for name in ("whole", "parts")]
    for place in places:
        files.write_json(place / "config.json", config.to_dict())
    child = subprocess.Popen([*command, str(places[1])], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (places[1] / "checkpoint.pt").exists():
        assert child.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert not runs.open_run(places[1]).finished
    assert files.read_tensors(places[1] / "checkpoint.pt")["step"] > 0
    for place in reversed(places):
        subprocess.run([*command, str(place)], check=True, stdout=subprocess.DEVNULL)
    whole, parts = (runs.open_run(place) for place in places)
    assert_same(weights(whole), weights(parts))
    assert len(whole.scores) > 8
    for name in ("metrics.jsonl", "scores.json", "samples.png", "latents.npz"):
        assert (places[0] / name).read_bytes() == (places[1] / name).read_bytes(), name
    assert not list(places[1].glob("checkpoint.pt")) + list(places[1].glob("*.tmp"))


def test_a_run_that_died_after_its_last_step_only_finishes(tmp_path, monkeypatch):
    config = tiny()
    whole = train(config, runs=tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(runs.Run, "finish", lambda *_: (_ for _ in ()).throw(Stopped))
        with pytest.raises(Stopped):
            train(config, runs=tmp_path / "parts", checkpoint_seconds=0)
    parts = train(config, runs=tmp_path / "parts")
    assert_same(weights(whole), weights(parts))
    assert parts.manifest["step"] == whole.manifest["step"] == 24
    assert parts.metrics == whole.metrics


def test_a_finished_run_returns_before_data_or_device_is_touched(tmp_path, monkeypatch):
    run = train(tiny(), runs=tmp_path)
    before = {path.name: path.stat().st_mtime_ns for path in run.directory.iterdir()}
    monkeypatch.setattr(data, "load", None)
    again = train(tiny(), runs=tmp_path, device="no such device")
    assert again.finished
    assert {path.name: path.stat().st_mtime_ns for path in run.directory.iterdir()} == before


def test_a_directory_of_another_config_is_refused_with_the_fields(tmp_path):
    run = train(tiny(), directory=tmp_path / "here")
    other = replace(tiny(), seed=4, objective=replace(tiny().objective, weight=9.0))
    before = (run.directory / "config.json").read_bytes()
    with pytest.raises(RunMismatch, match=r"seed: 0 \| 4; objective.weight: 1.0 \| 9.0"):
        train(other, directory=tmp_path / "here")
    assert (run.directory / "config.json").read_bytes() == before


def test_a_run_of_other_images_under_a_folder_of_the_same_name_is_refused(scratch):
    configs = []
    for place in "ab":
        for i in range(20):
            picture(scratch / place / "images" / f"{i}.png", size=(16, 16), seed=i)
        configs.append(tiny(dataset="folder", root=str(scratch / place / "images"), limit=0, batch_size=8, epochs=1))
    train(configs[0], runs=scratch)
    with pytest.raises(RunMismatch, match=r"root: '.*/a/images' \| '.*/b/images'"):
        train(configs[1], runs=scratch)


def test_an_edited_config_is_refused_on_resume(tmp_path, monkeypatch):
    go_on = stop_at_step(monkeypatch, 10)
    with pytest.raises(Stopped):
        train(tiny(), directory=tmp_path / "run", checkpoint_seconds=0)
    go_on()
    edited = tiny(learning_rate=0.5)
    files.write_json(tmp_path / "run" / "config.json", edited.to_dict())
    with pytest.raises(RunMismatch, match=r"checkpoint.pt was made by another config .*learning_rate: 0.001 \| 0.5"):
        train(edited, directory=tmp_path / "run")


def test_a_process_that_waited_is_refused_another_config(tmp_path, monkeypatch):
    started = runs.Run.locked

    def late(self):
        files.write_json(self.directory / "config.json", tiny(seed=1).to_dict())  # the first process began meanwhile
        return started(self)

    monkeypatch.setattr(runs.Run, "locked", late)
    with pytest.raises(RunMismatch, match=r"seed: 1 \| 0"):
        train(tiny(), directory=tmp_path / "run")


def test_a_run_that_resumes_on_another_device_says_so_in_its_record(tmp_path, monkeypatch):
    go_on, describe = stop_at_step(monkeypatch, 10), environment.describe
    monkeypatch.setattr(environment, "describe", lambda device: describe(device) | {"device": "another"})
    with pytest.raises(Stopped):
        train(tiny(), directory=tmp_path / "run", checkpoint_seconds=0)
    go_on()
    monkeypatch.setattr(environment, "describe", describe)
    run = train(tiny(), directory=tmp_path / "run")
    assert (run.environment["device"], run.environment["resumed_on"]) == ("another", ["cpu"])
    run.verify()


def test_damaged_records_are_named_with_the_way_out(tmp_path):
    run = train(tiny(epochs=1), directory=tmp_path / "run")
    (run.directory / "manifest.json").write_text("")
    with pytest.raises(ValueError, match=r"run/manifest.json is damaged .*restore it, or remove .*run to make it"):
        run.verify()


def test_a_checkpoint_that_is_no_checkpoint_is_passed_over(tmp_path, monkeypatch):
    go_on = stop_at_step(monkeypatch, 14)
    with pytest.raises(Stopped):
        train(tiny(), directory=tmp_path / "run", checkpoint_seconds=0)
    go_on()
    files.write_tensors(tmp_path / "run" / "checkpoint.pt", {"step": 3})
    with pytest.warns(UserWarning, match=r"checkpoint.pt does not load \(ValueError\('it lacks config, env"):
        assert train(tiny(), directory=tmp_path / "run").finished


OTHER_NETS = {
    "of another shape": (lambda x: x.repeat(1, 2, 1, 1), r"(4, 2, 3, 3) torch.float32 there and (4, 1, 3, 3)"),
    "of another precision": (lambda x: x.double(), r"(4, 1, 3, 3) torch.float64 there and (4, 1, 3, 3) torch.float32"),
    "of other names": (None, "missing there and (4, 1, 3, 3)"),
}


def change_first_weight(path, change):
    state = files.read_tensors(path)
    weight = state["objective"].pop("encoder.0.weight")
    if change:
        state["objective"]["encoder.0.weight"] = change(weight)
    files.write_tensors(path, state)


@pytest.mark.parametrize("other", OTHER_NETS)
def test_a_checkpoint_of_other_nets_is_named_and_the_one_before_is_used(tmp_path, monkeypatch, other):
    change, message = OTHER_NETS[other]
    go_on = stop_at_step(monkeypatch, 14)
    with pytest.raises(Stopped):
        train(tiny(), directory=tmp_path / "run", checkpoint_seconds=0)
    go_on()
    change_first_weight(tmp_path / "run" / "checkpoint.pt", change)
    named = rf"checkpoint.pt does not load .*encoder.0.weight is {re.escape(message)}"
    with pytest.warns(UserWarning, match=named):
        run = train(tiny(), directory=tmp_path / "run")
    assert_same(weights(train(tiny(), directory=tmp_path / "whole")), weights(run))


def test_only_checkpoints_of_other_nets_are_refused_with_the_way_out(tmp_path, monkeypatch):
    go_on = stop_at_step(monkeypatch, 14)
    with pytest.raises(Stopped):
        train(tiny(), directory=tmp_path / "run", checkpoint_seconds=0)
    go_on()
    names = ("checkpoint.pt", "previous.pt")
    for name in names:
        change_first_weight(tmp_path / "run" / name, torch.Tensor.double)
    before = [(tmp_path / "run" / name).read_bytes() for name in names]
    with (
        pytest.warns(UserWarning, match="does not load .*torch.float64 there"),
        pytest.raises(RunMismatch, match=r"checkpoint.pt and previous.pt do not load; remove them to train from the"),
    ):
        train(tiny(), directory=tmp_path / "run")
    assert [(tmp_path / "run" / name).read_bytes() for name in names] == before


def test_final_weights_that_are_cut_or_of_other_nets_are_named_with_the_way_out(tmp_path):
    run = train(tiny(epochs=1), runs=tmp_path)
    path = run.directory / "weights.pt"
    whole, way_out = path.read_bytes(), "Retrain the run elsewhere with: python -m mocalib"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=rf"weights.pt does not load .*{way_out}"):
        load(run.directory)
    path.write_bytes(whole)
    change_first_weight(path, lambda x: x[:2])
    with pytest.raises(ValueError, match=rf"weights.pt does not load .*encoder.0.weight is \(2, 1, 3, 3\).*{way_out}"):
        load(run.directory)


def test_other_data_are_refused_on_resume(tmp_path, monkeypatch):
    go_on = stop_at_step(monkeypatch, 10)
    with pytest.raises(Stopped):
        train(tiny(), runs=tmp_path, checkpoint_seconds=0)
    go_on()
    real = data.load(tiny())
    monkeypatch.setattr(data, "load", lambda config: real._replace(fingerprint="other"))
    with pytest.raises(RunMismatch, match="was begun on other data.*Bring those back, or remove .* to train on these"):
        train(tiny(), runs=tmp_path)


@pytest.mark.parametrize("damaged", [["checkpoint.pt"], ["checkpoint.pt", "previous.pt"]])
def test_a_cut_checkpoint_is_named_and_the_one_before_is_used(tmp_path, monkeypatch, damaged):
    go_on = stop_at_step(monkeypatch, 14)
    with pytest.raises(Stopped):
        train(tiny(), runs=tmp_path / "parts", checkpoint_seconds=0)
    go_on()
    [directory] = (tmp_path / "parts").iterdir()
    for name in damaged:
        content = (directory / name).read_bytes()
        (directory / name).write_bytes(content[: len(content) // 2])
    if len(damaged) == 2:
        with (
            pytest.warns(UserWarning, match="(checkpoint|previous).pt does not load"),
            pytest.raises(RunMismatch, match=r"checkpoint.pt and previous.pt do not load; remove them"),
        ):
            train(tiny(), runs=tmp_path / "parts")
        return
    with pytest.warns(UserWarning, match=r"checkpoint.pt does not load"):
        parts = train(tiny(), runs=tmp_path / "parts")
    whole = train(tiny(), runs=tmp_path / "whole")
    assert_same(weights(whole), weights(parts))
    assert parts.metrics == whole.metrics  # the line logged after the older checkpoint was dropped and made again


@pytest.mark.parametrize("lines", [40, 1])  # seen at a log line, or before a checkpoint
def test_a_loss_that_is_not_finite_stops_the_run_and_poisons_no_checkpoint(tmp_path, monkeypatch, lines):
    monkeypatch.setattr(training, "LOG_LINES", lines)
    loss = objectives.moca.MoCA.loss
    calls = iter(range(1_000))

    def explode(self, turn, x, noise=None):
        return loss(self, turn, x * float("nan") if next(calls) == 13 else x)

    monkeypatch.setattr(objectives.moca.MoCA, "loss", explode)
    message = r"not finite at step 13 \(autoencoder\): loss nan, reconstruction nan.*the last good checkpoint is .*pt"
    with pytest.raises(NotFinite, match=message):
        train(tiny(), runs=tmp_path, checkpoint_seconds=0)
    [directory] = tmp_path.iterdir()
    for name in ("checkpoint.pt", "previous.pt"):
        state = files.read_tensors(directory / name)
        assert state["step"] <= 13
        assert all(torch.isfinite(value).all() for value in state["objective"].values())
    assert all(line["step"] <= 13 for line in runs.open_run(directory).metrics)


def test_a_second_process_waits_and_takes_the_result(tmp_path, capsys, monkeypatch):
    finished = train(tiny(), runs=tmp_path / "other")
    directory = tmp_path / "mine" / finished.directory.name
    directory.mkdir(parents=True)
    monkeypatch.setattr(training, "_fit", None)  # nothing is left to do
    code = (
        "import sys, filelock; lock = filelock.FileLock(sys.argv[1]); lock.acquire(); print('held'); sys.stdin.read()"
    )
    command = [sys.executable, "-u", "-c", code, directory / ".lock"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "held\n"
        with ThreadPoolExecutor() as pool:
            waiting = pool.submit(train, tiny(), runs=tmp_path / "mine")
            time.sleep(0.5)
            assert not waiting.done()
            shutil.copytree(finished.directory, directory, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".lock"))
            child.stdin.close()
            assert waiting.result(timeout=60).finished
    assert "in use by another process; waiting" in capsys.readouterr().out


def test_the_learning_rate_is_halved_by_epoch_and_held_after_the_last():
    config = replace(tiny(), epochs=1000, learning_rate=2e-3, decay_every=40, decay_until=400)  # Appendix A, CelebA-HQ
    rates = [training.learning_rate(config, epoch) for epoch in (0, 39, 40, 79, 80, 399, 400, 999)]
    assert rates == pytest.approx([2e-3, 2e-3, 1e-3, 1e-3, 5e-4, 2e-3 / 2**9, 2e-3 / 2**10, 2e-3 / 2**10])
    celeba = replace(tiny(), epochs=200)  # section 5: half every 60 epochs
    assert [training.learning_rate(celeba, e) / 1e-3 for e in (59, 60, 120, 180, 199)] == [1, 0.5, 0.25, 0.125, 0.125]
    assert training.learning_rate(replace(tiny(), decay_every=0), 2) == 1e-3


def test_training_uses_the_scheduled_rate(tmp_path):
    run = train(tiny(decay_every=1), runs=tmp_path)
    assert {line["epoch"]: line["learning_rate"] for line in run.metrics} == {1: 1e-3, 2: 5e-4, 3: 2.5e-4}


def test_a_run_stops_after_the_epoch_whose_mean_reconstruction_is_low_enough(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "LOG_LINES", 6)  # a line an epoch
    free = train(tiny(epochs=6), runs=tmp_path)
    means = [np.mean([line["reconstruction"] for line in free.metrics if line["epoch"] == e]) for e in range(1, 7)]
    target = (means[2] + means[3]) / 2
    stopped = train(tiny(epochs=6, stop_at=target), runs=tmp_path)
    assert stopped.manifest["epoch"] == 4
    assert stopped.manifest["step"] == 32
    assert stopped.metrics == free.metrics[: len(stopped.metrics)]  # schedules are planned for the full length


def test_kept_epochs_can_be_loaded_beside_the_final_weights(tmp_path):
    run = train(tiny(keep_epochs=(1, 3)), runs=tmp_path)
    assert [load(run.directory, epoch).step for epoch in (1, 3, None)] == [8, 24, 24]
    first, last = (load(run.directory, epoch).sample(2) for epoch in (1, 3))
    assert not torch.equal(first, last)
    assert torch.equal(last, load(run.directory).sample(2))


def test_weights_that_are_not_there_are_explained(tmp_path, monkeypatch):
    run = train(tiny(), runs=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"epoch-0002.pt is not there.*keep_epochs"):
        load(run.directory, epoch=2)
    (run.directory / "weights.pt").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"Retrain the run elsewhere with: python -m mocalib .* --runs .*custom"
    ):
        load(run.directory)
    monkeypatch.setattr(paths, "RUNS", tmp_path)
    [custom] = [train(tiny(), runs=tmp_path / "custom")]
    (custom.directory / "weights.pt").unlink()
    with pytest.raises(FileNotFoundError, match=r"--runs .*custom/again$"):  # not the finished directory itself
        load(custom.directory)


def test_weights_of_an_unfinished_run_are_explained(tmp_path, monkeypatch):
    stop_at_step(monkeypatch, 3)
    with pytest.raises(Stopped):
        train(tiny(), directory=tmp_path / "run")
    with pytest.raises(FileNotFoundError, match=r"not finished. Finish it with: python -m mocalib .*run"):
        load(tmp_path / "run")


def test_a_manifest_seals_the_records(tmp_path):
    run = train(tiny(), runs=tmp_path)
    run.verify()
    lines = (run.directory / "metrics.jsonl").read_text()
    (run.directory / "metrics.jsonl").write_text(lines.replace("0", "1", 1))
    with pytest.raises(ValueError, match=r"not as its manifest says: metrics.jsonl"):
        run.verify()


def test_the_environment_is_recorded_before_the_first_step_without_names_of_host_or_user(tmp_path, monkeypatch):
    stop_at_step(monkeypatch, 0)
    with pytest.raises(Stopped):
        train(tiny(), runs=tmp_path, threads=1)
    [directory] = tmp_path.iterdir()
    environment = json.loads((directory / "environment.json").read_text())
    assert environment["threads"] == 1
    assert environment["versions"]["torch"] == torch.__version__.split("+")[0]
    assert environment["data"]["train"] == 256
    assert os.uname().nodename not in (directory / "environment.json").read_text()
    assert str(paths.ROOT) not in (directory / "environment.json").read_text()


def test_torchs_own_number_of_threads_is_given_back(tmp_path):
    before = torch.get_num_threads()
    train(tiny(epochs=1), runs=tmp_path, threads=1 if before > 1 else 2)
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"threads": 0}, "threads = 0: at least 1"),
        ({"threads": 10**5}, r"threads = 100000: at least 1, and at most the \d+ cores"),
        ({"device": "gpu"}, "device = 'gpu' is not a device to train on; use 'cpu' or 'cuda'"),
        ({"device": "meta"}, "device = 'meta' is not a device to train on"),
        pytest.param({"device": "cuda"}, "no CUDA device", marks=WITHOUT_GPU),
    ],
)
def test_what_cannot_be_computed_on_is_refused_before_anything_is_written(tmp_path, keywords, message):
    with pytest.raises(ValueError, match=message):
        train(tiny(), runs=tmp_path / "runs", **keywords)
    assert not (tmp_path / "runs").exists()


def test_a_batch_larger_than_the_data_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="batch_size = 300 is larger than the dataset, 256"):
        train(tiny(batch_size=300), runs=tmp_path)
    assert not list(tmp_path.iterdir())


def test_weights_trained_in_bfloat16_are_float32(tmp_path):
    values = weights(train(tiny(epochs=1, precision="bfloat16"), runs=tmp_path)).values()
    assert {value.dtype for value in values} == {torch.float32, torch.int64}


def test_meter_means_are_over_the_steps_on_which_a_turn_was_due():
    meter = Meter()
    for step in range(6):
        meter.add("a", {"x": torch.tensor(float(step))}, step)
        if step % 3 == 0:
            meter.add("b", {"y": torch.tensor(10.0 * step)}, step)
    assert meter.read() == {"x": 2.5, "y": 15.0}
    assert meter.read() == {}


def test_turns_are_due_by_step_and_part_of_training():
    early = Turn("a", ("g",), stop=0.5)
    late = Turn("b", ("g",), every=3, start=0.5)
    assert [step for step in range(10) if engine.due(early, step, 10)] == [0, 1, 2, 3, 4]
    assert [step for step in range(10) if engine.due(late, step, 10)] == [6, 9]


def test_groups_that_miss_or_repeat_a_parameter_are_refused():
    objective = objectives.build(tiny(), (1, 16, 16))
    engine.make_optimizers(objective)
    encoder = list(objective.encoder.parameters())
    for broken in (encoder, [*encoder, *encoder]):
        objective.groups = lambda broken=broken: {"autoencoder": objectives.Group(broken)}
        with pytest.raises(ValueError, match="no partition"):
            engine.make_optimizers(objective)
