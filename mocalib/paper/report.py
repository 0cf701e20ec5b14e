"""The report: every claim of the paper, decided by records; as a table and as Markdown."""

from collections import Counter
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from mocalib.config import paths
from mocalib.config.run import MIXTURE, RunConfig
from mocalib.figures.base import save_csv
from mocalib.paper import claims, experiments, results, tables
from mocalib.paper import draw as drawing
from mocalib.paper.claims import CLAIMS, Claim, Finding
from mocalib.paper.experiments import ROWS, SHOWN_WITH
from mocalib.paper.grids import SCALES
from mocalib.storage import files
from mocalib.storage.run import Run


def findings(runs: dict[str, list[Run]], scale: str, experiment: str = "") -> list[Finding]:
    """The verdict on every claim, or on those that one experiment decides.

    `runs`: for each experiment, its finished and scored runs (`experiments.configs`'s order), of which all seeds that
    are complete are used. What is not there is "not run".
    """
    asked = [claim for claim in CLAIMS if experiment in ("", claim.experiment)]
    return [claims.judge(claim, _frame(claim, _needed(claim, runs, scale), scale)) for claim in asked]


def _needed(claim: Claim, runs: dict[str, list[Run]], scale: str) -> list[Run]:
    """The runs that a claim compares: of an experiment beside its own, of the seeds for which all of it is there."""
    own = runs.get(claim.experiment, [])
    if not claim.beside:
        return own
    beside, whole = runs.get(claim.beside, []), len(experiments.configs(claim.beside, scale))
    counts = Counter(run.config.seed for run in beside)
    seeds = {run.config.seed for run in own if whole and counts[run.config.seed] == whole}
    return [run for run in own + beside if run.config.seed in seeds]


def _frame(claim: Claim, runs: list[Run], scale: str) -> pd.DataFrame:
    if not runs:
        return pd.DataFrame()
    labelled = {"table1": tables.table1_runs, "convergence": tables.convergence}.get(claim.experiment)
    return labelled(runs, SCALES[scale]) if labelled else results.frame(runs)


def table(found: list[Finding]) -> pd.DataFrame:
    """One row a claim: its rule, our numbers, the effect over seeds against its threshold, the paper's, the verdict."""
    rows = []
    for finding in found:
        claim, n = finding.claim, len(finding.effects)
        rows.append({
            "claim": claim.statement,
            "place": claim.place,
            "verdict": finding.verdict,
            "ours": finding.shown,
            "paper": claim.paper,
            "rule": claim.rule,
            "effect": round(finding.mean, 3),
            "spread": round(finding.spread, 3),
            "threshold": round(claim.threshold, 3),
            "paper_noise": round(claims.PAPER_NOISE, 3),
            "seeds_for": f"{finding.in_favour} of {n}" if n else "",
            "experiment": claim.experiment,
        })  # fmt: skip
    return pd.DataFrame(rows)


def summary(found: list[Finding], scale: str) -> pd.DataFrame:
    """The columns that fit a page; those of a smoke run say that they mean nothing."""
    shown = table(found)[["claim", "place", "verdict", "ours", "paper", "seeds_for"]]
    return shown.rename(columns={"verdict": "verdict (smoke: means nothing)"} if scale == "smoke" else {})


def write(runs: dict[str, list[Run]], scale: str, output: str | None = None) -> list[Path]:
    """Write figures/<output or scale>/report.csv and .md; return the paths."""
    found, output = findings(runs, scale), output or scale
    path = paths.FIGURES / output / "report.md"
    title = f"# The paper's claims at {scale} scale{'' if output == scale else ', with data or seeds of your own'}\n"
    parts = [title, tables.markdown(summary(found, scale)), _told(found, scale), _explained(found)]
    if SCALES[scale].partial:
        parts.append(_coverage(runs, scale))
    parts.append(_cost(runs))
    files.write(path, "\n".join(parts).encode())
    return [save_csv(table(found), "report", output), path]


MEANS = {
    "holds": "agrees with the paper",
    "does not hold": "does not agree with the paper",
    "within noise": "speaks neither for the paper nor against it",
}


def _told(found: list[Finding], scale: str) -> str:
    """A paragraph a claim: the paper's numbers, ours, and whether they agree."""
    return "\n\n".join(["## Claim by claim", *(_paragraph(finding, scale) for finding in found)]) + "\n"


def _paragraph(finding: Finding, scale: str) -> str:
    claim, n = finding.claim, len(finding.effects)
    told = f"**{claim.statement}** ({claim.place}.) The paper: {claim.paper}. "
    needed = list(filter(None, (claim.experiment, claim.beside)))
    if not n and not all(experiments.configs(name, scale) for name in needed):
        return f"{told}Not run: this scale leaves it out."
    if not n:
        return f"{told}Not run; what it needs: {' and '.join(needed)}."
    seeds = f"{n} seeds, {finding.in_favour} in favour, spread {finding.spread:.3g}" if n > 1 else "one seed"
    agrees = MEANS[finding.verdict.removesuffix(" (one seed)")]
    return (
        f"{told}Here: {finding.shown}. The effect is {finding.mean:.3g} ({seeds}), the threshold "
        f"{claim.threshold:.3g}: this {agrees}."
    )


