"""What notebooks work with: whose runs, which folder, grids, results and verdicts, from records written by hand."""

import json
import math
from dataclasses import replace

import pandas as pd
import pytest
from conftest import picture, says, tiny

from mocalib.__main__ import main
from mocalib.config import paths
from mocalib.paper import experiments, results, tables
from mocalib.paper import grids as all_grids
from mocalib.paper.grids import CIFAR, LAPTOP, PAPER, SCALES
from mocalib.paper.suite import Suite
from mocalib.paper.verdict import UNTESTED, Claim, log_ratio
from mocalib.storage import files, manifest
from mocalib.storage.run import Run, differences


@pytest.fixture
def folder(scratch):
    """Sixty images of one's own."""
    for i in range(60):
        picture(scratch / "mine" / f"{i}.png", size=(20, 20), seed=i)
    return scratch / "mine"


# ------------------------------------------------------------------------------------------------ scales and own data


def test_the_default_is_laptop_and_the_environment_can_say_otherwise(monkeypatch):
    assert Suite().scale == "laptop"
    monkeypatch.setenv("MOCALIB_SCALE", "smoke")
    assert Suite().scale == "smoke"
    assert Suite("paper").scale == "paper"
    monkeypatch.setenv("MOCALIB_SCALE", "desktop")
    known = "MOCALIB_SCALE = 'desktop' is not one of smoke, laptop, overnight, paper; set it to one"
    with pytest.raises(ValueError, match=says(known)):
        Suite()
    with pytest.raises(ValueError, match="scale = 'desktop' is not one of '', 'smoke', 'laptop', 'overnight', 'paper'"):
        Suite("desktop")


def test_other_data_change_every_config_and_nothing_else_and_go_to_custom(folder):
    assert {Suite("laptop", **same).output for same in ({}, {"device": "cpu"}, {"seeds": 5})} == {"laptop"}
    for other in ({"dataset": "folder", "root": str(folder)}, {"seeds": 2}):
        assert Suite("laptop", **other).output == "custom"
    own, other = Suite("paper").configs("table3"), Suite("paper", "folder", str(folder), crop=16).configs("table3")
    for config, changed in zip(own, other):
        expected = ["dataset: 'celeba' | 'folder'", f"root: '' | '{folder}'", "size: 0 | 64", "crop: 0 | 16"]
        assert differences(config, changed) == expected


def test_another_width_changes_every_net_and_nothing_else_keeps_names_and_goes_to_custom():
    own, wide = Suite("overnight"), Suite("overnight", width=64)
    assert (own.output, wide.output) == ("overnight", "custom")
    for name in ("table1", "table3", "baselines_celeba", "dcvae_table1"):
        for config, changed in zip(own.configs(name), wide.configs(name)):
            assert differences(config, changed) == ["width: 16 | 64"]
            assert own._label(config, 20) == wide._label(changed, 20)
    assert {config.width for config in wide.settings.queued} == {64}
    assert wide.settings.stop_at == own.settings.stop_at


def test_the_scales_own_width_is_its_own_grid_in_notebooks_and_in_commands(scratch, capsys):
    fake_run(paths.RUNS / "overnight", experiments.configs("table3", "overnight")[0], 5.0)
    for width, output, finished in ((0, "overnight", 1), (16, "overnight", 1), (64, "custom", 0)):
        assert Suite("overnight", width=width).output == output
        assert main(["plan", "table3", "--scale", "overnight", "--width", str(width)]) == 0
        assert f"{finished} of them finished" in capsys.readouterr().out


def test_a_run_on_real_images_is_of_the_dataset_that_it_is_made_of():
    """An autoencoder on faces differs from that on CIFAR-10 in its images alone."""
    suite = Suite("overnight")
    for name, of in (("baselines_celeba", "CelebA"), ("baselines_cifar10", "CIFAR-10")):
        assert {suite._label(config, 20)[0] for config in suite.configs(name)} == {of}
    assert suite.images("CelebA") == "faces10k 32x32 (for CelebA)"


def test_of_few_images_all_are_taken(folder):
    """Smoke's own limit is more than there are."""
    assert {config.limit for config in Suite("smoke").configs("table3")} == {320}
    suite = Suite("smoke", "folder", str(folder))
    assert {config.limit for config in suite.configs("table3")} == {0}
    runs = suite.run("table3")
    assert all(run.finished and run.scores for run in runs)
    assert {run.directory.parent for run in runs} == {paths.RUNS / "custom"}
    assert set(suite.results(runs)["data"]) == {"folder 16x16 (for CelebA)"}


