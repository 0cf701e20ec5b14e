"""The benchmark: what it counts is counted right, its clock is fair, and evidence is not overwritten."""

import contextlib
import functools
import itertools
import json
from collections import Counter
from dataclasses import replace

import pytest
import torch
from benchmark import __main__ as shell
from benchmark import measure, steps, timer
from benchmark.steps import ALGORITHM_1, OURS
from conftest import tiny
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from torch.utils._python_dispatch import TorchDispatchMode

from mocalib import models
from mocalib.config import paths
from mocalib.data.builtin import image_shape
from mocalib.paper.grids import SCALES, SMOKE
from mocalib.storage import environment
from mocalib.storage.run import differences

CPU = torch.device("cpu")
[SMALL] = SMOKE.throughput


class Operations(TorchDispatchMode):
    """Counts operations, and looks at it: a clock that no other process slows, and of which every span is above 0."""

    now = 0

    def __torch_dispatch__(self, function, types, arguments=(), settings=None):
        self.now += 1
        return function(*arguments, **(settings or {}))

    def clock(self, device):
        self.now += 1
        return self.now


@contextlib.contextmanager
def counted_operations():
    """The clock of what is timed counts operations."""
    with Operations() as counted, pytest.MonkeyPatch.context() as patch:
        patch.setattr(timer, "clock", counted.clock)
        yield patch


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    """A smoke measurement by the package's own command, in this process instead of nine others."""
    folder, ceiling = tmp_path_factory.mktemp("throughput"), functools.cache(measure._ceiling)
    with counted_operations() as patch:
        patch.setattr(measure, "apart", lambda function, *asked, device, threads: function(*asked, device))
        patch.setattr(measure, "REPEATS", 2)
        patch.setattr(measure, "_ceiling", lambda dtype, device: ceiling(torch.float32, device))  # the fast one
        assert shell.main(["--scale", "smoke", "--runs", str(folder), "--threads", "1"]) == 0
    return json.loads((folder / "smoke-cpu.json").read_text("utf-8"))


def test_a_record_says_what_was_measured_where_and_how(record):
    assert record["command"] == "python notebooks/benchmark --scale smoke --device cpu --threads 1"
    assert record["environment"]["threads"] == 1
    assert {"versions", "commit", "device", "processor"} <= record["environment"].keys()
    assert record["ceiling"].keys() == {"float32", "bfloat16"}
    [case] = record["cases"]
    assert case["config"] == SMALL.to_dict()
    assert case["image_shape"] == [1, 16, 16]
    plain, ours = case["contenders"][ALGORITHM_1], case["contenders"][OURS]
    for found, name in ((case["ratio"], "seconds"), (case["ratio_without_data"], "seconds_without_data")):
        assert found["low"] <= found["median"] <= found["high"]
        assert found["median"] == pytest.approx(plain[name] / ours[name], rel=0.05)
        assert found["median"] != pytest.approx(1, rel=0.05)  # else it could be the other way round
    assert plain["images_per_second"] == pytest.approx(32 / plain["seconds"])


def test_the_parts_of_a_step_hold_nearly_all_of_its_operations():
    with counted_operations():
        parts = measure.parts(steps.OurStep(SMALL, CPU, compile=False), CPU)
    whole = parts.pop("step")
    assert set(parts) == set(measure.PARTS)  # so that all are drawn
    assert min(parts.values()) > 0
    assert 0.9 < sum(parts.values()) / whole < 1


def test_operations_of_algorithm_1_are_those_of_its_layers():
    """Two operations a multiplication; backward once for weights and once for inputs, but for the images'."""
    work, found = steps.PrintedStep(SMALL, CPU), {}

    def count(layer, inputs, output):
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            found[layer] = output.numel() * layer.weight[0].numel()  # channels in, times the kernel's area

    with register_module_forward_hook(count):
        counted = measure.operations(work)
    o, B, d, K = work.objective, SMALL.batch_size, SMALL.latent_dim, SMALL.objective.queue_size
    forward, stem = sum(found.values()), found[o.encoder[0]]
    keys = sum(found.get(layer, 0) for layer in o.key_encoder.modules())  # have no backward
    contrast = 2 * B * d * K + 2 * B * d  # logits and their gradient to the queries
    assert counted == 2 * (3 * forward - 2 * keys - stem + contrast)


def test_the_engine_does_fewer_operations_where_it_folds_upsampling(monkeypatch):
    monkeypatch.setattr(environment, "has_bfloat16", lambda device: True)
    exact, fast = (measure.operations(steps.OurStep(replace(SMALL, precision=p), CPU)) for p in ("float32", "bfloat16"))
    plain = measure.operations(steps.PrintedStep(SMALL, CPU))
    assert fast < 0.8 * exact
    assert exact == pytest.approx(plain, rel=0.01)


def test_contenders_take_turns_each_first_in_its_own_and_the_first_rounds_do_not_count(monkeypatch):
    """What is timed takes as long as its turn, counted from 0."""
    ticks, order = (tick for turn in itertools.count() for tick in (0, turn)), []
    monkeypatch.setattr(timer, "clock", lambda device: next(ticks))
    found = timer.rounds({name: functools.partial(order.append, name) for name in "ab"}, CPU, repeats=3)
    assert found == {"a": [3, 4, 7], "b": [2, 5, 6]}
    assert "".join(order) == "ab" + "ba" + "ab" + "ba"


def test_a_ratio_is_the_median_of_the_rounds_own():
    """A slow spell that hits both contenders of a round leaves it alone; a ratio of medians would not."""
    found = timer.ratio([2.0, 4.0, 20.0, 2.2, 2.0], [1.0, 2.0, 10.0, 1.0, 1.0])
    assert (found["low"], found["median"]) == (2.0, 2.0)
    assert 2.0 < found["high"] <= 2.2


