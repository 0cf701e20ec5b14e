"""How records decide a claim: one effect for each seed, and a t interval of their mean.

An effect compares runs of the same seed and is positive if that seed supports the claim. With the two-sided 90 % t
interval of the mean effect, a claim

- "holds" if the whole interval is above the threshold;
- "does not hold" if the whole interval is below it;
- is "undecided" otherwise.

Of m claims that are neither true nor false, about m/10 get decided by chance. An undecided claim may be run once more,
with up to 10 seeds, if both looks use 94 % intervals: a second look at 90 % would decide 17 % of such claims.
"""

import math
import re
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from mocalib.config.run import RunConfig
from mocalib.paper import tables

LEVEL = 0.90
FEWEST = 3  # seeds; fewer give no verdict
MOST = 50  # seeds up to which we say how many would decide
MUCH = math.log(1.25)  # "much worse": two fifths of the paper's two cases on a log scale, 1.7 and 1.8 times the FID

HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "undecided"
COARSE, FEW, NOT_RUN = "not decidable here", "too few seeds", "not run"
AGREES = {  # verdict -> what it says of the paper
    HOLDS: "This agrees with the paper.",
    FAILS: "This does not agree with the paper.",
    UNDECIDED: "These seeds do not decide whether this agrees with the paper.",
    COARSE: "The effect that could be seen here is too small to tell whether this agrees with the paper.",
    FEW: "There are too few seeds to tell whether this agrees with the paper.",
    NOT_RUN: "What the paper claims was not run.",
}
VERDICTS = tuple(AGREES)
Numbers = pd.Series | str  # behind a claim, named by the index
UNTESTED = "not tested"  # stands for the paper's numbers where it has none


@dataclass(frozen=True)
class Claim:
    """A statement of the paper, and the rule that decides it. The rule is fixed before the runs that it judges."""

    key: str  # name of its file
    statement: str
    place: str  # in the paper
    rule: str  # what an effect is, in words
    unit: str = "log ratio"  # of an effect
    threshold: float = 0.0
    flat: bool = False  # the effects must lie within the threshold on both sides, instead of above it
    seeds: int = 0  # how many the rule needs; 0: as many as the scale runs
    level: float = LEVEL


# ------------------------------------------------------------------------------------------------------------ effects


def log_ratio(frame: pd.DataFrame, column: str, worse: dict, better: dict) -> pd.Series:
    """log(column where `worse` / column where `better`) for each seed.

    `worse` and `better` give columns their values, such as {"momentum": 0.0}. Seeds that lack a run are left out.
    """
    return np.log(_where(frame, worse)[column] / _where(frame, better)[column]).dropna()


def slope(frame: pd.DataFrame, column: str = "fd") -> pd.Series:
    """For each seed the least-squares slope of log(column) over decades of lambda; lambda 0 is left out."""
    used = frame[frame["weight"] > 0]
    fits = {
        seed: np.polyfit(np.log10(part["weight"]), np.log(part[column]), 1)[0]
        for seed, part in used.groupby("seed")
        if part["weight"].nunique() > 1 and part[column].notna().all()
    }
    return pd.Series(fits, dtype=float)


def spread(frame: pd.DataFrame, column: str = "fd") -> pd.Series:
    """log(largest / smallest value of a column) for each seed; a seed that lacks a value is left out."""
    found = frame.groupby("seed")[column]
    return np.log(found.max() / found.min())[found.count() == found.size()]


def rank_correlation(frame: pd.DataFrame, axis: str, column: str) -> pd.Series:
    """Spearman's rank correlation of a column with an axis, for each seed; a seed with a constant is left out."""
    found = {
        seed: stats.spearmanr(part[axis], part[column]).statistic
        for seed, part in frame.groupby("seed")
        if min(part[axis].nunique(), part[column].nunique()) > 1
    }
    return pd.Series(found, dtype=float).dropna()


