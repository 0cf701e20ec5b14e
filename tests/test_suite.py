"""What notebooks work with: whose runs, which folder, and tables that are made of records."""

import json
import math

import pandas as pd
import pytest
from conftest import picture, tiny

from mocalib.config import paths
from mocalib.paper import claims, experiments, report, results, tables
from mocalib.paper.grids import LAPTOP, PAPER, SCALES, SMOKE
from mocalib.paper.suite import Suite
from mocalib.storage import files, manifest
from mocalib.storage.run import Run


@pytest.fixture
def folder(scratch):
    """Sixty images of one's own."""
    for i in range(60):
        picture(scratch / "mine" / f"{i}.png", size=(20, 20), seed=i)
    return scratch / "mine"


def test_other_data_change_every_config_and_nothing_else_and_go_to_custom(folder):
    assert {Suite("laptop", **same).output for same in ({}, {"device": "cpu"}, {"seeds": 3})} == {"laptop"}
    for other in ({"dataset": "folder", "root": str(folder)}, {"seeds": 2}):
        assert Suite("laptop", **other).output == "custom"
    assert Suite("laptop").folder == paths.RUNS / "laptop"
    own, other = Suite("paper").configs("table3"), Suite("paper", "folder", str(folder), crop=16).configs("table3")
    for config, changed in zip(own, other):
        assert config.differences(changed) == ["dataset: 'celeba' | 'folder'", f"root: '' | '{folder}'", "crop: 0 | 16"]


def test_of_few_images_all_are_taken(folder):
    """Smoke's own limit is more than there are."""
    assert {config.limit for config in Suite("smoke").configs("table3")} == {320}
    study = Suite("smoke", "folder", str(folder))
    assert {config.limit for config in study.configs("table3")} == {0}
    assert all(run.finished and run.scores for run in study.run("table3"))
    assert {path.parent.name for path in study.draw("table3", study.run("table3"))} == {"custom"}


def test_differences_are_all_in_which_runs_differ_and_pictures_are_of_seed_0_alone():
    table = Suite("laptop").differing("figure4")
    assert list(table.columns) == ["temperature", "weight"]
    cells = [(tau, weight) for tau, weights in LAPTOP.temperatures.items() for weight in weights]
    assert list(table.itertuples(index=False, name=None)) == cells
    assert {config.seed for config in Suite("laptop").configs("figure2")} == {0}
    assert {config.seed for config in Suite("laptop").configs("table3")} == {0, 1, 2}


def test_committed_runs_are_taken_as_they_are(monkeypatch):
    """In a fresh clone there are no weights: nothing is trained, scored or loaded, and no process is started."""
    for name in ("mocalib.sweep.run.in_this_process", "mocalib.sweep.run.in_processes", "mocalib.data.datasets.load"):
        monkeypatch.setattr(name, None)
    study = Suite("laptop")
    for name in experiments.NAMES:
        if study.has(name):
            assert [run.config for run in study.run(name)] == study.configs(name)
    findings = report.findings(study.found(), "laptop")
    assert {finding.verdict for finding in findings} == {"holds", "does not hold", "within noise", "not run"}
    for name in ("table1", *experiments.SHOWN_WITH["table1"]):
        study.run(name, sampler="gmm10")


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
    digests = {name: files.sha256(run.directory / name) for name in (*manifest.RECORDED, "scores.json")}
    files.write_json(run.directory / "manifest.json", {"step": step, "epoch": epoch, "files": digests})


def test_every_column_of_scores_is_what_it_is_called(tmp_path):
    """A value of its own for each row of a record, so that a swap is seen."""
    keys = [*results.SCORES.values()]
    run = fake_run(tmp_path, tiny(), 5.0, plain=keys)
    [row] = results.frame([run]).to_dict("records")
    assert row["reconstruction"] == keys.index(("reconstruction", "reconstruction", "test"))
    assert row["reconstruction_train"] == keys.index(("reconstruction", "reconstruction", "train"))
    assert row["singular_value_ratio"] == keys.index(("singular_value_ratio", "train_codes", "train"))
    assert row["nearest_cosine"] == keys.index(("nearest_cosine", "train_codes", "train"))
    assert row["nearest_cosine_uniform"] == keys.index(("nearest_cosine", "uniform", "train"))
    assert (row["fd"], row["weight"], row["objective"], row["parameters"]) == (5.0, 1.0, "moca", 7)
    assert math.isnan(row["precision"])


