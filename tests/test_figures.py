"""Every figure draws from committed records, says where it comes from, and is the same bytes again."""

import io
import json
import os
import re
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import tiny
from matplotlib.figure import Figure
from PIL import Image

from mocalib import figures, methods, open_run, train
from mocalib.config import paths
from mocalib.config.methods import RAE, VAE, TwoStageVAE
from mocalib.config.run import FACES
from mocalib.data.arrays import as_uint8
from mocalib.figures import live
from mocalib.figures.live import Live
from mocalib.methods import latent
from mocalib.paper import experiments, results, tables
from mocalib.paper.grids import SCALES
from mocalib.storage import environment, files
from mocalib.storage.run import Run
from mocalib.training import loop
from mocalib.training.loop import AverageMeter
from mocalib.training.step import Trainer

COMMITTED = sorted(path.parent for path in (paths.RECORDS / "laptop").glob("*/manifest.json"))


@pytest.fixture(scope="module")
def committed() -> dict[str, Run]:
    return {path.name: open_run(path) for path in COMMITTED}


def test_every_run_of_the_laptop_scale_is_committed_and_no_other_as_its_manifest_sealed_it(committed):
    """Those of the committed grid; values that someone adds are not among them."""
    names, listed = results.committed("laptop"), set()
    for experiment, found in experiments.listed("laptop").items():
        first = experiments.own_seeds(experiment, "laptop").start
        listed |= {c.name for c in found if replace(c, seed=first).name in names[experiment]}
    assert set(committed) <= listed
    assert SCALES["laptop"].partial or set(committed) == listed
    for run in committed.values():
        run.verify()
        assert run.directory.name == run.config.name
        assert run.scores
        assert not run.environment["dirty"]


def test_every_committed_run_on_real_images_is_of_its_grid_and_holds_no_image_that_may_not_be_passed_on():
    listed = set(experiments.everything("overnight"))
    for path in (paths.RECORDS / "overnight").glob("*/manifest.json"):
        run = open_run(path.parent)
        run.verify()
        assert run.config in listed
        assert not run.environment["dirty"]
        compared = [row for row in run.scores if row["metric"] == "fd_imagenet" and row["sampler"] == "prior"]
        assert {row["n_generated"] for row in compared} == {5_000}
        assert run.config.dataset not in FACES or not (run.directory / "neighbours.png").exists()


@pytest.fixture
def run(committed) -> Run:
    """The quickstart's MoCA, of the first seed."""
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


def test_singular_values_are_drawn_as_recorded(quickstart):
    """A line a run, and one of uniform latents."""
    [ax] = figures.singular_values({run.config.name: run for run in quickstart[:2]}).axes
    recorded = []
    for run in quickstart[:2]:
        with np.load(run.directory / "latents.npz") as found:
            recorded.append(dict(found))
    expected = [*(values["singular_values"] for values in recorded), recorded[0]["uniform"]]
    assert np.array_equal([line.get_ydata() for line in lines_of(ax)], expected)


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
    assert again[2].read_text("utf-8") == "x\n1\n2\n"


def test_a_run_without_scores_says_how_to_make_them(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"the run is not scored yet; to score it: .*python -m mocalib run"):
        figures.tiles(Run(tmp_path, tiny()), "samples.png")


@pytest.fixture(scope="module", params=["laptop", pytest.param("overnight", marks=pytest.mark.soak)])
def again(request, tmp_path_factory) -> Path:
    """All that `make figures` writes for a scale, in another folder."""
    folder = tmp_path_factory.mktemp("figures")
    command = [sys.executable, str(paths.ROOT / "notebooks" / "execute.py"), request.param]
    environment = os.environ | {"MOCALIB_FIGURES": str(folder)}
    subprocess.run(command, cwd=paths.ROOT, env=environment, check=True, capture_output=True)
    return folder / request.param


def numbers(path: Path) -> list:
    """What a csv or json file holds, as one list."""
    found = (
        pd.read_csv(path).to_numpy().ravel() if path.suffix == ".csv" else leaves(json.loads(path.read_text("utf-8")))
    )
    return list(found)


def leaves(value) -> list:
    if isinstance(value, dict | list):
        return [leaf for part in (value.values() if isinstance(value, dict) else value) for leaf in leaves(part)]
    return [value]