def ends(frame: pd.DataFrame, configs: list[RunConfig], axis: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The runs of a grid at the smallest and the largest value of an axis, for the lambdas that it has at both.

    Seeds that lack one of these runs are left out.
    """
    at = [getattr(config if hasattr(config, axis) else config.objective, axis) for config in configs]
    low, high = bounds = min(at), max(at)
    lambdas = [{config.objective.weight for config, value in zip(configs, at) if value == bound} for bound in bounds]
    shared = set.intersection(*lambdas) if low != high else set()
    wanted = [run for run, value in zip(configs, at) if value in bounds and run.objective.weight in shared]
    found = complete(frame, wanted)
    return tuple(found[found[axis] == bound].reset_index(drop=True) for bound in bounds)


def complete(frame: pd.DataFrame, configs: list[RunConfig]) -> pd.DataFrame:
    """The runs of a grid, without seeds that lack one of them."""
    found = frame[frame["run"].isin(config.name for config in configs)]
    wanted = pd.Series([config.seed for config in configs], dtype=int).value_counts()
    return found[found.groupby("seed")["run"].transform("nunique").eq(found["seed"].map(wanted))]


def _where(frame: pd.DataFrame, values: dict) -> pd.DataFrame:
    """The runs with these values, by seed."""
    chosen = frame[(frame[list(values)] == pd.Series(values, dtype=object)).all(axis=1)].set_index("seed")
    if not chosen.index.is_unique:
        raise ValueError(f"{values} selects several runs of one seed; give more columns, so that one is left")
    return chosen


# ----------------------------------------------------------------------------------------------------------- verdicts


def interval(effects: pd.Series, level: float = LEVEL) -> tuple[float, float]:
    """Two-sided t interval of the mean effect; unbounded for a single seed."""
    effects = effects.dropna()
    half = _half(effects.std(), len(effects), level)
    return effects.mean() - half, effects.mean() + half


def _half(deviation: float | pd.Series, n: int, level: float) -> float | pd.Series:
    """Half the width of an interval of n seeds."""
    return stats.t.ppf((1 + level) / 2, n - 1) * deviation / math.sqrt(n) if n > 1 else math.inf


def decide(effects: pd.DataFrame, threshold: float = 0.0, level: float = LEVEL, flat: bool = False) -> str:
    """The verdict on a claim with one or several comparisons: a row for each seed, a column for each comparison.

    It holds if every comparison's interval is above the threshold. It does not hold if one of the m intervals is below
    it, at level 1 - (1 - level) / m, so that more comparisons do not make this more likely. A `flat` claim, "nothing
    changes", needs every interval within +-threshold; it does not hold if one of them is all outside.
    """
    return _decide(effects.mean(), effects.std(), len(effects), threshold, level, flat)


def _decide(mean: pd.Series, deviation: pd.Series, n: int, threshold: float, level: float, flat: bool) -> str:
    half, strict = (_half(deviation, n, value) for value in (level, 1 - (1 - level) / len(mean)))
    if flat:  # how far inside the threshold
        mean = threshold - mean.abs()
        threshold = 0.0
    if (mean - half > threshold).all():
        return HOLDS
    return FAILS if (mean + strict < threshold).any() else UNDECIDED


def seeds_to_decide(
    effects: pd.DataFrame, threshold: float = 0.0, level: float = LEVEL, flat: bool = False
) -> int | None:
    """The least number of seeds that would decide if means and spreads stayed the same; None above `MOST`. A guess."""
    mean, deviation = effects.mean(), effects.std()
    more = range(len(effects) + 1, MOST + 1)
    return next((n for n in more if _decide(mean, deviation, n, threshold, level, flat) != UNDECIDED), None)


def judge(claim: Claim, effects: pd.Series | pd.DataFrame, seeds: int, room: pd.Series | None = None) -> dict:
    """The finding of a claim, as plain JSON types.

    effects: one number for each seed (index), or a column for each comparison, named after what MoCA is compared with.
    seeds: how many the scale runs. room: for "much worse", the log ratio of the scores without regularisation and at
    the best lambda. If it is below the threshold, a claim that does not hold is not decidable here.
    """
    table = effects.to_frame("") if isinstance(effects, pd.Series) else effects.rename(columns=str)
    table = table.replace([math.inf, -math.inf], math.nan).dropna()
    room = None if room is None else room.dropna()
    columns = {name: _summary(column, claim.level) for name, column in table.items()} if not table.empty else {}
    verdict = _verdict(claim, table, seeds, room)
    margin = {name: -abs(c["mean"]) if claim.flat else c["mean"] for name, c in columns.items()}
    closest = min(margin, key=margin.get) if margin else ""
    rule = {"threshold": claim.threshold, "level": claim.level, "flat": claim.flat}
    needed = seeds_to_decide(table, **rule) if verdict == UNDECIDED else None
    about = {"key": claim.key, "claim": claim.statement, "place": claim.place, "rule": claim.rule, "unit": claim.unit}
    about |= {"threshold": _short(claim.threshold), "flat": claim.flat, "level": claim.level, "verdict": verdict}
    about |= {"seeds": [int(seed) for seed in table.index], "seeds_asked": claim.seeds or seeds}
    about["room"] = None if room is None or not len(room) else _short(room.mean())
    return about | {"seeds_to_decide": needed, "against": closest, "comparisons": columns}


def told(found: dict) -> str:
    """A finding in sentences, as Markdown."""
    lines = [f"**{found['claim']}** ({found['place']}) Verdict at {found['scale']} scale: **{found['verdict']}**."]
    lines.append(f"Rule: {found['rule']}. Unit: {found['unit']}; threshold {found['threshold']:.3g}.")
    for name, c in found["comparisons"].items():
        bounds = "" if c["low"] is None else f", {found['level']:.0%} interval {c['low']:.3g} to {c['high']:.3g}"
        effects = ", ".join(f"{effect:.3g}" for effect in c["effects"])
        lines.append(f"{f'Against {name}: m' if name else 'M'}ean effect {c['mean']:.3g}{bounds} (seeds: {effects}).")
    if found["verdict"] == NOT_RUN:
        lines.append(f"Seeds with every run and score of the rule: {len(found['seeds'])} of {found['seeds_asked']}.")
    if found["verdict"] == COARSE:
        lines.append(f"Lambda 0 and the best lambda differ by {found['room']:.3g}, less than the threshold.")
    if found["seeds_to_decide"]:
        lines.append(f"A guess: {found['seeds_to_decide']} seeds would decide.")
    return "\n\n".join([*lines, f"Here: {found['here']}. The paper: {found['paper']}."])


def concluded(judged: dict, found: str, why: str) -> str:
    """Three sentences on a finding. A number in them is NaN if runs are missing; then there is nothing to say."""
    if re.search(r"\bnan\b", f"{found} {why}"):
        return f"{judged['key']}: runs are missing, so there is nothing to say"
    untested = f'The paper does not test this; the verdict here is "{judged["verdict"]}".'
    return f"{found} {untested if judged['paper'] == UNTESTED else AGREES[judged['verdict']]} {why}"


def number(value: float) -> str:
    """A number in a sentence for `concluded`: as in tables, and "nan" for a missing one."""
    return tables.cell(value) or "nan"


def said(numbers: Numbers, digits: int) -> str:
    """Numbers as a sentence's part, each named by the index: "m0 0: 39.3, m0 0.9: 16.3"."""
    if isinstance(numbers, str):
        return numbers or "no runs"
    name = f"{numbers.index.name} " if numbers.index.name else ""
    places = [place if isinstance(place, str) else f"{name}{place:g}" for place in numbers.index]
    values = [tables.cell(value, digits) for value in numbers]
    return ", ".join(f"{place}: {value}" for place, value in zip(places, values) if value) or "no runs"


def _verdict(claim: Claim, table: pd.DataFrame, seeds: int, room: pd.Series | None) -> str:
    if table.empty or len(table) < (claim.seeds or seeds) or (room is not None and not len(room)):
        return NOT_RUN
    if len(table) < FEWEST:
        return FEW
    found = decide(table, claim.threshold, claim.level, claim.flat)
    no_room = room is not None and room.mean() < claim.threshold
    return COARSE if no_room and found != HOLDS else found


def _summary(effects: pd.Series, level: float) -> dict:
    low, high = (None if math.isinf(bound) else _short(bound) for bound in interval(effects, level))
    return {"effects": [_short(x) for x in effects], "mean": _short(effects.mean()), "low": low, "high": high}


def _short(value: float) -> float:
    """Without what differs between kinds of processor."""
    return float(f"{value:.6g}")
