"""How runs decide a claim: the effect that one seed's runs show, and the numbers behind it.

A frame is `results.frame`'s, one row a run. An effect is positive in a claim's favour; those about scores are
logarithms of quotients, free of a score's scale, those about best weights are in decades. Best weights and spans are
taken over the weights that were tried at both ends of an axis: grids that shift along it would decide by themselves.
"""

import math
from collections.abc import Callable

import pandas as pd

from mocalib.paper import results
from mocalib.paper.baselines import MOCA, WAES
from mocalib.paper.grids import A1, A2

Effect = Callable[[pd.DataFrame], float]  # NaN if the runs cannot tell: no labels, so no distances; no rival
Shown = Callable[[pd.DataFrame], str]

FLAT = math.log(1.1)  # "largely stable": within a tenth; ours, Table 4 without K = 100 spans 1.07
STEP = 0.1  # decades by which a best weight must move: half of the finest step of the paper's grids, 6,000 to 10,000


# ------------------------------------------------------------------------------------------------- effects of one seed


def _at(frame: pd.DataFrame, axis: str, value: float, column: str = "fd") -> float:
    """A column where an axis has a value; NaN if no run has."""
    found = frame.loc[frame[axis] == value, column]
    return found.iloc[0] if len(found) else math.nan


def ends(axis: str, column: str = "fd") -> Effect:
    """log quotient of a column at the least and at the greatest value of an axis."""

    def effect(frame: pd.DataFrame) -> float:
        least, greatest = (_at(frame, axis, value, column) for value in (frame[axis].min(), frame[axis].max()))
        return math.log(least / greatest)

    return effect


