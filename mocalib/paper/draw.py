"""Every table and figure of the paper from the runs of its experiment: one entry each, one way to files."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from matplotlib.figure import Figure

from mocalib.config import paths
from mocalib.figures import base, curves, pictures
from mocalib.paper import results, tables
from mocalib.paper.experiments import named
from mocalib.paper.grids import CELEBA, CIFAR, SCALES, Scale
from mocalib.storage import files
from mocalib.storage.run import Run


class Drawn(NamedTuple):
    """A table, a figure, or a figure with the numbers behind it."""

    caption: str
    figure: Figure | None = None
    table: pd.DataFrame | None = None
    kinds: tuple[str, ...] = ("png",)  # of grids; curves come as pdf too


CURVE = ("png", "pdf")


def draw(name: str, runs: list[Run], scale: str, output: str | None = None) -> list[Path]:
    """Draw a table or figure from the runs of its experiment, in their order, into figures/<output or scale>/.

    Figures are left open, so that a notebook shows them. Returns the paths written.
    """
    drawn = DRAWN[name](runs, SCALES[scale])
    output = output or scale
    if output != scale:
        drawn = drawn._replace(caption=f"{drawn.caption}; settings of {scale} scale")
    if drawn.figure is not None:
        return base.save(drawn.figure, file_name(name), output, runs, drawn.caption, drawn.table, drawn.kinds)
    path = paths.FIGURES / output / f"{file_name(name)}.md"
    files.write(path, f"{tables.markdown(drawn.table)}\n{drawn.caption} [{output} scale]\n".encode())
    return [base.save_csv(drawn.table, file_name(name), output), path]


def file_name(name: str) -> str:
    """figure3 is kept as figure03, so that files sort as the paper does."""
    return f"figure{int(name.removeprefix('figure')):02d}" if name.startswith("figure") else name


FEATURES = {
    "inception": "fd is FID",
    "classifier": "fd of classifier features, not FID",
    "": "no labels, no score",
}


def _seeds(runs: list[Run]) -> str:
    n = len({run.config.seed for run in runs})
    return f"{n} seed{'s' if n > 1 else ''}"


def _setting(runs: list[Run]) -> str:
    c, (_, height, width) = runs[0].config, runs[0].environment["data"]["image_shape"]
    sizes = {run.environment["data"]["image_shape"][-1] for run in runs}
    side = f" {height}x{width}" if len(sizes) == 1 else ""
    return f"{c.dataset}{side}, {_features(runs)}, {_seeds(runs)}"


def _features(runs: list[Run]) -> str:
    """What fd is of: for each dataset, where they differ."""
    datasets = dict.fromkeys(run.config.dataset for run in runs)
    of = {name: FEATURES[results.common_features([r for r in runs if r.config.dataset == name])] for name in datasets}
    return next(iter(of.values())) if len(set(of.values())) == 1 else "; ".join(f"{k}: {v}" for k, v in of.items())


def _table1(runs: list[Run], scale: Scale) -> Drawn:
    protocols = tables.protocols(runs, scale)
    note = (
        f"{_features(runs)}; mean and standard deviation over seeds. fd: of samples of the "
        f"prior; fd gmm: of 10 Gaussians fitted to the codes of training images. paper fid: as printed there, of its "
        f"own runs or cited. Protocols: {'. '.join(f'{name}: {meaning}' for name, meaning in protocols.items())}."
    )
    return Drawn(note, table=tables.table1(runs, scale))


def _along(axis: str, name: str) -> Callable[[list[Run], Scale], Drawn]:
    def drawn(runs: list[Run], scale: Scale) -> Drawn:
        return Drawn(_setting(runs), table=tables.along(results.frame(runs), axis, name))

    return drawn


def _table2(runs: list[Run], scale: Scale) -> Drawn:
    return Drawn(f"best weight by mean distance; {_setting(runs)}", table=tables.table2(results.frame(runs)))


def _rivals(runs: list[Run], scale: Scale) -> Drawn:
    """Samples of each method of the first seed, beside the numbers that say what is lost where."""
    frame = tables.table1_runs(runs, scale)
    first = {name: run for name, run in zip(frame["net"], runs) if run.config.seed == runs[0].config.seed}
    fd = frame.groupby("net")["fd"].mean()
    titles = {f"{name}{'' if math.isnan(fd[name]) else f', fd {fd[name]:.3g}'}": run for name, run in first.items()}
    return Drawn(f"{_setting(runs)}; samples of seed 0, {RANDOM}", pictures.by_method(titles), _parts(frame, runs))


def _pair(runs: list[Run], scale: Scale) -> Drawn:
    names = [named(run.config, scale.pair) for run in runs]
    return Drawn(_setting(runs), table=tables.methods(results.frame(runs).assign(method=names)))


def _parts(frame: pd.DataFrame, runs: list[Run]) -> pd.DataFrame:
    frame = frame.assign(directions=[curves.directions(run) for run in runs])
    columns = ["run", "net", "seed", "fd", "fd_gmm", "fd_train_codes", "fd_reconstruction", "fd_floor",
               "precision", "recall", "reconstruction", "uniformity", "singular_value_ratio", "directions",
               "parameters"]  # fmt: skip
    if frame["pca"].notna().any():
        columns += ["reconstruction_train", "pca"]
    return frame[columns].rename(columns={"net": "method"}).round(4)


def _convergence(runs: list[Run], scale: Scale) -> Drawn:
    frame = tables.convergence(runs, scale)
    about = f"mean and range over {_seeds(runs)}; {_setting(runs)}"
    return Drawn(about, curves.convergence(frame), frame.round(4), CURVE)


def _forms(runs: list[Run], scale: Scale) -> Drawn:
    return Drawn(f"temperature .05; {_setting(runs)}", table=tables.forms(results.frame(runs)))


def _appendix_a(runs: list[Run], scale: Scale) -> Drawn:
    frame = results.frame(runs)
    table = frame.groupby("latent_dim")[["reconstruction", "reconstruction_train", "fd"]].mean().reset_index()
    return Drawn(f"A1; {_setting(runs)}", table=table)


def _by_weight(axis: str, symbol: str) -> Callable[[list[Run], Scale], Drawn]:
    def drawn(runs: list[Run], scale: Scale) -> Drawn:
        frame = results.frame(runs)
        return Drawn(_setting(runs), curves.scores_by_weight(frame, axis, symbol), _numbers(frame, axis), CURVE)

    return drawn


def _numbers(frame: pd.DataFrame, axis: str) -> pd.DataFrame:
    columns = ["run", axis, "weight", "seed", "epoch", "fd", "fd_train_codes", "fd_reconstruction", "reconstruction",
               "singular_value_ratio", "uniformity", "nearest_cosine", "nearest_cosine_uniform"]  # fmt: skip
    return frame[list(dict.fromkeys(columns))].round(4)


def _figure5(runs: list[Run], scale: Scale) -> Drawn:
    frame = results.frame(runs)
    labels = {}
    for weight, part in frame.groupby("weight"):
        score = f", fd {part['fd'].mean():.3g}" if part["fd"].notna().all() else ""
        labels[f"$\\lambda$ = {weight:g}{score}"] = [run for run in runs if run.config.objective.weight == weight]
    figure = curves.singular_values(labels)
    return Drawn(f"training codes; {_setting(runs)}", figure, _numbers(frame, "weight"), CURVE)


def _figure15(runs: list[Run], scale: Scale) -> Drawn:
    frame = results.frame(runs)
    figure = curves.scores_by_size(frame, {0: "own size"})
    stars = ", ".join(f"{row.weight:,} at {row.size}x{row.size}" for row in results.paper("table2").itertuples())
    about = f"red star: best weight (the paper's, for faces: {stars}); {_setting(runs)}"
    return Drawn(about, figure, _numbers(frame, "size"), CURVE)


RANDOM, FIRST = "random, not chosen", "the first test images"


def _grid(make: Callable[[Run], Figure], which: str) -> Callable[[list[Run], Scale], Drawn]:
    return lambda runs, scale: Drawn(f"{base.caption(runs[0])}; {which}", make(runs[0]))


def _figure2(runs: list[Run], scale: Scale) -> Drawn:
    names = {f"{run.config.dataset}, in place of {of}": run for of, run in zip((CIFAR, CELEBA), runs)}
    about = "; ".join(base.caption(run) for run in runs)
    return Drawn(about, pictures.figure2(names))


def _figure6(runs: list[Run], scale: Scale) -> Drawn:
    [epoch] = runs[0].config.keep_epochs
    figure = pictures.many_samples(runs[0], epoch)
    return Drawn(f"{base.caption(runs[0])}; weights of epoch {epoch}; {RANDOM}", figure)


def _quickstart(runs: list[Run], scale: Scale) -> Drawn:
    moca, twin = runs[0], runs[len(runs) // 2]
    return Drawn(f"{base.caption(moca)}; {RANDOM}", pictures.quickstart(moca, twin), tables.quickstart(runs))


DRAWN: dict[str, Callable[[list[Run], Scale], Drawn]] = {
    "quickstart": _quickstart,
    "table1": _table1,
    "rivals_cifar10": _rivals,
    "rivals_celeba": _rivals,
    "convergence": _convergence,
    "table1_wae": _pair,
    "table1_forms": _forms,
    "appendix_a": _appendix_a,
    "table2": _table2,
    "table3": _along("momentum", "table3"),
    "table4": _along("queue_size", "table4"),
    "figure1": _grid(pictures.figure1, RANDOM),
    "figure2": _figure2,
    "figure3": _by_weight("latent_dim", "d"),
    "figure4": _by_weight("temperature", r"$\tau$"),
    "figure5": _figure5,
    "figure6": _figure6,
    "figure7": _grid(pictures.reconstructions, FIRST),
    "figure8": _grid(pictures.interpolations, FIRST),
    "figure9": _grid(pictures.many_samples, RANDOM),
    "figure10": _grid(pictures.many_samples, RANDOM),
    "figure11": _grid(pictures.reconstructions, FIRST),
    "figure12": _grid(pictures.reconstructions, FIRST),
    "figure13": _grid(pictures.interpolations, FIRST),
    "figure14": _grid(pictures.interpolations, FIRST),
    "figure15": _figure15,
}
