"""Verdicts against simulated cases, a sign-flip test and printed quantiles; effects against closed forms."""

import json
import math
from functools import lru_cache
from itertools import pairwise, product

import numpy as np
import pandas as pd
import pytest
from conftest import tiny

from mocalib import MoCA, RunConfig
from mocalib.paper import verdict
from mocalib.paper.verdict import Claim, complete, decide, interval, judge, seeds_to_decide

DECIDED = {"holds", "does not hold"}


@lru_cache
def quantile(level: float, df: int) -> float:
    """What |t| stays below with this probability: t is sqrt(df) tan(angle), the angle's density cos(angle)^(df - 1)."""
    angles = np.linspace(0, np.pi / 2, 100_001)
    heights = np.cos(angles) ** (df - 1)
    area = np.concatenate([[0], np.cumsum(heights[1:] + heights[:-1])])
    return math.sqrt(df) * math.tan(np.interp(level, area / area[-1], angles))


def samples(*shape: int, effect: float = 0.0, seed: int = 0) -> np.ndarray:
    """Normal effects of standard deviation one: cases, seeds, comparisons."""
    return np.random.default_rng(seed).normal(effect, 1.0, shape)


def verdicts(cases: np.ndarray, rule=decide, **settings) -> list[str]:
    return [rule(pd.DataFrame(case), **settings) for case in cases]


def share(found: list[str], *which: str) -> float:
    return sum(word in which for word in found) / len(found)


def in_numpy(cases: np.ndarray, level: float = 0.9) -> np.ndarray:
    """The verdict on each row of one comparison: 1 holds, -1 does not hold, 0 undecided."""
    seeds = cases.shape[1]
    t = cases.mean(1) / cases.std(1, ddof=1) * math.sqrt(seeds)
    return np.sign(t) * (np.abs(t) > quantile(level, seeds - 1))


def exactly(mean: float, deviation: float, seeds: int) -> pd.Series:
    """A sample of this mean and standard deviation."""
    raw = pd.Series(np.linspace(-1, 1, seeds))
    return mean + raw / raw.std() * deviation


# ------------------------------------------------------------------------------------------------------ t interval


@pytest.mark.parametrize(
    ("level", "seeds", "printed"),
    [
        (0.90, 2, 6.314), (0.90, 3, 2.920), (0.90, 5, 2.132), (0.90, 10, 1.833), (0.90, 20, 1.729), (0.90, 30, 1.699),
        (0.94, 5, 2.601), (0.94, 10, 2.150), (0.95, 5, 2.776), (0.98, 10, 2.821), (0.99, 4, 5.841),
    ],
)  # fmt: skip
def test_intervals_have_the_quantiles_of_printed_tables(level, seeds, printed):
    assert quantile(level, seeds - 1) == pytest.approx(printed, abs=5.1e-4)
    low, high = interval(exactly(7.0, 2.0, seeds), level)
    half = quantile(level, seeds - 1) * 2.0 / math.sqrt(seeds)
    assert (low, high) == pytest.approx((7.0 - half, 7.0 + half), rel=1e-6)


def test_a_single_seed_bounds_nothing():
    assert interval(pd.Series([3.0])) == (-math.inf, math.inf)
    assert decide(pd.DataFrame([3.0])) == "undecided"


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_claims_that_are_neither_true_nor_false_are_decided_in_a_tenth_of_cases_half_each_way(seeds):
    cases = samples(20_000, seeds)
    expected = in_numpy(cases)
    assert [np.mean(expected == sign) for sign in (1, -1)] == pytest.approx([0.05, 0.05], abs=0.005)
    words = {1: "holds", -1: "does not hold", 0: "undecided"}
    assert verdicts(cases[:500]) == [words[sign] for sign in expected[:500]]
    moved = verdicts(0.3 + 0.01 * cases[:500], threshold=0.3)
    assert moved == [words[sign] for sign in expected[:500]]


def test_the_function_itself_decides_a_tenth_of_20_000_cases():
    found = verdicts(samples(20_000, 5, seed=1))
    assert share(found, *DECIDED) == pytest.approx(0.1, abs=0.01)
    assert share(found, "holds") == pytest.approx(share(found, "does not hold"), abs=0.01)


