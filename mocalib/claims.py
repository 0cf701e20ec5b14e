"""What the paper claims, each with a rule that records decide: the same rules at every scale.

A rule turns the runs of one seed into one number, its *effect*, positive in the claim's favour. Effects are logarithms
of quotients, so they are free of a score's scale. The verdict compares their mean over seeds with a threshold:

- "holds": above it for every seed, and in the mean by more than the noise;
- "does not hold": below it in the mean by more than the noise;
- "within noise": neither;
- "not run": a run that the rule needs is missing.

The noise is the standard deviation of the effect over seeds, and at least `PAPER_NOISE`, by which two runs of one
setting differ in the paper itself.
"""

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from mocalib import records

# The defaults of section 5 are a row of Table 3 (47.46) and of Table 4 (46.68): two runs of one setting.
PAPER_NOISE = math.log(47.46 / 46.68)
MUCH = math.log(1.25)  # "much worse", "degrade significantly": by a quarter; ours, the paper's two cases are 1.8 times
FLAT = math.log(1.1)  # "largely stable": within a tenth; ours, Table 4 without K = 100 spans 1.07
STEP = 0.25  # decades: a best weight has moved if by more than half of the finest step of any grid


@dataclass(frozen=True)
class Claim:
    """A statement of the paper and the rule that decides it."""

    name: str
    place: str  # in the paper
    statement: str
    experiment: str  # whose runs decide it
    rule: str
    effect: Callable[[pd.DataFrame], float]  # of one seed's runs (`records.frame`); NaN if they cannot tell
    shown: Callable[[pd.DataFrame], str]  # the numbers behind it, means over seeds
    paper: str  # the paper's numbers
    threshold: float = 0.0


@dataclass(frozen=True)
class Finding:
    """What records say of a claim; effects are one a seed, in the seeds' order."""

    claim: Claim
    verdict: str
    effects: tuple[float, ...] = ()
    shown: str = ""

    @property
    def mean(self) -> float:
        return statistics.fmean(self.effects) if self.effects else math.nan

    @property
    def spread(self) -> float:
        """Standard deviation over seeds; NaN for one seed."""
        return statistics.stdev(self.effects) if len(self.effects) > 1 else math.nan

    @property
    def in_favour(self) -> int:
        """Seeds whose effect is above the threshold."""
        return sum(effect > self.claim.threshold for effect in self.effects)


def judge(claim: Claim, frame: pd.DataFrame) -> Finding:
    """Apply a claim's rule to the runs of its experiment; a frame without rows is "not run"."""
    if frame.empty:
        return Finding(claim, "not run")
    effects = tuple(claim.effect(part) for _, part in frame.groupby("seed"))
    if any(math.isnan(effect) for effect in effects):
        return Finding(claim, "not run", shown=claim.shown(frame))
    return Finding(claim, verdict(effects, claim.threshold), effects, claim.shown(frame))


def verdict(effects: tuple[float, ...], threshold: float) -> str:
    """ "holds", "does not hold" or "within noise", as the module says."""
    spread = statistics.stdev(effects) if len(effects) > 1 else 0.0
    noise, margin = max(spread, PAPER_NOISE), statistics.fmean(effects) - threshold
    if min(effects) > threshold and margin > noise:
        return "holds"
    return "does not hold" if margin < -noise else "within noise"


# ------------------------------------------------------------------------------------------------- effects of one seed


def _at(frame: pd.DataFrame, axis: str, value: float, column: str = "fd") -> float:
    """A column where an axis has a value; NaN if no run has."""
    found = frame.loc[frame[axis] == value, column]
    return found.iloc[0] if len(found) else math.nan


def ends(axis: str, column: str = "fd") -> Callable[[pd.DataFrame], float]:
    """log quotient of a column at the least and at the greatest value of an axis."""

    def effect(frame: pd.DataFrame) -> float:
        least, greatest = (_at(frame, axis, value, column) for value in (frame[axis].min(), frame[axis].max()))
        return math.log(least / greatest)

    return effect


