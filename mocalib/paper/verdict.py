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
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

LEVEL = 0.90
FEWEST = 3  # seeds; fewer give no verdict
MOST = 50  # seeds up to which we say how many would decide
MUCH = math.log(1.25)  # "much worse": a third of the paper's two cases on a log scale, where fd is 1.8 times as large

HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "undecided"
COARSE, FEW, NOT_RUN = "not decidable here", "too few seeds", "not run"
VERDICTS = (HOLDS, FAILS, UNDECIDED, COARSE, FEW, NOT_RUN)


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
    """log(largest / smallest value of a column) for each seed."""
    found = frame.groupby("seed")[column]
    return np.log(found.max(skipna=False) / found.min(skipna=False)).dropna()


def rank_correlation(frame: pd.DataFrame, axis: str, column: str) -> pd.Series:
    """Spearman's rank correlation of a column with an axis, for each seed."""
    found = {seed: stats.spearmanr(part[axis], part[column]).statistic for seed, part in frame.groupby("seed")}
    return pd.Series(found, dtype=float).dropna()


def ends(frame: pd.DataFrame, axis: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The runs at the smallest and the largest value of an axis, for the lambdas that were tried at both."""
    low, high = (frame[frame[axis] == value] for value in (frame[axis].min(), frame[axis].max()))
    shared = set(low["weight"]) & set(high["weight"])
    return low[low["weight"].isin(shared)], high[high["weight"].isin(shared)]


def _where(frame: pd.DataFrame, values: dict) -> pd.DataFrame:
    """The runs with these values, by seed."""
    chosen = frame[(frame[list(values)] == pd.Series(values, dtype=object)).all(axis=1)].set_index("seed")
    if not chosen.index.is_unique:
        raise ValueError(f"{values} selects several runs of one seed; give more columns, so that one is left")
    return chosen


# ----------------------------------------------------------------------------------------------------------- verdicts


def interval(effects: pd.Series, level: float = LEVEL) -> tuple[float, float]:
    """Two-sided t interval of the mean effect; unbounded for a single seed."""
    n, mean = len(effects), effects.mean()
    if n < 2:
        return -math.inf, math.inf
    half = stats.t.ppf((1 + level) / 2, n - 1) * effects.std() / math.sqrt(n)
    return mean - half, mean + half


def decide(effects: pd.DataFrame, threshold: float = 0.0, level: float = LEVEL) -> str:
    """The verdict on a claim with one or several comparisons: a row for each seed, a column for each comparison.

    It holds if every comparison's interval is above the threshold. It does not hold if one of the m intervals is below
    it, at level 1 - (1 - level) / m, so that more comparisons do not make this more likely.
    """
    strict = 1 - (1 - level) / effects.shape[1]
    if all(interval(column, level)[0] > threshold for _, column in effects.items()):
        return HOLDS
    return FAILS if any(interval(column, strict)[1] < threshold for _, column in effects.items()) else UNDECIDED


def decide_flat(effects: pd.DataFrame, width: float, level: float = LEVEL) -> str:
    """The verdict on "nothing changes": holds if every interval is within +-width, not if one is all outside."""
    found = [interval(column, level) for _, column in effects.items()]
    if all(-width < low and high < width for low, high in found):
        return HOLDS
    return FAILS if any(low > width or high < -width for low, high in found) else UNDECIDED


def seeds_to_decide(effects: pd.Series, threshold: float = 0.0, level: float = LEVEL) -> int | None:
    """The least number of seeds that would decide if mean and spread stayed the same; None above `MOST`. A guess."""
    distance, deviation = abs(effects.mean() - threshold), effects.std()
    enough = (n for n in range(2, MOST + 1) if stats.t.ppf((1 + level) / 2, n - 1) * deviation < distance * n**0.5)
    return next(enough, None)


def judge(claim: Claim, effects: pd.Series | pd.DataFrame, seeds: int, room: pd.Series | None = None) -> dict:
    """The finding of a claim, as plain JSON types.

    effects: one number for each seed (index), or a column for each comparison, named after what MoCA is compared with.
    seeds: how many the scale runs. room: for "much worse", the log ratio of the scores without regularisation and at
    the best lambda. If it is below the threshold, the scores have no room for the claim.
    """
    table = (effects.to_frame("") if isinstance(effects, pd.Series) else effects).dropna()
    columns = {str(name): _summary(column, claim.level) for name, column in table.items()} if len(table) else {}
    verdict = _verdict(claim, table, seeds, room)
    margin = {name: -abs(c["mean"]) if claim.flat else c["mean"] for name, c in columns.items()}
    closest = min(margin, key=margin.get) if margin else ""
    needed = seeds_to_decide(table[closest], claim.threshold, claim.level) if verdict == UNDECIDED else None
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
        lines.append(f"The rule needs {found['seeds_asked']} seeds of every run; {len(found['seeds'])} are there.")
    if found["verdict"] == COARSE:
        lines.append(f"Lambda 0 and the best lambda differ by {found['room']:.3g}, less than the threshold.")
    if found["seeds_to_decide"]:
        lines.append(f"A guess: {found['seeds_to_decide']} seeds would decide.")
    return "\n\n".join([*lines, f"Here: {found['here']}. The paper: {found['paper']}."])


def _verdict(claim: Claim, table: pd.DataFrame, seeds: int, room: pd.Series | None) -> str:
    if not len(table) or len(table) < (claim.seeds or seeds) or (room is not None and not len(room)):
        return NOT_RUN
    if len(table) < FEWEST:
        return FEW
    if room is not None and room.mean() < claim.threshold:
        return COARSE
    return (decide_flat if claim.flat else decide)(table, claim.threshold, claim.level)


def _summary(effects: pd.Series, level: float) -> dict:
    low, high = (None if math.isinf(bound) else _short(bound) for bound in interval(effects, level))
    return {"effects": [_short(x) for x in effects], "mean": _short(effects.mean()), "low": low, "high": high}


def _short(value: float) -> float:
    """Without what differs between kinds of processor."""
    return float(f"{value:.6g}")