def test_more_seeds_find_a_true_effect_more_often_and_by_the_standard_deviation_less_often():
    """An effect of one standard deviation. The other rule: all seeds above 0, and their mean above their spread."""
    cases = [samples(500, seeds, effect=1.0) for seeds in (3, 5, 10, 20)]
    power = [share(verdicts(each), "holds") for each in cases]
    assert all(more > fewer + 0.05 for fewer, more in pairwise(power))
    assert power[0] < 0.5
    assert power[-1] > 0.97
    other = [np.mean((each > 0).all(1) & (each.mean(1) > each.std(1, ddof=1))) for each in cases]
    assert other == sorted(other, reverse=True)
    assert other[0] > 0.4
    assert other[-1] < 0.05


@pytest.mark.parametrize("effect", [0.0, 0.5, 1.0])
def test_ten_seeds_are_decided_as_by_flipping_the_signs(effect):
    """All 1,024 flips: how many means are as far from 0 as the one found."""
    cases = samples(500, 10, effect=effect, seed=2)
    flips = np.array([*product([1, -1], repeat=10)])
    extreme = np.abs(cases @ flips.T) >= np.abs(cases.sum(1, keepdims=True)) - 1e-9
    decided = [word in DECIDED for word in verdicts(cases)]
    assert np.mean(decided == (extreme.mean(1) <= 0.1)) > 0.97


@pytest.mark.parametrize(("first", "chance"), [(3, 0.179), (5, 0.165)])
def test_a_second_look_needs_intervals_of_94_percent(first, chance):
    cases = samples(100_000, 10)

    def either(level):
        return ((in_numpy(cases[:, :first], level) != 0) | (in_numpy(cases, level) != 0)).mean()

    assert either(0.90) == pytest.approx(chance, abs=0.005)
    assert either(0.94) < 0.115
    assert either(0.95) < either(0.94)


# ------------------------------------------------------------------------------------------------ several comparisons


@pytest.mark.parametrize("shared", [0.0, 2.0])
def test_nine_comparisons_do_not_refute_a_claim_more_often_than_one(shared):
    """The seeds' own noise, and noise that all comparisons share, as runs of one method are in each."""
    cases = samples(1500, 5, 9) + shared * samples(1500, 5, 1, seed=1)
    found = verdicts(cases)
    assert share(found, "does not hold") < 0.06
    assert share(found, "holds") < 0.03


def test_a_claim_on_several_comparisons_holds_only_if_each_does():
    effects = pd.DataFrame({"WAE": exactly(1.0, 0.1, 5), "VAE": exactly(2.0, 0.1, 5)})
    assert decide(effects) == "holds"
    assert decide(effects.assign(GAN=exactly(0.1, 1.0, 5))) == "undecided"
    assert decide(effects.assign(GAN=exactly(-2.0, 0.1, 5))) == "does not hold"
    assert decide(effects, threshold=1.5) == "does not hold"


def test_what_refutes_alone_may_not_refute_among_several_but_all_may_hold():
    """Of nine each has an interval of 1 - 0.1 / 9, which is a quantile of 4.47 for five seeds instead of 2.13."""
    alone = pd.DataFrame({"a": exactly(-3.0, math.sqrt(5), 5)})
    others = {f"other {i}": exactly(9.0, 0.1, 5) for i in range(8)}
    assert decide(alone) == "does not hold"
    assert decide(alone.assign(**others)) == "undecided"
    strict = quantile(1 - 0.1 / 9, 4)
    for mean, expected in ((-strict * 0.999, "undecided"), (-strict * 1.001, "does not hold")):
        assert decide(pd.DataFrame({"a": exactly(mean, math.sqrt(5), 5), **others})) == expected
    assert decide(pd.DataFrame({i: exactly(3.0, math.sqrt(5), 5) for i in range(9)})) == "holds"


@pytest.mark.parametrize("side", [1, -1])
@pytest.mark.parametrize(
    ("means", "deviation", "expected"),
    [
        ((0.01, -0.02, 0.03), 0.02, "holds"),
        ((0.01, -0.02, 0.50), 0.02, "does not hold"),
        ((0.01, -0.02, 0.03), 0.50, "undecided"),
        ((0.01, -0.02, 0.19), 0.02, "undecided"),  # within, but not its interval
        ((0.01, -0.02, 0.21), 0.02, "undecided"),  # outside, but not its interval
    ],
)
def test_a_flat_claim_needs_every_interval_within_both_sides(side, means, deviation, expected):
    effects = pd.DataFrame({str(mean): exactly(side * mean, deviation, 5) for mean in means})
    assert decide(effects, 0.2, flat=True) == expected


