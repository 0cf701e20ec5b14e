"""Rules that keep notebooks readable and rerunnable; `make notebooks` runs them."""

import ast
import re
import statistics
import subprocess
import sys

import nbformat
import papermill
import pytest

from mocalib.benchmark.measure import Options
from mocalib.config import paths
from mocalib.config.parameters import notebook_parameters
from mocalib.paper import experiments
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
OPTIONS = {"seeds": Suite, "measure": Options}  # by a parameter that only these have
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
    kinds = [kind for own, kind in OPTIONS.items() if own in names and "scale" in names]
    options = f", options={kinds[0].__name__}" if kinds else ""
    assert ast.unparse(second["settings"]) == f"notebook_parameters(globals(), *PARAMETERS.split(){options})"
    notebook_parameters(parameters(path), *names, **({"options": kinds[0]} if kinds else {}))


@each
def test_cells_are_short_and_explained(path):
    code, prose = cells(path), cells(path, "markdown")
    lengths = [len(cell.source.splitlines()) for cell in code]
    most = 25 if path.stem == "train" else 15
    assert max(lengths[1:]) <= most  # the first has a line a parameter
    assert statistics.median(lengths) <= 12
    assert len(prose) >= len(code) / 2
    assert nbformat.read(path, as_version=4).cells[0].source.startswith("# ")


@each
def test_no_classes_no_training_code_and_no_tricks(path):
    for cell in cells(path):
        assert not [node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.ClassDef)]
        for word in ("backward(", "%autoreload", "!pip", "chdir", "../", "sys.path"):
            assert word not in cell.source
    assert any("assert " in cell.source for cell in cells(path))


def source(path) -> str:
    return "\n".join(cell.source for cell in cells(path))


def test_every_experiment_is_run_by_a_notebook_and_its_grid_is_shown_there():
    """Pictures have the grid of the run that they show; figure 15 has table 2's."""
    text = {path.stem: source(path) for path in STUDIES}
    everything = "\n".join(text.values())
    assert len(STUDIES) == 10
    shown = {"quickstart", "appendix_a", "figure15", *experiments.PICTURES}
    for name in experiments.NAMES:
        if name not in ("figure15", *experiments.PICTURES):
            assert f'"{name}"' in everything, name
    for name in {*experiments.NAMES} - shown - {*experiments.MIXED[1:]}:
        [stem] = [stem for stem, code in text.items() if f'suite.grid("{name}")' in code]
        assert re.search(rf'suite\.run\("{name}"|"{name}", ', text[stem])


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_a_notebook_has_its_grid_its_plot_and_its_rule_in_its_own_cells(path):
    code = source(path)
    if path.stem != "11_report":  # it reads what the others decided
        assert "suite.grid(" in code
        assert "suite.run(" in code
        assert path.stem == "03_celeba_hq" or ("Claim(" in code and "suite.verdict(" in code)
    assert "suite.save(" in code
    assert not re.search(r"\b(laptop|smoke|paper) scale", closing(path))  # it stands below results of any scale


def closing(path) -> str:
    """The last section's prose, of which numbers must come from a cell."""
    return cells(path, "markdown")[-1].source


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_numbers_of_results_in_the_closing_section_come_from_a_cell(path):
    """Prose may name settings; a score has a decimal point."""
    assert not re.search(r"(?<![\w/])\d+\.\d+(?! \(|\d*e)", closing(path).replace("m_0 = 0.9", "")), closing(path)


def test_every_claim_has_a_key_of_its_own_and_a_committed_verdict():
    keys = re.findall(r'Claim\(\s*f?"([\w{}.()-]+)"', "\n".join(map(source, STUDIES)))
    keys = [*keys, *re.findall(r'"([a-z-]+)": \((?:CIFAR|CELEBA), "', source(STUDIES[0]))]
    committed = {path.stem for path in (paths.ROOT / "figures" / "laptop" / "claims").glob("*.json")}
    plain = {key for key in keys if "{" not in key}
    assert len(keys) == len(set(keys))
    assert plain | {"a2-cifar-10", "a2-celeba"} == committed
    assert len(committed) == 22


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_studies_take_the_same_parameters_and_show_committed_evidence_by_default(path):
    same = {"scale": "", "dataset": "", "root": "", "crop": 0, "seeds": 0, "device": "cpu", "engine": "local"}
    assert parameters(path) == same | {"jobs": 0, "train": True}


def test_a_function_of_figures_serves_two_notebooks_or_the_suite():
    """What one notebook needs stands in that notebook."""
    room = paths.ROOT / "mocalib" / "figures"
    trees = {path.stem: ast.parse(path.read_text()) for path in room.glob("*.py")}
    functions = {
        node.name: ast.unparse(node)
        for tree in trees.values()
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
    }
    suite = (paths.ROOT / "mocalib" / "paper" / "suite.py").read_text()
    served = {
        name: {path.stem for path in NOTEBOOKS if re.search(rf"figures\.{name}\b", source(path))} for name in functions
    }
    for name in functions:
        if f"figures.{name}(" in suite:
            served[name] |= {"suite", "notebooks"}
    for _ in functions:  # a function also serves those that call it
        for name in functions:
            for caller, text in functions.items():
                if caller != name and re.search(rf"\b{name}\b", text):
                    served[name] |= served[caller]
    assert {name: users for name, users in served.items() if len(users) < 2} == {}


def test_the_quickstart_is_the_experiment_of_that_name():
    values = parameters(paths.ROOT / "notebooks" / "01_quickstart.ipynb")
    mine = experiments.configs("quickstart", "laptop")[0]
    stored = mine.to_dict() | mine.to_dict()["objective"]
    shared = values.keys() & stored.keys()
    assert {"latent_dim", "weight", "temperature", "epochs", "seed"} <= shared
    assert {name: values[name] for name in shared} == {name: stored[name] for name in shared}
    assert values["epochs"] * 3 // 5 == mine.decay_every
