"""Rules that keep notebooks readable and rerunnable; `make notebooks` runs them."""

import ast
import statistics
import subprocess
import sys

import nbformat
import papermill
import pytest

from mocalib import experiments, paths
from mocalib.parameters import notebook_parameters

NOTEBOOKS = sorted((paths.ROOT / "notebooks").glob("*.ipynb"))
pytestmark = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(path, kind="code"):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


def parameters(path):
    [cell] = [cell for cell in cells(path) if "parameters" in cell.metadata.get("tags", [])]
    return {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in ast.parse(cell.source).body
        if isinstance(node, ast.Assign)
    }


def test_stored_without_outputs_for_the_portable_kernel(path):
    for cell in cells(path):
        assert cell.outputs == []
        assert cell.execution_count is None
    notebook = nbformat.read(path, as_version=4)
    assert notebook.metadata.kernelspec.name == "python3"
    assert "papermill" not in notebook.metadata


def test_make_strip_removes_all_that_running_leaves(path, tmp_path):
    """Outputs, counts, papermill's metadata and what JupyterLab adds; the notebook is then as it is committed."""
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata["papermill"] = {"duration": 3.0, "parameters": {"seed": 3}}
    notebook.metadata.language_info |= {"version": "3.11.2", "codemirror_mode": {"name": "ipython"}, "mimetype": "x"}
    for cell in notebook.cells:
        cell.metadata |= {"papermill": {"status": "completed"}, "execution": {"iopub.status.idle": "now"}}
        if cell.cell_type == "code":
            cell.execution_count = 7
            cell.outputs = [nbformat.v4.new_output("stream", text="printed")]
    ran = tmp_path / "ran.ipynb"
    nbformat.write(notebook, ran)
    command = ["make", "-C", paths.ROOT, "strip", f"PY={sys.executable}", f"NOTEBOOKS={ran}"]
    subprocess.run(command, check=True, capture_output=True)
    assert ran.read_text() == path.read_text()


def test_parameters_come_first_and_are_plain_literals_that_papermill_sees(path):
    first = cells(path)[0]
    assert first.metadata["tags"] == ["parameters"]
    for line in first.source.splitlines():
        name, literal = line.split("=")  # a second `=` would hide the parameter
        assert type(ast.literal_eval(literal.strip())) in (int, float, str, bool), name
    assert set(papermill.inspect_notebook(str(path))) == set(parameters(path))


def test_the_second_cell_validates_exactly_the_parameters(path):
    source = cells(path)[1].source
    assert "notebook_parameters(globals()" in source
    [names] = [
        ast.literal_eval(node.value)
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign) and node.targets[0].id == "PARAMETERS"
    ]
    assert names.split() == list(parameters(path))
    notebook_parameters(parameters(path), *names.split())


def test_cells_are_few_short_and_explained(path):
    code, prose = cells(path), cells(path, "markdown")
    lengths = sorted(len(cell.source.splitlines()) for cell in code)
    assert 8 <= len(code) <= 14
    assert statistics.median(lengths) <= 9
    assert max(len(cell.source.splitlines()) for cell in code[1:]) <= 25  # the first has a line a parameter
    assert len(prose) >= len(code) - 1
    assert nbformat.read(path, as_version=4).cells[0].source.startswith("# ")


def test_no_classes_no_training_code_and_no_tricks(path):
    for cell in cells(path):
        tree = ast.parse(cell.source)
        assert not [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
        for word in ("backward(", "%autoreload", "!pip", "chdir", "../", "sys.path"):
            assert word not in cell.source
    assert any("assert " in cell.source for cell in cells(path))


def test_a_misspelled_parameter_stops_the_notebook_in_its_second_cell(path, tmp_path):
    out = tmp_path / "out.ipynb"
    command = [sys.executable, "-m", "papermill", str(path), str(out), "-k", "python3", "-p", "sead", "3"]
    done = subprocess.run([*command, "--no-progress-bar"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "unknown parameter sead = 3; did you mean 'seed'?; this notebook takes: " in done.stderr
    ran = [cell for cell in cells(out) if cell.execution_count]
    assert len(ran) == 3  # parameters, injected parameters, validation


def test_the_quickstart_is_the_experiment_of_that_name(path):
    if path.stem != "01_quickstart":
        pytest.skip("about the quickstart only")
    values = parameters(path)
    mine = experiments.configs("quickstart", "laptop")[0]
    stored = mine.to_dict() | mine.to_dict()["objective"]
    shared = values.keys() & stored.keys()
    assert {"latent_dim", "weight", "temperature", "epochs", "seed"} <= shared
    assert {name: values[name] for name in shared} == {name: stored[name] for name in shared}
    assert values["epochs"] * 3 // 5 == mine.decay_every
