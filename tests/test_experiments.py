"""Each table and figure has exactly the paper's grid at paper scale, written out here from the paper, not from code."""

from dataclasses import replace
from itertools import product

import pytest

from mocalib import DCVAE, MoCA, RunConfig
from mocalib.config.methods import AE, WAEMMD
from mocalib.paper import baselines, experiments, ingredients
from mocalib.paper.experiments import configs
from mocalib.paper.grids import LAPTOP, PAPER, SCALES

# Table 1 and Appendix A: Adam at 1e-3 halved every 60 epochs, batch 64, tau .05, m0 .99, d 128
CIFAR_A2 = RunConfig(
    dataset="cifar10", size=0, model="a2", width=64, blocks=2, latent_dim=128, batch_size=64, epochs=100,
    learning_rate=1e-3, decay_every=60, decay_until=0, stop_at=0.0, seed=0, precision="float32",
    objective=MoCA(temperature=0.05, momentum=0.99, queue_size=30_000, weight=100.0, form="info_nce"),
)  # fmt: skip
CELEBA_A2 = replace(CIFAR_A2, dataset="celeba", epochs=200, objective=MoCA(0.05, 0.99, 60_000, 100.0))
# Section 5: "unless specified otherwise"
SECTION_5 = replace(CELEBA_A2, objective=MoCA(temperature=1.0, momentum=0.999, queue_size=60_000, weight=3_000.0))
# Appendix A: 2e-3, halved every 40 epochs until epoch 400, for 1000 epochs; Figure 6 is of epoch 850
HQ = replace(
    CIFAR_A2, dataset="celebahq", model="hq", epochs=1000, learning_rate=2e-3, decay_every=40, decay_until=400,
    keep_epochs=(850,), objective=MoCA(1.0, 0.99, 30_000, 20_000.0),
)  # fmt: skip


def moca(config, **changes):
    return replace(config, objective=replace(config.objective, **changes))


TABLE_1 = {CIFAR_A2, CELEBA_A2} | {moca(replace(a2, model="a1"), weight=1000.0) for a2 in (CIFAR_A2, CELEBA_A2)}
APPENDIX_C = [100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000]
SIZES = [(s, w) for s, w in product((32, 64, 256), APPENDIX_C) if s < 256 or w >= 5000]
LOG = [100, 300, 1000, 3000, 9000, 18_000, 36_000, 72_000, 144_000]
DIMENSIONS = [(d, w) for d, w in product((64, 128, 256, 512), LOG) if w < 144_000 or d >= 256]
COMPARED = {"VAE", "WAE-MMD (sphere)", "WAE-GAN"}
HQ_C = replace(HQ, epochs=400, decay_until=0, keep_epochs=())
PAPER_GRID = {
    "table1": TABLE_1,
    "table1_nets": TABLE_1,
    "table1_plain": {moca(a2, weight=0.0) for a2 in (CIFAR_A2, CELEBA_A2)},
    "ingredients": {moca(CIFAR_A2, form=form) for form in ("info_nce", "decoupled", "negative")},
    "appendix_a": {moca(replace(CELEBA_A2, model="a1", latent_dim=d), weight=1000.0) for d in (64, 128)},
    "table2": {moca(replace(HQ_C, size=size), weight=float(weight)) for size, weight in SIZES},
    "table3": {moca(SECTION_5, momentum=m) for m in (0.0, 0.9, 0.99, 0.999)},
    "table4": {moca(SECTION_5, queue_size=k) for k in (100, 5000, 10_000, 30_000, 60_000, 120_000)},
    "figure3": {moca(replace(SECTION_5, latent_dim=d, stop_at=50.0), weight=float(w)) for d, w in DIMENSIONS},
    "figure4": {
        moca(replace(SECTION_5, epochs=50), temperature=tau, weight=float(weight))
        for tau, weight in product((0.05, 0.1, 0.2, 0.5, 1.0), (100, 500, 1000, 3000, 6000, 10_000))
    },
    "figure5": {moca(SECTION_5, weight=w) for w in (0.0, 500.0, 1000.0, 3000.0)},
    "figure1": {HQ},
    "figure2": {CIFAR_A2, CELEBA_A2},
    "quickstart": set(),
    "figure3_fixed": set(),
    "ingredients_ema": set(),
}
# No grid of the paper's, but its datasets, nets and lengths; test_baselines has the methods' settings
BASELINES = {
    name: {
        replace(config, objective=method, keep_epochs=kept)
        if name != "2-Stage VAE"
        else replace(config, objective=replace(method, second_rate=rate), epochs=3 * config.epochs)
        for name, method in found.items()
        for kept in [(1, 2, 5, 10, 20, 50) if config is CIFAR_A2 and name in COMPARED else ()]
    }
    for name, config, found, rate in (  # the second stage's undoes one halving, three halvings
        ("baselines_cifar10", CIFAR_A2, baselines.CIFAR10, 2.0),
        ("baselines_celeba", CELEBA_A2, baselines.FACES, 8.0),
    )
}
PAPER_GRID |= BASELINES
PAPER_GRID["convergence"] = {config for config in BASELINES["baselines_cifar10"] if config.keep_epochs}
PAPER_GRID["convergence"] |= {replace(CIFAR_A2, keep_epochs=(1, 2, 5, 10, 20, 50))}
[SPHERE] = {config for config in PAPER_GRID["convergence"] if getattr(config.objective, "prior", "") == "sphere"}
PAPER_GRID["table1_wae"] = {CIFAR_A2, SPHERE}
PAPER_GRID["figure15"] = PAPER_GRID["table2"]
PAPER_GRID |= {key: {HQ} for key in ("figure6", "figure7", "figure8")}
PAPER_GRID |= {key: {CIFAR_A2} for key in ("figure9", "figure11", "figure13")}
PAPER_GRID |= {key: {CELEBA_A2} for key in ("figure10", "figure12", "figure14")}
# DC-VAE's paper and code: Adam at 2e-4, never halved, 800 epochs, d 128, a step of the decoder after 5 of the critic
DC_VAE = replace(
    CIFAR_A2, model="autogan", epochs=800, learning_rate=2e-4, decay_every=0,
    objective=DCVAE(
        instance="contrast", adversarial=True, critic="hinge", every=5, kl_weight=6.4e-5, temperature=0.07,
        queue_size=8192, momentum=0.999, averaging=0.999, layers=(1,), local=0,
    ),
)  # fmt: skip
DC_PLAIN = moca(DC_VAE, instance="pixel", adversarial=False, kl_weight=0.072)
MNIST = {"dataset": "torchvision:MNIST", "size": 32, "crop": 32, "epochs": 100}
PROBED = [DC_PLAIN.objective, DC_VAE.objective, AE(), MoCA(0.05, 0.99, 30_000, 100.0), WAEMMD(500.0, "normal", 2.0)]
PAPER_GRID["dcvae_table1"] = {
    DC_PLAIN, moca(DC_VAE, instance="feature"), moca(DC_VAE, adversarial=False), DC_VAE
}  # fmt: skip
PAPER_GRID["dcvae_table5"] = {
    replace(DC_VAE, latent_dim=d, objective=method, **MNIST) for d, method in product((16, 32, 64), PROBED)
}
PAPER_GRID["dcvae_figure11"] = {moca(DC_VAE, queue_size=size) for size in (512, 2048, 8192)}