def test_of_several_evaluations_the_one_of_most_samples_counts_and_all_runs_have_the_same_weights(tmp_path):
    runs = [fake_run(tmp_path, tiny(seed=seed), 5.0) for seed in range(2)]
    more = [row | {"n_generated": n, "value": value} for row in runs[0].scores for n, value in ((99, 7.0), (3, 1.0))]
    rescore(runs[0], [*runs[0].scores, *more])
    assert list(results.frame(runs)["fd"]) == [7.0, 5.0]
    rescore(runs[1], [row | {"digest": "y"} for row in runs[1].scores])
    with pytest.raises(ValueError, match="runs on digits were scored with different weights: x, y; score them again"):
        results.frame(runs)


def test_a_run_is_complete_with_scores_of_the_prior_at_the_end_and_at_every_kept_epoch(tmp_path):
    config = tiny(keep_epochs=(0,))
    run = fake_run(tmp_path, config, 5.0)
    assert report.complete(tmp_path, [config]) == []
    of_kept = [row | {"epoch": 0} for row in run.scores]
    rescore(run, run.scores + of_kept)
    assert [found.config for found in report.complete(tmp_path, [config])] == [config]
    rescore(run, [row | {"sampler": "gmm10"} for row in run.scores[:1]] + of_kept)
    assert report.complete(tmp_path, [config]) == []


def test_a_study_refuses_what_no_run_can_be_made_with():
    with pytest.raises(ValueError, match=r"scale = 'desktop' is not one of 'smoke', 'laptop', 'paper'"):
        Suite("desktop")
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
    with pytest.raises(ValueError, match="quickstart is not run at paper scale; it is at: smoke, laptop"):
        Suite("paper").configs("quickstart")


def test_table_3_is_means_over_seeds_beside_the_papers_numbers(tmp_path):
    configs = experiments.configs("table3", "laptop", seeds=2)
    fds = {config: 10 * (1 + config.objective.momentum) + config.seed for config in configs}
    runs = [fake_run(tmp_path, config, fd) for config, fd in fds.items()]
    table = tables.along(results.frame(runs), "momentum", "table3").set_index("momentum")
    assert list(table.index) == [0.0, 0.5, 0.9, 0.99, 0.999]
    assert table.loc[0.5, "fd"] == pytest.approx(15.5)
    assert table.loc[0.5, "sd"] == pytest.approx(math.sqrt(0.5))
    assert table.loc[0.0, ["fd", "seeds", "paper_fid"]].tolist() == pytest.approx([10.5, 2, 86.57])
    assert pd.isna(table.loc[0.999, "fd"])
    assert table.loc[0.9, "paper_fid"] == 98.97


def test_table_2_takes_the_best_mean_and_tells_each_seeds_own(tmp_path):
    configs = experiments.configs("table2", "laptop", seeds=2)
    runs = [fake_run(tmp_path, c, abs(math.log(c.objective.weight / c.size)) + 5 + c.seed) for c in configs]
    table = tables.table2(results.frame(runs)).set_index("size")
    for size, weights in LAPTOP.sizes.items():
        best = min(weights, key=lambda weight, size=size: abs(math.log(weight / size)))
        assert table.loc[size, "best_weight"] == best
        assert table.loc[size, "of_each_seed"] == f"{best:g} {best:g}"
    assert table.loc[256, "paper_weight"] == 20_000


def test_table_1_has_every_method_of_the_paper_and_what_bad_looks_like(tmp_path):
    configs = experiments.configs("table1", "smoke")
    runs = [fake_run(tmp_path, config, 10.0 + i) for i, config in enumerate(configs)]
    bad = [row | {"epoch": 0, "value": 99.0} for row in runs[-1].scores]
    rescore(runs[-1], runs[-1].scores + bad)
    table = tables.table1(runs, SMOKE).set_index(["dataset", "method", "row"])
    assert len(table) == len(results.paper("table1")) + 4 + 2
    assert table.loc[("CIFAR-10", "MoCA-A1", "re-run"), "fd"] == 10.0
    assert table.loc[("CelebA", "MoCA-A2", "re-run"), "fd"] == 13.0
    assert table.loc[("CIFAR-10", "MoCA-A2", "printed"), "paper_fid"] == 54.36
    assert table.loc[("CIFAR-10", "RAE-SN", "cited"), "protocol"] == "RAE"
    assert table.loc[("CIFAR-10", "untrained net", "re-run"), "fd"] == 99.0
    assert table.loc[("CIFAR-10", "one training step", "re-run"), "fd"] == 14.0
    assert table["fd"].notna().sum() == 6  # baselines are cited, not run
    assert set(table["protocol"]) == set(tables.protocols(runs, SMOKE))