def test_a_held_feed_costs_no_loading():
    feed = steps.Feed(iter([torch.zeros(1), torch.ones(1)]))
    feed.held = True
    first = next(feed)  # the first has to be loaded all the same
    assert next(feed) is first
    feed.held = False
    assert next(feed) == 1


def test_calls_of_a_part_add_up(monkeypatch):
    ticks, spent = itertools.count(), Counter()
    monkeypatch.setattr(timer, "clock", lambda device: float(next(ticks)))
    inner = timer.timed(lambda: None, "inner", spent, CPU)
    timer.timed(lambda: (inner(), inner()), "outer", spent, CPU)()
    assert spent == {"inner": 2.0, "outer": 5.0}


def peaks(configs, device):
    return [measure.peak_memory(OURS, config, device) for config in configs]


def test_peak_memory_is_of_a_process_of_its_own():
    """One for both here: a peak can only rise."""
    small, large = timer.apart(peaks, [replace(SMALL, width=w) for w in (4, 64)], device=CPU, threads=1)
    assert 2**26 < small < large - 16 * 10_000_000  # 11 M more parameters: weights, keys' encoder, gradients, moments
    assert large < 2**32


def test_float32_on_a_cpu_has_no_reference_beside_it(monkeypatch):
    monkeypatch.setattr(measure, "apart", lambda function, *asked, device, threads: 1)
    found = measure.case(replace(SMALL, precision="float32"), CPU)
    assert list(found["contenders"]) == [ALGORITHM_1, OURS]


def test_growth_changes_only_the_queue(monkeypatch):
    """What is timed, in the place of its seconds: a contender, and in what its config differs."""
    base = tiny()
    monkeypatch.setattr(measure, "QUEUE_SIZES", (50, 200))
    monkeypatch.setattr(measure, "contender", lambda name, config, device: [name, *differences(base, config)])
    monkeypatch.setattr(measure, "rounds", lambda works, *_: {key: [work] for key, work in works.items()})
    assert measure.growth(base, CPU) == [
        {
            "axis": "queue_size",
            "value": size,
            "contender": name,
            "seconds": [name, f"objective.queue_size: 100 | {size}"],
        }
        for size in (50, 200)
        for name in (ALGORITHM_1, OURS)
    ]


def test_committed_records_are_not_overwritten(monkeypatch, scratch):
    monkeypatch.setattr(paths, "THROUGHPUT", scratch)
    monkeypatch.setattr(measure, "CUSTOM", scratch / "custom")
    monkeypatch.setattr(measure, "measure", lambda scale, device, threads: {"scale": scale})
    assert measure.run("laptop") == scratch / "laptop-cpu.json"
    with pytest.raises(FileExistsError, match=r"laptop-cpu.json is a committed record; write elsewhere with --runs"):
        measure.run("laptop")
    monkeypatch.chdir(scratch)
    with pytest.raises(FileExistsError, match="is a committed record"):
        measure.run("laptop", folder=".")
    for _ in range(2):
        assert measure.run("smoke") == scratch / "custom" / "smoke-cpu.json"
        assert measure.run("laptop", folder=scratch / "mine") == scratch / "mine" / "laptop-cpu.json"


@pytest.mark.parametrize("scale", SCALES)
def test_every_scale_times_nets_of_the_size_of_its_images(scale):
    sizes = {"digits": 16, "cifar10": 32, "cifar10-jpeg": 32, "celeba": 64}
    for config in SCALES[scale].throughput:
        shape = image_shape(config)
        assert shape[1] == shape[2] == (config.size or sizes[config.dataset])
        with torch.device("meta"):
            models.build(config.model, shape, config.latent_dim, config.width, config.blocks)


def test_the_committed_record_keeps_what_the_project_promises():
    """On a processor with bfloat16 instructions: twice Algorithm 1 and more, and what should be free is."""
    records = [json.loads(path.read_text("utf-8")) for path in paths.THROUGHPUT.glob("*.json")]
    [record] = [r for r in records if r["scale"] == "laptop" and r["environment"]["device"] == "cpu"]
    assert record["environment"]["dirty"] is False
    cases = {(case["config"]["width"], case["image_shape"][1]): case for case in record["cases"]}
    for net, least in {(64, 32): 2.0, (32, 32): 1.7, (64, 64): 2.5}.items():
        case, config = cases[net], cases[net]["config"]
        assert (config["latent_dim"], config["objective"]["queue_size"], config["batch_size"]) == (128, 30_000, 64)
        assert case["nets"] == "bfloat16"
        assert case["ratio"]["median"] >= least
    parts = record["cases"][0]["parts"]
    assert sum(parts[part] for part in ("data", "EMA", "queue", "log")) <= 0.05 * parts["step"]
    ours = [row for row in record["growth"] if (row["axis"], row["contender"]) == ("queue_size", "engine")]
    seconds = {row["value"]: row["seconds"] for row in ours}
    assert seconds[120_000] <= 1.15 * seconds[5_000]


def test_the_small_net_for_faces_is_fast_on_one_core():
    record = json.loads((paths.THROUGHPUT / "overnight-cpu.json").read_text("utf-8"))
    assert (record["environment"]["dirty"], record["environment"]["threads"]) == (False, 1)
    net = record["cases"][0]
    assert (net["config"]["model"], net["config"]["width"], net["nets"]) == ("a2", 16, "bfloat16")
    assert net["ratio"]["median"] >= 2.2