def test_committed_tables_and_verdicts_follow_from_the_records(again):
    """On any processor, to 1e-6; nothing is there that no notebook writes, and nothing is missing."""
    committed = paths.ROOT / "figures" / again.name
    names = {path.relative_to(committed) for path in committed.rglob("*") if path.is_file()}
    assert {path.relative_to(again) for path in again.rglob("*") if path.is_file()} == names
    assert sum(name.suffix == ".png" for name in names) >= {"laptop": 24, "overnight": 4}[again.name]
    for name in sorted(name for name in names if name.suffix in (".csv", ".json")):
        for new, old in zip(numbers(again / name), numbers(committed / name), strict=True):
            assert new == (pytest.approx(old, rel=1e-6, nan_ok=True) if isinstance(old, float) else old), name


@pytest.mark.soak
def test_committed_figures_follow_from_the_records_to_the_byte(again):
    """On the kind of processor that made them."""
    committed = paths.ROOT / "figures" / again.name
    for path in [path for path in committed.rglob("*") if path.is_file()]:
        assert (again / path.relative_to(committed)).read_bytes() == path.read_bytes(), path.name


EXECUTE = runpy.run_path(str(paths.ROOT / "notebooks" / "execute.py"))
COPIES = sorted((paths.ROOT / "figures").glob("*/notebooks/*.ipynb"))


@pytest.mark.parametrize("path", COPIES, ids=lambda path: f"{path.parts[-3]}-{path.stem}")
def test_an_executed_copy_is_of_the_present_notebook_and_leaves_no_traces(path):
    """No times, places of a machine, addresses of objects or warnings; its pictures are there; it is not too large."""
    text = path.read_text("utf-8")
    assert path.stat().st_size <= 1_000_000
    copy, source = (
        nbformat.reads(found, 4) for found in (text, (paths.ROOT / "notebooks" / path.name).read_text("utf-8"))
    )
    shown = [cell for cell in copy.cells if "injected-parameters" not in cell.metadata.get("tags", [])]
    assert [cell.source for cell in shown] == [cell.source for cell in source.cells]
    pictures = {"image/png", "image/jpeg"}
    for cell in copy.cells:
        outputs = [output for output in cell.get("outputs", []) if not pictures & {*output.get("data", {})}]
        assert not re.search(r"0x[0-9a-f]{6,}|/tmp/|/home/|/root/|Warning: ", str(outputs))
        assert set(cell.metadata) <= {"tags"}
    assert set(copy.metadata) == {"kernelspec", "language_info"}
    assert copy.metadata.language_info == {"name": "python"}


def test_the_copies_are_of_all_notebooks_that_do_not_train():
    names = {path.stem for path in (paths.ROOT / "notebooks").glob("*.ipynb")}
    for scale in ("laptop", "overnight"):
        assert {path.stem for path in COPIES if path.parts[-3] == scale} == names - set(EXECUTE["TRAINING"])


SPEC = {"name": "python3", "display_name": "Python 3", "language": "python"}


def test_what_running_leaves_in_a_notebook_is_removed():
    cell = nbformat.v4.new_code_cell("x = 1", metadata={"papermill": {"duration": 3}, "tags": ["injected-parameters"]})
    notebook = nbformat.v4.new_notebook(cells=[cell], metadata={"kernelspec": SPEC, "papermill": {}})
    cleaned = EXECUTE["without_traces"](notebook)
    assert dict(cleaned.metadata) == {"kernelspec": SPEC, "language_info": {"name": "python"}}
    assert cleaned.cells[0].metadata == {"tags": ["injected-parameters"]}
    assert cleaned.cells[0].id == "injected-parameters"


def test_a_caption_says_what_a_run_is_and_the_epochs_that_were_trained(quickstart, tmp_path):
    assert figures.caption(quickstart[2]) == "digits 16x16, a2 of width 8, d 24, weight 1, 40 epochs, seed 12"
    run = train(tiny(objective=RAE(0.5, "spectral_norm"), epochs=9, stop_at=1e6), runs=tmp_path)
    assert figures.caption(run) == "digits 16x16, a2 of width 4, d 8, RAE, spectral_norm, weight 0.5, 1 epoch, seed 0"