def end_rows(frame: pd.DataFrame, axis: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The runs at the least and at the greatest value of an axis, by weight, where both tried the same weights."""
    low, high = (frame[frame[axis] == value].set_index("weight") for value in (frame[axis].min(), frame[axis].max()))
    common = low.index.intersection(high.index)
    return low.loc[common], high.loc[common]


def best_weight_rises(axis: str) -> Effect:
    """Decades by which the best weight at the greatest value of an axis is above that at the least.

    A best weight at the wrong end of what was tried (highest at the least value, lowest at the greatest) leaves open
    how far it lies beyond, so that a rise then counts for no more than `STEP`: too little for the claim to hold.
    """

    def effect(frame: pd.DataFrame) -> float:
        low, high = end_rows(frame, axis)
        if low.empty or low["fd"].isna().any() or high["fd"].isna().any():
            return math.nan
        before, after = low["fd"].idxmin(), high["fd"].idxmin()
        rise = math.log10(after / before)
        unsure = before == low.index.max() or after == high.index.min()
        return min(rise, STEP) if unsure else rise

    return effect


def best_score_rises(axis: str) -> Effect:
    """log quotient of the best distances at the greatest and the least value of an axis."""

    def effect(frame: pd.DataFrame) -> float:
        low, high = end_rows(frame, axis)
        return math.log(high["fd"].min() / low["fd"].min())

    return effect


def span(distances: pd.Series) -> float:
    """log quotient of the worst and the best distance."""
    return math.log(distances.max() / distances.min())


def stabler_at_least_d(frame: pd.DataFrame) -> float:
    """How much further distances over weights spread at the greatest d than at the least."""
    low, high = end_rows(frame, "latent_dim")
    return span(high["fd"]) - span(low["fd"])


def fewer_holes(frame: pd.DataFrame) -> float:
    """At the greatest d: log quotient of the angles from random points to the nearest code at the weights' two ends."""
    part = frame[frame["latent_dim"] == frame["latent_dim"].max()]
    angles = [math.acos(_at(part, "weight", w, "nearest_cosine")) for w in (part["weight"].min(), part["weight"].max())]
    return math.log(angles[0] / angles[1])


def rest_is_flat(frame: pd.DataFrame) -> float:
    """Room left below `FLAT` once the smallest queue is set aside; noise between single runs counts against it."""
    return FLAT - span(frame.loc[frame["queue_size"] > frame["queue_size"].min(), "fd"])


def nets(dataset: str) -> Effect:
    """log quotient of A1's and A2's distance on one of the paper's datasets; minus infinity unless A2 is smaller."""

    def effect(frame: pd.DataFrame) -> float:
        part = frame[frame["of"] == dataset].set_index("net")
        if not {A1, A2} <= set(part.index):
            return math.nan
        a1, a2 = part.loc[A1], part.loc[A2]
        return math.log(a1["fd"] / a2["fd"]) if a2["parameters"] < a1["parameters"] else -math.inf

    return effect


def rivals(dataset: str) -> Effect:
    """log quotient of the best re-run rival's distance and MoCA-A2's; NaN if none was re-run, or not in both ways.

    A rival's distance is the less of its prior's and of its Gaussian mixture's, MoCA's is its prior's.
    """

    def effect(frame: pd.DataFrame) -> float:
        part = frame[frame["of"] == dataset]
        others = part.loc[~part["net"].isin((A1, A2)), ["fd", "fd_gmm"]]
        best = others.min(axis=1, skipna=False).min(skipna=False)
        return math.log(best / _at(part, "net", A2)) if len(others) else math.nan

    return effect


def pair(frame: pd.DataFrame) -> float:
    """log quotient of the distances of WAE-MMD and of MoCA."""
    return math.log(_at(frame, "objective", "wae-mmd") / _at(frame, "objective", "moca"))


def faster(frame: pd.DataFrame) -> float:
    """Mean over the epochs before the last of the log quotient of the better WAE's distance and MoCA's."""
    table = frame.pivot(index="epoch", columns="method", values="fd").iloc[:-1]
    others = table[list(WAES)].min(axis=1, skipna=False)
    return (others / table[MOCA]).map(math.log).mean(skipna=False)


def steadier(frame: pd.DataFrame) -> float:
    """How much further the steadier WAE's distance rises above its least so far than MoCA's does, in logarithms."""
    table = frame.pivot(index="epoch", columns="method", values="fd").map(math.log)
    rises = (table - table.cummin()).max(skipna=False)
    return rises[list(WAES)].min(skipna=False) - rises[MOCA]


def without_positive(frame: pd.DataFrame) -> float:
    """log quotient of the distances of the negative term alone and of Algorithm 1."""
    return math.log(_at(frame, "form", "negative") / _at(frame, "form", "info_nce"))


def realistic(frame: pd.DataFrame) -> float:
    """log quotient of A2's precision and half of the training images' own, the least over datasets; NaN of one."""
    part = frame[(frame["net"] == A2) & (frame["of"] != "")]
    if part["of"].nunique() < 2:
        return math.nan
    return math.log((part["precision"].clip(lower=1e-9) / (0.5 * part["precision_floor"])).min(skipna=False))


# ------------------------------------------------------------------------------------------------ numbers behind a rule


def means(axis: str, column: str = "fd", symbol: str = "") -> Shown:
    """A column's mean over seeds for each value of an axis, which `symbol` names."""

    def shown(frame: pd.DataFrame) -> str:
        found = frame.groupby(axis, sort=False)[column].mean()
        what = "" if column == "fd" else f"{column.replace('_', ' ')}; "
        return what + ", ".join(f"{symbol}{_short(value)}: {score:.3g}" for value, score in found.items())

    return shown


def best_weights(axis: str, symbol: str) -> Shown:
    """The weight of least mean distance for each value of an axis; one at an end of its grid is marked."""

    def shown(frame: pd.DataFrame) -> str:
        parts = []
        for value, part in frame.dropna(subset="fd").groupby(axis):
            mean = part.groupby("weight")["fd"].mean()
            edge = {mean.index.min(): " (lowest tried)", mean.index.max(): " (highest tried)"}.get(mean.idxmin(), "")
            parts.append(f"{symbol}{_short(value)}: {_short(mean.idxmin())}{edge}, fd {mean.min():.3g}")
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
    shown = means("weight", "nearest_cosine", "weight ")(part)
    return f"d {part['latent_dim'].iloc[0]}, {shown}, uniform codes: {uniform:.3g}"


def by_net(dataset: str) -> Shown:
    """Mean distance of each net on what stands for one of the paper's datasets."""

    def shown(frame: pd.DataFrame) -> str:
        part = frame[frame["of"] == dataset]
        return f"{results.data_name(part.iloc[0])}; {means('net')(part)}" if len(part) else ""

    return shown


def by_sampler(dataset: str) -> Shown:
    """Mean distance of each method on what stands for a dataset: of its prior, and of its Gaussian mixture."""

    def shown(frame: pd.DataFrame) -> str:
        part = frame[frame["of"] == dataset]
        if part.empty:
            return ""
        found = part.groupby("net", sort=False)[["fd", "fd_gmm"]].mean().sort_values("fd", kind="stable")
        scores = ", ".join(f"{net}: {row.fd:.3g} / {row.fd_gmm:.3g}" for net, row in found.iterrows())
        return f"{results.data_name(part.iloc[0])}, prior / 10 Gaussians; {scores}"

    return shown


def along_training(frame: pd.DataFrame) -> str:
    """Mean distance of each method at each kept epoch."""
    table = frame.groupby(["method", "epoch"], sort=False)["fd"].mean().unstack()
    epochs = ", ".join(map(str, table.columns))
    return f"epochs {epochs}; " + "; ".join(
        f"{method}: {', '.join(f'{value:.3g}' for value in row)}" for method, row in table.iterrows()
    )


def precisions(frame: pd.DataFrame) -> str:
    """A2's precision beside that of training images, for each of the paper's datasets."""
    part = frame[(frame["net"] == A2) & (frame["of"] != "")]
    found = part.groupby("of", sort=False)[["precision", "precision_floor"]].mean()
    return ", ".join(f"{of}: {row.precision:.2f} of {row.precision_floor:.2f}" for of, row in found.iterrows())


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, (int, float)) else str(value)
