"""Configs: what they refuse, how they are named and stored, and the validator of notebook parameters."""

import dataclasses
import hashlib
import json
from pathlib import Path

import pytest
from conftest import says
from test_methods import METHODS

from mocalib import MoCA, RunConfig
from mocalib.config import paths
from mocalib.config.methods import DCVAE, VAE
from mocalib.config.parameters import flat, notebook_parameters, run_config
from mocalib.storage.run import differences

FULL = RunConfig(
    dataset="folder", root="/somewhere/pictures", size=32, crop=100, epochs=9, keep_epochs=(7, 3),
    objective=MoCA(form="decoupled", weight=3),
)  # fmt: skip


def test_a_config_survives_json():
    stored = json.loads(json.dumps(FULL.to_dict()))
    assert RunConfig.from_dict(stored) == FULL
    assert stored["objective"] == {
        "name": "moca", "temperature": 0.05, "momentum": 0.99, "queue_size": 30000, "weight": 3.0, "form": "eq6",
        "schedule": "cosine",
    }  # fmt: skip
    assert FULL.keep_epochs == (3, 7)


NEWER = {"schedule": "cosine", "kl_weight": 1.0, "statistics": "batch"}  # settings that older records lack


def test_files_and_names_keep_the_older_word_for_the_decoupled_loss():
    """So committed runs keep their names; the literal Eq. 6 has a word of its own everywhere."""
    older = {"name": "moca", "temperature": 0.05, "momentum": 0.9, "queue_size": 2048, "weight": 1.0, "form": "eq6"}
    read = RunConfig.from_dict({"objective": older})
    assert read.objective.form == "decoupled"
    assert read.to_dict()["objective"] == older | {"schedule": "cosine"}
    assert flat(read)["objective.form"] == "decoupled"
    changed = {"name": "moca", "momentum": 0.9, "queue_size": 2048, "weight": 1.0, "form": "eq6"}
    digest = hashlib.sha256(json.dumps({"objective": changed}, sort_keys=True).encode()).hexdigest()[:8]
    assert read.name.endswith(digest)
    literal = RunConfig(objective=MoCA(form="eq6_literal"))
    assert literal.to_dict()["objective"]["form"] == "eq6_literal"
    assert RunConfig.from_dict(literal.to_dict()) == literal
    for path in (paths.RECORDS / "laptop").glob("*/config.json"):
        stored = json.loads(path.read_text("utf-8"))
        config = RunConfig.from_dict(stored)
        assert config.name == path.parent.name
        added = config.to_dict()["objective"].keys() - stored["objective"].keys()
        objective = stored["objective"] | {name: NEWER[name] for name in added}
        assert config.to_dict() == stored | {"objective": objective}


def test_configs_are_frozen_and_equal_ones_hash_alike():
    with pytest.raises(dataclasses.FrozenInstanceError):
        FULL.seed = 3
    assert hash(RunConfig(learning_rate=1)) == hash(RunConfig(learning_rate=1.0))


def test_what_is_no_json_object_is_refused_and_a_path_is_a_str():
    with pytest.raises(ValueError, match=says("JSON object", [1, 2])):
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
    assert differences(here, there) == ["root: '/a/pictures' | '/b/c/pictures'"]
    assert here.name != RunConfig(dataset="folder", root="/a/others").name


def test_differences_name_fields_of_the_objective_too():
    other = dataclasses.replace(FULL, seed=5, objective=MoCA(form="decoupled", weight=4))
    assert differences(FULL, other) == ["seed: 0 | 5", "objective.weight: 3.0 | 4.0"]