def test_a_suite_refuses_what_no_run_can_be_made_with():
    with pytest.raises(ValueError, match=r"root = '/x' needs a dataset; pass dataset too"):
        Suite(root="/x")
    with pytest.raises(ValueError, match="root and crop are for datasets on the disk, not for 'digits'"):
        Suite(crop=60)
    with pytest.raises(ValueError, match='dataset "folder" needs the path'):
        Suite(dataset="folder")
    with pytest.raises(FileNotFoundError, match="/nowhere"):
        Suite(dataset="folder", root="/nowhere")
    with pytest.raises(ValueError, match="device = 'gpu' is not a device"):
        Suite(device="gpu")
    with pytest.raises(ValueError, match=says("engine = 'slurm'", "'local', 'ray'")):
        Suite(engine="slurm")
    with pytest.raises(ValueError, match="quickstart is not run at paper scale; it is at: smoke, laptop"):
        Suite("paper").configs("quickstart")


# -------------------------------------------------------------------------------------------------------------- grids


def test_a_grid_shows_what_varies_first_and_the_papers_values(scratch):
    table = Suite("laptop").grid("figure4")
    here, paper = table["here (laptop)"], table["paper"]
    assert list(table.index[:2]) == ["runs", "temperature"]
    assert here["temperature"] == ", ".join(f"{tau:g}" for tau in LAPTOP.temperatures)
    assert paper["temperature"] == "0.05, 0.1, 0.2, 0.5, 1"
    assert here["weight at temperature 0.3"] == ", ".join(f"{weight:g}" for weight in LAPTOP.temperatures[0.3])
    assert paper["weight at temperature 0.05"] == "100, 500, 1000, 3000, 6000, 10000"
    assert here["runs"].split(",")[0] == str(5 * sum(map(len, LAPTOP.temperatures.values())))
    assert (here["queue_size"], paper["queue_size"]) == ("2048", "60000")
    assert "skip_broken" not in table.index  # the same default everywhere


def added(monkeypatch, **changes) -> Suite:
    """A suite whose laptop scale was edited."""
    monkeypatch.setitem(all_grids.SCALES, "laptop", replace(LAPTOP, **changes))
    return Suite("laptop", train=False)


def test_an_added_value_goes_to_custom_and_is_never_judged(scratch, monkeypatch):
    monkeypatch.setattr(paths, "RUNS", scratch / "runs")
    trained = []

    def sweep(configs, runs, *_):
        trained.extend((runs.name, config.objective.momentum) for config in configs)
        for config in configs:
            fake_run(runs, config, 10.0 + config.objective.momentum)

    monkeypatch.setattr("mocalib.paper.suite.sweep", sweep)
    suite = added(monkeypatch, momenta=(0.0, 0.9, 0.95, 0.99))
    suite.train = True
    assert suite.grid("table3").loc["runs", "here (laptop)"] == "20, 5 of them added: they go to custom"
    frame = suite.results(suite.run("table3"))
    assert suite.output == "custom"
    assert set(trained) == {("laptop", 0.0), ("laptop", 0.9), ("laptop", 0.99), ("custom", 0.95)}
    assert set(frame.loc[frame["added"], "momentum"]) == {0.95}
    assert len(frame) == 20


def test_without_training_only_the_committed_grid_is_shown(monkeypatch):
    """A value that was added and never trained changes nothing."""
    suite = added(monkeypatch, momenta=(0.0, 0.5, 0.9, 0.95, 0.99))
    assert {config.objective.momentum for config in suite.configs("table3")} == {0.0, 0.5, 0.9, 0.99}
    suite.run("table3")
    assert suite.output == "laptop"


def test_the_committed_grid_is_committed_and_part_of_the_present_one():
    """Values may be added to the present one; nothing of the evidence may go."""
    for scale in ("laptop",):
        for name, names in results.committed(scale).items():
            assert set(names) <= {config.name for config in experiments.configs(name, scale)}


def test_the_shell_writes_the_committed_grid(scratch, monkeypatch):
    monkeypatch.setattr(paths, "RECORDS", scratch)
    assert results.committed("smoke") == {}
    path = results.commit("smoke")
    assert path == scratch / "smoke" / "grid.json"
    assert results.committed("smoke")["table3"] == [c.name for c in experiments.configs("table3", "smoke")]


