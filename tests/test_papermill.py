"""Notebooks as people run them: papermill's own command and a kernel that is interrupted; what they say and leave."""

import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import psutil
import pytest
from conftest import picture, tiny
from jupyter_client.manager import start_new_kernel

from mocalib import files, open_run, paths, train

TRAIN = paths.ROOT / "notebooks" / "train.ipynb"
LONG = {  # some seconds of training, as tests/conftest.py's tiny
    "limit": 256, "width": 4, "blocks": 1, "latent_dim": 8, "batch_size": 32, "epochs": 60, "momentum": 0.9,
    "queue_size": 100, "threads": 1, "checkpoint_seconds": 0.2, "n_generated": 200,
}  # fmt: skip


@pytest.fixture
def environment(tmp_path):
    """Runs and figures of child processes in a temporary folder."""
    return os.environ | {"MOCALIB_RUNS": str(tmp_path / "runs"), "MOCALIB_FIGURES": str(tmp_path / "figures")}


def papermill(out: Path, **parameters) -> list[str]:
    command = [sys.executable, "-m", "papermill", str(TRAIN), str(out), "-k", "python3", "--no-progress-bar"]
    return [*command, *(str(word) for name, value in parameters.items() for word in ("-p", name, value))]


def executed(path: Path) -> int:
    return sum(bool(cell.get("execution_count")) for cell in nbformat.read(path, as_version=4).cells)


WRONG = {  # parameter -> value, answer
    "sead": ("3", "unknown parameter sead = 3; did you mean 'seed'?; this notebook takes: dataset, root, size"),
    "skip_broken": ("false", "skip_broken = 'false' is not a bool (str given); write it like True or False"),
    "epochs": ("1.5", "epochs = 1.5 is not an int (float given); write it like 3"),
    "weight": ("nan", "weight = nan is not a finite number; write it like 1.0e-3"),
    "size": ("-3", "size = -3 is out of range: it must be at least 0"),
}


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """What papermill says to each wrong parameter, and the notebook it leaves; two at a time."""
    folder = tmp_path_factory.mktemp("wrong")

    def answer(name):
        command = papermill(folder / f"{name}.ipynb", **{name: WRONG[name][0]})
        environment = os.environ | {"MOCALIB_RUNS": str(folder / "runs")}
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)

    with ThreadPoolExecutor(2) as pool:
        return folder, dict(zip(WRONG, pool.map(answer, WRONG)))


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_parameter_stops_the_notebook_in_its_second_cell(answers, name):
    folder, done = answers
    assert done[name].returncode == 1
    assert f"ValueError: {WRONG[name][1]}" in done[name].stderr
    assert executed(folder / f"{name}.ipynb") == 3  # parameters, injected parameters, validation
    assert not (folder / "runs").exists()


def test_missing_inception_weights_are_said_before_training(tmp_path, environment):
    out, home = tmp_path / "out.ipynb", {"TORCH_HOME": str(tmp_path / "hub"), "http_proxy": "http://127.0.0.1:9"}
    command = papermill(out, features="inception")
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env=environment | home | {"https_proxy": "http://127.0.0.1:9"},
    )
    assert done.returncode == 1
    placed = tmp_path / "hub" / "hub" / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth"
    assert re.search(rf"Place weights-inception-\S+ \(96 MB, .*\) at {placed}, or pass its path", done.stderr)
    assert "features 'classifier' needs none, where there are labels" in done.stderr
    assert not (tmp_path / "runs").exists()
    assert not placed.parent.exists()


def test_the_batch_of_the_readme_runs_and_its_last_notebook_shows_all(tmp_path, environment):
    text = (paths.ROOT / "README.md").read_text()
    [line] = re.findall(r"^(for .*train\.ipynb.*; done)$", text, re.MULTILINE)
    assert line.count("figures/executed") == 1
    line = line.replace(".venv/bin/python", sys.executable).replace("figures/executed", str(tmp_path / "executed"))
    [made] = re.findall(r"^mkdir -p (figures/executed\S*)$", text, re.MULTILINE)
    (tmp_path / "executed" / Path(made).name).mkdir(parents=True)
    subprocess.run(line, shell=True, check=True, cwd=paths.ROOT, env=environment, capture_output=True)
    values = re.search(r"for (\w+) in ([^;]+); do", line)
    finished = [open_run(path.parent) for path in (tmp_path / "runs" / "custom").glob("*/manifest.json")]
    found = [getattr(run.config.objective, values[1]) for run in finished]
    assert sorted(found) == sorted(map(float, values[2].split()))
    assert len(found) > 1
    for run in finished:
        run.verify()
        assert {row["metric"] for row in run.scores} >= {"fd_classifier", "reconstruction", "uniformity"}
        assert (tmp_path / "figures" / "custom" / f"{run.directory.name}_samples.png").exists()
    last = max((tmp_path / "executed").rglob("*.ipynb"), key=os.path.getmtime)
    shown = "".join(nbformat.read(last, as_version=4).cells[-1].outputs[0]["data"]["text/plain"])
    assert all(run.directory.name in shown for run in finished)
    assert "objective.weight" in shown


