"""Rules on numbers written by hand: what each effect is, and which verdict follows."""

import math
import re

import numpy as np
import pandas as pd
import pytest

from mocalib.paper import claims, rules
from mocalib.paper.claims import CLAIMS, judge, verdict

BY_NAME = {claim.name: claim for claim in CLAIMS}


def judged(name: str, runs: pd.DataFrame) -> claims.Finding:
    return judge(BY_NAME[name], runs)


def test_noise_and_thresholds_are_the_papers_cases():
    """'Much worse' is 1.8 times in both tables; the rest of Table 4 spans 1.07; Table 2's stars move two decades."""
    assert pytest.approx(0.78) == 47.46 - 46.68
    assert pytest.approx(0.0166, abs=1e-4) == claims.PAPER_NOISE
    assert claims.MUCH < math.log(84.93 / 49.94) < math.log(86.57 / 47.46)
    assert math.log(49.94 / 46.56) < rules.FLAT
    assert rules.STEP < math.log10(10_000 / 6_000) < math.log10(20_000 / 100)


@pytest.mark.parametrize(
    ("effects", "threshold", "expected"),
    [
        ((0.5, 0.6, 0.7), 0.0, "holds"),  # mean .6, sd .1
        ((0.1, 0.2, 0.9), 0.0, "within noise"),  # mean .4 is below the sd, .44
        ((0.5, 0.6, -0.01), 0.0, "within noise"),  # one seed against
        ((0.01,), 0.0, "within noise (one seed)"),  # below the paper's noise
        ((0.02,), 0.0, "holds (one seed)"),
        ((-0.01,), 0.0, "within noise (one seed)"),
        ((-0.02,), 0.0, "does not hold (one seed)"),
        ((-0.5, -0.6, -0.7), 0.0, "does not hold"),
        ((0.5, 0.6, 0.7), 0.55, "within noise"),  # a seed below the threshold
        ((0.5, 0.6, 0.7), 0.8, "does not hold"),  # mean .6 is .2 below, sd .1
        ((0.0, 0.0, 0.0), 0.25, "does not hold"),  # a best weight that did not move
        ((-math.inf,), 0.0, "does not hold (one seed)"),
        ((-math.inf, -math.inf, 0.3), 0.0, "does not hold"),
    ],
)
def test_a_verdict_needs_every_seed_and_more_than_the_noise(effects, threshold, expected):
    assert verdict(effects, threshold) == expected


def frame(axis: str, values: dict, seeds: int = 3) -> pd.DataFrame:
    """Runs along an axis with the distance `fd` of each; a jitter of one per cent a seed."""
    runs = [(value, fd * (1 + 0.01 * seed), seed) for value, fd in values.items() for seed in range(seeds)]
    return pd.DataFrame(runs, columns=[axis, "fd", "seed"])


def grid(axis: str, cells: dict[tuple[float, float], float]) -> pd.DataFrame:
    """The same along an axis and weights."""
    runs = frame("cell", cells)
    return runs.assign(**{axis: [value for value, _ in runs["cell"]], "weight": [weight for _, weight in runs["cell"]]})


def test_the_papers_own_numbers_pass_the_rules_that_they_can_decide():
    """Tables 3 and 4 as printed, as if they were one seed."""
    momentum = judged("momentum", frame("momentum", {0.0: 86.57, 0.9: 98.97, 0.99: 47.96, 0.999: 47.46}, seeds=1))
    assert momentum.effects == (pytest.approx(math.log(86.57 / 47.46)),)
    assert momentum.verdict == "holds (one seed)"
    printed = {100: 84.93, 5_000: 48.45, 10_000: 46.56, 30_000: 47.31, 60_000: 46.68, 120_000: 49.94}
    queue = frame("queue_size", printed, seeds=1)
    assert judged("queue-tiny", queue).verdict == "holds (one seed)"
    flat = judged("queue-flat", queue)
    assert flat.effects == (pytest.approx(math.log(1.1) - math.log(49.94 / 46.56)),)
    assert flat.verdict == "holds (one seed)"


def test_a_claim_turned_round_does_not_hold():
    assert judged("momentum", frame("momentum", {0.0: 40.0, 0.9: 80.0})).verdict == "does not hold"
    assert judged("queue-tiny", frame("queue_size", {50: 10.0, 500: 10.0})).verdict == "does not hold"
    assert judged("queue-flat", frame("queue_size", {50: 9.0, 500: 10.0, 900: 20.0})).verdict == "does not hold"
    assert judged("weight-score", frame("weight", {0.0: 5.0, 30.0: 8.0})).verdict == "does not hold"