VALUES = [  # field, wrong value, and what is said to be allowed
    ("epochs", 1.5, ["int", "float", 3]), ("epochs", True, ["int"]), ("epochs", 0, [1]), ("size", -1, [0]),
    ("learning_rate", "1e-3", ["float", "str", "1.0e-3"]), ("learning_rate", float("nan"), ["finite"]),
    ("learning_rate", 0.0, ["greater than 0.0"]), ("batch_size", 1, [2]), ("seed", 2**64, ["at most", 2**63 - 1]),
    ("dataset", "mnist", ["'digits', 'photos', 'cifar10', 'folder'"]), ("width", 10**8, ["at most 1024"]),
    ("precision", "float16", ["'float32', 'bfloat16', 'float64'"]), ("latent_dim", 10**20, ["at most 65536"]),
    ("skip_broken", "false", ["bool", "str", "True or False"]), ("keep_epochs", 3, ["(850,)"]),
    ("objective", 3, ["MoCA"]), ("size", 28, ["8, 16 or 32"]),
]  # fmt: skip
OBJECTIVE_VALUES = [
    ("temperature", 0.0, ["greater than 0.0"]), ("momentum", 1.1, ["at most 1.0"]), ("queue_size", 0, ["at least 1"]),
    ("weight", -1.0, ["at least 0.0"]), ("form", "infonce", ["'info_nce', 'eq6_literal', 'decoupled', 'negative'"]),
    ("form", "eq6", ["'eq6_literal', 'decoupled'", "'batch', 'uniformity', 'sliced_wasserstein'"]),
    ("schedule", "linear", ["'cosine', 'constant'"]),
]  # fmt: skip
COMBINATIONS = [  # what is wrong together, and the words that say so
    ({"dataset": "folder"}, ["root", "folder"]),
    ({"root": "/x"}, ["root", "crop", "'digits'"]),
    ({"skip_broken": True}, ["skip_broken", "'digits'"]),
    ({"dataset": "photos", "size": 321}, ["size = 321", 320]),
    ({"size": 8}, ["size 8", "a2", "16, 32, 64", "size", "another model"]),
    ({"dataset": "celebahq"}, ["size 256", "a2", "16, 32, 64"]),
    ({"dataset": "folder", "root": "x", "model": "a1", "size": 40}, ["size 40", "a1", "multiples of 16"]),
    ({"decay_every": 0, "decay_until": 400}, ["decay_until = 400", "decay_every"]),
    ({"model": "a1", "blocks": 1}, ["blocks = 1", "a2", "a1", 2]),
    ({"keep_epochs": (3, 200)}, ["keep_epochs", [200], 100]),
    ({"objective": {"name": "two-stage-vae"}, "stop_at": 5.0}, ["stop_at = 5.0", "2-Stage VAE"]),
    ({"objective": {"name": ["vae"]}}, [["vae"], "'moca', 'ae', "]),
    ({"objective": {"name": "gan"}}, ["'gan'", "'moca', 'ae', "]),
    ({"objective": {"name": "moca", "tau": 1}}, ["'tau'"]),
    ({"objective": {"name": "vae", "kl_weight": -1.0}}, ["VAE.kl_weight = -1.0", "at least 0.0"]),
    ({"objective": {"name": "wae-mmd", "statistics": "own"}}, ["WAEMMD.statistics = 'own'", "'batch', 'running'"]),
    ({"epoch": 3}, ["'epoch'", "'epochs'"]),
]


@pytest.mark.parametrize(
    ("changes", "said"),
    [*(({name: value}, [f"{name} = {value!r}", *rest]) for name, value, rest in VALUES), *COMBINATIONS],
)
def test_wrong_values_are_refused_with_name_value_and_what_is_allowed(changes, said):
    with pytest.raises(ValueError, match=says(*said)):
        RunConfig.from_dict(changes)


@pytest.mark.parametrize(("name", "value", "allowed"), OBJECTIVE_VALUES)
def test_wrong_values_of_the_objective_are_refused(name, value, allowed):
    with pytest.raises(ValueError, match=says(f"MoCA.{name} = {value!r}", *allowed)):
        MoCA(**{name: value})


def test_notebook_parameters_come_back_checked():
    """Names of later cells do not disturb a second run."""
    given = {"epochs": 3, "weight": 2, "output": "demo"}
    namespace = given | {"In": ["# Parameters\nepochs = 3\n", "table = 5"], "table": 5, "anything": object()}
    assert notebook_parameters(namespace, *given) == {"epochs": 3, "weight": 2.0, "output": "demo"}


