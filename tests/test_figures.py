"""Every figure draws from committed records, says where it comes from, and is the same bytes again."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import tiny
from matplotlib.figure import Figure
from PIL import Image

from mocalib import figures, open_run, train
from mocalib.benchmark import draw
from mocalib.config import paths
from mocalib.config.methods import RAE, VAE
from mocalib.paper import experiments, report, results, tables
from mocalib.storage.run import Run

COMMITTED = sorted(path.parent for path in (paths.RECORDS / "laptop").glob("*/manifest.json"))


@pytest.fixture(scope="module")
def committed() -> dict[str, Run]:
    return {path.name: open_run(path) for path in COMMITTED}


def test_every_run_of_the_laptop_scale_is_committed_and_no_other_as_its_manifest_sealed_it(committed):
    assert {config.name for config in experiments.everything("laptop", 3)} == set(committed)
    for run in committed.values():
        run.verify()
        assert run.directory.name == run.config.name
        assert run.scores
        assert not run.environment["dirty"]


@pytest.fixture
def run(committed) -> Run:
    """The quickstart's MoCA, seed 0."""
    return committed[experiments.configs("quickstart", "laptop")[0].name]


@pytest.fixture
def quickstart(committed) -> list[Run]:
    return [committed[config.name] for config in experiments.configs("quickstart", "laptop", seeds=3)]


@pytest.mark.parametrize("draw", [figures.samples, figures.reconstructions, figures.interpolations])
def test_grids_draw_from_records(run, draw, scratch):
    [png, pdf] = figures.save(draw(run), "grid", "demo", [run], "a caption")
    with Image.open(png) as image:
        assert np.asarray(image.convert("L")).std() > 20
    assert pdf.stat().st_size > 1_000


def test_singular_values_are_drawn_as_recorded_and_from_a_tenth_on_in_use(quickstart, tmp_path):
    """A line a run, and one of uniform codes."""
    [ax] = figures.singular_values({run.config.name: run for run in quickstart[:2]}).axes
    recorded = []
    for run in quickstart[:2]:
        with np.load(run.directory / "latents.npz") as found:
            recorded.append(dict(found))
    expected = [*(values["singular_values"] for values in recorded), recorded[0]["uniform"]]
    assert np.array_equal([line.get_ydata() for line in lines_of(ax)], expected)
    few = Run(tmp_path, run.config)
    np.savez(tmp_path / "latents.npz", singular_values=np.array([50.0, 20.0, 5.0, 4.9, 0.1]), uniform=np.ones(5))
    assert figures.directions(few) == 3
    assert figures.directions(run) == run.config.latent_dim


def test_saved_files_say_scale_runs_seeds_and_caption_and_are_the_same_again(run, scratch):
    table = pd.DataFrame({"x": [1, 2]})
    first = {p: p.read_bytes() for p in figures.save(figures.samples(run), "s", "demo", [run], "a caption", table)}
    assert [path.name for path in first] == ["s.png", "s.pdf", "s.csv"]
    again = figures.save(figures.samples(run), "s", "demo", [run], "a caption", table)
    assert {path: path.read_bytes() for path in again} == first
    with Image.open(again[0]) as image:
        note = json.loads(image.info["Description"])
    name = run.directory.name
    assert note == {
        "runs": [name], "seeds": [run.config.seed], "n_train": [4000], "caption": "a caption", "scale": "demo",
        "command": f"python -m mocalib run data/runs/laptop/{name}",
    }  # fmt: skip
    assert again[2].read_text() == "x\n1\n2\n"


def test_a_run_without_scores_says_how_to_make_them(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"score the run first: python -m mocalib run"):
        figures.tiles(Run(tmp_path, tiny()), "samples.png")


def redrawn(scale: str) -> list[tuple[Path, Path]]:
    """All that `make figures` writes of a scale, each beside the committed file."""
    drawn = report.draw(scale)
    for record in draw.committed():
        drawn += draw.draw(record) if record["scale"] == scale else []
    folder = paths.ROOT / "figures" / scale
    assert {path.name for path in drawn} == {path.name for path in folder.iterdir()}
    return [(path, folder / path.name) for path in drawn]


