"""What the READMEs say is true: links, files, commands, examples, counts; and they stay short."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections import Counter
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from conftest import picture
from papermill import cli
from test_papermill import code, run_here

from mocalib import RunConfig
from mocalib.__main__ import _configs, _parser
from mocalib.config import paths

LINES = {
    "README.md": 150,
    "CONTRIBUTING.md": 80,
    "data/README.md": 80,
    "data/weights/faces-moca/README.md": 25,
    "figures/README.md": 80,
    "mocalib/README.md": 80,
    "notebooks/README.md": 80,
    "tests/README.md": 40,
}
TEXTS = {name: (paths.ROOT / name).read_text("utf-8") for name in LINES}
MAKEFILE = (paths.ROOT / "Makefile").read_text("utf-8")
KINDS = "py|ipynb|md|csv|json|cff|mplstyle"  # of files whose names are checked


def blocks(name: str, language: str) -> list[str]:
    """A README's fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.+?)^```$", TEXTS[name], re.MULTILINE | re.DOTALL)


def commands(name: str, module: str) -> list[list[str]]:
    """The arguments of each `python -m module` in a README's shell blocks, with 1 for shell variables."""
    found = []
    for line in "\n".join(blocks(name, "sh")).replace("\\\n", " ").splitlines():
        if f"-m {module} " not in line:
            continue
        lexer = shlex.shlex(re.sub(r"\$\w+", "1", line), posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words = list(lexer)
        start = words.index(module) + 1
        end = next((i for i, word in enumerate(words) if i > start and word in (";", "&&", "|", ">")), None)
        found.append(words[start:end])
    return found


EVERY = [(name, command) for name in LINES for command in commands(name, "mocalib")]
NOTEBOOKS = [(name, command) for name in LINES for command in commands(name, "papermill")]


@pytest.fixture
def images(tmp_path) -> Path:
    """A folder of small random images, of several sizes."""
    for i in range(80):
        picture(tmp_path / "images" / f"{i}.png", size=(36 + i % 5, 34), seed=i)
    return tmp_path / "images"


def run(block: list[str], tmp_path: Path) -> str:
    """What a command prints, in an empty folder, with data, runs and figures in there too."""
    env = {f"MOCALIB_{name}": str(tmp_path / name.lower()) for name in ("DATA", "FIGURES")}
    env |= {"PYTHONPATH": os.pathsep.join([str(paths.ROOT), os.environ["PYTHONPATH"]]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(block, cwd=tmp_path, env=os.environ | env, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return done.stdout


# ---------------------------------------------------------------------------------------------------------------- text


@pytest.mark.parametrize("name", LINES)
def test_a_readme_is_short(name):
    assert len(TEXTS[name].splitlines()) <= LINES[name]


def test_the_first_readme_is_read_in_minutes():
    assert len(TEXTS["README.md"].split()) <= 1_500


def test_every_readme_is_checked():
    found = subprocess.run(
        ["git", "ls-files", "*.md"], cwd=paths.ROOT, capture_output=True, encoding="utf-8", check=True
    )
    written = {path for path in found.stdout.split() if not path.startswith("figures/") or path.endswith("README.md")}
    assert written == set(LINES)


@pytest.mark.parametrize("name", LINES)
def test_every_link_and_picture_is_there(name):
    links = re.findall(r"\]\(([^)\s]+)\)", TEXTS[name]) + re.findall(r'src="([^"]+)"', TEXTS[name])
    for link in links:
        if re.match(r"https?:", link):
            continue
        file, _, section = link.partition("#")
        path = (paths.ROOT / name).parent / file
        assert path.exists(), link
        headings = re.findall(r"^#+ (.+)$", path.read_text("utf-8"), re.MULTILINE) if section else []
        assert section in ["", *(heading.lower().replace(" ", "-") for heading in headings)], link


@pytest.mark.parametrize("name", LINES)
def test_every_file_that_is_named_is_there(name):
    folder = (paths.ROOT / name).parent
    for path in re.findall(rf"`([\w./-]+/[\w.-]+\.(?:{KINDS}))`", TEXTS[name]):
        assert (folder / path).exists() or (paths.ROOT / path).exists(), path
    for path in re.findall(r"\btest_\w+\.py\b", TEXTS[name]):
        assert (paths.ROOT / "tests" / path).exists(), path


def test_what_the_library_readme_tells_to_find_is_found():
    found = re.findall(r"`([\w.]+)` in \[[^\]]+\]\(([^)]+)\)", TEXTS["mocalib/README.md"])
    assert len(found) >= 6
    for what, file in found:
        text = (paths.ROOT / "mocalib" / file).read_text("utf-8")
        for part in what.split("."):
            assert re.search(rf"\b(def|class) {part}\b|^ +{part}[:=]", text, re.MULTILINE), f"{what} in {file}"


def results_text() -> str:
    """What README says below the forest plot, up to its warning."""
    return TEXTS["README.md"].split('interval and verdict">')[1].split("Read these numbers")[0].strip()


def test_six_sentences_tell_the_results_and_the_first_counts_the_verdicts():
    report = pd.read_csv(paths.ROOT / "figures" / "laptop" / "report.csv")
    first, *others = re.split(r"(?<=\.)\s+(?=[A-Z])", results_text())
    assert len(others) == 5
    verdicts = Counter(report["verdict"])
    words = ("holds", "does not hold", "undecided", "not decidable here", "not run")
    assert list(map(int, re.findall(r"\d+", first))) == [len(report), *(verdicts[word] for word in words)]
    assert sum(verdicts.values()) == sum(verdicts[word] for word in words)


def test_numbers_are_those_of_the_records():
    report = (paths.ROOT / "figures" / "laptop" / "report.csv").read_text("utf-8")
    for number in re.findall(r"\d+\.\d+", results_text()):
        assert re.search(rf"(?<![\d.]){re.escape(number)}(?![\d.])", report), number
    table = "".join(path.read_text("utf-8") for path in (paths.ROOT / "figures" / "laptop").glob("table1.md"))
    executed = (paths.ROOT / "figures" / "laptop" / "notebooks" / "02_main_results.ipynb").read_text("utf-8")
    for number in re.findall(r"\d+\.\d+", TEXTS["figures/README.md"].split("## Table 1 in words")[1]):
        assert re.search(rf"(?<![\d.]){re.escape(number)}(?![\d.])", table + executed), number
    ratios = pd.read_csv(paths.ROOT / "figures" / "laptop" / "throughput-cpu.csv").set_index(["net", "images"])["ratio"]
    for net, side in (("A2, width 64", 32), ("A2, width 64", 64), ("A2, width 8", 16)):
        assert f"{ratios[net, f'{side}x{side}']:.2f} times" in TEXTS["mocalib/README.md"]
    measured = [pd.read_csv(path) for path in (paths.ROOT / "figures" / "overnight").glob("throughput-cpu*.csv")]
    assert len(measured) == 2
    assert all(f"{ratio:.2f} times" in TEXTS["mocalib/README.md"] for ratio in pd.concat(measured)["ratio"])
    soak = json.loads((paths.ROOT / "data" / "soak.json").read_text("utf-8"))
    counts = f"{soak['faults_injected']} faults were injected and {soak['runs_finished']} runs finished"
    assert counts in TEXTS["tests/README.md"].replace("\n", " ")
    assert (soak["runs_lost"], soak["wrong_results"], soak["messages_without_a_way_out"]) == (0, 0, 2)


# ------------------------------------------------------------------------------------------------------------ commands


def test_every_make_target_is_there_and_help_lists_every_target():
    rules = set(re.findall(r"^([a-z]+):", MAKEFILE, re.MULTILINE))
    named = {name: set(re.findall(r"`[^`\n]*\bmake ([a-z]+)[^`\n]*`", text)) for name, text in TEXTS.items()}
    assert {"demo", "test", "laptop", "figures"} <= named["README.md"]
    assert set().union(*named.values()) <= rules
    text = subprocess.run(["make", "-C", paths.ROOT, "help"], capture_output=True, encoding="utf-8", check=True).stdout
    assert len(rules) > 10
    for rule in rules:
        assert re.search(rf"make {rule} ", text)


@pytest.mark.parametrize("name", LINES)
def test_every_block_of_shell_is_shell(name):
    for block in blocks(name, "sh"):
        subprocess.run(["bash", "-n"], input=block, encoding="utf-8", check=True)


@pytest.mark.parametrize(("name", "command"), EVERY, ids=["-".join(command) for _, command in EVERY])
def test_every_command_of_the_package_is_understood(name, command):
    try:
        _parser().parse_args(command)
    except SystemExit:
        pytest.fail(f"{name}: python -m mocalib {' '.join(command)}")


@pytest.mark.parametrize(("name", "command"), NOTEBOOKS, ids=["-".join(command) for _, command in NOTEBOOKS])
def test_every_notebook_takes_its_parameters(name, command, tmp_path):
    """Papermill's own command writes the notebook; its cells run here up to the check of the parameters."""
    notebook, _, *options = command
    out = tmp_path / "out.ipynb"
    cli.papermill([str(paths.ROOT / notebook), str(out), *options, "--prepare-only"], standalone_mode=False)
    cells = code(out)
    [checked] = [i for i, cell in enumerate(cells) if "= notebook_parameters(" in cell]
    run_here(cells[: checked + 1])
    assert len(nbformat.read(out, as_version=4).cells) > checked


def test_the_tasks_of_a_slurm_array_share_the_grid_out_and_any_of_them_can_be_run_again():
    """Each task as if it were run again alone, when SLURM counts one task."""
    [script] = [block for block in blocks("notebooks/README.md", "sh") if "#SBATCH" in block]
    [last] = re.findall(r"--array=1-(\d+)", script)
    printing = script.replace(".venv/bin/python -m mocalib", "echo")
    parts = []
    for task in range(1, int(last) + 1):
        env = os.environ | {"SLURM_ARRAY_TASK_ID": str(task), "SLURM_ARRAY_TASK_COUNT": "1"}
        done = subprocess.run(
            ["bash", "-e"], input=printing, env=env, capture_output=True, encoding="utf-8", check=True
        )
        parts.append([shlex.split(line) for line in done.stdout.splitlines()])
    for tasks in zip(*parts, strict=True):  # of one command
        names = [config.name for words in tasks for config in _configs(_parser().parse_args(words))]
        whole = [*tasks[0][: tasks[0].index("--part")], "--part", "1/1"]
        assert sorted(names) == sorted({config.name for config in _configs(_parser().parse_args(whole))})
    assert {words[1] for words in parts[0]} == {"table1", "all"}


def test_shell_and_papermill_are_shown():
    assert {name for name, _ in EVERY} >= {"README.md", "notebooks/README.md"}
    assert {name for name, _ in NOTEBOOKS} >= {"README.md", "notebooks/README.md"}
    assert {command[0] for _, command in EVERY} >= {"run", "list", "sample", "score", "sweep", "plan", "verify"}


# ------------------------------------------------------------------------------------------------------------ examples


@pytest.mark.parametrize("name", [name for name in LINES if blocks(name, "python")])
def test_every_python_example_runs(name, images, tmp_path):
    for i, block in enumerate(blocks(name, "python")):
        script = tmp_path / f"example{i}.py"
        script.write_text(block.replace("/path/to/images", str(images)), "utf-8")
        run([sys.executable, str(script)], tmp_path)
    [*finished] = tmp_path.rglob("manifest.json")
    assert finished


def test_the_shell_example_samples_and_scores_the_committed_model(tmp_path):
    [block] = [block for block in blocks("README.md", "sh") if "mocalib sample" in block]
    printed = run(["bash", "-ec", block.replace(".venv/bin/python", sys.executable)], tmp_path)
    assert len(list((tmp_path / "samples-1000").glob("*.png"))) == 1_000
    fd = float(re.search(r"fd_classifier +folder +(\d+\.\d+)", printed)[1])
    assert fd < 8  # one of lambda 0 has 8.24 with 10,000 samples


def test_the_shell_example_trains_a_config(tmp_path):
    [block] = [block for block in blocks("notebooks/README.md", "sh") if "config.json" in block]
    lines = block.replace(".venv/bin/python", sys.executable).replace('"epochs": 20', '"epochs": 1').splitlines()[:2]
    assert "reconstruction" in run(["bash", "-ec", "\n".join(lines)], tmp_path)
    directory = tmp_path / "data/runs/custom/mine"
    assert (directory / "manifest.json").exists()
    assert RunConfig.from_dict(json.loads((directory / "config.json").read_text("utf-8"))).width == 8