def test_table_1_has_a_row_re_run_beside_each_that_is_cited(tmp_path):
    names = ("table1", *experiments.SHOWN_WITH["table1"])
    configs = [config for name in names for config in experiments.configs(name, "paper", seeds=2)]
    runs = [fake_run(tmp_path, config, float(i), mixed=100.0 + i) for i, config in enumerate(configs)]
    table = tables.table1(runs, SCALES["paper"])
    pairs = list(zip(table["dataset"], table["method"], table["row"]))
    for printed in results.paper("table1").itertuples():
        at = pairs.index((printed.dataset, printed.method, "re-run"))
        assert pairs[at + 1][:2] == (printed.dataset, printed.method)
        assert pairs[at + 1][2] in ("cited", "printed")
        assert table["paper_fid"][at + 1] == printed.fid
    at = configs.index(SCALES["paper"].baselines["CelebA"]["WAE-GAN"])  # its seeds 0 and 1 are side by side
    row = table.iloc[pairs.index(("CelebA", "WAE-GAN", "re-run"))]
    assert (row["fd"], row["fd_gmm"], row["seeds"]) == (at + 0.5, at + 100.5, 2)
    assert row["sd"] == pytest.approx(0.5**0.5)


def test_baselines_of_two_seeds_are_compared_with_moca_of_the_same_two(tmp_path):
    def runs(name, seeds, *distances):
        return [fake_run(tmp_path, config, *distances) for config in experiments.configs(name, "laptop", seeds)]

    found = {"table1": runs("table1", 3, 5.0), "rivals_celeba": runs("rivals_celeba", 2, 8.0, 4.0)}
    by_name = {finding.claim.name: finding for finding in report.findings(found, "laptop")}
    assert by_name["competitive"].effects == pytest.approx([math.log(4 / 5)] * 2)
    assert by_name["competitive"].verdict == "holds"
    assert by_name["state-of-the-art"].verdict == "not run"
    assert len(by_name["a2-CelebA"].effects) == 3
    found["table1"] = [run for run in found["table1"] if run.config.seed == 0]  # and the other way round
    by_name = {finding.claim.name: finding for finding in report.findings(found, "laptop")}
    assert len(by_name["competitive"].effects) == 1


def test_along_training_every_scored_epoch_has_its_images_and_seconds(tmp_path):
    config = SCALES["laptop"].convergence["WAE-GAN"]
    run = fake_run(tmp_path, config, 5.0)
    kept = [*config.keep_epochs, 40]
    rows = [row | {"epoch": epoch, "value": 100.0 - epoch} for row in run.scores for epoch in kept]
    rescore(run, rows, step=40 * 62, epoch=40)
    lines = [{"step": step, "seconds": 2.0 * step} for step in (62 * 8, 62 * 40)]
    files.write(run.directory / "timing.jsonl", "\n".join(map(json.dumps, lines)).encode())
    table = tables.convergence([run], SCALES["laptop"])
    assert list(table["epoch"]) == kept
    assert list(table["images"]) == [epoch * 62 * 64 for epoch in kept]  # 4,000 images, whole batches alone
    assert list(table["seconds"]) == pytest.approx([2.0 * epoch * 62 for epoch in kept])
    assert list(table["fd"]) == [100.0 - epoch for epoch in kept]
    assert set(table["method"]) == {"WAE-GAN"}


