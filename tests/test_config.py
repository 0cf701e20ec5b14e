"""Configs: what they refuse, how they are named and stored, and the validator of notebook parameters."""

import dataclasses
import hashlib
import json
from pathlib import Path

import pytest
from test_objectives import METHODS

from mocalib import MoCA, RunConfig
from mocalib.methods import VAE, TwoStageVAE
from mocalib.parameters import notebook_parameters, run_config

FULL = RunConfig(
    dataset="folder",
    root="/somewhere/pictures",
    size=32,
    crop=100,
    epochs=9,
    keep_epochs=(7, 3),
    objective=MoCA(form="eq6", weight=3),
)


def test_a_config_survives_json():
    stored = json.loads(json.dumps(FULL.to_dict()))
    assert RunConfig.from_dict(stored) == FULL
    assert stored["objective"] == {
        "name": "moca", "temperature": 0.05, "momentum": 0.99, "queue_size": 30000, "weight": 3.0, "form": "eq6",
    }  # fmt: skip
    assert FULL.keep_epochs == (3, 7)


def test_configs_are_frozen_and_equal_ones_hash_alike():
    with pytest.raises(dataclasses.FrozenInstanceError):
        FULL.seed = 3
    assert hash(RunConfig(learning_rate=1)) == hash(RunConfig(learning_rate=1.0))


def test_what_is_no_json_object_is_refused_and_a_path_is_a_str():
    with pytest.raises(ValueError, match=r"a config is a JSON object of RunConfig's fields, not \[1, 2\]"):
        RunConfig.from_dict([1, 2])
    assert RunConfig(dataset="folder", root=Path("/a/b")).root == "/a/b"


def test_the_name_hashes_only_what_differs_from_the_defaults():
    empty = hashlib.sha256(b"{}").hexdigest()[:8]
    assert RunConfig().name == f"digits-a2-moca-{empty}"
    assert RunConfig(seed=1).name.endswith(hashlib.sha256(b'{"seed": 1}').hexdigest()[:8])
    changed = b'{"objective": {"name": "moca", "weight": 2.0}}'
    assert RunConfig(objective=MoCA(weight=2)).name.endswith(hashlib.sha256(changed).hexdigest()[:8])


def test_the_name_depends_on_the_last_part_of_root_only():
    here, there = (RunConfig(dataset="folder", root=root) for root in ("/a/pictures", "/b/c/pictures/"))
    assert here.name == there.name
    assert here.differences(there) == ["root: '/a/pictures' | '/b/c/pictures'"]  # so that none is taken for the other
    assert here.name != RunConfig(dataset="folder", root="/a/others").name


def test_differences_name_fields_of_the_objective_too():
    other = dataclasses.replace(FULL, seed=5, objective=MoCA(form="eq6", weight=4))
    assert FULL.differences(other) == ["seed: 0 | 5", "objective.weight: 3.0 | 4.0"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 1.5}, r"RunConfig.epochs = 1.5 is not an int \(float given\); write it like 3"),
        ({"epochs": True}, "epochs = True is not an int"),
        ({"epochs": 0}, "epochs = 0 is out of range: it must be at least 1"),
        ({"size": -1}, "size = -1 is out of range"),
        ({"learning_rate": "1e-3"}, r"learning_rate = '1e-3' is not a float \(str given\); write it like 1.0e-3"),
        ({"learning_rate": float("nan")}, "learning_rate = nan is not a finite number"),
        ({"learning_rate": 0.0}, "must be greater than 0.0"),
        ({"batch_size": 1}, "batch_size = 1 is out of range"),
        ({"dataset": "mnist"}, "dataset = 'mnist' is not one of 'digits', 'photos', 'cifar10', 'folder'"),
        ({"precision": "float16"}, "precision = 'float16' is not one of 'float32', 'bfloat16', 'float64'"),
        ({"dataset": "folder"}, 'root = "" but dataset "folder" needs the path'),
        ({"root": "/x"}, "root and crop are for datasets on the disk, not for 'digits'"),
        ({"skip_broken": True}, "skip_broken is for datasets of image files, not for 'digits'"),
        ({"skip_broken": "false"}, r"skip_broken = 'false' is not a bool \(str given\); write it like True or False"),
        ({"dataset": "photos", "size": 321}, "photos come at up to 320 pixels"),
        ({"size": 8}, "image size 8: a2 takes 16, 32, 64 pixels; pass one as size, or another model"),
        ({"dataset": "celebahq"}, "image size 256: a2 takes 16, 32, 64 pixels"),
        (
            {"dataset": "folder", "root": "x", "model": "a1", "size": 40},
            "image size 40: a1 takes multiples of 16 pixels",
        ),
        ({"width": 10**8}, "width = 100000000 is out of range: it must be at most 1024"),
        ({"latent_dim": 10**20}, "at most 65536"),
        ({"decay_every": 0, "decay_until": 400}, "decay_until = 400 has no meaning without decay_every"),
        ({"model": "a1", "blocks": 1}, "RunConfig.blocks = 1 is for a2 alone; for a1 leave it at 2"),
        ({"size": 28}, "digits come at 8, 16 or 32 pixels"),
        ({"keep_epochs": (3, 200)}, r"keep_epochs holds \[200\], beyond the last epoch, 100"),
        ({"keep_epochs": 3}, r"write it like \(850,\)"),
        ({"objective": {"name": ["vae"]}}, "is not one of 'moca'"),
        ({"objective": {"name": "gan"}}, "objective name = 'gan' is not one of 'moca', 'ae', "),
        ({"objective": {"name": "moca", "tau": 1}}, "has no field 'tau'"),
        ({"seed": 2**64}, "at most 9223372036854775807"),
        ({"objective": 3}, "is not an objective; use one of: MoCA"),
        ({"epoch": 3}, "no field 'epoch'; did you mean 'epochs'"),
    ],
)
def test_wrong_values_are_refused_with_name_value_and_what_is_allowed(changes, message):
    with pytest.raises(ValueError, match=message):
        RunConfig.from_dict(changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": 0}, "MoCA.temperature = 0.0 is out of range: it must be greater than 0.0"),
        ({"momentum": 1.1}, "at most 1.0"),
        ({"queue_size": 0}, "at least 1"),
        ({"weight": -1}, "at least 0.0"),
        ({"form": "infonce"}, "is not one of 'info_nce', 'eq6', 'negative'"),
    ],
)
def test_wrong_values_of_the_objective_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        MoCA(**changes)