def test_more_comparisons_do_not_refute_a_flat_claim_more_often():
    found = verdicts(0.2 + 0.05 * samples(1000, 5, 6), threshold=0.2, flat=True)
    assert share(found, "does not hold") < 0.07


@pytest.mark.parametrize("side", [1, -1])
def test_an_effect_at_the_edge_of_flat_is_decided_in_a_tenth_of_cases_half_each_way(side):
    found = verdicts(side * (0.2 + 0.01 * samples(3000, 5)), threshold=0.2, flat=True)
    assert [share(found, word) for word in ("holds", "does not hold")] == pytest.approx([0.05, 0.05], abs=0.01)


# -------------------------------------------------------------------------------------------------- how many seeds


@pytest.mark.parametrize("level", [0.90, 0.94])
@pytest.mark.parametrize("mean", [0.25, 0.4, 0.7, 1.3, 2.2, -0.5, -7.0])
def test_as_many_seeds_as_are_said_to_decide_do_and_one_fewer_do_not(mean, level):
    def sample(n):
        return exactly(0.3 + mean, 1.0, n).to_frame()

    needed = seeds_to_decide(sample(3), 0.3, level)
    brute = [n for n in range(4, 51) if quantile(level, n - 1) / math.sqrt(n) < abs(mean)]
    assert needed == (brute[0] if brute else None)
    if needed:
        assert decide(sample(needed), 0.3, level) in DECIDED
        assert needed == 4 or decide(sample(needed - 1), 0.3, level) == "undecided"


def test_an_effect_that_fifty_seeds_would_not_decide_has_no_number_of_seeds():
    """The quantile of 49 degrees is 1.677, over the root of 50: 0.237."""
    assert seeds_to_decide(exactly(0.238, 1.0, 3).to_frame()) == 50
    assert seeds_to_decide(exactly(0.236, 1.0, 3).to_frame()) is None
    assert seeds_to_decide(pd.DataFrame([0.0, 0.0, 0.0])) is None


def test_the_number_of_seeds_is_that_of_the_rule_with_all_its_comparisons():
    """More than there are, alike on both sides of a flat claim, and at the strict level below the threshold."""
    both = pd.DataFrame({"A": exactly(0.1, 0.001, 3), "B": exactly(0.5, 2.0, 3)})
    needed = seeds_to_decide(both)
    assert needed == min(n for n in range(4, 51) if quantile(0.9, n - 1) * 2 / math.sqrt(n) < 0.5)
    inside = exactly(0.15, 0.1, 3).to_frame()
    assert seeds_to_decide(inside, 0.2, flat=True) == seeds_to_decide(-inside, 0.2, flat=True) > 3
    one = pd.DataFrame({"a": exactly(-3.0, math.sqrt(5), 5)} | {f"o{i}": exactly(9.0, 0.1, 5) for i in range(8)})
    assert decide(one) == "undecided"
    strict = [n for n in range(6, 51) if quantile(1 - 0.1 / 9, n - 1) * math.sqrt(5 / n) < 3]
    assert seeds_to_decide(one) == strict[0] > 5


# ---------------------------------------------------------------------------------------------------------- effects


def runs(columns: str, *rows: tuple) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=columns.split())


def test_a_log_ratio_pairs_the_runs_of_each_seed_and_leaves_out_seeds_that_lack_one():
    rows = [(2, "WAE", 30.0), (0, "MoCA", 5.0), (2, "MoCA", 10.0), (0, "WAE", 10.0), (1, "WAE", 7.0), (3, "MoCA", 7.0)]
    frame = runs("seed method fd", *rows)
    found = verdict.log_ratio(frame, "fd", {"method": "WAE"}, {"method": "MoCA"})
    assert found.to_dict() == pytest.approx({0: math.log(2), 2: math.log(3)})
    assert verdict.log_ratio(frame, "fd", {"method": "VAE"}, {"method": "MoCA"}).empty


def test_several_columns_choose_a_run_and_too_few_are_an_error_that_names_them():
    rows = [(0, "a", 0.0, 8.0), (0, "a", 0.9, 2.0), (0, "b", 0.9, 1.0)]
    frame = runs("seed net momentum fd", *rows)
    found = verdict.log_ratio(frame, "fd", {"net": "a", "momentum": 0}, {"net": "a", "momentum": 0.9})
    assert found.to_dict() == pytest.approx({0: math.log(4)})
    with pytest.raises(ValueError, match=r"\{'net': 'a'\} selects several runs of one seed"):
        verdict.log_ratio(frame, "fd", {"net": "a"}, {"net": "b"})