@pytest.mark.parametrize(
    ("name", "axis", "low", "high"),
    [
        ("dimension-weight", "latent_dim", 12, 96),
        ("size-weight", "size", 8, 32),
        ("temperature-weight", "temperature", 0.1, 1.0),
    ],
)
def test_best_weights_are_compared_in_decades(name, axis, low, high):
    """Best 10 at the low end, 100 at the high end: one decade."""
    cells = {(low, 1.0): 9, (low, 10.0): 5, (low, 100.0): 9, (high, 1.0): 9, (high, 10.0): 8, (high, 100.0): 6}
    found = judged(name, grid(axis, cells))
    assert found.effects == (pytest.approx(1.0),) * 3
    assert (found.verdict, found.in_favour) == ("holds", 3)
    turned = {(low if value == high else high, weight): fd for (value, weight), fd in cells.items()}
    assert judged(name, grid(axis, turned)).verdict == "does not hold"
    assert re.fullmatch(rf"\w+ {low:g}: 10, fd 5.05; \w+ {high:g}: 100 \(highest tried\), fd 6.06", found.shown)


def test_only_weights_tried_at_both_ends_are_compared():
    cells = {(8, 1.0): 9, (8, 10.0): 5, (32, 10.0): 5, (32, 100.0): 6, (8, 0.1): 9, (32, 1.0): 7}
    found = judged("size-weight", grid("size", cells))
    assert (found.effects, found.verdict) == ((0.0,) * 3, "does not hold")  # 10 and 10, of 1 and 10 alone
    cells = {(8, 1.0): 9, (8, 10.0): 8, (8, 100.0): 5, (32, 1.0): 9, (32, 10.0): 8, (32, 100.0): 5}
    assert judged("size-weight", grid("size", cells)).effects == (0.0,) * 3  # the optimum of 8 may lie above
    cells = {(8, 1.0): 1, (8, 10.0): 6, (8, 100.0): 5, (32, 10.0): 6, (32, 100.0): 5, (32, 1000.0): 1}
    assert judged("size-weight", grid("size", cells)).effects == (0.0,) * 3  # over all it would move from 1 to 1000
    cells = {(12, 1.0): 99, (12, 10.0): 6, (12, 100.0): 5, (96, 10.0): 6, (96, 100.0): 5, (96, 1000.0): 99}
    assert judged("dimension-stable", grid("latent_dim", cells)).effects == pytest.approx((0.0,) * 3)


def test_data_without_labels_decide_nothing_that_needs_distances():
    cells = dict.fromkeys(((8, 1.0), (8, 10.0), (32, 1.0), (32, 10.0)), math.nan)
    for name in ("size-weight", "temperature-weight", "temperature-score", "dimension-stable"):
        axis = {"size-weight": "size", "dimension-stable": "latent_dim"}.get(name, "temperature")
        assert judged(name, grid(axis, cells)).verdict == "not run"
    assert judged("queue-flat", frame("queue_size", {1: math.nan, 2: math.nan})).verdict == "not run"


def test_scores_are_compared_at_the_best_weight_and_stability_across_weights():
    """Of temperatures the best scores, of dimensions the worst over the best."""
    cells = {(0.1, 1.0): 9, (0.1, 10.0): 4, (1.0, 1.0): 3 * 4, (1.0, 10.0): 2 * 4}
    found = judged("temperature-score", grid("temperature", cells))
    assert found.effects == (pytest.approx(math.log(2)),) * 3
    cells = {(12, 1.0): 10, (12, 10.0): 11, (96, 1.0): 30, (96, 10.0): 10}
    found = judged("dimension-stable", grid("latent_dim", cells))
    assert found.effects == (pytest.approx(math.log(3) - math.log(1.1)),) * 3
    assert found.shown == "d 12: 1.1 times, d 96: 3 times"


def test_holes_are_compared_as_angles_at_the_largest_d():
    rows = grid("latent_dim", {(12, 1.0): 1, (12, 9.0): 1, (96, 1.0): 1, (96, 9.0): 1})
    rows["nearest_cosine_uniform"] = 0.6
    rows["nearest_cosine"] = np.where(rows["latent_dim"] == 12, 0.99, np.where(rows["weight"] == 1.0, 0.0, 0.5))
    found = judged("holes", rows)
    assert found.effects == (pytest.approx(math.log(1.5)),) * 3  # 90 degrees against 60
    assert found.verdict == "holds"


def table1(a1: float, a2: float, rival: float | None = None, parameters=(38, 24), mixed=None) -> pd.DataFrame:
    about = {"of": "CIFAR-10", "dataset": "digits", "size": 16, "precision": 0.5, "precision_floor": 0.8, "seed": 0}
    about |= {"fd_gmm": math.nan}
    nets = [("MoCA-A1", a1, parameters[0]), ("MoCA-A2", a2, parameters[1]), ("one step", 900.0, 24)]
    rows = [about | {"net": net, "fd": fd, "parameters": size, "objective": "moca"} for net, fd, size in nets]
    rows[2]["of"] = ""
    if rival:
        of_mixture = rival if mixed is None else mixed
        rows.append(about | {"net": "WAE-MMD", "fd": rival, "parameters": 24, "fd_gmm": of_mixture})
    return pd.DataFrame(rows)