# --------------------------------------------------------------------------------------------------------------- runs


def test_committed_runs_are_taken_as_they_are(monkeypatch):
    """In a fresh clone there are no weights: nothing is trained, scored or loaded, and no process is started."""
    for name in ("mocalib.sweep.run.in_this_process", "mocalib.sweep.run.in_processes", "mocalib.data.datasets.load"):
        monkeypatch.setattr(name, None)
    suite = Suite("laptop")
    known = results.committed("laptop")
    for name in experiments.NAMES:
        if suite.has(name):
            first = experiments.own_seeds(name, "laptop").start
            committed = [c for c in suite.configs(name) if replace(c, seed=first).name in known[name]]
            if LAPTOP.partial:
                committed = [c for c in committed if Run(paths.RECORDS / "laptop" / c.name, c).finished]
            assert [run.config for run in Suite("laptop", train=False).run(name)] == committed
            if committed == suite.configs(name):
                assert [run.config for run in suite.run(name)] == committed


def test_engine_and_jobs_reach_the_sweep(monkeypatch, scratch):
    pools = []
    monkeypatch.setattr("mocalib.paper.suite.sweep", lambda *arguments: pools.append(arguments[-1]))
    for suite in (Suite("laptop"), Suite("laptop", jobs=2), Suite("paper"), Suite("laptop", engine="ray")):
        suite.run("figure1")
    assert [(pool.engine, pool.jobs) for pool in pools] == [("local", 0), ("local", 2), ("local", 1), ("ray", None)]


def test_threads_and_features_reach_the_sweep_and_other_features_go_to_custom(monkeypatch, scratch):
    calls = []
    monkeypatch.setattr("mocalib.paper.suite.sweep", lambda *arguments: calls.append(arguments[1:4]))
    for suite in (Suite("smoke", threads=1), Suite("smoke", features="vgg16")):
        suite.run("figure1")
    assert [(folder.name, compute.threads, scoring.features) for folder, compute, scoring in calls] == [
        ("smoke", 1, ""),
        ("custom", 0, "vgg16"),
    ]
    assert [Suite("smoke", **changed).output for changed in ({"threads": 1}, {"features": "vgg16"})] == [
        "smoke",
        "custom",
    ]


def test_own_images_without_labels_are_told_in_one_line_what_to_pass(folder, capsys):
    suite = Suite("smoke", "folder", str(folder))
    runs = suite.run("figure5")
    capsys.readouterr()
    for _ in range(2):
        assert suite.results(runs)["fd"].isna().all()
    said = "no distances: these images have no labels. Pass features, such as imagenet or inception\n"
    assert capsys.readouterr().out == said


def test_a_missing_record_is_named_and_never_left_out_unseen(scratch, monkeypatch):
    """Of a scale that is run as a whole; one that may be run in part goes on without it."""
    monkeypatch.setitem(all_grids.SCALES, "laptop", replace(LAPTOP, partial=False))
    configs = experiments.listed("laptop")["table3"]
    for config in configs[:-1]:
        fake_run(paths.RUNS / "laptop", config, 5.0)
    lost = configs[-1].name
    wanted = says("table3: 1 of 20 runs are missing in", lost, "restore them with git", "mocalib sweep table3")
    with pytest.raises(FileNotFoundError, match=wanted):
        Suite("laptop", train=False).run("table3")


def test_a_partial_scale_says_what_is_missing_and_goes_on(scratch, capsys):
    [first, *others] = experiments.listed("paper", 3)["table3"]
    fake_run(paths.RUNS / "paper", first, 5.0)
    runs = Suite("paper", train=False).run("table3")
    assert [run.config for run in runs] == [first]
    said = capsys.readouterr().out
    assert f"table3: {len(others)} of {len(others) + 1} runs are missing" in said
    assert "`python -m mocalib plan table3 --scale paper` lists them" in said
    assert main(["plan", "table3", "--scale", "paper", "--seeds", "3"]) == 0
    states = dict(line.split()[::-1] for line in capsys.readouterr().out.splitlines()[:-1])
    assert states == {first.name: "finished"} | {config.name: "new" for config in others}