def test_names_that_papermill_itself_injects_are_let_through():
    """--inject-input-path, --inject-output-path and --inject-paths add them to the cell of the user's parameters."""
    own = 'PAPERMILL_INPUT_PATH = "in.ipynb"\nPAPERMILL_OUTPUT_PATH = "out.ipynb"\n'
    namespace = {"epochs": 3, "In": ["", f"# Parameters\nepochs = 3\n{own}"]}
    assert notebook_parameters(namespace, "epochs") == {"epochs": 3}
    for misspelled in ("epoch", "papermill_output_path", "OUTPUT_PATH"):
        with pytest.raises(ValueError, match=f"unknown parameter {misspelled} = "):
            notebook_parameters(namespace | {"In": ["", f"# Parameters\n{own}{misspelled} = 3\n"]}, "epochs")


def test_a_parameter_missing_from_its_cell_is_named():
    with pytest.raises(ValueError, match="does not set: weight"):
        notebook_parameters({"epochs": 3}, "epochs", "weight")


DC_VAE = {  # of notebooks/train.ipynb
    "objective": "dc-vae", "instance": "contrast", "adversarial": True, "critic": "logistic", "every": 3,
    "kl_weight": 1.0e-4, "temperature": 0.2, "queue_size": 640, "momentum": 0.95, "averaging": 0.9, "layers": "1, 2",
    "local": 1, "local_start": 0.25, "local_weight": 0.5, "local_queue": 100,
}  # fmt: skip
FLAT = {"dataset": "photos", "objective": "moca", "weight": 3.0, "epochs": 90, "keep_epochs": "40, 80", "device": "cpu"}


def test_flat_settings_of_a_notebook_become_a_run():
    expected = RunConfig(dataset="photos", epochs=90, keep_epochs=(40, 80), objective=MoCA(weight=3.0))
    assert run_config(FLAT) == expected
    assert run_config(FLAT | {"keep_epochs": ""}).keep_epochs == ()
    single = notebook_parameters({"keep_epochs": 40}, "keep_epochs")  # as papermill reads it
    assert run_config(FLAT | single).keep_epochs == (40,)


@pytest.mark.parametrize(
    ("layers", "expected"), [("1, 2", (1, 2)), ("", ()), (3, (3,))]
)  # papermill reads a single one as an int
def test_every_setting_of_dcvae_may_come_from_a_notebook(layers, expected):
    given = notebook_parameters(DC_VAE | {"layers": layers}, *DC_VAE)
    expected = DCVAE("contrast", True, "logistic", 3, 1e-4, 0.2, 640, 0.95, 0.9, expected, 1, 0.25, 0.5, 100)
    assert run_config(given).objective == expected


@pytest.mark.parametrize(("name", "like"), [("keep_epochs", '"40,80"'), ("layers", '"1,2"')])
@pytest.mark.parametrize("given", ["40;80", "a", ",", "4.5"])
def test_what_is_no_list_of_numbers_is_refused(name, like, given):
    with pytest.raises(ValueError, match=says(f"{name} = {given!r}", like)):
        run_config(FLAT | {name: given})


def test_a_parameter_of_another_method_is_refused():
    """It would have no effect; the ones that stand in the parameters cell for every method are let be."""
    cell = {"objective": "vae", "weight": 1.0, "sigma": 0.3, "likelihood": "gaussian"}
    names = tuple(cell)
    given = ["", "# Parameters\nobjective = 'vae'\nsigma = 0.3\n"]
    assert run_config(FLAT | notebook_parameters(cell | {"In": given}, *names)).objective == VAE("gaussian", 0.3)
    given = ["", "# Parameters\nobjective = 'vae'\nweight = 1.0\n"]
    with pytest.raises(ValueError, match=says("weight", "moca, wae-mmd, wae-gan, rae", "not of vae")):
        notebook_parameters(cell | {"In": given}, *names)


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_every_method_survives_json_and_has_a_directory_of_its_own(method):
    config = RunConfig(objective=method)
    assert RunConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    names = {RunConfig(objective=other).name for other in METHODS}
    assert len(names) == len(METHODS)
    assert config.name.startswith("digits-a2-")