def best(frame: pd.DataFrame, axis: str) -> pd.DataFrame:
    """The run of least distance for each value of an axis, in the axis's order."""
    return frame.loc[frame.groupby(axis)["fd"].idxmin()].set_index(axis).sort_index()


def best_weight_moves(axis: str) -> Callable[[pd.DataFrame], float]:
    """Decades by which the best weight at the greatest value of an axis is above that at the least."""
    return lambda frame: math.log10(best(frame, axis)["weight"].iloc[-1] / best(frame, axis)["weight"].iloc[0])


def best_score_falls(axis: str) -> Callable[[pd.DataFrame], float]:
    """log quotient of the best distances at the greatest and the least value of an axis."""
    return lambda frame: math.log(best(frame, axis)["fd"].iloc[-1] / best(frame, axis)["fd"].iloc[0])


def span(frame: pd.DataFrame) -> float:
    """log quotient of the worst and the best distance."""
    return math.log(frame["fd"].max() / frame["fd"].min())


def stabler_at_least_d(frame: pd.DataFrame) -> float:
    """How much further distances over weights spread at the greatest d than at the least."""
    low, high = frame["latent_dim"].min(), frame["latent_dim"].max()
    return span(frame[frame["latent_dim"] == high]) - span(frame[frame["latent_dim"] == low])


def fewer_holes(frame: pd.DataFrame) -> float:
    """At the greatest d: log quotient of the angles from random points to the nearest code at the weights' two ends."""
    part = frame[frame["latent_dim"] == frame["latent_dim"].max()]
    angles = [math.acos(_at(part, "weight", w, "nearest_cosine")) for w in (part["weight"].min(), part["weight"].max())]
    return math.log(angles[0] / angles[1])


def rest_is_flat(frame: pd.DataFrame) -> float:
    """Room that is left below `FLAT` once the smallest queue is set aside."""
    return FLAT - span(frame[frame["queue_size"] > frame["queue_size"].min()])


def nets(dataset: str) -> Callable[[pd.DataFrame], float]:
    """log quotient of A1's and A2's distance on one of the paper's datasets; NaN unless A2 is the smaller net."""

    def effect(frame: pd.DataFrame) -> float:
        part = frame[frame["of"] == dataset].set_index("net")
        a1, a2 = part.loc["MoCA-A1"], part.loc["MoCA-A2"]
        return math.log(a1["fd"] / a2["fd"]) if a2["parameters"] < a1["parameters"] else -math.inf

    return effect


def rivals(dataset: str) -> Callable[[pd.DataFrame], float]:
    """log quotient of the best re-run rival's distance and MoCA-A2's; NaN as long as no rival was re-run."""

    def effect(frame: pd.DataFrame) -> float:
        part = frame[frame["of"] == dataset]
        others = part.loc[part["objective"] != "moca", "fd"]
        return math.log(others.min() / _at(part, "net", "MoCA-A2")) if len(others) else math.nan

    return effect


def without_positive(frame: pd.DataFrame) -> float:
    """log quotient of the distances of the negative term alone and of Algorithm 1."""
    return math.log(_at(frame, "form", "negative") / _at(frame, "form", "info_nce"))


def without_contrast(frame: pd.DataFrame) -> float:
    """log quotient of the distances of the same autoencoder at weight 0 and of MoCA."""
    return math.log(_at(frame, "weight", 0.0) / _at(frame, "weight", frame["weight"].max()))


def realistic(frame: pd.DataFrame) -> float:
    """log quotient of A2's precision and half of the training images' own, the least over datasets."""
    part = frame[frame["net"] == "MoCA-A2"]
    quotients = part["precision"].clip(lower=1e-9) / (0.5 * part["precision_floor"])
    return math.log(quotients.min()) if len(quotients) else math.nan


# ------------------------------------------------------------------------------------------------ numbers behind a rule


def means(axis: str, column: str = "fd") -> Callable[[pd.DataFrame], str]:
    """A column's mean over seeds for each value of an axis."""

    def shown(frame: pd.DataFrame) -> str:
        found = frame.groupby(axis, sort=False)[column].mean()
        return ", ".join(f"{_short(value)}: {score:.3g}" for value, score in found.items())

    return shown