def test_a_damaged_record_is_not_shown(scratch):
    [config, *_] = experiments.listed("paper", 3)["table3"]
    run = fake_run(paths.RUNS / "paper", config, 5.0)
    (run.directory / "scores.json").write_text(
        (run.directory / "scores.json").read_text("utf-8").replace("5.0", "4.0"), "utf-8"
    )
    with pytest.raises(ValueError, match="scores.json"):
        Suite("paper", train=False).run("table3")


# ------------------------------------------------------------------------------------------------------------ results


def fake_run(folder, config, fd, mixed=None, plain=()) -> Run:
    """A finished run whose scores are written by hand: distances of the prior and of a mixture, and what is `plain`."""
    run = Run(folder / config.name, config)
    about = {"n_generated": 9, "n_reference": 9, "epoch": 1, "seed": 0}
    distance = about | {"features": "classifier", "digest": "x", "metric": "fd_classifier", "split": "test"}
    rows = [distance | {"sampler": "prior", "value": fd}]
    rows += [] if mixed is None else [distance | {"sampler": "gmm10", "value": mixed}]
    for value, (metric, sampler, split) in enumerate(plain):
        plainly = {"features": "", "digest": "", "metric": metric, "sampler": sampler, "split": split}
        rows.append(about | plainly | {"value": float(value)})
    files.write_json(run.directory / "config.json", config.to_dict())
    data = {"train": 4000, "test": 1000, "image_shape": [1, 16, 16], "labels": True, "fingerprint": "f"}
    files.write_json(run.directory / "environment.json", {"data": data, "parameters": 7, "device": "cpu", "threads": 1})
    files.write(run.directory / "timing.jsonl", json.dumps({"step": 1, "seconds": 60.0}).encode())
    rescore(run, rows)
    return run


def rescore(run: Run, rows: list[dict], step: int = 1, epoch: int = 1) -> None:
    """Give a run other scores, with checksums as if it had ended with them."""
    files.write_json(run.directory / "scores.json", rows)
    files.write(run.directory / "metrics.jsonl", json.dumps({"step": step, "epoch": epoch}).encode())
    files.write_json(run.directory / "manifest.json", {"step": step, "epoch": epoch})
    seal(run)


def seal(run: Run) -> None:
    """Take the checksums of a run's files as they are."""
    about = json.loads((run.directory / "manifest.json").read_text("utf-8"))
    digests = {name: files.sha256(run.directory / name) for name in (*manifest.RECORDED, "scores.json")}
    files.write_json(run.directory / "manifest.json", about | {"files": digests})


def test_every_column_of_scores_is_what_it_is_called(tmp_path):
    """A value of its own for each row of a record, so that a swap is seen."""
    keys = [*results.SCORES.values()]
    run = fake_run(tmp_path, tiny(), 5.0, plain=keys)
    [row] = results.frame([run]).to_dict("records")
    assert row["reconstruction"] == keys.index(("reconstruction", "reconstruction", "test"))
    assert row["reconstruction_train"] == keys.index(("reconstruction", "reconstruction", "train"))
    assert row["nearest_cosine"] == keys.index(("nearest_cosine", "train_codes", "train"))
    assert row["nearest_cosine_uniform"] == keys.index(("nearest_cosine", "uniform", "train"))
    assert (row["fd"], row["weight"], row["objective"], row["parameters"]) == (5.0, 1.0, "moca", 7)
    assert math.isnan(row["precision"])
    assert row["effective_rank"] == keys.index(("effective_rank", "train_codes", "train"))


def test_no_runs_give_no_rows_but_all_columns(tmp_path):
    full = results.frame([fake_run(tmp_path, tiny(), 5.0)])
    for empty in (results.frame([]), results.history([])):
        assert len(empty) == 0
        assert set(full.columns) <= set(empty.columns)
        assert empty["fd"].mean() != empty["fd"].mean()
    assert len(Suite("paper").results([])) == 0


def test_of_several_evaluations_the_one_of_most_samples_counts_and_all_runs_have_the_same_weights(tmp_path):
    runs = [fake_run(tmp_path, tiny(seed=seed), 5.0) for seed in range(2)]
    more = [row | {"n_generated": n, "value": value} for row in runs[0].scores for n, value in ((99, 7.0), (3, 1.0))]
    rescore(runs[0], [*runs[0].scores, *more])
    assert list(results.frame(runs)["fd"]) == [7.0, 5.0]
    rescore(runs[1], [row | {"digest": "y"} for row in runs[1].scores])
    with pytest.raises(ValueError, match="runs on digits were scored with different weights: x, y; score them again"):
        results.frame(runs)