@pytest.mark.parametrize("power", [-0.5, 0.0, 1.0])
def test_the_slope_of_a_power_law_is_its_exponent_in_log_units_a_decade(power):
    rows = [(seed, w, 7.0 * seed * w ** (power * seed)) for seed in (1, 2) for w in (1.0, 10.0, 3_000.0)]
    without = [(1, 0.0, 1e9), (2, 0.0, 1e-9)]
    few = [(3, 0.0, 5.0), (3, 1.0, 6.0)]  # one lambda above 0
    found = verdict.slope(runs("seed weight fd", *rows, *without, *few))
    assert found.to_dict() == pytest.approx({seed: power * seed * math.log(10) for seed in (1, 2)}, abs=1e-12)


def test_the_slope_is_that_of_least_squares():
    """Logs 0, 3, 0, 5 at 0, 1, 2, 3 decades: the sum of (x - 1.5)(y - 2) over that of (x - 1.5)^2 is 6 / 5."""
    rows = [(0, 10.0**decade, math.exp(log)) for decade, log in enumerate((0, 3, 0, 5))]
    assert verdict.slope(runs("seed weight recall", *rows), "recall").to_dict() == {0: pytest.approx(6 / 5)}


def test_the_spread_is_worst_over_best_of_each_seed():
    frame = runs("seed fd", (0, 4.0), (0, 2.0), (0, 6.0), (1, 5.0), (1, 5.0))
    assert verdict.spread(frame).to_dict() == pytest.approx({0: math.log(3), 1: 0.0})


def test_a_rank_correlation_is_spearmans():
    """1 - 6 sum d^2 / (n^3 - n) of ranks 1 3 2 4, then with ties: Pearson's of ranks 1 2 3 and 1.5 1.5 3."""
    rows = [(0, 50, 1.0), (0, 500, 30.0), (0, 900, 2.0), (0, 5_000, 31.0)]
    tied = [(1, 50, 7.0), (1, 500, 7.0), (1, 900, 8.0)]
    falling = [(2, 50, 9.0), (2, 500, 8.0), (2, 900, 1.0)]
    found = verdict.rank_correlation(runs("seed queue fd", *rows, *tied, *falling), "queue", "fd")
    assert found.to_dict() == pytest.approx({0: 1 - 6 * 2 / 60, 1: 1.5 / math.sqrt(2 * 1.5), 2: -1.0})


def sizes(*cells: tuple[int, float, int]) -> list[RunConfig]:
    """Runs of a size, a lambda and a seed."""
    return [RunConfig("photos", size=size, seed=seed, objective=MoCA(weight=weight)) for size, weight, seed in cells]


def finished(configs: list[RunConfig]) -> pd.DataFrame:
    rows = ((config.name, config.seed, config.size, config.objective.weight) for config in configs)
    return runs("run seed size weight", *rows)


def test_ends_are_compared_at_the_lambdas_that_both_have():
    cells = [(16, 1.0), (16, 10.0), (32, 1.0), (32, 99.0), (64, 10.0), (64, 99.0), (64, 1.0)]
    grid = sizes(*((*cell, 0) for cell in cells))
    low, high = verdict.ends(finished(grid), grid, "size")
    assert [*zip(low["size"], low["weight"])] == [(16, 1.0), (16, 10.0)]
    assert [*zip(high["size"], high["weight"])] == [(64, 10.0), (64, 1.0)]


def test_an_axis_with_one_value_has_no_two_ends():
    grid = sizes(*((16, 1.0, seed) for seed in range(3)))
    assert [len(end) for end in verdict.ends(finished(grid), grid, "size")] == [0, 0]


def test_the_ends_are_the_grids_and_a_seed_that_lacks_a_run_there_is_left_out():
    """Of seed 0 the largest size is not finished, of seed 1 one lambda at the smallest; of seed 2 one in between."""
    grid = sizes(*((size, weight, seed) for seed in range(3) for size in (16, 32, 64) for weight in (1.0, 9.0)))
    missing = {*sizes((64, 1.0, 0), (64, 9.0, 0), (16, 9.0, 1), (32, 9.0, 2))}
    ready = finished([config for config in grid if config not in missing])
    low, high = verdict.ends(ready[::-1], grid, "size")
    assert {*low["seed"], *high["seed"]} == {2}
    assert sorted(zip(low["weight"], high["weight"])) == [(1.0, 1.0), (9.0, 9.0)]


