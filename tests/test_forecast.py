"""What a grid will take: counted by hand, by what was written, and by the forecast's own record of speeds."""

import math
from dataclasses import replace

import pytest
import torch
from conftest import tiny
from torch import nn

from mocalib import MoCA, RunConfig, __main__, data, experiments, files, forecast, objectives, paths, train
from mocalib.contenders import ENGINE
from mocalib.methods import AE, WAEGAN, TwoStageVAE
from mocalib.runs import Run


def by_hand(net: nn.Module, x: torch.Tensor) -> int:
    """Multiplications and additions of a net's convolutions and linear layers, from their shapes."""
    total = 0

    def count(layer, inputs, output):
        nonlocal total
        if isinstance(layer, nn.Linear):
            total += 2 * output.numel() * layer.in_features
        else:
            across = layer.in_channels if isinstance(layer, nn.Conv2d) else layer.out_channels
            places = output if isinstance(layer, nn.Conv2d) else inputs[0]
            kernel = math.prod(layer.kernel_size)
            total += 2 * places.numel() * across * kernel // (layer.groups or 1)

    hooks = [
        layer.register_forward_hook(count)
        for layer in net.modules()
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)
    ]
    net(x)
    for hook in hooks:
        hook.remove()
    return total


def test_operations_of_a_step_are_those_of_its_layers():
    """Backward takes twice the forward, but for the images, whose gradients nobody wants."""
    config = tiny(objective=AE(), width=8)
    objective = objectives.build(config, (1, 16, 16))
    x = torch.rand(config.batch_size, 1, 16, 16)
    with torch.no_grad():
        z = objective.encode(x)
        forward = by_hand(objective.encoder, x) + by_hand(objective.decoder, z)
    assert forecast.needs(config).operations == pytest.approx(3 * forward, rel=0.05)


def test_a_turn_counts_as_often_as_it_is_due():
    """Two stages share training out, so that the mean of two shares costs the mean."""
    stages = (forecast.needs(tiny(objective=TwoStageVAE(first_stage=part))).operations for part in (0.9, 0.5, 0.1))
    most, even, least = stages
    assert even == pytest.approx((most + least) / 2)
    assert abs(most - least) > 0.1 * even
    with_critic, without = (forecast.needs(tiny(objective=o)).operations for o in (WAEGAN(pretraining=0.0), AE()))
    assert with_critic > without


def test_nothing_depends_on_what_changes_no_shape():
    base = forecast.needs(tiny())
    assert forecast.needs(tiny(seed=3, epochs=9, objective=replace(tiny().objective, weight=7.0))) == base
    assert forecast.needs(tiny(objective=MoCA(queue_size=10_000))).weights > base.weights


@pytest.mark.parametrize("keep", [(), (1,)])
def test_bytes_are_those_of_the_files(tmp_path, keep, monkeypatch):
    config, sizes = tiny(epochs=2, limit=64, width=32, keep_epochs=keep), []
    write = files.write_tensors

    def measured(path, *rest, **more):
        write(path, *rest, **more)
        sizes.append((path.name, path.stat().st_size))

    monkeypatch.setattr(files, "write_tensors", measured)
    run = train(config, tmp_path, threads=1, checkpoint_seconds=0)
    found = forecast.forecast([config], tmp_path / "new", "cpu")
    weights = sum(path.stat().st_size for path in run.directory.glob("*.pt"))
    assert found.kept - forecast.RECORD == pytest.approx(weights, rel=0.03)  # names and padding
    largest = max(size for name, size in sizes if name == "checkpoint.pt")
    assert found.working / 3 == pytest.approx(largest, rel=0.03)