def best_weights(axis: str) -> Callable[[pd.DataFrame], str]:
    """The weight of least mean distance for each value of an axis; one at an end of its grid is marked."""

    def shown(frame: pd.DataFrame) -> str:
        parts = []
        for value, part in frame.groupby(axis):
            mean = part.groupby("weight")["fd"].mean()
            edge = {mean.index.min(): " (lowest tried)", mean.index.max(): " (highest tried)"}.get(mean.idxmin(), "")
            parts.append(f"{_short(value)}: {_short(mean.idxmin())}{edge}, {mean.min():.3g}")
        return "; ".join(parts)

    return shown


def spans(frame: pd.DataFrame) -> str:
    """Worst over best mean distance along the weights, for each d."""
    found = frame.groupby(["latent_dim", "weight"])["fd"].mean().groupby("latent_dim")
    return ", ".join(f"d {d}: {part.max() / part.min():.3g} times" for d, part in found)


def holes(frame: pd.DataFrame) -> str:
    """Mean cosine to the nearest code for each weight at the greatest d, with that of uniform codes."""
    part = frame[frame["latent_dim"] == frame["latent_dim"].max()]
    uniform = part["nearest_cosine_uniform"].mean()
    return f"d {part['latent_dim'].iloc[0]}: {means('weight', 'nearest_cosine')(part)}; uniform codes: {uniform:.3g}"


def by_net(column: str, *datasets: str) -> Callable[[pd.DataFrame], str]:
    """A column's mean for each net of each dataset."""

    def shown(frame: pd.DataFrame) -> str:
        part = frame[frame["of"].isin(datasets)] if datasets else frame
        found = part.groupby(["of", "net"], sort=False)[column].mean()
        return ", ".join(f"{of} {net}: {value:.3g}" for (of, net), value in found.items())

    return shown


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, (int, float)) else str(value)


def _paper(name: str, axis: str, column: str) -> str:
    return ", ".join(f"{row[axis]:g}: {row[column]:g}" for _, row in records.paper(name).iterrows())


def _table1(dataset: str) -> str:
    part = records.paper("table1")
    part = part[part["dataset"] == dataset]
    return ", ".join(f"{row.method}: {row.fid:g}" for row in part.itertuples())