def test_a2_must_be_better_and_smaller_and_not_alone():
    assert judged("a2-CIFAR-10", table1(77.49, 54.36)).verdict == "holds (one seed)"
    assert judged("a2-CIFAR-10", table1(54.36, 77.49)).verdict == "does not hold (one seed)"
    assert judged("a2-CIFAR-10", table1(77.49, 54.36, parameters=(24, 38))).verdict == "does not hold (one seed)"
    both = table1(77.49, 54.36)
    for alone in (both[both["net"] == "MoCA-A2"], both[both["of"] == ""]):
        assert judged("a2-CIFAR-10", alone).verdict == "not run"


def test_ranks_against_rivals_are_not_decided_by_cited_numbers():
    claim = BY_NAME["state-of-the-art"]
    assert judge(claim, table1(77.49, 54.36)).verdict == "not run"
    assert judge(claim, table1(77.49, 54.36, rival=80.9)).verdict == "holds (one seed)"
    assert judge(claim, table1(77.49, 54.36, rival=50.0)).verdict == "does not hold (one seed)"
    assert judge(claim, table1(77.49, 54.36, rival=80.9, mixed=50.0)).verdict == "does not hold (one seed)"
    assert judge(claim, table1(77.49, 54.36, rival=80.9, mixed=math.nan)).verdict == "not run"
    celeba = table1(48.43, 44.59, rival=34.0)
    celeba["of"] = ["CelebA", "CelebA", "", "CelebA"]
    assert judged("competitive", celeba).verdict == "holds (one seed)"
    assert judged("competitive", celeba.assign(fd=[0, 60.0, 0, 34.0])).verdict == "does not hold (one seed)"


def along(**distances) -> pd.DataFrame:
    names = {"SPHERE": "WAE-MMD (sphere)", "GAN": "WAE-GAN"}
    rows = [
        (names.get(method, method), seed, epoch, value)
        for method, values in distances.items() for seed in range(3) for epoch, value in enumerate(values, 1)
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["method", "seed", "epoch", "fd"])


def test_along_training_speed_is_compared_before_the_last_epoch_and_stability_by_rises_above_the_least_so_far():
    """Both with the better WAE."""
    found = judged("faster", along(MoCA=(10, 5, 9), SPHERE=(20, 30, 1), GAN=(40, 10, 1), VAE=(1, 1, 1)))
    assert found.effects == (pytest.approx(math.log(2)),) * 3
    assert found.verdict == "holds"
    assert found.shown.startswith("epochs 1, 2, 3; MoCA: 10, 5, 9; ")
    found = judged("steadier", along(MoCA=(10, 5, 6), SPHERE=(20, 2, 4), GAN=(20, 2, 8), VAE=(9, 9, 9)))
    assert found.effects == (pytest.approx(math.log(2) - math.log(1.2)),) * 3
    falling = along(MoCA=(3, 2), SPHERE=(3, 1), GAN=(3, 1))
    assert judged("steadier", falling).verdict == "within noise"


def test_precision_is_held_against_the_images_own():
    one = table1(2, 1)
    assert judged("realistic", one).verdict == "not run"  # the claim is on several resolutions
    both = pd.concat([one, one[one["of"] != ""].assign(of="CelebA", precision=0.6)])
    assert judged("realistic", both).effects == (pytest.approx(math.log(0.5 / 0.4)),)


def test_moca_is_held_against_the_mmd_on_the_same_sphere():
    frame = pd.DataFrame({"objective": ["moca", "wae-mmd"], "fd": [54.36, 80.9], "seed": 0})
    found = judged("wae-mmd", frame)
    assert found.effects == (pytest.approx(math.log(80.9 / 54.36)),)
    assert found.verdict == "holds (one seed)"
    assert judged("wae-mmd", frame.assign(fd=frame["fd"][::-1].to_list())).verdict == "does not hold (one seed)"


def test_every_claim_says_where_what_and_how_and_without_runs_is_not_run():
    assert len({claim.name for claim in CLAIMS}) == len(CLAIMS)
    for claim in CLAIMS:
        assert judge(claim, pd.DataFrame()).verdict == "not run"
        assert claim.statement.endswith(".")
        assert claim.rule
        assert claim.paper
        assert any(word in claim.place for word in ("section", "Table", "Figure", "Appendix", "abstract"))