@pytest.mark.parametrize("scale", report.committed())
def test_committed_tables_follow_from_the_records(scratch, monkeypatch, scale):
    """All but the pixels, which take long: no picture is rendered."""
    monkeypatch.setattr(Figure, "savefig", lambda *_, **__: None)
    drawn = redrawn(scale)
    if scale == "laptop":
        names = {f"table{n}" for n in range(1, 5)} | {f"figure{n:02d}" for n in range(1, 16)} | {"report"}
        assert names <= {path.stem for path, _ in drawn}
    for path, committed in drawn:
        if path.suffix in (".csv", ".md"):
            assert path.read_bytes() == committed.read_bytes(), path.name


@pytest.mark.soak
@pytest.mark.parametrize("scale", report.committed())
def test_committed_figures_follow_from_the_records(scratch, scale):
    """`make figures` in a fresh clone changes nothing."""
    for path, committed in redrawn(scale):
        if path.suffix == ".png":
            with Image.open(path) as new, Image.open(committed) as old:
                assert new.info["Description"] == old.info["Description"]
                assert np.abs(np.asarray(new, dtype=int) - np.asarray(old, dtype=int)).mean() < 1


def test_runs_are_compared_by_what_differs_and_by_their_scores(quickstart, tmp_path):
    for run in quickstart:
        (tmp_path / run.directory.name).symlink_to(run.directory)
    table = results.compare(tmp_path)
    assert set(table.index) == {run.directory.name for run in quickstart}
    assert list(table.columns) == [
        "seed", "objective.weight", "reconstruction", "singular_value_ratio", "uniformity",
        "fd_classifier", "precision_classifier", "recall_classifier", "fd_classifier_gmm10",
    ]  # fmt: skip
    known = tables.quickstart(quickstart).set_index("run")
    assert table["fd_classifier"].to_dict() == known["fd_prior"].to_dict()
    assert table["singular_value_ratio"].to_dict() == known["singular_value_ratio"].to_dict()
    for run in quickstart:
        assert table.loc[run.directory.name, "seed"] == run.config.seed
        [error] = [r["value"] for r in run.scores if (r["metric"], r["split"]) == ("reconstruction", "test")]
        assert table.loc[run.directory.name, "reconstruction"] == round(error, 4)


def test_a_comparison_mixes_neither_extractors_nor_epochs_and_leaves_gaps(tmp_path):
    """Of a run that is not scored, and of one that is not finished."""
    train(tiny(epochs=1), runs=tmp_path)
    (tmp_path / "unfinished").mkdir()
    table = results.compare(tmp_path)
    assert list(table.index) == [tiny(epochs=1).name]
    assert list(table.columns) == []
    run = train(tiny(epochs=2, keep_epochs=(1,)), runs=tmp_path)
    about = {"sampler": "prior", "split": "test", "n_generated": 9, "n_reference": 9, "digest": "", "seed": 0}
    values = [
        ("fd_classifier", "classifier", 2, 5.0), ("precision", "classifier", 2, 0.5), ("fid", "inception", 2, 7.0),
        ("precision", "inception", 2, 0.7), ("fd_classifier", "classifier", 1, 99.0),
    ]  # fmt: skip
    rows = [about | dict(zip(("metric", "features", "epoch", "value"), value)) for value in values]
    run.add_scores(rows, {})
    found = results.compare(tmp_path).loc[run.config.name].drop(["epochs", "keep_epochs"]).to_dict()
    assert found == {"fd_classifier": 5.0, "fid": 7.0, "precision_classifier": 0.5, "precision_inception": 0.7}


def test_a_caption_says_what_a_run_is_and_the_epochs_that_were_trained(quickstart, tmp_path):
    assert figures.caption(quickstart[2]) == "digits 16x16, a2 of width 8, d 24, weight 1, 40 epochs, seed 2"
    run = train(tiny(objective=RAE(0.5, "spectral_norm"), epochs=9, stop_at=1e6), runs=tmp_path)
    assert figures.caption(run) == "digits 16x16, a2 of width 4, d 8, RAE, spectral_norm, weight 0.5, 1 epoch, seed 0"


def lines_of(ax) -> list:
    return [line for line in ax.get_lines() if len(line.get_xdata()) > 1]


def grid(cells: dict, **columns) -> pd.DataFrame:
    about = {"seed": 0, "stop_at": 0.0, "epoch": 3, "epochs": 3, "features": "classifier"} | columns
    return pd.DataFrame([about | {"size": size, "weight": weight, "fd": fd} for (size, weight), fd in cells.items()])