RULES = f"""## Rules

Each rule turns the runs of one seed into an effect that is positive in the claim's favour: the logarithm of a
quotient of scores, or the decades between two best weights. The claim holds if the effect is above its threshold for
every seed, and in the mean by more than the noise: the standard deviation over seeds, and at least
{claims.PAPER_NOISE:.3f}, by which two runs of one setting differ in the paper itself (47.46 in Table 3 and 46.68 in
Table 4, about 0.8 FID). If it is below by more than the noise, the claim does not hold.
"""


def _explained(found: list[Finding]) -> str:
    columns = ["claim", "rule", "effect", "spread", "threshold", "seeds_for"]
    return f"{RULES}\n{tables.markdown(table(found)[columns])}"


def _coverage(runs: dict[str, list[Run]], scale: str) -> str:
    """What there is of a scale that may be run in part."""
    asked = {name: len(configs) for name, configs in experiments.listed(scale, SCALES[scale].seeds).items() if configs}
    rows = [{"experiment": name, "runs": len(runs.get(name, [])), "of": count} for name, count in asked.items()]
    return f"## What is shown\n\n{tables.markdown(pd.DataFrame(rows))}"


def _cost(runs: dict[str, list[Run]]) -> str:
    unique = {run.directory.name: run for found in runs.values() for run in found}
    if not unique:
        return "Nothing was run.\n"
    minutes = sum(line["seconds"] for run in unique.values() for line in run.timing[-1:]) / 60
    devices = ", ".join(sorted({run.environment["device"] for run in unique.values()}))
    threads = ", ".join(sorted({str(run.environment["threads"]) for run in unique.values()}))
    return f"{len(unique)} runs; {minutes:.0f} minutes of training, added up ({devices}, {threads} thread a run).\n"


def committed() -> list[str]:
    """Scales of which records are committed."""
    return [scale for scale in SCALES if any((paths.RECORDS / scale).glob("*/manifest.json")) and scale != "smoke"]


def draw(scale: str) -> list[Path]:
    """Draw every table and figure of a scale, and its report, from committed records; nothing is trained.

    Raises ValueError where a record is damaged, or, but for scales that may be run in part, where some runs of a seed
    are there and others of it are not: evidence must not shrink unseen.
    """
    found = found_runs(paths.RECORDS / scale, scale)
    for name, configs in experiments.listed(scale, SCALES[scale].seeds).items():
        if not SCALES[scale].partial:
            _refuse_gaps(name, scale, configs, {run.config.seed for run in found[name]})
    for run in {run.directory: run for runs in found.values() for run in runs}.values():
        run.verify()
    written = [path for name in found if found[name] for path in _draw(name, found, scale)]
    return [*written, *write(found, scale)]


def _refuse_gaps(name: str, scale: str, configs: list[RunConfig], complete_seeds: set[int]) -> None:
    folder = paths.RECORDS / scale
    for seed in {config.seed for config in configs} - complete_seeds:
        asked = [config for config in configs if config.seed == seed]
        missing = [config.name for config in asked if not _scored(Run(folder / config.name, config))]
        if len(missing) < len(asked):
            raise ValueError(
                f"{name}, seed {seed}: {len(missing)} of {len(asked)} runs are missing in {folder}: "
                f"{', '.join(missing)}; restore them with git, or make them: "
                f"python -m mocalib sweep {name} --scale {scale}"
            )


def _draw(name: str, found: dict[str, list[Run]], scale: str) -> list[Path]:
    try:
        return drawing.draw(name, _shown(name, found), scale)
    finally:
        plt.close("all")


def _shown(name: str, found: dict[str, list[Run]]) -> list[Run]:
    """The runs that a table or figure shows, each once: of its own experiment, and of those beside it."""
    runs = [run for shown in (name, *SHOWN_WITH.get(name, ())) for run in found[shown]]
    return list({run.directory: run for run in runs}.values())


def found_runs(folder: Path, scale: str) -> dict[str, list[Run]]:
    """For each experiment of a scale its runs in a folder that can be shown."""
    asked = experiments.listed(scale, SCALES[scale].seeds)
    return {name: shown(name, scale, folder, configs) for name, configs in asked.items()}


def shown(name: str, scale: str, folder: Path, configs: list[RunConfig]) -> list[Run]:
    """The runs of an experiment's configs in a folder that can be shown: those of complete seeds.

    Of Table 1, whose rows stand for themselves, each that is there, where a scale may be run in part.
    """
    if not SCALES[scale].partial or name not in ROWS:
        return complete(folder, configs)
    return [run for config in configs if _scored(run := Run(folder / config.name, config))]


def complete(folder: Path, configs: list[RunConfig]) -> list[Run]:
    """Runs of those seeds for which every config is finished and scored: rules compare runs of one seed."""
    runs = [Run(folder / config.name, config) for config in configs]
    missing = {run.config.seed for run in runs if not _scored(run)}
    return [run for run in runs if run.config.seed not in missing]


def _scored(run: Run) -> bool:
    """Whether a run is finished and its last weights and all that it kept on the way are scored."""
    return run.finished and set(run.epochs) <= {row["epoch"] for row in run.scores if row["sampler"] != MIXTURE}