def test_ends_of_a_setting_of_the_method_and_of_no_runs():
    grid = [RunConfig(objective=MoCA(temperature=tau, weight=1.0)) for tau in (0.1, 0.3, 1.0)]
    table = finished(grid).assign(temperature=[0.1, 0.3, 1.0])
    low, high = verdict.ends(table, grid, "temperature")
    assert (low["temperature"].tolist(), high["temperature"].tolist()) == ([0.1], [1.0])
    assert [len(end) for end in verdict.ends(table[:0], grid, "temperature")] == [0, 0]


def test_a_constant_score_has_no_rank_correlation():
    rows = [(0, 1, 5.0), (0, 2, 5.0), (0, 3, 5.0)]
    assert verdict.rank_correlation(runs("seed a fd", *rows), "a", "fd").empty


def test_data_without_labels_have_no_effects():
    frame = runs("seed weight fd", (0, 1.0, math.nan), (0, 10.0, math.nan), (1, 1.0, math.nan), (1, 10.0, 3.0))
    assert verdict.log_ratio(frame, "fd", {"weight": 1.0}, {"weight": 10.0}).empty
    for found in (verdict.slope(frame), verdict.spread(frame), verdict.rank_correlation(frame, "weight", "fd")):
        assert found.empty
        assert judge(CLAIM, found, seeds=1)["verdict"] == "not run"


# ------------------------------------------------------------------------------------------------------------ findings

CLAIM = Claim("best", "MoCA is better.", "Table 1", "log ratio of fd")
FLAT = Claim("stable", "The score is stable.", "Table 4", "log ratio of fd", threshold=0.2, flat=True)
WORSE = Claim("much", "It is much worse.", "Table 3", "log ratio of fd", threshold=verdict.MUCH)


def judged(effects: pd.Series | pd.DataFrame, claim: Claim = CLAIM, seeds: int = 3, **settings) -> dict:
    """A finding, after a round trip through JSON that knows neither NaN nor infinity."""
    found = judge(claim, effects, seeds, **settings)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["verdict"] in verdict.VERDICTS
    return found


@pytest.mark.parametrize(
    ("effects", "asked", "scale", "expected"),
    [
        ([], 0, 3, "not run"),
        ([], 0, 1, "not run"),
        ([1.0, 1.1], 0, 3, "not run"),
        ([1.0, 1.1, 1.2], 5, 3, "not run"),  # the rule needs more than the scale runs
        ([1.0], 0, 1, "too few seeds"),
        ([1.0, 1.1], 0, 2, "too few seeds"),
        ([1.0, 1.1, 1.2], 0, 1, "holds"),  # more than asked
        ([1.0, 1.1, 1.2], 3, 5, "holds"),  # the rule needs fewer than the scale runs
    ],
)
def test_fewer_seeds_than_asked_are_not_run_and_fewer_than_three_decide_nothing(effects, asked, scale, expected):
    claim = Claim("k", "It is.", "Table 1", "log ratio", seeds=asked)
    found = judged(pd.Series(effects, dtype=float), claim, scale)
    assert (found["verdict"], found["seeds_asked"]) == (expected, asked or scale)
    assert found["seeds"] == [*range(len(effects))]


def test_of_a_single_seed_there_is_a_mean_without_bounds():
    found = judged(pd.Series([0.5]), seeds=1)
    assert found["comparisons"] == {"": {"effects": [0.5], "mean": 0.5, "low": None, "high": None}}


@pytest.mark.parametrize(
    ("effects", "word"), [(exactly(0, 0.05, 3), "not decidable here"), (exactly(2, 0.05, 3), "holds")]
)
def test_scores_without_room_can_show_harm_but_not_its_absence(effects, word):
    little, enough = pd.Series([0.1, 0.2, 0.3]), pd.Series([0.2, 0.2, 0.9])
    assert judged(effects, WORSE, room=little)["verdict"] == word
    assert judged(effects, WORSE, room=enough)["verdict"] in DECIDED
    assert judged(effects, WORSE, room=pd.Series(dtype=float))["verdict"] == "not run"
    assert judged(effects, WORSE, room=pd.Series([math.nan] * 3))["verdict"] == "not run"
    assert judged(effects[:2], WORSE, room=little)["verdict"] == "not run"


