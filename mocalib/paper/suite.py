"""What a notebook uses: the experiments of one scale, on its own data or on yours."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from mocalib.config import paths
from mocalib.config.checks import option, validate
from mocalib.config.compute import Compute, Pool, Scoring
from mocalib.config.run import DATASETS, PRIOR, RunConfig, flat
from mocalib.data import datasets
from mocalib.data.builtin import image_shape
from mocalib.data.catalogue import TRAINING_IMAGES
from mocalib.paper import draw as drawing
from mocalib.paper import experiments, report
from mocalib.paper.grids import SCALES
from mocalib.storage.run import Run
from mocalib.sweep.run import sweep
from mocalib.training.device import check_device


@dataclass(repr=False, eq=False)
class Suite:
    """The tables and figures of one scale; its fields are the parameters of their notebooks.

    Runs go to data/runs/<output>, figures to figures/<output>. `output` is the scale's name, or "custom" if dataset,
    root, crop or seeds are not the scale's own. Raises ValueError with field, value and what is allowed, and for data
    that its runs cannot use.
    """

    scale: str = option("smoke", choices=tuple(SCALES))
    dataset: str = option("", choices=("", *DATASETS))  # "": the scale's own
    root: str = ""  # folder or zip of images; "": data/raw/<dataset>
    crop: int = option(0, low=0)  # side of the central square that is cut out first; 0: the dataset's own
    seeds: int = option(0, low=0)  # seeds 0 to n - 1; 0: the scale's own number
    device: str = "cpu"

    def __post_init__(self) -> None:
        validate(self)
        self.settings = SCALES[self.scale]
        self.seeds = self.seeds or self.settings.seeds
        if self.root and not self.dataset:
            raise ValueError(f"root = {self.root!r} needs a dataset; pass dataset too, such as 'folder'")
        own = {field: value for field in ("dataset", "root", "crop") if (value := getattr(self, field))}
        self.output = "custom" if own or self.seeds != self.settings.seeds else self.scale
        self.folder = paths.RUNS / self.output
        found = experiments.listed(self.scale, self.seeds)
        self._configs = {name: [replace(config, **own) for config in configs] for name, configs in found.items()}
        check_device(self.device)
        if own:
            self._fit_to_data()

    def _fit_to_data(self) -> None:
        """Open the user's data, so that errors in them are raised now; if images are few, use all."""
        first = self._configs["table1"][0]
        n = len(datasets.load(replace(first, limit=0)).train.images)
        for name, configs in self._configs.items():
            self._configs[name] = [replace(c, limit=0) if c.limit > n else c for c in configs]

    def __repr__(self) -> str:
        seeds = "seed 0" if self.seeds == 1 else f"seeds 0 to {self.seeds - 1}"
        datasets = sorted({config.dataset for configs in self._configs.values() for config in configs})
        return f"{self.scale} scale ({', '.join(datasets)}), {seeds}; runs in {self.folder}"

    def has(self, name: str) -> bool:
        """Whether this scale runs a table or figure."""
        return bool(self._configs[name])

    def configs(self, name: str) -> list[RunConfig]:
        """Every run of a table or figure; ValueError if this scale does not run it."""
        if not self.has(name):
            runs_it = [scale for scale in SCALES if experiments.configs(name, scale)]
            raise ValueError(f"{name} is not run at {self.scale} scale; it is at: {', '.join(runs_it)}")
        return self._configs[name]

    def found(self) -> dict[str, list[Run]]:
        """The finished and scored runs of every experiment, for the seeds of which none is missing."""
        return {name: report.shown(name, self.scale, self.folder, c) for name, c in self._configs.items()}

    def run(self, *names: str, sampler: str = PRIOR) -> list[Run]:
        """Train and score what is not finished; return the runs of the named tables and figures, in their order."""
        settings = self.settings
        return sweep(
            [config for name in names for config in self.configs(name)],
            self.folder,
            Compute(device=self.device),
            Scoring(settings.features, settings.n_generated, sampler=sampler),
            Pool(jobs=settings.jobs),
        )

    def draw(self, name: str, runs: list[Run]) -> list[Path]:
        """Draw and save a table or figure of the paper from its runs."""
        return drawing.draw(name, runs, self.scale, self.output)

    def verdicts(self, name: str, runs: list[Run], beside: dict[str, list[Run]] | None = None) -> pd.DataFrame:
        """The claims that an experiment decides; some also need runs of another one, `beside`."""
        return report.summary(report.findings({name: runs} | (beside or {}), self.scale, name), self.scale)

    def differing(self, *names: str) -> pd.DataFrame:
        """The named experiments as a table: a row for each run of seed 0, a column for each field that differs."""
        configs = [config for name in names for config in self.configs(name) if config.seed == 0]
        table = pd.DataFrame([flat(config.to_dict()) for config in dict.fromkeys(configs)])
        kept = table.loc[:, table.astype(str).nunique() > 1]
        kept = kept.rename(columns=lambda name: name.removeprefix("objective."))
        kept = kept.astype(object).where(kept.notna(), "")  # fields that a method does not have
        return kept if len(kept.columns) else table[["dataset", "model", "latent_dim", "epochs"]]

    def ratios(self, name: str, runs: list[Run], of: Callable[[RunConfig], bool] = lambda config: True) -> pd.DataFrame:
        """The paper's dimensionless ratios and ours, for an experiment's last run of seed 0 that `of` accepts."""
        paper = [config for config in experiments.configs(name, "paper") if of(config)][-1]
        here = [run for run in runs if run.config.seed == 0 and of(run.config)][-1]
        about = here.environment["data"]
        columns = {
            "paper": experiments.ratios(paper, TRAINING_IMAGES[paper.dataset], image_shape(paper)),
            f"here ({self.output})": experiments.ratios(here.config, about["train"], tuple(about["image_shape"])),
        }
        return pd.DataFrame(columns).map(lambda value: f"{value:,.0f}" if value >= 999.5 else f"{value:.3g}")