def test_a_run_is_scored_with_scores_of_the_prior_at_the_end_and_at_every_kept_epoch(tmp_path):
    config = tiny(keep_epochs=(0,))
    run = fake_run(tmp_path, config, 5.0)
    assert not results.scored(run)
    of_kept = [row | {"epoch": 0} for row in run.scores]
    rescore(run, run.scores + of_kept)
    assert results.scored(run)
    rescore(run, [row | {"sampler": "gmm10"} for row in run.scores[:1]] + of_kept)
    assert not results.scored(run)


def test_every_run_has_its_name_in_table_1_and_says_what_its_images_stand_for(tmp_path):
    """Those of Table 1 and its baselines; an ablation is a MoCA on what stands for CelebA."""
    suite = Suite("laptop")
    configs = {name: suite.configs(name)[::5] for name in ("table1", "baselines_cifar10", "table3", "table2")}
    runs = {name: [fake_run(tmp_path, config, 5.0) for config in found] for name, found in configs.items()}
    for name in ("table1", "baselines_cifar10"):
        suite._judged |= suite._known[name]
    frame = suite.results(runs["table1"])
    assert list(zip(frame["of"], frame["method"]))[:4] == [*LAPTOP.table1]
    assert list(frame["method"])[4:] == ["one training step"]
    assert set(frame["data"]) == {"digits 16x16 (for CIFAR-10)", "digits 32x32 (for CelebA)"}
    assert list(suite.results(runs["baselines_cifar10"])["method"]) == list(LAPTOP.baselines[CIFAR])
    assert set(suite.results(runs["table3"])["data"]) == {"digits 16x16 (for CelebA)"}
    assert "CelebA-HQ" in set(suite.results(runs["table2"])["of"])  # it shares runs with Tables 3 and 4
    for name in ("quickstart", "ingredients", "convergence"):
        runs[name] = [fake_run(tmp_path, config, 5.0) for config in suite.configs(name)[::5]]
        assert set(suite.results(runs[name])["of"]) == {CIFAR}
    assert Suite("paper").images(CIFAR) == CIFAR


def test_along_training_every_scored_epoch_has_its_images_and_seconds(tmp_path):
    config = SCALES["laptop"].convergence["WAE-GAN"]
    run = fake_run(tmp_path, config, 5.0)
    kept = [*config.keep_epochs, 20]
    rows = [row | {"epoch": epoch, "value": 100.0 - epoch} for row in run.scores for epoch in kept]
    rescore(run, rows, step=20 * 62, epoch=20)
    lines = [{"step": step, "seconds": 2.0 * step} for step in (62 * 8, 62 * 20)]
    files.write(run.directory / "timing.jsonl", "\n".join(map(json.dumps, lines)).encode())
    table = Suite("laptop").results([run], history=True)
    assert list(table["epoch"]) == kept
    assert list(table["seen"]) == [epoch * 62 * 64 for epoch in kept]  # 4,000 images, whole batches alone
    assert list(table["seconds"]) == pytest.approx([2.0 * epoch * 62 for epoch in kept])
    assert list(table["fd"]) == [100.0 - epoch for epoch in kept]
    assert set(table["method"]) == {"WAE-GAN"}


def test_runs_that_are_scored_anew_in_part_are_compared_by_what_all_have(tmp_path):
    """A second scoring that ended early: Inception's scores of some epochs, of some runs."""
    configs = [PAPER.convergence["MoCA"], PAPER.convergence["WAE-GAN"], PAPER.baselines[CIFAR]["AE"]]
    runs = [fake_run(tmp_path, config, fd) for config, fd in zip(configs, (9.0, 12.0, 30.0))]
    inception = {"features": "inception", "metric": "fid", "digest": "i", "value": 70.0}
    for run, epochs in zip(runs, ((1, 100), (1,), ())):
        rows = [row | {"epoch": epoch} for row in run.scores for epoch in (*run.config.keep_epochs, 100)]
        rows += [row | inception for row in rows if row["epoch"] in epochs]
        rescore(run, rows, epoch=100)
    assert results.common_features(runs) == "classifier"
    assert results.common_features(runs[:2], epoch=1) == "inception"
    alone = results.frame(runs[:1])
    assert (alone["fd"][0], alone["features"][0]) == (70.0, "inception")
    assert results.common_features(runs[:1], along=True) == "classifier"
    assert results.frame(runs)["fd"].tolist() == [9.0, 12.0, 30.0]
    along = results.history(runs[:2])
    assert set(along["features"]) == {"classifier"}
    assert set(along["fd"]) == {9.0, 12.0}


