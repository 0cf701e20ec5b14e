"""Rules that keep notebooks readable and rerunnable; `make notebooks` runs them."""

import ast
import re
import statistics
import subprocess
import sys

import nbformat
import papermill
import pytest

from mocalib.config import paths
from mocalib.config.parameters import notebook_parameters
from mocalib.paper import experiments
from mocalib.paper.draw import DRAWN
from mocalib.paper.suite import Suite

NOTEBOOKS = sorted((paths.ROOT / "notebooks").glob("*.ipynb"))


def cells(path, kind="code"):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


def assigned(cell) -> dict[str, ast.expr]:
    """What a cell gives to names."""
    nodes = [node for node in ast.parse(cell.source).body if isinstance(node, ast.Assign)]
    return {node.targets[0].id: node.value for node in nodes}


def parameters(path):
    [cell] = [cell for cell in cells(path) if "parameters" in cell.metadata.get("tags", [])]
    return {name: ast.literal_eval(value) for name, value in assigned(cell).items()}


STUDIES = [path for path in NOTEBOOKS if "seeds" in parameters(path)]  # of the paper's tables and figures
each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def test_make_strip_removes_all_that_running_leaves(tmp_path):
    """Outputs, counts, papermill's metadata and what JupyterLab adds; each is then as it is committed, without them."""
    for path in NOTEBOOKS:
        notebook = nbformat.read(path, as_version=4)
        assert notebook.metadata.kernelspec.name == "python3"
        notebook.metadata["papermill"] = {"duration": 3.0, "parameters": {"seed": 3}}
        notebook.metadata.language_info |= {"version": "3.11.2", "codemirror_mode": {"name": "x"}, "mimetype": "x"}
        for cell in notebook.cells:
            cell.metadata |= {"papermill": {"status": "completed"}, "execution": {"iopub.status.idle": "now"}}
            if cell.cell_type == "code":
                cell.execution_count = 7
                cell.outputs = [nbformat.v4.new_output("stream", text="printed")]
        nbformat.write(notebook, tmp_path / path.name)
    command = ["make", "-C", paths.ROOT, "strip", f"PY={sys.executable}", f"NOTEBOOKS={tmp_path}/*.ipynb"]
    subprocess.run(command, check=True, capture_output=True)
    for path in NOTEBOOKS:
        assert (tmp_path / path.name).read_text() == path.read_text(), path.name


@each
def test_parameters_come_first_and_are_plain_literals_that_papermill_sees(path):
    first = cells(path)[0]
    assert first.metadata["tags"] == ["parameters"]
    for line in first.source.splitlines():
        name, literal = line.split("=")  # a second `=` would hide the parameter
        assert type(ast.literal_eval(literal.strip())) in (int, float, str, bool), name
    assert set(papermill.inspect_notebook(str(path))) == set(parameters(path))


def test_raising_cells_turn_the_checks_red(tmp_path):
    """On a copy of a notebook's first cells, by nbval as `make notebooks` runs it."""
    notebook = nbformat.read(paths.ROOT / "notebooks" / "11_report.ipynb", as_version=4)
    notebook.cells = [*notebook.cells[:2], nbformat.v4.new_code_cell("assert scale == 'paper', 'red'")]
    nbformat.write(notebook, tmp_path / "raises.ipynb")
    nbval = [sys.executable, "-m", "pytest", "-q", "-p", "no:python", "--nbval-lax", "--nbval-current-env", tmp_path]
    done = subprocess.run(nbval, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "raises.ipynb::Cell 1" in done.stdout
    assert "1 failed, 1 passed" in done.stdout


@each
def test_the_second_cell_validates_exactly_the_parameters(path):
    """It is read, not run: test_papermill runs one."""
    second = assigned(cells(path)[1])
    names = ast.literal_eval(second["PARAMETERS"]).split()
    assert names == list(parameters(path))
    rules = {"options": Suite} if "scale" in names else {}
    options = ", options=Suite" if rules else ""
    assert ast.unparse(second["settings"]) == f"notebook_parameters(globals(), *PARAMETERS.split(){options})"
    notebook_parameters(parameters(path), *names, **rules)


@each
def test_cells_are_few_short_and_explained(path):
    code, prose = cells(path), cells(path, "markdown")
    lengths = [len(cell.source.splitlines()) for cell in code]
    assert 8 <= len(code) <= 14
    assert statistics.median(lengths) <= 9
    assert max(lengths[1:]) <= 25  # the first has a line a parameter
    assert len(prose) >= len(code) - 1
    assert nbformat.read(path, as_version=4).cells[0].source.startswith("# ")


@each
def test_no_classes_no_training_code_and_no_tricks(path):
    for cell in cells(path):
        assert not [node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.ClassDef)]
        for word in ("backward(", "%autoreload", "!pip", "chdir", "../", "sys.path"):
            assert word not in cell.source
    assert any("assert " in cell.source for cell in cells(path))


def test_every_table_and_figure_is_drawn_by_one_notebook():
    assert len(STUDIES) == 10
    text = {path.stem: "\n".join(cell.source for cell in cells(path)) for path in STUDIES}
    drawn = [name for source in text.values() for name in re.findall(r'study\.draw\("(\w+?)"', source)]
    drawn += re.findall(r'"(figure\d)"', text["03_celeba_hq"].split("for name in")[1])
    drawn += [f"figure{n}" for n in range(9, 15)]  # a loop in 02
    assert "for n in range(9, 15)" in text["02_main_results"]
    assert sorted(drawn) == sorted({*DRAWN} - {"appendix_a"})


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_studies_take_the_same_parameters_and_start_at_smoke(path):
    assert parameters(path) == {"scale": "smoke", "dataset": "", "root": "", "crop": 0, "seeds": 0, "device": "cpu"}
    assert path.stem in (paths.ROOT / "Makefile").read_text().split("STUDIES ?=")[1].split("laptop:")[0].split()


def test_the_quickstart_is_the_experiment_of_that_name():
    values = parameters(paths.ROOT / "notebooks" / "01_quickstart.ipynb")
    mine = experiments.configs("quickstart", "laptop")[0]
    stored = mine.to_dict() | mine.to_dict()["objective"]
    shared = values.keys() & stored.keys()
    assert {"latent_dim", "weight", "temperature", "epochs", "seed"} <= shared
    assert {name: values[name] for name in shared} == {name: stored[name] for name in shared}
    assert values["epochs"] * 3 // 5 == mine.decay_every