def test_notebook_parameters_come_back_checked():
    namespace = {"epochs": 3, "weight": 2, "output": "demo", "In": ["", "epochs = 3"], "anything": object()}
    assert notebook_parameters(namespace, "epochs", "weight", "output") == {
        "epochs": 3,
        "weight": 2.0,
        "output": "demo",
    }


@pytest.mark.parametrize(
    ("injected", "message"),
    [
        ("epoch = 3", "unknown parameter epoch = 3; did you mean 'epochs'.; this notebook takes: epochs, weight"),
        ('epochs = "3"', r"epochs = '3' is not an int \(str given\)"),
        ('weight = "1e-3"', "write it like 1.0e-3"),
        ('weight = float("nan")', "not a finite number"),
        ("epochs = 1.5", "epochs = 1.5 is not an int"),
        ("epochs = -1", "at least 1"),
    ],
)
def test_what_papermill_injects_is_checked_strictly(injected, message):
    namespace = {"epochs": 3, "weight": 2.0, "In": ["", "epochs = 3\nweight = 2.0", f"# Parameters\n{injected}\n"]}
    exec(injected, namespace)
    with pytest.raises(ValueError, match=message):
        notebook_parameters(namespace, "epochs", "weight")


def test_names_of_later_cells_do_not_disturb_a_second_run():
    namespace = {"epochs": 3, "In": ["# Parameters\nepochs = 3\n", "table = 5"], "table": 5}
    assert notebook_parameters(namespace, "epochs") == {"epochs": 3}


def test_a_parameter_missing_from_its_cell_is_named():
    with pytest.raises(ValueError, match="does not set: weight"):
        notebook_parameters({"epochs": 3}, "epochs", "weight")


FLAT = {"dataset": "photos", "objective": "moca", "weight": 3.0, "epochs": 90, "keep_epochs": "40, 80", "device": "cpu"}


def test_flat_settings_of_a_notebook_become_a_run():
    expected = RunConfig(dataset="photos", epochs=90, keep_epochs=(40, 80), objective=MoCA(weight=3.0))
    assert run_config(FLAT) == expected
    assert run_config(FLAT | {"keep_epochs": ""}).keep_epochs == ()


def test_a_single_kept_epoch_may_be_an_int_as_papermill_reads_it():
    settings = FLAT | notebook_parameters({"keep_epochs": 40}, "keep_epochs")
    assert run_config(settings).keep_epochs == (40,)


@pytest.mark.parametrize("kept", ["40;80", "a", ",", "4.5"])
def test_epochs_that_are_no_list_are_refused(kept):
    with pytest.raises(ValueError, match=f"keep_epochs = '{kept}' is no list of epochs; write it like \"40,80\""):
        run_config(FLAT | {"keep_epochs": kept})


def test_a_parameter_of_another_method_is_refused():
    """It would have no effect; the ones that stand in the parameters cell for every method are let be."""
    cell = {"objective": "vae", "weight": 1.0, "sigma": 0.3, "likelihood": "gaussian"}
    names = tuple(cell)
    given = ["", "# Parameters\nobjective = 'vae'\nsigma = 0.3\n"]
    assert run_config(FLAT | notebook_parameters(cell | {"In": given}, *names)).objective == VAE("gaussian", 0.3)
    given = ["", "# Parameters\nobjective = 'vae'\nweight = 1.0\n"]
    with pytest.raises(ValueError, match="weight is a parameter of moca, wae-mmd, wae-gan, rae, not of vae, which has"):
        notebook_parameters(cell | {"In": given}, *names)


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_every_method_survives_json_and_has_a_directory_of_its_own(method):
    config = RunConfig(objective=method)
    assert RunConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    names = {RunConfig(objective=other).name for other in METHODS}
    assert len(names) == len(METHODS)
    assert config.name.startswith("digits-a2-")


def test_a_two_stage_run_cannot_stop_before_its_second_stage():
    with pytest.raises(ValueError, match="stop_at = 5.0 would end 2-Stage VAE before its second stage"):
        RunConfig(objective=TwoStageVAE(), stop_at=5.0)