def test_hours_are_steps_times_operations_over_the_measured_speed(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "THROUGHPUT", tmp_path)
    config = tiny()
    assert forecast.forecast([config], tmp_path, "cpu").hours is None
    total = forecast.needs(config).operations
    case = {"operations": {ENGINE: 32 * 10**6}, "config": {"batch_size": 32}, "contenders": {ENGINE: {"seconds": 0.5}}}
    near = {"operations": {ENGINE: total}, "config": {"batch_size": 32}, "contenders": {ENGINE: {"seconds": 3600.0}}}
    files.write_json(tmp_path / "laptop-cpu.json", {"cases": [case, near]})
    assert forecast.steps(config) == 3 * (256 // 32)
    assert forecast.forecast([config], tmp_path, "cpu").hours == pytest.approx(24)
    assert forecast.forecast([config, config], tmp_path, "cpu").new == 1
    assert forecast.forecast([config], tmp_path, "cuda").hours is None


def test_committed_speeds_foretell_the_committed_runs_within_a_factor_of_two():
    """Measured with two threads on a net that is not theirs; trained with one."""
    configs = experiments.configs("table4", "laptop", 3)
    took = sum(Run(paths.RECORDS / "laptop" / config.name, config).timing[-1]["seconds"] for config in configs) / 3600
    assert 0.5 < forecast.forecast(configs, paths.ROOT / "nowhere", "cpu").hours / took < 2


@pytest.mark.parametrize("name", ["digits", "photos"])
def test_training_images_are_known_without_opening_them(name):
    config = RunConfig(dataset=name, size=64 if name == "photos" else 16)
    assert forecast.images(config) == len(data.load(config).train.images)
    assert forecast.images(replace(config, limit=77)) == 77


def test_weights_of_runs_grow_as_their_operations_do():
    configs = experiments.everything("paper", 1)
    ranked = sorted(configs, key=forecast.weight)
    costs = [forecast.steps(config) * forecast.needs(config).operations for config in (ranked[0], ranked[-1])]
    assert costs[0] < costs[1]
    assert forecast.weight(RunConfig(dataset="folder", root="/nowhere")) > 0  # nothing is opened for it


# ------------------------------------------------------------------------------------------------------- the shell


def test_a_dry_run_names_runs_hours_and_bytes_and_makes_nothing(tmp_path, capsys):
    assert __main__.main(["table3", "--scale", "smoke", "--runs", str(tmp_path / "runs"), "--dry-run"]) == 0
    names = [config.name for config in experiments.configs("table3", "smoke", 1)]
    printed = capsys.readouterr().out.splitlines()
    assert printed[: len(names)] == names
    assert printed[len(names)] == f"runs          {len(names)}: 0 finished, 0 begun, {len(names)} new"
    assert [line.split()[0] for line in printed[len(names) :]] == ["runs", "operations", "device-hours", "disk"]
    assert not (tmp_path / "runs").exists()
    committed = str(paths.RECORDS / "laptop")
    assert __main__.main(["table3", "--runs", committed, "--dry-run"]) == 0
    assert "9: 9 finished, 0 begun, 0 new" in capsys.readouterr().out


def test_parts_share_a_grid_out_without_rest(capsys):
    whole = {config.name for config in experiments.everything("laptop", 3)}
    found = []
    for i in range(1, 8):
        assert __main__.main(["all", "--scale", "laptop", "--part", f"{i}/7", "--dry-run"]) == 0
        found.append([line for line in capsys.readouterr().out.splitlines() if line.startswith(("digits-", "photos-"))])
    assert sum(map(len, found)) == len(whole)
    assert set().union(*found) == whole
    assert max(map(len, found)) - min(map(len, found)) <= 1


@pytest.mark.parametrize("part", ["0/2", "3/2", "1", "a/b", "-1/2", "1/0"])
def test_parts_that_are_none_are_refused(part, capsys):
    assert __main__.main(["table3", f"--part={part}", "--dry-run"]) == 1
    assert f"part = {part!r}: write i/n, for example 2/8, with i from 1 to n" in capsys.readouterr().err


def test_a_part_without_a_run_says_so(capsys):
    assert __main__.main(["table3", "--scale", "smoke", "--part", "40/40"]) == 0
    assert capsys.readouterr().out == "no run is in part 40/40 of 2\n"


def test_experiments_are_of_the_seeds_that_notebooks_show(capsys):
    def shown(*arguments: str) -> set[str]:
        assert __main__.main([*arguments, "--scale", "laptop", "--dry-run"]) == 0
        return {line for line in capsys.readouterr().out.splitlines() if line.startswith("digits-")}

    assert shown("rivals_celeba") == {c.name for c in experiments.listed("laptop", 3)["rivals_celeba"]}
    assert shown("rivals_celeba", "--seeds", "3") > shown("rivals_celeba")


def test_nothing_named_is_answered(capsys):
    assert __main__.main([]) == 1
    assert "nothing is named: a run directory, an experiment, all" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["figures", "--dry-run"], "figures: --dry-run would be ignored; it takes no options"),
        (["throughput", "--seeds", "2"], "throughput: --seeds would be ignored; it takes --device, --runs, --scale"),
        (["some/run", "--dry-run", "--jobs", "2"], "run directories: --dry-run, --jobs would be ignored; it takes"),
        (["--verify", "--runs", "elsewhere"], "--verify: --runs would be ignored; it takes no options"),
    ],
)
def test_what_would_be_ignored_is_refused(arguments, message, capsys):
    assert __main__.main(arguments) == 1
    assert message in capsys.readouterr().err


def test_settings_of_one_engine_are_not_ignored_by_the_other(tmp_path, capsys):
    for arguments, message in (
        (["--address", "10.0.0.1:6379"], "address = '10.0.0.1:6379' is of a Ray cluster"),
        (["--gpus", ".5"], "gpus = 0.5: of a run on 'cuda', 1 or a part of it; device = 'cpu'"),
        (
            ["--epoch", "3"],
            "experiments: --epoch would be ignored; it takes --address, --checkpoint-seconds",
        ),
        (["--retries", "-1"], "retries = -1: at least 0"),
        (["--jobs", "-1", "--dry-run"], "jobs = -1: at least 1"),
    ):
        assert __main__.main(["table3", "--scale", "smoke", "--runs", str(tmp_path), *arguments]) == 1
        assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