def test_what_is_no_number_is_no_seed():
    """Neither a missing effect nor an infinite one; names of comparisons may be numbers."""
    assert interval(pd.Series([1.0, math.nan, 2.0])) == interval(pd.Series([1.0, 2.0]))
    assert judged(pd.Series([-math.inf, 0.2, 0.3]))["seeds"] == [1, 2]
    assert judged(pd.DataFrame(index=[0, 1, 2]))["verdict"] == "not run"
    assert judged(pd.DataFrame({0.1: exactly(0.1, 1.0, 3), 1.0: exactly(0.2, 1.0, 3)}))["against"] == "0.1"


def test_a_seed_that_lacks_a_comparison_is_left_out():
    effects = pd.DataFrame({"WAE": [1.0, 1.1, math.nan, 1.2], "VAE": [2.0, 2.1, 2.2, 2.3]}, index=[0, 4, 5, 7])
    found = judged(effects)
    assert found["seeds"] == [0, 4, 7]
    assert found["comparisons"]["VAE"]["effects"] == [2.0, 2.1, 2.3]
    assert found["verdict"] == "holds"
    assert judged(effects, seeds=4)["verdict"] == "not run"


def test_a_finding_is_against_the_least_favourable_comparison():
    effects = pd.DataFrame({"WAE": exactly(0.3, 0.1, 3), "VAE": exactly(-0.15, 0.1, 3), "GAN": exactly(0.1, 0.1, 3)})
    assert judged(effects)["against"] == "VAE"
    assert judged(effects, FLAT)["against"] == "WAE"
    assert judged(-effects, FLAT)["against"] == "WAE"


def test_a_flat_claim_is_judged_on_both_sides():
    assert judged(exactly(-0.1, 0.01, 3), FLAT)["verdict"] == "holds"
    assert judged(exactly(0.5, 0.01, 3), FLAT)["verdict"] == "does not hold"


def test_only_an_undecided_finding_says_how_many_seeds_would_decide():
    found = judged(exactly(0.5, 1.0, 3))
    assert found["verdict"] == "undecided"
    assert found["seeds_to_decide"] == min(n for n in range(2, 50) if quantile(0.9, n - 1) / math.sqrt(n) < 0.5)
    assert judged(exactly(5.0, 1.0, 3))["seeds_to_decide"] is None
    assert judged(exactly(0.5, 1.0, 3), seeds=9)["seeds_to_decide"] is None


def test_the_level_is_the_claims():
    """t of 2.3 is between the quantiles of 90 and 94 % for five seeds, 2.132 and 2.601."""
    effects = exactly(2.3, math.sqrt(5), 5)
    second = Claim("k", "It is.", "Table 1", "log ratio", level=0.94)
    assert (judged(effects)["verdict"], judged(effects, second)["verdict"]) == ("holds", "undecided")
    assert judged(effects, second)["seeds_to_decide"] == seeds_to_decide(effects.to_frame(), level=0.94) == 6
    assert judged(effects, second)["comparisons"][""]["low"] == pytest.approx(2.3 - quantile(0.94, 4), abs=1e-5)


def test_numbers_have_six_significant_digits():
    found = judged(pd.Series([1 / 3, 2000 / 3, 1e-7 / 3]), WORSE)
    assert found["threshold"] == 0.223144
    assert found["comparisons"][""]["effects"] == [0.333333, 666.667, 3.33333e-08]
    shown = [found["comparisons"][""][name] for name in ("mean", "low", "high")]
    assert shown == [float(f"{value:.6g}") for value in shown]


def test_much_worse_is_less_than_half_of_the_papers_own_two_cases():
    """Table 4's tiny queue and Table 3's momentum 0, on a log scale."""
    assert math.exp(verdict.MUCH) == pytest.approx(1.25)
    assert 2 * verdict.MUCH < math.log(84.93 / 49.94) < math.log(86.57 / 47.46) < 3 * verdict.MUCH


def test_a_seed_that_lacks_a_run_of_the_grid_is_not_judged():
    configs = [tiny(seed=seed, objective=MoCA(weight=weight)) for seed in (3, 4) for weight in (0.0, 1.0, 2.0)]
    frame = pd.DataFrame({"run": [config.name for config in configs], "seed": [config.seed for config in configs]})
    added = pd.DataFrame({"run": [tiny(seed=3, objective=MoCA(weight=9.0)).name], "seed": [3]})
    assert complete(frame, configs).equals(frame)
    assert set(complete(pd.concat([frame[1:], added]), configs)["seed"]) == {4}
    assert len(complete(pd.concat([frame, added]), configs)) == 6
    assert complete(frame[:0], configs).empty