AXES = ("table2", "table3", "table4", "figure3", "figure4", "figure5", "figure15")


@pytest.mark.parametrize("name", experiments.NAMES)
def test_the_grid_is_the_papers(name):
    """Values may be added to it; claims need all of the paper's."""
    found = configs(name, "paper")
    assert len(found) == len(set(found))
    assert PAPER_GRID[name] <= set(found)
    if name not in AXES:
        assert set(found) == PAPER_GRID[name]


def test_every_table_and_figure_of_the_paper_is_an_experiment_and_no_other():
    wanted = {f"table{n}" for n in range(1, 5)} | {f"figure{n}" for n in range(1, 16)}
    ours = {
        "baselines_cifar10",
        "baselines_celeba",
        "convergence",
        "table1_wae",
        "table1_nets",
        "table1_plain",
        "ingredients",
        "ingredients_ema",
        "figure3_fixed",
        "appendix_a",
        "quickstart",
        "dcvae_table1",
        "dcvae_table5",
        "dcvae_figure11",
    }
    assert wanted | ours == set(experiments.NAMES) == set(PAPER_GRID)
    with pytest.raises(ValueError, match=r"experiment = 'table5' is not one of 'quickstart', 'table1', "):
        configs("table5", "paper")


def test_a_scale_lists_every_run_once_and_its_seeds_beside_each_other():
    alone = {name: configs(name, "paper") for name in experiments.NAMES}
    everything = experiments.everything("paper", 1)
    assert len(everything) == len(set(everything))
    assert set(everything) == {config for found in alone.values() for config in found}
    # 4 of Table 1, 2 with lambda 0, 10 baselines on each dataset, MoCA along training, 2 more forms, 1 more of Appendix
    # A, 22 sizes, 4 + 5 + 3 around section 5, 34, 30, CelebA-HQ; of DC-VAE 4, 3 dimensions of 5 methods, 2 more queues
    papers = set().union(*PAPER_GRID.values())
    assert len(papers) == 4 + 2 + 20 + 1 + 2 + 1 + 22 + (4 + 5 + 3) + 34 + 30 + 1 + (4 + 3 * 5 + 2)
    assert papers <= set(everything)
    found = configs("table3", "laptop", seeds=2)
    assert [config.seed for config in found] == [10, 11] * len(LAPTOP.momenta)
    assert [config.objective.momentum for config in found[::2]] == list(LAPTOP.momenta)


