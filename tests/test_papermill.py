"""Notebooks as people run them: papermill's own command and a kernel that is interrupted; what they say and leave."""

import base64
import os
import re
import signal
import subprocess
import sys
import time
from io import BytesIO
from pathlib import Path

import nbformat
import numpy as np
import psutil
import pytest
from conftest import picture, says, tiny
from jupyter_client.manager import start_new_kernel
from papermill import cli
from PIL import Image
from test_data import tree

from mocalib import Compute, open_run, train
from mocalib.config import paths
from mocalib.storage import files
from mocalib.storage.run import RunMismatch

TRAIN = paths.ROOT / "notebooks" / "train.ipynb"
ENDLESS = {  # tests/conftest.py's tiny, but for its length
    "limit": 256, "width": 4, "blocks": 1, "latent_dim": 8, "batch_size": 32, "epochs": 10**6, "momentum": 0.9,
    "queue_size": 100, "threads": 1, "checkpoint_seconds": 0.0, "n_generated": 200,
}  # fmt: skip
HANGS = 600  # seconds after which a test is given up; none depends on it


def code(path: Path = TRAIN) -> list[str]:
    """Sources of a notebook's cells."""
    return [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


UP_TO_TRAINING = next(i for i, source in enumerate(code()) if "mocalib.train(" in source)  # cells before that one


def run_here(cells: list[str], **changed) -> dict:
    """Run cells in this process, with parameters changed after the first; return their names."""
    kernel = {"In": ["", *cells], "display": lambda *_: None}
    exec(cells[0], kernel)
    kernel |= changed
    for source in cells[1:]:
        exec(source, kernel)
    return kernel


@pytest.fixture
def runs(tmp_path, monkeypatch) -> Path:
    """Runs and figures of this process and its children in a temporary folder, and one thread for them all."""
    for name in ("RUNS", "FIGURES"):
        monkeypatch.setattr(paths, name, tmp_path / name.lower())
        monkeypatch.setenv(f"MOCALIB_{name}", str(tmp_path / name.lower()))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # two on the same core would wait for each other
    return tmp_path / "runs" / "custom"


def papermill(notebook: Path, out: Path, **parameters) -> list[str]:
    command = [sys.executable, "-m", "papermill", str(notebook), str(out), "-k", "python3", "--no-progress-bar"]
    return [*command, *(str(word) for name, value in parameters.items() for word in ("-p", name, value))]


def test_a_wrong_parameter_stops_the_notebook_in_its_second_cell(tmp_path, runs):
    command = papermill(TRAIN, tmp_path / "out.ipynb", sead=3)
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 1
    assert re.search(says("ValueError", "sead = 3", "'seed'", "dataset, root, size"), done.stderr)
    executed = [cell.get("execution_count") for cell in nbformat.read(tmp_path / "out.ipynb", as_version=4).cells]
    assert sum(map(bool, executed)) == 3  # parameters, injected parameters, validation
    assert not runs.exists()


@pytest.mark.parametrize(
    ("option", "name", "given", "said"),
    [
        ("-p", "skip_broken", "false", ["skip_broken = 'false'", "bool", "str", "True or False"]),
        ("-p", "epochs", "1.5", ["epochs = 1.5", "int", "float"]),
        ("-p", "epochs", "-1", ["epochs = -1", "at least 1"]),
        ("-r", "epochs", "3", ["epochs = '3'", "int", "str"]),
        ("-p", "weight", "nan", ["weight = nan", "finite", "1.0e-3"]),
        ("-r", "weight", "1e-3", ["weight = '1e-3'", "1.0e-3"]),  # as YAML reads it
    ],
)
def test_what_papermills_command_makes_of_a_wrong_value_is_refused(tmp_path, option, name, given, said):
    """Its own reading of a word and its own cell, run in this process in the place of a kernel."""
    command = [str(TRAIN), str(tmp_path / "out.ipynb"), "--prepare-only", option, name, given]
    cli.papermill(command, standalone_mode=False)
    with pytest.raises(ValueError, match=says(*said)):
        run_here(code(tmp_path / "out.ipynb")[:3])


def test_papermills_own_paths_are_no_parameters_of_the_notebook(tmp_path):
    command = [str(TRAIN), str(tmp_path / "out.ipynb"), "--prepare-only", "-p", "epochs", "3", "--inject-paths"]
    cli.papermill(command, standalone_mode=False)
    assert str(tmp_path / "out.ipynb") in (tmp_path / "out.ipynb").read_text("utf-8")
    run_here(code(tmp_path / "out.ipynb")[:3])


@pytest.mark.parametrize("backend", ["agg", pytest.param("TkAgg", marks=pytest.mark.soak)])
def test_an_executed_copy_has_its_pictures_whatever_backend_the_environment_names(tmp_path, backend):
    """Batch systems set one that draws into files, desktops one that opens windows."""
    cells = [
        "import matplotlib.pyplot as plt\nfrom mocalib import figures",
        "plt.plot([1, 2])",
        "plt.subplots()\nx = 1",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
    nbformat.write(notebook, tmp_path / "draws.ipynb")
    command = papermill(tmp_path / "draws.ipynb", tmp_path / "out.ipynb")
    subprocess.run(command, env=os.environ | {"MPLBACKEND": backend}, capture_output=True, check=True)
    copy = nbformat.read(tmp_path / "out.ipynb", as_version=4)
    shown = [sum("image/png" in output.get("data", {}) for output in cell.outputs) for cell in copy.cells]
    assert shown == [0, 1, 1]


def test_missing_inception_weights_are_said_before_training(scratch, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(scratch / "hub"))
    placed = scratch / "hub" / "hub" / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth"
    with pytest.raises(FileNotFoundError, match=says("96 MB", placed, "'classifier' for data with labels")):
        run_here(code(), features="inception")
    assert not paths.RUNS.exists()
    assert not list(placed.parent.iterdir())


def test_the_batch_of_the_readme_runs_and_its_last_notebook_shows_all(tmp_path, runs):
    """Its loop prepares the notebooks; the last one runs in a kernel, which is slow to start, the others here."""
    both = r"^(mkdir -p figures/executed\S*\nfor .*train\.ipynb.*; done)$"
    [lines] = re.findall(both, (paths.ROOT / "notebooks" / "README.md").read_text("utf-8"), re.MULTILINE)
    assert lines.count("figures/executed") == 2
    lines = lines.replace(".venv/bin/python", sys.executable).replace("figures/executed", str(tmp_path / "executed"))
    lines = lines.replace("; done", " -p limit 512 -p n_generated 200 --prepare-only; done")  # the same in less time
    subprocess.run(lines, shell=True, check=True, cwd=paths.ROOT, capture_output=True)
    *others, last = sorted((tmp_path / "executed").rglob("*.ipynb"), key=os.path.getmtime)
    for path in others:
        run_here(code(path))
    cli.papermill(papermill(last, last)[3:], standalone_mode=False)
    name, values = re.search(r"for (\w+) in ([^;]+); do", lines).groups()
    finished = [open_run(path.parent) for path in runs.glob("*/manifest.json")]
    found = [getattr(run.config.objective, name) for run in finished]
    assert sorted(found) == sorted(map(float, values.split()))
    assert len(found) > 1
    executed = [cell for cell in nbformat.read(last, as_version=4).cells if cell.cell_type == "code"]
    shown = "".join(executed[-1].outputs[0]["data"]["text/plain"])
    assert "weight" in shown
    [training] = [cell for cell in executed if "mocalib.train(" in cell.source]
    [drawn] = [output["data"]["image/png"] for output in training.outputs if "image/png" in output.get("data", {})]
    with Image.open(BytesIO(base64.b64decode(drawn))) as image:  # while it trained; one picture in the place of all
        assert np.asarray(image.convert("L")).std() > 20
    for run in finished:
        run.verify()
        assert {row["metric"] for row in run.scores} >= {"fd_classifier", "reconstruction", "uniformity"}
        assert (paths.FIGURES / "custom" / f"{run.directory.name}_samples.png").exists()
        assert run.directory.name in shown


def test_images_that_changed_since_a_finished_run_are_noticed(scratch):
    tree(scratch / "photos", *(f"{i}.png" for i in range(40)), size=(16, 16))
    changed = {"dataset": "folder", "root": str(scratch / "photos"), "width": 4, "batch_size": 8, "epochs": 1}
    cells = code()[: 1 + UP_TO_TRAINING]
    run_here(cells, **changed)
    run_here(cells, **changed)
    picture(scratch / "photos" / "3.png", size=(16, 16), seed=99)
    with pytest.raises(
        RunMismatch, match=says("photos is not what", paths.RUNS / "custom" / "folder-a2-", "other pixels")
    ):
        run_here(cells, **changed)


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + HANGS
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def assert_resumable(directory: Path) -> None:
    """Not finished, and a checkpoint that loads."""
    assert not (directory / "manifest.json").exists()
    loaded = [name for name in ("checkpoint.pt", "previous.pt") if (directory / name).exists()]
    assert files.read_tensors(directory / loaded[0])["step"] > 0


@pytest.mark.parametrize(
    "how",
    [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.soak), signal.SIGKILL],
    ids=lambda how: how.name,
)
def test_papermill_that_is_stopped_leaves_no_process_and_what_a_run_resumes_from(tmp_path, runs, how):
    """In a training that would never end; test_resume resumes from all that may be left."""
    directory = runs / tiny(epochs=ENDLESS["epochs"]).name
    command = papermill(TRAIN, tmp_path / "out.ipynb", **ENDLESS)
    child = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(directory / "previous.pt")
    kernels = psutil.Process(child.pid).children(recursive=True)
    assert kernels
    os.killpg(child.pid, how)  # as a terminal does
    assert child.wait(HANGS) != 0
    _, alive = psutil.wait_procs(kernels, HANGS)
    assert alive == []
    assert_resumable(directory)


HELD = """
import signal
import time
from mocalib.config import paths
from mocalib.data.batches import ResidentImages
from mocalib.storage.run import RunMismatch
batch = ResidentImages.batch

def held(images, step):
    if step == 12:
        ResidentImages.batch = batch
        handler = signal.getsignal(signal.SIGINT)
        (paths.RUNS / "custom" / "held").touch()
        while signal.getsignal(signal.SIGINT) is handler:  # the first signal sets the older one again
            time.sleep(0.01)
    return batch(images, step)

ResidentImages.batch = held
"""


def test_the_stop_button_interrupts_and_the_same_cell_resumes(tmp_path, runs):
    """A kernel as JupyterLab drives one: interrupted in the training cell, in step 12, which is then run again."""
    cells, directory = code(), runs / tiny().name
    manager, client = start_new_kernel(kernel_name="python3", cwd=str(TRAIN.parent))

    def execute(source):
        reply = client.execute_interactive(source, timeout=HANGS, output_hook=lambda _: None)
        assert reply["content"]["status"] == "ok"

    try:
        changed = "\n".join(f"{name} = {value!r}" for name, value in (ENDLESS | {"epochs": tiny().epochs}).items())
        for source in (cells[0], changed, *cells[1:UP_TO_TRAINING], HELD):
            execute(source)
        client.execute(cells[UP_TO_TRAINING])
        wait_for(runs / "held")
        manager.interrupt_kernel()
        reply = client.get_shell_msg(timeout=HANGS)["content"]
        assert reply["ename"] == "Interrupted"
        assert reply["evalue"].startswith("stopped at step 13 of 24; run the same command or cell again")
        assert_resumable(directory)
        assert not list(directory.glob("*.tmp"))
        execute(cells[UP_TO_TRAINING])
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    whole = train(tiny(), tmp_path / "whole", Compute(threads=1))
    assert open_run(directory).finished
    assert open_run(directory).metrics == whole.metrics
