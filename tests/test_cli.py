"""The shell: each command does its work, refuses what it cannot do in words, and old spellings are answered."""

import os
import re
import signal
import subprocess
import sys

import filelock
import pytest
import victims
from conftest import picture, stopped, tiny

from mocalib.__main__ import main
from mocalib.config import paths
from mocalib.data import datasets
from mocalib.data.batches import ResidentImages
from mocalib.paper import experiments
from mocalib.storage import files
from mocalib.storage.run import open_run


def refused(arguments: list[str], capsys) -> str:
    """What a command line that argparse refuses prints."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_run_trains_and_scores_a_directory_once_and_prints_it(tmp_path, capsys, monkeypatch):
    files.write_json(tmp_path / "mine" / "config.json", tiny(epochs=1).to_dict())
    assert main(["run", str(tmp_path / "mine"), "--n", "100"]) == 0
    run = open_run(tmp_path / "mine")
    assert run.finished
    assert run.environment["threads"] == 1
    printed = capsys.readouterr().out
    assert re.search(r"fd_classifier +prior +\d+\.\d+ \| 100 against 1000 test", printed)
    assert main(["run", str(tmp_path / "mine"), "--n", "100", "--runs", str(tmp_path / "copy")]) == 0
    assert open_run(tmp_path / "copy" / tiny(epochs=1).name).finished
    monkeypatch.setattr(datasets, "load", None)  # what is finished needs neither weights nor data
    assert main(["run", str(tmp_path / "mine"), "--n", "100"]) == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_says_so_in_one_line_and_the_same_command_resumes(
    tmp_path, capsys, monkeypatch, no_death, number, code
):
    command = ["run", str(tmp_path), "--n", "100"]
    files.write_json(tmp_path / "config.json", tiny(epochs=1).to_dict())
    monkeypatch.setattr(ResidentImages, "batch", victims.signals(3, number))
    assert main(command) == code
    said = "mocalib: stopped at step 4 of 8; run the same command or cell again to resume\n"
    assert capsys.readouterr().err == said
    assert main(command) == 0
    assert f"{tiny(epochs=1).name}: resumes at step 4 of 8\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [
        (signal.SIGINT, 130, "interrupted; run the same command again to resume"),
        (signal.SIGTERM, 143, "stopped; run the same command or cell again to resume"),
    ],
)
def test_a_command_that_is_interrupted_before_training_says_so_in_one_line(tmp_path, number, code, said):
    """While it waits for another process."""
    files.write_json(tmp_path / "config.json", tiny().to_dict())
    command = [sys.executable, "-m", "mocalib", "run", str(tmp_path)]
    with (
        filelock.FileLock(tmp_path / ".lock"),
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8") as child,
    ):
        assert "waiting for it to end" in child.stdout.readline()
        child.send_signal(number)
        assert child.stderr.read() == f"mocalib: {said}\n"
        assert child.wait() == code
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", ".lock"}


def test_run_says_before_training_that_features_cannot_be_had(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    files.write_json(tmp_path / "mine" / "config.json", tiny().to_dict())
    files.write_json(tmp_path / "plain" / "config.json", tiny(dataset="photos", size=16).to_dict())
    for directory, options, told in (
        ("mine", ["--features", "inception"], "'classifier' for data with labels, or 'none' need no such file"),
        ("plain", ["--features", "classifier"], "this dataset has none"),
        ("mine", ["--n", "1"], "Scoring.n = 1 is out of range: it must be at least 2"),
        ("mine", ["--threads", "100000"], "threads = 100000: at most"),
        ("mine", ["--device", "gpu"], "device = 'gpu' is not a device"),
    ):
        assert main(["run", str(tmp_path / directory), *options]) == 1
        assert told in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["config.json"] * 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "nowhere"], "nowhere/config.json does not exist"),
        (["run", "broken"], "broken/config.json is not valid JSON: Expecting value: line 1 column 1"),
        (["run", "list"], "list/config.json: a config is a JSON object"),
        (["sweep", "quickstart", "--seeds", "0"], "seeds = 0: at least 1"),
        (["plan", "all", "--seeds", "0"], "seeds = 0: at least 1"),
        (["sweep", "appendix_a", "--scale", "laptop"], "appendix_a: not run at laptop scale"),
        (["sweep", "table3", "--scale", "smoke", "--address", "10.0.0.1:1"], "Pool.address = '10.0.0.1:1'"),
        (["sweep", "table3", "--scale", "smoke", "--gpus", ".5"], "gpus = 0.5 is for device 'cuda'"),
        (["sweep", "table3", "--scale", "smoke", "--retries", "-1"], "Pool.retries = -1"),
        (["sweep", "table3", "--scale", "smoke", "--jobs", "-1"], "Pool.jobs = -1"),
        (["plan", "table3", "--device", "gpu"], "Compute.device = 'gpu' is not a device"),
    ],
)
def test_mistakes_are_answered_in_one_line_and_nothing_is_made(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in (("broken", ""), ("list", "[1, 2]")):
        files.write(tmp_path / name / "config.json", text.encode())
    before = sorted(tmp_path.rglob("*"))
    more = ["--runs", "made"] if arguments[0] == "sweep" else []
    assert main([*arguments, *more]) == 1
    assert capsys.readouterr().err.splitlines()[0].startswith(f"mocalib: {message}")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "required: command"),
        (["swep", "table3"], "invalid choice: 'swep'"),
        (["sweep", "table33"], "invalid choice: 'table33'"),
        (["sweep", "table3", "--scale", "desktop"], "invalid choice: 'desktop'"),
        (["plan", "table3", "--n", "2"], "unrecognized arguments: --n 2"),  # no short form of --no-compile
        (["run", "some/run", "--jobs", "2"], "unrecognized arguments: --jobs 2"),
        (["plan", "table3", "--jobs", "2"], "unrecognized arguments: --jobs 2"),
        (["verify", "--runs", "elsewhere"], "unrecognized arguments: --runs"),
        *((["plan", "table3", f"--part={part}"], "write i/n") for part in ("0/2", "3/2", "1", "a/b", "-1/2", "1/0")),
    ],
)
def test_what_a_command_does_not_take_is_refused_by_name(arguments, told, capsys):
    assert told in refused(arguments, capsys)


@pytest.mark.parametrize("environment", [{"PYTHONUTF8": "0", "LC_ALL": "C"}, {"PYTHONIOENCODING": "ascii"}], ids=str)
def test_what_a_terminal_cannot_show_is_escaped(environment):
    code = (
        "import runpy, sys\n"
        "from mocalib.sweep import verify\n"
        "verify.verify = lambda _: [('run', 'Fr\\u00e9chet is damaged')]\n"
        "sys.argv[1:] = ['verify']\n"
        "runpy.run_module('mocalib', run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | environment, capture_output=True)
    assert done.stdout.startswith(b"Fr\\xe9chet is damaged"), done.stderr
    assert done.returncode == 1


COMMANDS = ("run", "sweep", "plan", "list", "sample", "score", "verify")


def test_help_names_every_command_and_needs_no_torch():
    code = (
        "import sys, contextlib\n"
        "from mocalib.__main__ import main\n"
        "with contextlib.suppress(SystemExit): main(sys.argv[1:])\n"
        "print('torch' in sys.modules, 'matplotlib' in sys.modules)\n"
    )
    for arguments in (["--help"], *([command, "--help"] for command in COMMANDS)):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, encoding="utf-8", check=True
        )
        assert done.stdout.endswith("False False\n")
        if arguments == ["--help"]:
            assert all(re.search(rf"^ +{command}\b", done.stdout, re.MULTILINE) for command in COMMANDS)


# ------------------------------------------------------------------------------------------------------- which runs


def planned(capsys, *arguments: str) -> dict[str, str]:
    """Name -> state of every run that `plan` lists."""
    assert main(["plan", *arguments]) == 0
    lines = [line.split("  ", 1) for line in capsys.readouterr().out.splitlines()[:-1]]
    return {name.strip(): found.strip() for found, name in lines}


def test_a_plan_names_runs_and_which_are_finished_and_makes_nothing(tmp_path, capsys):
    names = [config.name for config in experiments.configs("table3", "smoke", 1)]
    found = planned(capsys, "table3", "--scale", "smoke", "--runs", str(tmp_path / "runs"))
    assert found == dict.fromkeys(names, "new")
    assert not (tmp_path / "runs").exists()
    found = planned(capsys, "figure1", "--runs", str(paths.RECORDS / "laptop"))
    assert [*found.values()] == ["finished"]
    files.write(tmp_path / "runs" / names[0] / "config.json", b"{")
    found = planned(capsys, "table3", "--scale", "smoke", "--runs", str(tmp_path / "runs"))
    assert found == {names[0]: "damaged", names[1]: "new"}  # and the others are listed all the same


def test_parts_share_a_grid_out_without_rest(capsys):
    whole = {config.name for config in experiments.everything("laptop")}
    found = [planned(capsys, "all", "--scale", "laptop", "--part", f"{i}/7") for i in range(1, 8)]
    assert sum(map(len, found)) == len(whole)
    assert set().union(*found) == whole
    assert max(map(len, found)) - min(map(len, found)) <= 1


def test_a_part_without_a_run_says_so(capsys):
    assert main(["sweep", "table3", "--scale", "smoke", "--part", "40/40"]) == 0
    assert capsys.readouterr().out == "no run is in part 40/40\n"


def test_experiments_are_of_the_seeds_that_notebooks_show(capsys):
    own, more = planned(capsys, "baselines_celeba"), planned(capsys, "baselines_celeba", "--seeds", "6")
    assert own.keys() == {config.name for config in experiments.listed("laptop")["baselines_celeba"]}
    assert more.keys() > own.keys()


def test_runs_are_listed_with_what_differs_and_their_scores(tmp_path, capsys):
    for name, changed in (("a", {}), ("b", {"seed": 1}), ("c", {"learning_rate": 0.002}), ("d", {}), ("e", {})):
        files.write_json(tmp_path / name / "config.json", tiny(epochs=1, **changed).to_dict())
    main(["run", str(tmp_path / "a"), str(tmp_path / "b"), "--n", "100"])
    stopped(tmp_path / "d", 3, tiny(epochs=1))
    (tmp_path / "e" / "config.json").write_bytes(b"{")
    capsys.readouterr()
    assert main(["list", str(tmp_path)]) == 0
    header, _, *lines = capsys.readouterr().out.splitlines()
    assert header.split() == [
        "state",
        "learning_rate",
        "seed",
        "features",
        "n",
        "fd",
        "reconstruction",
        "effective_rank",
    ]
    assert [line.split()[:2] for line in lines] == [
        ["a", "finished"], ["b", "finished"], ["c", "new"], ["d", "begun"], ["e", "damaged"],
    ]  # fmt: skip
    [fd] = [row["value"] for row in open_run(tmp_path / "a").scores if row["metric"] == "fd_classifier"][:1]
    assert lines[0].split()[2:7] == ["0.001", "0", "classifier", "100", f"{fd:.4g}"]
    assert main(["list", str(tmp_path / "a")]) == 1
    assert "has no runs; pass a folder of run directories" in capsys.readouterr().err


def test_a_run_whose_images_were_moved_is_told_where_they_are(tmp_path, capsys):
    for i in range(20):
        picture(tmp_path / "old" / f"{i}.png", size=(16, 16), seed=i)
    own = {"dataset": "folder", "root": str(tmp_path / "old"), "limit": 0, "batch_size": 8, "epochs": 1}
    files.write_json(tmp_path / "run" / "config.json", tiny(**own).to_dict())
    (tmp_path / "old").rename(tmp_path / "new")
    assert main(["run", str(tmp_path / "run")]) == 1
    assert "old' does not exist" in capsys.readouterr().err
    assert main(["run", str(tmp_path / "run"), "--root", str(tmp_path / "new")]) == 0
    assert open_run(tmp_path / "run").finished