def test_an_experiment_has_its_scales_seeds_or_its_own_and_a_picture_one():
    def seeds(found):
        return {name: sorted({config.seed for config in configs}) for name, configs in found.items() if configs}

    own, three = seeds(experiments.listed("laptop")), seeds(experiments.listed("laptop", 3))
    assert own["table1"] == own["ingredients"] == [*range(10, 15)]
    assert own["table1_nets"] == own["ingredients_ema"] == [*range(10, 20)]  # rules that need ten
    assert (own["figure9"], own["figure1"]) == ([10], [0])
    assert three["table1"] == three["table1_nets"] == [10, 11, 12]
    assert three["figure9"] == [10]
    assert set(map(tuple, seeds(experiments.listed("paper")).values())) == {(0, 1, 2), (0,)}


def test_laptop_needs_no_download_and_judges_no_seed_that_was_looked_at():
    assert {config.dataset for config in experiments.everything("laptop")} == {"digits", "photos"}
    assert min(LAPTOP.seeds) >= 10


@pytest.mark.parametrize("scale", SCALES)
def test_every_scale_has_ends_and_enough_points_on_every_axis(scale):
    """Rules compare only weights that both ends share; with two or more, a best weight can move either way."""
    points, real = (2 if scale == "smoke" else 3), scale == "overnight"
    settings = SCALES[scale]
    fixed = [settings.fixed_dimensions] if settings.fixed_dimensions else []
    crossed = (settings.sizes, settings.dimensions, settings.temperatures, *fixed)
    for axis in (settings.momenta, settings.queue_sizes, settings.weights, *map(list, crossed)):
        assert len(axis) >= points
        assert list(axis) == sorted(axis)
    for axis in crossed:
        low, *_, high = axis.values()
        assert len(set(low) & set(high)) >= points
    assert settings.weights[0] == 0.0
    assert settings.n_generated == (5_000 if real else 10_000) or scale == "smoke"
    assert len(settings.seeds) >= 1
    assert {config.precision for config in experiments.everything(scale, 1)} == {"bfloat16" if real else "float32"}


def test_ratios_of_the_papers_own_settings():
    """Section 5 on CelebA: 60,000 / 182,637; 937.5 steps; 1000 steps; 3000 / 12,288; sqrt(128)."""
    found = experiments.ratios(PAPER.ablation, 182_637, (3, 64, 64))
    assert found["K / N"] == pytest.approx(0.3285, abs=1e-4)
    assert found["K / B, in steps"] == 937.5
    assert found["key encoder's horizon 1 / (1 - m0), in steps"] == pytest.approx(1000)
    assert found["that horizon / (K / B)"] == pytest.approx(1000 / 937.5)
    assert found["steps"] == 200 * 2853
    assert found["that horizon / steps"] == pytest.approx(1000 / 570_600)
    assert found["weight / (C H W)"] == pytest.approx(0.24414, abs=1e-5)
    assert found["temperature * sqrt(d)"] == pytest.approx(11.3137, abs=1e-4)


def test_ratios_of_dcvae_count_its_cycles_and_its_embeddings():
    """Its code: 800 epochs of 781 steps, a queue of 8,192 keys of 16 numbers that moves at every fifth step."""
    vae, vae_gan, _, dcvae = configs("dcvae_table1", "paper")
    found = experiments.ratios(dcvae, 50_000, (3, 32, 32))
    assert found["steps"] == 624_800
    assert found["K / d"] == 8_192 / 16
    assert found["that horizon / steps"] == pytest.approx(1_000 / 124_960)
    assert found["temperature * sqrt(d)"] == pytest.approx(0.28)
    for without in (vae, vae_gan):  # a queue
        assert set(experiments.ratios(without, 50_000, (3, 32, 32))) == {"d", "training images N", "steps"}


def test_every_variant_leaves_out_one_part_and_has_a_name():
    """All differ from Algorithm 1 in one way, and none from itself in lambda alone."""
    found = {name: {config.objective for config in runs} for name, runs in LAPTOP.ingredients.items()}
    assert len(set().union(*found.values())) == sum(map(len, found.values())) == 3 * 9
    for name, settings in found.items():
        assert {ingredients.name_of(moca) for moca in settings} == {name}
        assert len({replace(moca, weight=1.0) for moca in settings}) == 1
    [without] = {replace(moca, weight=1.0) for moca in found["no momentum"]}
    assert without == replace(LAPTOP.moca("CIFAR-10").objective, schedule="constant", momentum=0.0, weight=1.0)