def test_images_that_changed_since_a_finished_run_are_noticed(scratch):
    for i in range(40):
        picture(scratch / "photos" / f"{i}.png", size=(16, 16), seed=i)
    code = [cell.source for cell in nbformat.read(TRAIN, as_version=4).cells if cell.cell_type == "code"]
    changed = {"dataset": "folder", "root": str(scratch / "photos"), "width": 4, "batch_size": 8, "epochs": 1}

    def run_to_the_end_of_training():
        namespace = {}
        exec(code[0], namespace)
        namespace |= changed
        for source in code[1 : 1 + next(i for i, source in enumerate(code) if "mocalib.train(" in source)]:
            exec(source, namespace)

    run_to_the_end_of_training()
    run_to_the_end_of_training()
    picture(scratch / "photos" / "3.png", size=(16, 16), seed=99)
    with pytest.raises(AssertionError, match=r"photos has changed since .*custom/folder-a2-\w+-\w+ was trained on it"):
        run_to_the_end_of_training()


def wait_for(condition, seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def the_run(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "custom" / tiny(epochs=LONG["epochs"]).name


def assert_resumable(directory: Path) -> None:
    """Whole files only, and a checkpoint that loads."""
    assert not (directory / "manifest.json").exists()
    assert not list(directory.glob("*.tmp"))
    loaded = [name for name in ("checkpoint.pt", "previous.pt") if (directory / name).exists()]
    assert files.read_tensors(directory / loaded[0])["step"] > 0


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda how: how.name)
def test_papermill_that_is_stopped_leaves_no_process_and_resumes(tmp_path, environment, how):
    command = papermill(tmp_path / "out.ipynb", **LONG)
    child = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    wait_for((the_run(tmp_path) / "previous.pt").exists, 90, "no second checkpoint")
    kernels = psutil.Process(child.pid).children(recursive=True)
    assert kernels
    os.killpg(child.pid, how)  # as a terminal does
    assert child.wait(timeout=60) != 0
    _, alive = psutil.wait_procs(kernels, timeout=30)
    assert alive == []
    assert_resumable(the_run(tmp_path))
    if how is signal.SIGINT:
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        whole = train(tiny(epochs=LONG["epochs"]), tmp_path / "whole", threads=1)
        for name in ("metrics.jsonl", "config.json"):
            assert (the_run(tmp_path) / name).read_bytes() == (whole.directory / name).read_bytes()


def test_the_stop_button_interrupts_and_the_same_cell_resumes(tmp_path, environment):
    """A kernel as JupyterLab drives one: interrupted in the training cell, which is then run again."""
    code = [cell.source for cell in nbformat.read(TRAIN, as_version=4).cells if cell.cell_type == "code"]
    training = next(i for i, source in enumerate(code) if "mocalib.train(" in source)
    manager, client = start_new_kernel(kernel_name="python3", env=environment, cwd=str(TRAIN.parent))
    try:
        changed = "\n".join(f"{name} = {value!r}" for name, value in LONG.items())
        for source in (code[0], changed, *code[1:training]):
            assert (
                client.execute_interactive(source, timeout=120, output_hook=lambda _: None)["content"]["status"] == "ok"
            )
        client.execute(code[training])
        wait_for((the_run(tmp_path) / "previous.pt").exists, 60, "no second checkpoint")
        manager.interrupt_kernel()
        reply = client.get_shell_msg(timeout=60)["content"]
        assert reply["ename"] == "KeyboardInterrupt"
        assert_resumable(the_run(tmp_path))
        reply = client.execute_interactive(code[training], timeout=120, output_hook=lambda _: None)["content"]
        assert reply["status"] == "ok"
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    assert open_run(the_run(tmp_path)).finished
    whole = train(tiny(epochs=LONG["epochs"]), tmp_path / "whole", threads=1)
    assert open_run(the_run(tmp_path)).metrics == whole.metrics