def test_moca_reaches_a_rivals_end_where_its_curve_first_crosses_it():
    """Straight lines in logarithms, by hand: from 100 at 10 images to 1 at 1,000 it is 10 at 100 images."""
    rows = [
        {"method": method, "epoch": epoch, "fd": fd, "images": images, "seconds": images / 2, "seed": seed}
        for method, ends in (("MoCA", (100.0, 1.0)), ("VAE", (50.0, 10.0)), ("WAE-GAN", (9.0, 0.5)))
        for epoch, (fd, images) in enumerate(zip(ends, (10, 1000)), 1)
        for seed in range(2)
    ]
    table = tables.reached(pd.DataFrame(rows)).set_index("method")
    assert table.loc["VAE", "moca_images"] == pytest.approx(100)
    assert table.loc["VAE", "moca_seconds"] == pytest.approx(50)
    assert (table.loc["VAE", "fd"], table.loc["VAE", "images"]) == (10, 1000)
    assert math.isnan(table.loc["WAE-GAN", "moca_images"])  # MoCA never comes as far
    assert tables.reached(pd.DataFrame(rows).assign(fd=math.nan)).empty  # data without labels


def test_only_seeds_of_which_everything_is_there_are_compared(tmp_path):
    configs = experiments.configs("table3", "laptop", seeds=3)
    for config in configs:
        if (config.seed, config.objective.momentum) != (1, 0.5):
            fake_run(tmp_path, config, 50.0 if config.objective.momentum == 0 else 20.0 + config.seed)
    runs = report.complete(tmp_path, configs)
    assert {run.config.seed for run in runs} == {0, 2}
    [finding] = report.findings({"table3": runs}, "laptop", "table3")
    assert finding.verdict == "holds"
    assert finding.effects == pytest.approx((math.log(50 / 20), math.log(50 / 22)))
    row = report.table([finding]).iloc[0]
    assert row["seeds_for"] == "2 of 2"
    assert row["paper"] == "0: 86.57, 0.9: 98.97, 0.99: 47.96, 0.999: 47.46"


def test_evidence_does_not_shrink_unseen(scratch, monkeypatch):
    """Of a seed, all runs or none: else `make figures` stops."""
    monkeypatch.setattr(paths, "RECORDS", scratch / "committed")
    configs = experiments.configs("table3", "laptop", seeds=2)
    for config in configs[:-1]:
        fake_run(scratch / "committed" / "laptop", config, 5.0)
    with pytest.raises(ValueError, match=f"table3, seed 1: 1 of 3 runs are missing in .*: {configs[-1].name}; restore"):
        report.draw("laptop")


def test_a_report_without_runs_says_not_run_everywhere(scratch):
    [csv, md] = report.write({}, "paper")
    assert set(pd.read_csv(csv)["verdict"]) == {"not run"}
    assert "Nothing was run." in md.read_text()
    assert len(pd.read_csv(csv)) == len(claims.CLAIMS)


def test_markdown_keeps_three_digits_and_leaves_gaps_empty():
    table = pd.DataFrame({"paper_fid": [54.36, float("nan")], "n": [1_234_567, 2], "fd": [0.123456, 12_345.6]})
    assert tables.markdown(table) == (
        "| paper fid | n | fd |\n| ---: | ---: | ---: |\n| 54.36 | 1,234,567 | 0.123 |\n|  | 2 | 12,346 |\n"
    )


COMMITTED = next((paths.RECORDS / "laptop").glob("*/latents.npz")).parent


@pytest.fixture
def partly(scratch, monkeypatch):
    """The paper's first runs and no more: MoCA-A2 and two baselines on CIFAR-10."""
    monkeypatch.setattr(paths, "RECORDS", scratch / "committed")
    moca, wae, ae = (*PAPER.pair.values(), PAPER.baselines["CIFAR-10"]["AE"])
    return [shown_run(scratch / "committed" / "paper", c, fd) for c, fd in ((moca, 9.0), (wae, 12.0), (ae, 30.0))]


def shown_run(folder, config, fd) -> Run:
    """A run of 100 epochs that can be drawn, scored at the end and at the epochs that it kept."""
    run = fake_run(folder, config, fd)
    of_kept = [row | {"epoch": epoch} for row in run.scores for epoch in config.keep_epochs]
    rescore(run, [row | {"epoch": 100} for row in run.scores] + of_kept, epoch=100)
    for name, rows, columns in (("samples", 5, 8), ("reconstructions", 4, 8), ("interpolations", 4, 10)):
        picture(run.directory / f"{name}.png", size=(16 * columns, 16 * rows), mode="L")
    files.write(run.directory / "latents.npz", (COMMITTED / "latents.npz").read_bytes())
    return run