FIGURE_ONLY = "a figure; its values are not in the text"
CLAIMS = (
    Claim(
        "contrast",
        "section 3",
        "The contrastive term is what makes the autoencoder a generative model.",
        "quickstart",
        "fd at weight 0 is above fd at the weight of the quickstart",
        without_contrast,
        means("weight"),
        "not tested alone",
    ),
    *(
        Claim(
            f"a2-{dataset}",
            "Table 1",
            f"MoCA-A2 beats MoCA-A1 on {dataset} with fewer parameters.",
            "table1",
            "fd of A1 is above that of A2, and A2 has fewer parameters",
            nets(dataset),
            by_net("fd", dataset),
            _table1(dataset),
        )
        for dataset in ("CIFAR-10", "CelebA")
    ),
    Claim(
        "state-of-the-art",
        "Table 1",
        "MoCA-A2 is the best of all on CIFAR-10.",
        "table1",
        "fd of the best rival, re-run here, is above that of MoCA-A2",
        rivals("CIFAR-10"),
        by_net("fd", "CIFAR-10"),
        _table1("CIFAR-10"),
    ),
    Claim(
        "competitive",
        "Table 1",
        "MoCA-A2 is competitive on CelebA.",
        "table1",
        "fd of MoCA-A2 is at most 1.31 times that of the best rival, re-run here (44.59 against 34 in the paper)",
        rivals("CelebA"),
        by_net("fd", "CelebA"),
        _table1("CelebA"),
        math.log(34 / 44.59),
    ),
    Claim(
        "realistic",
        "section 4",
        "Most samples look realistic, at several resolutions.",
        "table1",
        "at each resolution the precision of A2's samples is at least half of the training images' own",
        realistic,
        by_net("precision"),
        "shown as pictures",
    ),
    Claim(
        "dimension-weight",
        "section 5.1, Figure 3",
        "A larger d needs a larger weight.",
        "figure3",
        "the weight of least fd is larger at the largest d than at the smallest, by more than a quarter of a decade",
        best_weight_moves("latent_dim"),
        best_weights("latent_dim"),
        FIGURE_ONLY,
        STEP,
    ),
    Claim(
        "dimension-stable",
        "section 5.1, Figure 3",
        "At the smallest d the score is stable across weights.",
        "figure3",
        "worst over best fd along the weights is smaller at the smallest d than at the largest",
        stabler_at_least_d,
        spans,
        FIGURE_ONLY,
    ),
    Claim(
        "holes",
        "section 5.1 (hypothesis)",
        "A larger weight leaves fewer holes: random points are nearer to codes.",
        "figure3",
        "at the largest d, the angle from uniform points to their nearest code is smaller at the largest weight",
        fewer_holes,
        holes,
        "not measured",
    ),
    Claim(
        "size-weight",
        "section 5.2, Table 2, Figure 15",
        "The best weight grows with the input size.",
        "table2",
        "the weight of least fd is larger at the largest size than at the smallest, by more than a quarter of a decade",
        best_weight_moves("size"),
        best_weights("size"),
        _paper("table2", "size", "weight"),
        STEP,
    ),
    Claim(
        "momentum",
        "section 5.3, Table 3",
        "A small base momentum is much worse.",
        "table3",
        "fd at momentum 0 is more than 1.25 times that at the largest momentum",
        ends("momentum"),
        means("momentum"),
        _paper("table3", "momentum", "fid"),
        MUCH,
    ),
    Claim(
        "temperature-weight",
        "section 5.4, Figure 4",
        "A lower temperature has a lower best weight.",
        "figure4",
        "the weight of least fd is smaller at the lowest temperature than at the highest, by more than a quarter of a "
        "decade",
        best_weight_moves("temperature"),
        best_weights("temperature"),
        FIGURE_ONLY,
        STEP,
    ),
    Claim(
        "temperature-score",
        "section 5.4, Figure 4",
        "A lower temperature has a better best score.",
        "figure4",
        "the least fd over weights is lower at the lowest temperature than at the highest",
        best_score_falls("temperature"),
        best_weights("temperature"),
        FIGURE_ONLY,
    ),
    Claim(
        "queue-tiny",
        "section 5.5, Table 4",
        "A tiny queue is much worse.",
        "table4",
        "fd at the smallest K is more than 1.25 times that at the largest",
        ends("queue_size"),
        means("queue_size"),
        _paper("table4", "queue_size", "fid"),
        MUCH,
    ),
    Claim(
        "queue-flat",
        "section 5.5, Table 4",
        "Over all other queue sizes the score is largely stable.",
        "table4",
        "without the smallest K, worst over best fd is less than 1.1",
        rest_is_flat,
        means("queue_size"),
        _paper("table4", "queue_size", "fid"),
    ),
    Claim(
        "weight-spectrum",
        "section 5.6, Figure 5",
        "A larger weight makes the singular values of codes more uniform.",
        "figure5",
        "largest over smallest singular value is larger at weight 0 than at the largest weight",
        ends("weight", "singular_value_ratio"),
        means("weight", "singular_value_ratio"),
        FIGURE_ONLY,
    ),
    Claim(
        "weight-score",
        "section 5.6, Figure 5",
        "A larger weight has a better score.",
        "figure5",
        "fd is larger at weight 0 than at the largest weight",
        ends("weight"),
        means("weight"),
        FIGURE_ONLY,
    ),
    Claim(
        "positive",
        "section 3",
        "The positive term is needed too.",
        "table1_forms",
        "fd of the negative term alone is above that of Algorithm 1, at temperature .05",
        without_positive,
        means("form"),
        "not tested",
    ),
    Claim(
        "a1-dimension",
        "Appendix A",
        "A1 with d 64 instead of 128 cannot reconstruct faces well.",
        "appendix_a",
        "the test reconstruction error at the smaller d is more than 1.25 times that at the larger",
        ends("latent_dim", "reconstruction"),
        means("latent_dim", "reconstruction"),
        "not quantified",
        MUCH,
    ),
)
