"""What stands around the package is true: pins, environments, datasets, citation."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from importlib import metadata

import pytest
import yaml
from packaging.requirements import Requirement
from torchvision.datasets import CIFAR10

from mocalib.config import paths
from mocalib.config.run import DATASETS
from mocalib.data import catalogue

README, MAKEFILE = ((paths.ROOT / name).read_text("utf-8") for name in ("README.md", "Makefile"))
LOCK = dict(
    re.findall(r"^([A-Za-z0-9_.-]+)==(\S+)", (paths.ROOT / "requirements.lock").read_text("utf-8"), re.MULTILINE)
)
PROJECT = tomllib.loads((paths.ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def test_every_dependency_is_locked_within_its_bound():
    extras = PROJECT["optional-dependencies"]
    named = [*PROJECT["dependencies"], *(name for extra in extras.values() for name in extra)]
    for requirement in map(Requirement, named):
        if requirement.name == PROJECT["name"]:
            assert requirement.extras == {"ray", "imagenet"}
            continue
        assert requirement.specifier.contains(LOCK[requirement.name]), requirement


def test_what_runs_here_is_what_is_locked_and_what_results_were_made_with():
    assert (LOCK["torch"], LOCK["torchvision"]) == ("2.14.1", "0.29.1")
    for name in ("torch", "torchvision", "torch-fidelity", "numpy", "pillow", "papermill", "nbval"):
        assert metadata.version(name).split("+")[0] == LOCK[name]


def test_environment_yml_installs_the_lock_with_a_python_that_the_project_takes():
    environment = yaml.safe_load((paths.ROOT / "environment.yml").read_text("utf-8"))
    assert environment["name"] == "mocalib"
    python, *rest = environment["dependencies"]
    assert rest == ["pip", {"pip": ["-r requirements.lock", "-e ."]}]
    asked = [word for line in rest[1]["pip"] for word in line.split()]
    dry = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-index", "--no-build-isolation", *asked]
    done = subprocess.run(dry, cwd=paths.ROOT, capture_output=True, encoding="utf-8", check=True)
    assert re.findall(r"^Would install (.+)$", done.stdout, re.MULTILINE) == [f"mocalib-{PROJECT['version']}"]
    version = tuple(map(int, re.fullmatch(r"python=(\d+)\.(\d+)", python).groups()))
    assert version >= tuple(map(int, PROJECT["requires-python"].removeprefix(">=").split(".")))


def test_every_dataset_is_described_with_its_checksum_and_three_ways_to_get_it():
    text = (paths.ROOT / "data" / "README.md").read_text("utf-8")
    md5s = [catalogue.CELEBA_FILES[name][1] for name in (catalogue.CELEBA_ZIP, catalogue.CELEBA_SPLIT)]
    for shown in (*DATASETS, CIFAR10.tgz_md5, *md5s):
        assert f"`{shown}`" in text
    for name in catalogue.NAMED:
        start = re.search(rf"^(## )?`{name}`", text, re.MULTILINE).start()
        ways = re.search(r"^1\. .+?^2\. .+?^3\. .+?$", text[start:], re.MULTILINE | re.DOTALL)[0]
        for link in re.findall(r"https?://[^\s;,):]+", catalogue.NAMED[name].source):
            assert link in ways


def test_the_citation_is_of_the_paper():
    citation = yaml.safe_load((paths.ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == PROJECT["version"]
    paper = citation["preferred-citation"]
    assert [author["family-names"] for author in paper["authors"]] == ["Arpit", "Bhatnagar", "Wang", "Xiong"]
    assert "2110.10303" in paper["url"]
    assert paper["title"].replace(" ", "") in README.replace("\n", "").replace(" ", "")


def test_hooks_are_targets_of_make():
    [repository] = yaml.safe_load((paths.ROOT / ".pre-commit-config.yaml").read_text("utf-8"))["repos"]
    entries = [hook["entry"] for hook in repository["hooks"]]
    assert [entry.split()[0] for entry in entries] == ["make", "make", "check-added-large-files"]
    for entry in entries[:2]:
        assert re.search(rf"^{entry.split()[1]}:", MAKEFILE, re.MULTILINE)
    committed = subprocess.run(
        ["git", "ls-files"], cwd=paths.ROOT, capture_output=True, encoding="utf-8", check=True
    ).stdout
    sizes = {name: (paths.ROOT / name).stat().st_size for name in committed.splitlines()}
    excluded = re.compile(repository["hooks"][2]["exclude"])  # executed notebooks have tests of their own
    assert max(size for name, size in sizes.items() if not excluded.search(name)) < 500 * 1024
    assert max(sizes.values()) < 2_000_000


@pytest.mark.parametrize("scale", ["laptop", "overnight", "paper"])
@pytest.mark.parametrize("fails", ["mocalib", "none"])
def test_figures_are_drawn_and_make_fails_if_a_run_does(tmp_path, scale, fails):
    python, calls = tmp_path / "python", tmp_path / "calls"
    python.write_text(f'#!/bin/sh\necho "$*" >> {calls}\n[ "$2" != {fails} ]\n', "utf-8")
    python.chmod(0o755)
    made = subprocess.run(["make", "-C", paths.ROOT, scale, f"PY={python}"], capture_output=True)
    assert (made.returncode != 0) == (fails == "mocalib")
    *sweeps, last = calls.read_text("utf-8").splitlines()
    assert all(sweep.startswith("-m mocalib sweep") and f"--scale {scale}" in sweep for sweep in sweeps)
    assert any("sweep all" in sweep for sweep in sweeps)
    assert last == f"notebooks/execute.py {scale}"


def opens_text(call: ast.Call) -> bool:
    """Whether a call reads or writes text, as far as its words show, in the encoding of the locale."""
    name, keywords = getattr(call.func, "attr", ""), {word.arg: word.value for word in call.keywords}
    mode = next((arg.value for arg in call.args if name == "open" and isinstance(arg, ast.Constant)), "b")
    text = "text" in keywords or (name == "open" and re.fullmatch("[rwaxt+]+", mode))
    text = text or (name in ("read_text", "write_text") and len(call.args) <= (name == "write_text"))
    return bool(text) and "encoding" not in keywords


def test_all_text_is_utf_8_whatever_the_locale():
    """Ruff's rule of this (PLW1514) sees a path only where its type is written."""
    command = ["git", "ls-files", "*.py", "notebooks/*.ipynb"]
    listed = subprocess.run(command, cwd=paths.ROOT, capture_output=True, check=True)
    for name in listed.stdout.decode().split():
        code = (paths.ROOT / name).read_text("utf-8")
        if name.endswith(".ipynb"):
            cells = json.loads(code)["cells"]
            code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        calls = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
        assert [f"{name}: {ast.unparse(call)}" for call in calls if opens_text(call)] == []


def test_importing_the_package_reaches_for_nothing_and_is_quiet():
    code = "import socket; socket.socket.connect = None; import mocalib; print(sorted(mocalib.__all__)[:2])"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, encoding="utf-8", check=True
    )
    assert done.stdout == "['AE', 'Compute']\n"
    assert done.stderr == ""


def test_nothing_is_left_to_fill_in():
    for path in [*paths.ROOT.glob("*.md"), *(paths.ROOT / "notebooks").glob("*.ipynb")]:
        assert not re.findall(r"@\w+@|TODO|FIXME", path.read_text("utf-8")), path.name