def test_of_a_scale_that_is_run_in_part_rows_are_shown_and_whole_axes_and_claims(partly):
    def drawn():
        return {path.name: path for path in report.draw("paper")}

    [first, *others] = experiments.configs("table3", "paper")
    folder = partly[0].directory.parent
    fake_run(folder, first, 5.0)
    written = drawn()
    table = pd.read_csv(written["table1.csv"])
    again = table[table["row"] == "re-run"].set_index("method")["fd"].to_dict()
    assert again == {"MoCA-A2": 9.0, "WAE-MMD (sphere)": 12.0, "AE": 30.0}
    assert {"convergence.csv", "table3.csv", "figure05.csv"}.isdisjoint(written)
    verdicts = pd.read_csv(written["report.csv"]).set_index("claim")["verdict"]
    assert verdicts.pop("MoCA-A2 beats WAE-MMD, here on the sphere, on CIFAR-10.") == "holds (one seed)"
    assert set(verdicts) == {"not run"}
    assert "| table3 | 0 | 12 |" in written["report.md"].read_text()
    assert "| table1_wae | 2 | 6 |" in written["report.md"].read_text()
    for config in others:
        fake_run(folder, config, 6.0)
    written = drawn()
    assert "table3.csv" in written
    assert "| table3 | 4 | 12 |" in written["report.md"].read_text()


def test_each_claim_has_a_paragraph_that_says_whether_it_agrees(partly):
    [_, md] = report.write(report.found_runs(partly[0].directory.parent, "paper"), "paper")
    told = {line.split(".**")[0].strip("*"): line for line in md.read_text().split("\n") if line.startswith("**")}
    assert len(told) == len(claims.CLAIMS)
    of_wae = told["MoCA-A2 beats WAE-MMD, here on the sphere, on CIFAR-10"]
    assert "The paper: WAE-MMD: 80.9, MoCA-A2: 54.36. Here: moca: 9, wae-mmd: 12." in of_wae
    assert f"The effect is {math.log(12 / 9):.3g} (one seed), the threshold 0: this agrees with the paper." in of_wae
    assert told["A small base momentum is much worse"].endswith("Not run; what it needs: table3.")
    assert told["MoCA-A2 is competitive on CelebA"].endswith("Not run; what it needs: table1 and rivals_celeba.")
    left_out = told["The contrastive term makes samples of uniform points better"]
    assert left_out.endswith("Not run: this scale leaves it out.")


def test_runs_that_are_scored_anew_in_part_are_compared_by_what_all_have(partly):
    """A rescoring that ended early: Inception's scores of some epochs, of some runs."""
    partly[0] = shown_run(partly[0].directory.parent, PAPER.convergence["MoCA"], 9.0)  # it keeps epochs
    inception = {"features": "inception", "metric": "fid", "digest": "i", "value": 70.0}
    for run, epochs in zip(partly, ((1, 100), (1,), ())):
        more = [row | inception for row in run.scores if row["epoch"] in epochs]
        rescore(run, run.scores + more, epoch=100)
    assert results.common_features(partly) == "classifier"
    assert results.common_features(partly[:2], epoch=1) == "inception"
    alone = results.frame(partly[:1])
    assert (alone["fd"][0], alone["features"][0]) == (70.0, "inception")
    assert results.common_features(partly[:1], along=True) == "classifier"
    assert results.frame(partly)["fd"].tolist() == [9.0, 12.0, 30.0]
    along = tables.convergence(partly[:2], PAPER)
    assert set(along["features"]) == {"classifier"}
    assert set(along["fd"]) == {9.0, 12.0}
    report.draw("paper")


def test_what_beside_a_claim_is_not_complete_leaves_it_undecided(partly):
    """The best of some baselines is not the best of all."""
    folder = partly[0].directory.parent

    def verdict():
        found = report.findings(report.found_runs(folder, "paper"), "paper")
        return next(finding.verdict for finding in found if finding.claim.name == "state-of-the-art")

    assert verdict() == "not run"
    for name, config in PAPER.baselines["CIFAR-10"].items():
        if name not in ("AE", "WAE-MMD (sphere)"):
            run = fake_run(folder, config, 20.0, mixed=20.0)
            rows = [row | {"epoch": epoch} for row in run.scores for epoch in (*config.keep_epochs, 100)]
            rescore(run, rows, epoch=100)
    for run in partly:
        rescore(run, run.scores + [row | {"sampler": "gmm10"} for row in run.scores if row["epoch"] == 100], epoch=100)
    assert verdict() == "holds (one seed)"