@pytest.mark.parametrize(
    ("value", "digits", "shown"),
    [(2.9834, 3, "2.98"), (2.983, 4, "2.983"), (44.59, 3, "44.59"), (1234.5, 3, "1,234"), (999.7, 3, "1,000"),
     (20_000, 3, "20,000"), (float("nan"), 3, ""), ("A2", 3, "A2")],
)  # fmt: skip
def test_numbers_are_short_and_those_of_two_decimals_are_whole(value, digits, shown):
    assert tables.cell(value, digits) == shown


def lines_of(ax) -> list:
    return [line for line in ax.get_lines() if len(line.get_xdata()) > 1]


def grid(cells: dict, **columns) -> pd.DataFrame:
    about = {"seed": 0, "stop_at": 0.0, "epoch": 3, "epochs": 3, "features": "classifier"} | columns
    return pd.DataFrame([about | {"size": size, "weight": weight, "fd": fd} for (size, weight), fd in cells.items()])


def drawn(frame: pd.DataFrame, **options):
    """The axes on which scores are drawn."""
    _, ax = plt.subplots()
    figures.scores_along(ax, frame, **options)
    return ax


def stars(ax) -> list[tuple[float, float]]:
    return [(line.get_xdata()[0], line.get_ydata()[0]) for line in ax.get_lines() if line.get_marker() == "*"]


def test_a_red_star_is_around_the_best_weight_of_each_line_and_hides_no_mark():
    frame = grid({(8, 1.0): 5, (8, 10.0): 3, (8, 100.0): 4, (32, 1.0): 9, (32, 10.0): 8, (32, 100.0): 7})
    ax = drawn(frame, by="size", symbol="s")
    (first, low), (second, high) = stars(ax)
    assert (low, high) == (3, 7)
    assert first == pytest.approx(1, abs=0.1)  # log10 of the weight, shifted a little
    assert second == pytest.approx(2, abs=0.1)
    for line in ax.get_lines():
        if line.get_marker() == "*":
            assert (line.get_color(), line.get_markerfacecolor()) == ("red", "none")


def test_no_mark_lies_on_another_and_ticks_are_the_values():
    """Two lines with the same scores are side by side."""
    ax = drawn(grid({(size, weight): 3 for size in (8, 32) for weight in (1.0, 10.0)}), by="size", symbol="s")
    shown = [round(x, 6) for line in lines_of(ax) for x in line.get_xdata()]
    assert len(set(shown)) == 4
    assert [text.get_text() for text in ax.get_xticklabels()] == ["1", "10"]
    even = drawn(grid({(0, 1.0): 1, (5, 1.0): 2, (9, 1.0): 3}), axis="size")  # a value of 0: even steps
    assert list(lines_of(even)[0].get_xdata()) == [0, 1, 2]
    assert stars(even) == []


def test_points_are_means_over_seeds_and_an_open_mark_had_not_come_down():
    frame = pd.concat([grid({(8, 1.0): 4, (8, 10.0): 2}), grid({(8, 1.0): 6, (8, 10.0): 4}, seed=1)])
    assert list(lines_of(drawn(frame, by="size", symbol="s"))[0].get_ydata()) == [5, 3]
    cut = frame.assign(stop_at=4.0, epoch=[3, 2, 2, 2])
    lines = drawn(cut, by="size", symbol="s").get_lines()
    opened = [line for line in lines if line.get_markerfacecolor() == "white" and len(line.get_xdata())]
    assert [list(line.get_ydata()) for line in opened] == [[5]]


def test_more_lines_than_markers_are_all_drawn_and_without_labels_or_runs_axes_say_so():
    frame = grid({(size, 1.0): size for size in range(1, 11)})
    assert len(drawn(frame, by="size", symbol="s").get_legend_handles_labels()[1]) == 10
    for nothing in (frame.assign(fd=np.nan, features=""), results.frame([])):
        ax = drawn(nothing, by="size", symbol="s")
        assert "no values: no labels, or no runs" in [text.get_text() for text in ax.texts]


