"""How runs are computed: settings that cannot be are refused by field and value, and a narrow net has one thread."""

import pytest
import torch
from conftest import tiny

from mocalib import Compute, Pool, RunConfig, Scoring, train
from mocalib.sweep.run import environment, sweep
from mocalib.training import device


@pytest.mark.parametrize(
    ("kind", "settings", "allowed"),
    [
        (Compute, {"device": "gpu"}, "'cpu' or 'cuda'"),
        (Compute, {"threads": -1}, "at least 0"),
        (Compute, {"threads": "2"}, "an int"),
        (Compute, {"compile": "yes"}, "a bool"),
        (Compute, {"checkpoint_seconds": float("nan")}, "finite"),
        (Scoring, {"features": "vgg"}, "'inception'"),
        (Scoring, {"n": 1}, "at least 2"),
        (Scoring, {"sampler": "gmm"}, "'gmm10'"),
        (Pool, {"engine": "slurm"}, "'ray'"),
        (Pool, {"jobs": -1}, "at least 0"),
        (Pool, {"gpus": 0.0}, "greater than 0"),
        (Pool, {"gpus": 1.5}, "at most 1"),
        (Pool, {"retries": -1}, "at least 0"),
        (Pool, {"address": "x:1"}, "use engine 'ray'"),
        (Pool, {"address": "", "engine": "ray"}, "Ray cluster"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_field_and_value(kind, settings, allowed):
    field, value = next(iter(settings.items()))
    with pytest.raises(ValueError, match=rf"{kind.__name__}\.{field} = {value!r}.*{allowed}"):
        kind(**settings)


def test_paths_and_devices_are_taken_as_they_come(tmp_path):
    assert Compute(torch.device("cpu")) == Compute("cpu")
    assert Scoring(weights=tmp_path).weights == str(tmp_path)
    assert Pool(gpus=1).gpus == 1.0


def test_a_narrow_net_has_one_thread_and_a_wide_one_torchs_number(monkeypatch):
    monkeypatch.setattr(device.torch, "get_num_threads", lambda: 8)
    narrow, wide = RunConfig(width=16), RunConfig(width=17)
    assert [device.threads(config) for config in (narrow, wide)] == [1, 8]
    assert [device.threads(config, share=4) for config in (narrow, wide)] == [1, 4]
    assert [device.threads(config, asked=3, share=4) for config in (narrow, wide)] == [3, 3]


def test_the_default_is_what_a_run_records(tmp_path):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert train(tiny(epochs=1, limit=64), tmp_path).environment["threads"] == 1
        assert torch.get_num_threads() == 2  # given back
    finally:
        torch.set_num_threads(before)


def test_wide_nets_side_by_side_share_the_cores(tmp_path, monkeypatch):
    shares = []

    def noted(work, *rest):
        shares.append(work.keywords["share"])
        yield from ()

    monkeypatch.setattr(environment, "cores", lambda: 8)
    monkeypatch.setattr("mocalib.sweep.run.in_processes", noted)
    for jobs in (2, 3, 0):
        sweep([tiny()], tmp_path, pool=Pool(jobs=jobs))
    assert shares == [4, 2, 1]
