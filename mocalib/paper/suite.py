"""What a notebook works with: grids, runs, results, figures and verdicts of one scale, on its own data or yours."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import Image, Markdown
from matplotlib.figure import Figure

from mocalib import figures
from mocalib.config import paths
from mocalib.config.checks import option, validate
from mocalib.config.compute import ENGINES, Compute, Pool, Scoring
from mocalib.config.methods import MoCA
from mocalib.config.run import FACES, FEATURES, MIXTURE, OWN_SIZES, PRIOR, RunConfig
from mocalib.data import datasets
from mocalib.data.builtin import image_shape
from mocalib.data.catalogue import TRAINING_IMAGES
from mocalib.paper import baselines, experiments, results, tables
from mocalib.paper.experiments import of_first_seed
from mocalib.paper.grids import CELEBA, CIFAR, SCALES, scale_of
from mocalib.paper.scale import widened
from mocalib.paper.verdict import Claim, Numbers, concluded, judge, said, told
from mocalib.storage import files
from mocalib.storage.run import Run
from mocalib.sweep.run import sweep
from mocalib.training.device import check_device

Effects = pd.Series | pd.DataFrame
BAD = "bad"  # what bad looks like: the scale's one-step run
BAD_EPOCHS = {0: "untrained net", 1: "one training step"}


@dataclass(repr=False, eq=False)
class Suite:
    """The experiments of one scale; its fields are the parameters of their notebooks.

    Runs go to data/runs/<output>, tables and figures to figures/<output>. `output` is the scale's name. It is "custom"
    if dataset, root, crop, width, features or the number of seeds are not the scale's own, or if a grid has more values
    than the committed one. Raises ValueError with field, value and what is allowed, and for data that its runs cannot
    use.
    """

    scale: str = option("", choices=("", *SCALES))  # "": the environment's MOCALIB_SCALE, or laptop
    dataset: str = ""  # "": the scale's own
    root: str = ""  # folder or zip of images; "": data/raw/<dataset>
    crop: int = option(0, low=0)  # side of the central square that is cut out first; 0: the dataset's own
    width: int = option(0, low=0)  # channels of each net's first stage; 0: the scale's own; 64: the paper's
    seeds: int = option(0, low=0)  # the scale's first n; 0: all that it runs
    features: str = option("", choices=("", *FEATURES, "none"))  # for the distances; "": the scale's own
    device: str = "cpu"
    threads: int = option(0, low=0)  # of the CPU; 0: one for a narrow net, else torch's number
    engine: str = option("local", choices=ENGINES)  # processes here, or a Ray cluster
    jobs: int = option(0, low=0)  # runs at a time; 0: the scale's own number, on Ray as many as fit
    train: bool = True  # False: only show finished runs of the committed grid

    def __post_init__(self) -> None:
        validate(self)
        self.scale = scale_of(self.scale)
        self.settings = widened(SCALES[self.scale], self.width)
        self.seeds = self.seeds or len(self.settings.seeds)
        if self.root and not self.dataset:
            raise ValueError(f"root = {self.root!r} needs a dataset; pass dataset too, such as 'folder'")
        if self.engine == "local":  # a cluster has devices of its own
            check_device(self.device)
        self._own = own = {field: value for field in ("dataset", "root", "crop") if (value := getattr(self, field))}
        changed = own or self.settings != SCALES[self.scale] or self.features
        self.output = "custom" if changed or self.seeds != len(self.settings.seeds) else self.scale
        self._judged: set[RunConfig] = set()  # runs of the grids that this notebook has run so far
        self._configs, self._known, self._evidence, self._told = {}, {}, set(), False
        self._findings: dict[str, dict] = {}  # of each claim that was judged
        fixed = results.committed(self.scale)
        n = len(datasets.load(replace(self._on_own(self.settings.moca(CIFAR), 0), limit=0)).train.images) if own else 0
        asked = None if self.seeds == len(self.settings.seeds) else self.seeds
        for name, configs in experiments.listed(self.scale, asked).items():
            seeds = experiments.own_seeds(name, self.scale)
            mine = [self._on_own(config, n) for config in configs]
            first = [replace(config, seed=seeds.start).name for config in configs]
            known = [name not in fixed or run in fixed[name] for run in first]
            self._configs[name] = mine
            self._known[name] = {config for config, is_known in zip(mine, known) if is_known}
            if not changed:
                self._evidence |= {c for c in self._known[name] if c.seed in seeds}

    def _on_own(self, config: RunConfig, n: int) -> RunConfig:
        """A config of the user's width, and on the user's n training images, at the size that it has."""
        config = widened(config, self.width)
        if not self._own:
            return config
        limit = config.limit if config.limit <= n else 0
        return replace(config, size=config.size or OWN_SIZES[config.dataset], limit=limit, **self._own)

    def __repr__(self) -> str:
        first, last = self.settings.seeds.start, self.settings.seeds.start + self.seeds - 1
        seeds = f"seed {first}" if first == last else f"seeds {first} to {last}"
        datasets = sorted({config.dataset for configs in self._configs.values() for config in configs})
        return f"{self.scale} scale ({', '.join(datasets)}), {seeds}; results go to figures/{self.output}"

    def has(self, name: str) -> bool:
        """Whether this scale runs an experiment."""
        return bool(self._configs[name])

    def configs(self, name: str, added: bool = True) -> list[RunConfig]:
        """The runs of an experiment, without training or `added` only the committed ones; ValueError if it has none."""
        if not self.has(name):
            runs_it = [scale for scale in SCALES if experiments.configs(name, scale)]
            raise ValueError(f"{name} is not run at {self.scale} scale; it is at: {', '.join(runs_it)}")
        return [config for config in self._configs[name] if (added and self.train) or config in self._known[name]]

    # ------------------------------------------------------------------------------------------------- grids and runs

    def grid(self, name: str) -> pd.DataFrame:
        """What an experiment varies, then what it keeps: one row a field, for this scale and the paper's."""
        mine = of_first_seed(self._configs[name])
        columns = {f"here ({self.scale})": mine, "paper": experiments.configs(name, "paper")}
        table = pd.DataFrame({column: results.values(configs) for column, configs in columns.items() if configs})
        table = table.fillna("")[~table.isin(["", "0", "False", "[]"]).all(axis=1)]
        added = len(set(self._configs[name]) - self._known[name])
        runs = str(len(self._configs[name])) + (f", {added} of them added: they go to custom" if added else "")
        table.loc["runs"] = [runs, str(len(experiments.listed("paper")[name]))][: table.shape[1]]
        varied = [row for row in table.index if " at " in row or table.loc[row].str.contains(", ").any()]
        return table.loc[list(dict.fromkeys(["runs", *varied, *table.index]))]

    def run(self, *names: str) -> list[Run]:
        """Train and score what is not finished; return the runs of the named experiments, in their order.

        With `train` off nothing is trained. A run that is not there raises FileNotFoundError, or at a scale that may be
        run in part is listed and left out.
        """
        configs = list(dict.fromkeys(config for name in names for config in self.configs(name)))
        self._judged |= {config for name in names for config in self._known[name]}
        if any(config not in self._evidence or config not in self._judged for config in configs):
            self.output = "custom"
        if not self.train:
            return self._finished(configs, names)
        pool = Pool(self.engine, self.jobs or (self.settings.jobs if self.engine == "local" else None))
        for folder in dict.fromkeys(self._folder(config) for config in configs):
            here = [config for config in configs if self._folder(config) == folder]
            for sampler in (PRIOR, MIXTURE) if set(names) <= set(experiments.MIXED) else (PRIOR,):
                scoring = Scoring(self.features or self.settings.features, self.settings.n_generated, sampler=sampler)
                sweep(here, folder, Compute(self.device, self.threads), scoring, pool)
        return [Run(self._folder(config) / config.name, config) for config in configs]

    def _folder(self, config: RunConfig) -> Path:
        """The scale's own runs stay with it; all others go to custom."""
        return paths.RUNS / (self.scale if config in self._evidence else "custom")

    def _finished(self, configs: list[RunConfig], names: tuple[str, ...]) -> list[Run]:
        runs = [Run(self._folder(config) / config.name, config) for config in configs]
        done = [run for run in runs if results.scored(run)]
        for run in done:
            run.verify()
        if missing := [run.directory for run in runs if run not in done]:
            count = f"{', '.join(names)}: {len(missing)} of {len(runs)} runs are missing"
            asked = f"{' '.join(names)} --scale {self.scale}{f' --width {self.width}' if self.width else ''}"
            if not self.settings.partial:
                listed = f"in {missing[0].parent}: {', '.join(directory.name for directory in missing)}"
                remedy = f"restore them with git, or train them: train = True, or {paths.SHELL} sweep {asked}"
                raise FileNotFoundError(f"{count} {listed}; {remedy}")
            print(f"{count}; `python -m mocalib plan {asked}` lists them, `sweep` makes them")
        return done

    def results(self, runs: list[Run], history: bool = False) -> pd.DataFrame:
        """One row for each run, or with `history` for each scored epoch: its config and its scores (see `results`).

        Further columns: `method`, its name in Table 1; `of`, the paper's dataset that its images stand for; `data`,
        what tables call them; `added`, whether it is not in the committed grid.
        """
        table = results.history(runs) if history else results.frame(runs)
        configs = {run.directory.name: run.config for run in runs}
        labels = [self._label(configs[row.run], row.epoch) for row in table.itertuples()]
        table["of"], table["method"] = [of for of, _ in labels], [method for _, method in labels]
        table["data"] = [self.images(of, configs[run]) for of, run in zip(table["of"], table["run"])]
        if self._own and not self._told and len(table) and table["features"].eq("").all():
            self._told = True
            print("no distances: these images have no labels. Pass features, such as imagenet or inception")
        table["added"] = pd.Series([configs[run] not in self._judged for run in table["run"]], dtype=bool)
        return table

    def _label(self, config: RunConfig, epoch: int) -> tuple[str, str]:
        """The paper's dataset that a run's images stand for, and the run's name in Table 1."""
        scale = self.settings
        known = {(of, name): run for of, found in scale.baselines.items() for name, run in found.items()}
        known |= {(CIFAR, name): run for name, run in scale.convergence.items()} | scale.table1
        known |= {(CIFAR, BAD): scale.one_step} if scale.one_step else {}
        role = next((of for name, of in experiments.OF.items() if config in self._configs[name]), CELEBA)
        role = CELEBA if role == CIFAR and config.dataset in FACES else role
        other = baselines.MOCA if isinstance(config.objective, MoCA) else str(config.objective)
        of, method = experiments.named(config, known) or (role, other)
        return of, BAD_EPOCHS[epoch] if method == BAD else method

    def images(self, of: str, config: RunConfig | None = None) -> str:
        """What tables call the images that stand for a dataset of the paper: "digits 16x16 (for CIFAR-10)"."""
        config = config or replace(self.settings.moca(of), **self._own)
        side = f" {config.size}x{config.size}" if config.size else ""
        return of if self.scale == "paper" and not self._own else f"{config.dataset}{side} (for {of})"

    def ratios(self, name: str, runs: list[Run], of: Callable[[RunConfig], bool] = lambda config: True) -> pd.DataFrame:
        """The paper's dimensionless ratios and ours, for the last run of an experiment's first seed that `of` takes."""
        paper = [config for config in experiments.configs(name, "paper") if of(config)][-1]
        columns = {"paper": experiments.ratios(paper, TRAINING_IMAGES[paper.dataset], image_shape(paper))}
        for run in [run for run in of_first_seed(runs) if of(run.config)][-1:]:
            n, shape = run.environment["data"]["train"], tuple(run.environment["data"]["image_shape"])
            columns[f"here ({self.output})"] = experiments.ratios(run.config, n, shape)
        return tables.text(pd.DataFrame(columns))

    # ------------------------------------------------------------------------------------ tables, figures and verdicts

    def save(
        self, figure: Figure, name: str, runs: list[Run] | None, caption: str, table: pd.DataFrame | None = None
    ) -> Image:
        """Write a figure to figures/<output> as png and pdf, with the numbers behind it as csv, and show it.

        One of runs (None: of something else) is only shown if there are none.
        """
        if runs != []:
            about = f"{self.about(runs)}; {caption}" if runs and len(runs) > 1 else caption
            figures.save(figure, name, self.output, runs or [], about, table)
        shown = Image(figures.shown(figure))
        plt.close(figure)
        return shown

    def save_table(self, name: str, table: pd.DataFrame, runs: list[Run], note: str = "") -> pd.DataFrame:
        """Write a table to figures/<output> as csv and Markdown, if it has runs; return it rounded for reading."""
        if runs:
            figures.save_csv(table, name, self.output)
            about = "; ".join(filter(None, (self.about(runs), note)))
            text = f"{tables.markdown(table)}\n{about} [{self.output} scale]\n"
            files.write(paths.FIGURES / self.output / f"{name}.md", text.encode())
        return tables.text(table)

    def about(self, runs: list[Run]) -> str:
        """What a figure's runs are: images, features and seeds."""
        shapes = {(run.config.dataset, *run.environment["data"]["image_shape"][1:]) for run in runs}
        images = ", ".join(f"{name} {height}x{width}" for name, height, width in sorted(shapes)) or "no runs"
        features = results.common_features(runs)
        of = {"inception": "fd is FID", "": "no distances"}.get(features, f"fd of {features} features, not FID")
        seeds = len({run.config.seed for run in runs})
        return f"{images}; {of}; {seeds} seed{'' if seeds == 1 else 's'}"

    def verdict(
        self, claim: Claim, effects: Effects, here: Numbers, paper: Numbers, room: pd.Series | None = None
    ) -> Markdown:
        """Decide a claim, write figures/<output>/claims/<key>.json, and show it. See `verdict.judge` for the arguments.

        `here` and `paper` are the numbers behind it. Runs that were added to the grid must not be among the effects.
        """
        found = judge(claim, effects, self.seeds, room) | {"here": said(here, 3), "paper": said(paper, 4)}
        found["scale"] = self.scale
        files.write_json(paths.FIGURES / self.output / "claims" / f"{claim.key}.json", found)
        self._findings[claim.key] = found
        return Markdown(told(found))

    def conclude(self, key: str, found: str, why: str) -> Markdown:
        """Three sentences on a claim that was judged: what was found, whether that is the paper's, and why."""
        return Markdown(concluded(self._findings[key], found, why))