def test_panels_are_of_columns_with_values_and_a_distance_starts_at_zero():
    """Images without classes have no probes: that panel is left out. Without any run all panels are there, empty."""
    frame = grid({(size, weight): size for size in (8, 16) for weight in (1.0, 10.0)}).assign(knn=np.nan, rank=20.0)
    frame.loc[0, "rank"] = 22.0
    columns = {"fd": "", "knn": "error", "rank": "effective rank"}
    figure = figures.panels_along(frame, columns, by="size", symbol="s")
    assert [ax.get_ylabel() for ax in figure.axes] == ["fd (classifier features)", "effective rank"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["s = 8", "s = 16"]
    assert [ax.get_ylim()[0] == 0 for ax in figure.axes] == [True, False]
    empty = figures.panels_along(results.frame([]).assign(knn=np.nan, rank=np.nan), columns)
    assert len(empty.axes) == 3


def test_a_panel_that_shares_its_axis_shows_the_highest_value():
    _, axes = plt.subplots(1, 2, sharey=True)
    for ax, top in zip(axes, (5, 9)):
        figures.scores_along(ax, grid({(8, 1.0): 4, (8, 10.0): top}))
    low, high = axes[0].get_ylim()
    assert low == 0
    assert high > 9


def test_a_panel_that_shares_a_logarithmic_axis_leaves_it_so():
    _, axes = plt.subplots(1, 2, sharey=True)
    for ax, top in zip(axes, (50, 5)):  # only the first differs more than fivefold
        figures.scores_along(ax, grid({(8, 1.0): 4, (8, 10.0): top}))
    assert axes[1].get_yscale() == "log"
    low, high = axes[1].get_ylim()
    assert 0 < low < 4
    assert high > 50


def test_pictures_side_by_side_show_each_runs_samples(quickstart):
    figure = figures.side_by_side({"one": quickstart[0], "two": quickstart[3]}, rows=1)
    images = [image.get_array() for ax in figure.axes for image in ax.get_images()]
    for image, run in zip(images, (quickstart[0], quickstart[3])):
        assert np.array_equal(image[1:17, 1:17, 0], figures.tiles(run, "samples.png")[0, 0, 0])


def test_no_y_label_is_longer_than_its_axis(quickstart):
    """Of the figures that are drawn here; in the notebooks they have the same size."""
    for figure in (figures.training_curves({"MoCA": quickstart[0]}), figures.singular_values({"MoCA": quickstart[0]})):
        figure.draw_without_rendering()
        for ax in figure.axes:
            assert ax.yaxis.label.get_window_extent().height <= ax.get_window_extent().height


def test_curves_of_a_method_are_what_it_logs(tmp_path):
    """Beside MoCA's, too; and the line of the uniform sphere is MoCA's alone."""
    found = {str(method): train(tiny(objective=method), runs=tmp_path) for method in (tiny().objective, VAE())}
    alone = figures.training_curves({"vae": found["VAE, bernoulli"]})
    assert [ax.get_ylabel() for ax in alone.axes if ax.axison] == [figures.curves.LOGGED["reconstruction"], "kl"]
    both = figures.training_curves(found).axes
    assert [len([line for line in ax.get_lines() if len(line.get_xdata())]) for ax in both] == [2, 1, 1 + 1, 1]


@pytest.fixture
def watched(drawn):
    """A function that trains and draws at each step; it returns the run and what drew it."""

    def trained(config, directory):
        makers = []
        run = train(config, directory=directory, watch=lambda trainer: makers.append(Live(trainer)) or makers[0])
        return run, makers[0]

    return trained


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float64"])
def test_a_run_that_is_drawn_has_the_same_bytes_in_each_precision(watched, drawn, tmp_path, monkeypatch, precision):
    """Every method in float32 is in test_resume."""
    monkeypatch.setattr(environment, "has_bfloat16", lambda device: True)
    config = tiny(precision=precision, epochs=2)
    random = torch.random.get_rng_state()
    run, _ = watched(config, tmp_path / "drawn")
    assert torch.equal(torch.random.get_rng_state(), random)
    alone = train(config, directory=tmp_path / "alone")
    assert len(drawn) == 16
    for name in ("environment.json", "metrics.jsonl"):
        assert (run.directory / name).read_bytes() == (alone.directory / name).read_bytes()
    tensors, expected = (files.read_tensors(each.directory / "weights.pt")["objective"] for each in (run, alone))
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)