# ------------------------------------------------------------------------------------------------ tables and verdicts


def test_tables_keep_three_digits_for_reading_and_seven_in_files(scratch):
    table = pd.DataFrame({"paper_fid": [54.36, float("nan")], "n": [1_234_567, 2], "fd": [0.1234567891, 12_345.6]})
    suite = Suite("laptop")
    runs = [fake_run(scratch / "runs", config, 5.0) for config in suite.configs("table3")[:2]]
    shown = suite.save_table("table9", table, runs, "a note")
    folder = paths.FIGURES / "laptop"
    assert (folder / "table9.csv").read_text("utf-8") == "paper_fid,n,fd\n54.36,1234567,0.1234568\n,2,12345.6\n"
    assert (folder / "table9.md").read_text("utf-8") == (
        "| paper fid | n | fd |\n| ---: | ---: | ---: |\n| 54.36 | 1,234,567 | 0.123 |\n|  | 2 | 12,346 |\n"
        "\ndigits 16x16; fd of classifier features, not FID; 2 seeds; a note [laptop scale]\n"
    )
    assert shown["fd"].tolist() == ["0.123", "12,346"]
    assert tables.text(table)["n"].tolist() == ["1,234,567", "2"]
    assert suite.save_table("table10", table, []).equals(shown)
    assert not [*folder.glob("table10*")]


def test_a_verdict_is_shown_and_kept_with_its_numbers(scratch, tmp_path):
    suite = Suite("laptop")
    configs = [c for c in suite.configs("table3") if c.objective.momentum in (0.0, 0.5, 0.9)]
    runs = [fake_run(tmp_path, c, 40.0 if c.objective.momentum == 0 else 20.0) for c in configs]
    frame = suite.results(runs)
    claim = Claim("momentum", "A small m0 is worse.", "section 5.3", "log of fd at 0 over 0.9")
    effect = log_ratio(frame, "fd", {"momentum": 0.0}, {"momentum": 0.9}) + (frame["seed"].unique() - 10) * 1e-3
    here = frame.groupby("momentum")["fd"].mean().rename_axis("m0")
    shown = suite.verdict(claim, effect, here, "not measured")
    found = json.loads((paths.FIGURES / "laptop" / "claims" / "momentum.json").read_text("utf-8"))
    assert found["verdict"] == "holds"
    assert found["comparisons"][""]["mean"] == pytest.approx(math.log(2) + 2e-3, rel=1e-5)
    assert found["here"] == "m0 0: 40, m0 0.5: 20, m0 0.9: 20"
    assert found["paper"] == "not measured"
    assert "Verdict at laptop scale: **holds**" in shown.data
    said = suite.conclude("momentum", "It is twice as bad.", "The cosine is 0.5.").data
    assert said == "It is twice as bad. This agrees with the paper. The cosine is 0.5."
    missing = suite.conclude("momentum", "It is nan times as bad.", "The cosine is 0.5.").data
    assert missing == "momentum: runs are missing, so there is nothing to say"
    against = replace(claim, key="other", threshold=1.0)
    suite.verdict(against, effect, here, "not measured")
    assert "This does not agree with the paper." in suite.conclude("other", "", "").data
    suite.verdict(against, effect, here, UNTESTED)
    assert suite.conclude("other", "", "").data.strip() == (
        'The paper does not test this; the verdict here is "does not hold".'
    )


def test_the_papers_tables_are_its_numbers():
    assert results.paper("table3").set_index("momentum")["fid"].to_dict() == {
        0.0: 86.57, 0.9: 98.97, 0.99: 47.96, 0.999: 47.46,
    }  # fmt: skip
    assert results.paper("table2").set_index("size")["weight"].to_dict() == {32: 100, 64: 2_000, 256: 20_000}
    assert len(results.paper("table1")) == 13
    assert results.paper("table4")["fid"].tolist() == [84.93, 48.45, 46.56, 47.31, 46.68, 49.94]