def test_a_red_star_marks_the_best_weight_of_each_line():
    frame = grid({(8, 1.0): 5, (8, 10.0): 3, (8, 100.0): 4, (32, 1.0): 9, (32, 10.0): 8, (32, 100.0): 7})
    figure = figures.scores_by_size(frame, {})
    stars = [line for ax in figure.axes for line in ax.get_lines() if line.get_marker() == "*"]
    assert [(star.get_xdata()[0], star.get_ydata()[0]) for star in stars] == [(10.0, 3), (100.0, 7)]
    assert {star.get_color() for star in stars} == {"red"}
    assert [ax.get_title() for ax in figure.axes] == ["8x8", "32x32"]
    assert all(ax.get_xscale() == "log" for ax in figure.axes)


def test_points_are_means_over_seeds_and_an_open_mark_had_not_come_down():
    frame = pd.concat([grid({(8, 1.0): 4, (8, 10.0): 2}), grid({(8, 1.0): 6, (8, 10.0): 4}, seed=1)])
    figure = figures.scores_by_weight(frame, "size", "s")
    assert list(lines_of(figure.axes[0])[0].get_ydata()) == [5, 3]
    cut = frame.assign(stop_at=4.0, epoch=[3, 2, 2, 2])
    drawn = figures.scores_by_weight(cut, "size", "s").axes[0].get_lines()
    opened = [line for line in drawn if line.get_markerfacecolor() == "white"]
    assert [list(line.get_xdata()) for line in opened] == [[1.0]]


def test_more_lines_than_markers_are_all_drawn_and_without_labels_axes_say_so():
    frame = grid({(size, 1.0): size for size in range(1, 11)})
    assert len(figures.scores_by_weight(frame, "size", "s").axes[0].get_legend().get_texts()) == 10
    figure = figures.scores_by_weight(frame.assign(fd=np.nan, features=""), "size", "s")
    assert "no distances without labels" in [text.get_text() for text in figure.axes[0].texts]


def test_figure_2_shows_originals_reconstructions_and_the_ends_of_interpolations(committed, scratch):
    """Pixels of the drawn grids are those of the records."""
    configs = experiments.configs("figure2", "laptop")
    figure = figures.figure2({config.name: committed[config.name] for config in configs})
    shown = [image.get_array() for ax in figure.axes for image in ax.get_images()]
    assert len(shown) == 6
    side = 16 + 1  # a gap between images
    pairs = figures.tiles(committed[configs[0].name], "reconstructions.png")
    assert np.array_equal(shown[0][1:17, 1:17, 0], pairs[0, 0, 0])
    assert np.array_equal(shown[0][1 + side : 17 + side, 1 + side : 17 + side, 0], pairs[1, 1, 0])


def test_curves_of_a_method_are_what_it_logs(tmp_path):
    """Beside MoCA's, too; and the line of the uniform sphere is MoCA's alone."""
    found = {str(method): train(tiny(objective=method), runs=tmp_path) for method in (tiny().objective, VAE())}
    alone = figures.training_curves({"vae": found["VAE, bernoulli"]})
    assert [ax.get_ylabel() for ax in alone.axes if ax.axison] == [figures.curves.LOGGED["reconstruction"], "kl"]
    both = figures.training_curves(found).axes
    assert [len([line for line in ax.get_lines() if len(line.get_xdata())]) for ax in both] == [2, 1, 1 + 1, 1]


def test_convergence_shows_every_method_against_images_and_seconds():
    rows = [
        {"method": method, "seed": seed, "epoch": epoch, "images": 100 * epoch, "seconds": seed + epoch,
         "fd": 9.0 + seed, "reconstruction": 2.0, "uniformity": -3.0, "latent_dim": 8, "features": "classifier"}
        for method in ("MoCA", "VAE") for seed in range(2) for epoch in (1, 2)
    ]  # fmt: skip
    axes = figures.curves.convergence(pd.DataFrame(rows)).axes
    assert [ax.get_xlabel() for ax in axes] == ["training images"] * 3 + ["training seconds"] * 3
    assert list(axes[3].get_lines()[0].get_xdata()) == [1.5, 2.5]  # means over seeds
    assert list(axes[0].get_lines()[0].get_ydata()) == [9.5, 9.5]
    unlabelled = figures.curves.convergence(pd.DataFrame(rows).assign(fd=np.nan, features=""))
    assert [text.get_text() for text in unlabelled.legends[0].get_texts()] == ["MoCA", "VAE"]
    assert unlabelled.axes[0].get_ylabel() == "no score"