def test_what_is_drawn_while_a_run_trains_is_its_log_and_the_means_since_its_last_line(watched, tmp_path, monkeypatch):
    """A point is the mean since the last line, here of the log of the same run with a line a step."""
    config = tiny(objective=TwoStageVAE(second_width=16), epochs=2)
    each_step = train(config, directory=tmp_path / "alone").metrics
    monkeypatch.setattr(loop, "LOG_LINES", 5)
    run, seen = watched(config, tmp_path / "drawn")
    assert [row["step"] for row in run.metrics] == [4, 8, 12, 16]
    axes = {ax.get_title(): ax.get_lines() for ax in seen.figure().axes if ax.get_lines()}
    assert list(axes) == ["reconstruction loss", "kl", "sigma", "second loss"]
    for title, term in zip(axes, ("reconstruction", "kl", "sigma", "second_loss")):
        points, lines = (dict(line.get_xydata()[~np.isnan(line.get_ydata())]) for line in axes[title])
        assert lines == {row["step"]: row[term] for row in run.metrics if term in row}
        since = {step: each_step[step - step % 4 : step] for step in range(17) if step % 4}  # rows since the last line
        known = {step: [row[term] for row in rows if term in row] for step, rows in since.items()}
        assert points == pytest.approx({step: np.mean(values) for step, values in known.items() if values})


def test_samples_of_a_run_that_trains_are_decoded_in_evaluation_mode_and_its_nets_keep_their_own_modes():
    objective = methods.build(tiny(), (1, 16, 16)).train()
    objective.encoder.eval()
    modes = [module.training for module in objective.modules()]
    figure = Live(Trainer(objective, 1, torch.device("cpu"))).figure()
    [image] = [image for ax in figure.axes for image in ax.get_images()]
    assert [module.training for module in objective.modules()] == modes
    z = latent.sphere_prior(25, 8, torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = as_uint8(objective.eval().decode(z))
    shown = image.get_array()[1:-1, 1:-1, 0]
    assert np.array_equal(shown[:16, :16], expected[0, 0])
    assert np.array_equal(shown[-16:, -16:], expected[24, 0])


def test_an_error_in_drawing_is_said_once_and_the_run_goes_on(watched, drawn, tmp_path, monkeypatch, capsys):
    def broken(*_):
        raise ValueError("no ink")

    monkeypatch.setattr(Live, "figure", broken)
    run, _ = watched(tiny(epochs=1), tmp_path)
    assert run.finished
    assert drawn == []
    assert capsys.readouterr().out.count("the run goes on, but is not drawn any more: ValueError('no ink')") == 1


def test_pictures_take_a_small_share_of_the_time_and_outside_a_kernel_there_are_none(drawn, monkeypatch):
    """By a clock that only drawing moves: a picture takes 1 s, and a step 1 s."""
    now = [100.0]
    monkeypatch.setattr(live.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(live, "SECONDS", 5.0)
    monkeypatch.setattr(Figure, "savefig", lambda *_, **__: now.__setitem__(0, now[0] + 1))
    meter = AverageMeter()
    meter.add("turn", {"reconstruction": torch.ones(())}, 0)

    def pictures_of(share: float, steps: int = 40) -> list[int]:
        monkeypatch.setattr(live, "SHARE", share)
        drawn.clear()
        seen, after = Live(Trainer(methods.build(tiny(), (1, 16, 16)), steps, torch.device("cpu"))), []
        for step in range(1, steps + 1):
            before = len(drawn)
            seen.on_step(step, lambda: {"meters": {"line": meter.state()}})
            after += [step] * (len(drawn) - before)
            now[0] += 1
        return after

    assert pictures_of(0.5) == [1, 6, 11, 16, 21, 26, 31, 36, 40]  # at 6, 5 s passed since a picture
    assert pictures_of(0.05) == [1, 21, 40]
    monkeypatch.setattr(live, "get_ipython", lambda: None)
    assert pictures_of(0.5) == []


def test_notebooks_show_photographs_as_jpeg_and_all_else_as_png():
    slopes = np.linspace(0, 1, 300)[:, None] * np.linspace(0, 1, 400)
    noisy = slopes + np.random.default_rng(0).normal(0, 0.05, slopes.shape)
    kinds = {}
    for kind, draw in {"photograph": lambda ax: ax.imshow(noisy), "line": lambda ax: ax.plot([0, 1])}.items():
        figure, ax = plt.subplots(figsize=(4, 3))
        draw(ax)
        picture = Image.open(io.BytesIO(figures.shown(figure)))
        kinds[kind] = picture.format
        assert picture.size == (int(4 * figure.dpi), int(3 * figure.dpi))
        plt.close(figure)
    assert kinds == {"photograph": "JPEG", "line": "PNG"}
