"""Factors of a study: what stands on x, what they do, and small multiples instead of a tangle."""

import math
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from made_up import made_up

from fedfmd.config.study import FigureConfig, StudyConfig
from fedfmd.errors import UserError
from fedfmd.pages.study.looks import Looks
from fedfmd.pages.study.wording import effects_words
from fedfmd.results.design import Design
from fedfmd.results.effects import effects
from fedfmd.results.findings import find
from fedfmd.results.metrics import TOP1, metrics
from fedfmd.results.question import MOST_CURVES, curve_groups, roles
from fedfmd.results.statistics import detectable
from fedfmd.results.trials import Trial
from fedfmd.studies.plan import load_study
from fedfmd.studies.starter import make_starter
from fedfmd.units import SHARE, PrefixedUnit

STUDY = """name = "s"
seeds = [0, 1, 2]
skip = [{ "model.conv" = "static", "policy.kind" = "width" }]
[axes]
"model.conv" = ["static", "fmdconv"]
"policy.kind" = ["drop", "width"]
"devices.tiers.weak.budget.macs_fraction" = [0.25, 0.5]
[experiment]
partition = { clients = 8 }
server = { rounds = 2, cohort = 4 }
devices = { kind = "tiers", tiers = [{ name = "strong" }, { name = "weak" }] }
"""
BUDGET = "devices.tiers.weak.budget.macs_fraction"


def study(tmp_path: Path, text: str = STUDY):
    (tmp_path / "study.toml").write_text(text)
    return load_study(tmp_path / "study.toml")


def crossed(**levels):
    """A full factorial of the given factors, its arms named by their levels."""
    points: dict[str, dict[str, Any]] = {"": {}}
    for key, values in levels.items():
        points = {f"{arm}{value};": place | {key: value} for arm, place in points.items() for value in values}
    return Design.of(points)


def test_what_clients_measured_may_be_on_the_figure_s_axis() -> None:
    assert {"client_top1_affordable_worst10", "client_gain_mean"} <= metrics().keys()
    assert metrics()["client_top1_affordable_worst10"].unit == metrics()["top1"].unit


def test_an_axis_names_a_tier_and_a_combination_is_skipped(tmp_path):
    found = study(tmp_path)
    assert [arm.name for arm in found.arms][:2] == [
        "conv=static kind=drop macs_fraction=25%",
        "conv=static kind=drop macs_fraction=50%",
    ]
    assert len(found.arms) == 6
    limits = {run.arm: run.config.devices.tiers[1].budget.macs_fraction for run in found.runs}
    assert set(limits.values()) == {0.25, 0.5}
    assert all(run.config.devices.tiers[0].budget.macs_fraction is None for run in found.runs)
    assert found.design.points[found.arms[0].name] == {
        "model.conv": "static", "policy.kind": "drop", BUDGET: 0.25
    }  # fmt: skip


def test_colour_tells_a_factor_and_not_which_control_a_policy_is(tmp_path):
    """Each control has a policy of its own, so that no panel would hold two of these colours."""
    rule = STUDY.splitlines()[2]
    found = study(tmp_path, STUDY.replace(rule, 'controls = ["smallest", "exclude-weak"]'))
    told = roles(found.design, found.config.figure)
    assert (told.x.key, told.colour.key) == (BUDGET, "model.conv")
    assert [factor.key for factor in told.panels] == ["arm", "policy.kind"]
    one_to_one = Design.of({f"{k}{v}": {"a": k, "b": k, "c": v} for k in (1, 2) for v in (1, 2, 3)})
    assert roles(one_to_one, FigureConfig(x="c")).colour.key == "a"


def test_a_study_copied_into_its_folder_keeps_figure_and_skip(tmp_path):
    first = study(tmp_path, STUDY.replace("[axes]", '[figure]\nx = "model.conv"\n[axes]'))
    (tmp_path / "copy.toml").write_text(first.dump())
    again = load_study(tmp_path / "copy.toml")
    assert (again.runs, again.config.figure.x) == (first.runs, "model.conv")


def test_the_budget_is_x_unless_the_file_says_otherwise(tmp_path):
    design = study(tmp_path).design
    told = roles(design, FigureConfig())
    assert (told.x.key, told.colour.key, [f.key for f in told.panels]) == (
        BUDGET,
        "model.conv",
        ["policy.kind"],
    )
    told = roles(design, FigureConfig(x="policy.kind", panel=BUDGET))
    assert (told.x.key, told.colour.key, [f.key for f in told.panels]) == (
        "policy.kind",
        "model.conv",
        [BUDGET],
    )
    told = roles(design, FigureConfig(line="policy.kind"))
    assert (told.line.key, told.panels) == ("policy.kind", ())
    only = roles(crossed(k=[1, 2, 4]), FigureConfig())
    assert (only.x.key, only.colour.key, only.joined) == ("k", "k", False)


def test_levels_stand_in_the_order_of_the_file():
    design = crossed(conv=["static", "odconv", "fmdconv"]).ordered(["fmdconv"])
    assert design.factors[0].levels == ("fmdconv", "static", "odconv")


@pytest.mark.parametrize(
    ("figure", "expected"),
    [
        ('labels = { fmdonv = "Ours" }', "of this study; did you mean fmdconv?"),
        ('order = ["nope"]', "figure.order = 'nope': is no level of a factor (levels: static, drop, 0.25"),
        ('columns = ["accuracy"]', "is no measure; allowed: final, final_iqm"),
        ('x = "model.width"', "figure.x = 'model.width': is no factor (factors: model.conv, policy.kind"),
        ('x = "model.conv"\ncolour = "model.conv"', "'model.conv' is told twice"),
        ('y = "top_1"', "figure.y = 'top_1': is no figure of a run; did you mean top1?"),
    ],
)
def test_a_figure_of_what_is_not_there_is_refused(tmp_path, figure, expected):
    with pytest.raises(UserError) as caught:
        study(tmp_path, STUDY.replace("[axes]", f"[figure]\n{figure}\n[axes]"))
    assert expected in str(caught.value)


def additive(design, seed, interaction=0.0):
    """Runs whose final top-1 is 0.3 + 0.1 for ``b`` + 0.05 for ``y``, and more where both meet."""
    for arm, place in design.points.items():
        both = place["f"] == "b" and place["g"] == "y"
        top1 = 0.3 + 0.1 * (place["f"] == "b") + 0.05 * (place["g"] == "y") + interaction * both
        yield made_up(arm, seed, [0.1, top1 + 0.01 * seed])


def noisy(design, seed):
    """Runs whose final top-1 no two seeds change alike."""
    for place, arm in enumerate(design.points):
        yield made_up(arm, seed, [0.1, 0.3 + 0.05 * place + 0.01 * ((seed + 1) * (place + 1) % 5)])


def test_main_effects_and_interactions_are_those_that_were_put_in():
    design = crossed(f=["a", "b"], g=["x", "y"])
    trials = [t for seed in range(3) for t in additive(design, seed, interaction=0.02)]
    found = effects(design, TOP1, trials, "a;x;", 0.95, "t").effects
    shown = [([level for _, level in e.levels], round(e.estimate.mean, 9), e.matched) for e in found]
    assert shown == [(["b"], 0.11, 2), (["y"], 0.06, 2), (["b", "y"], 0.02, 1)]


def test_what_would_be_found_counts_all_main_effects_and_signed_ranks_of_few_seeds_find_nothing():
    design = crossed(f=["a", "b"], g=["x", "y"])
    trials = [t for seed in range(3) for t in noisy(design, seed)]
    looks, scale = Looks(design, roles(design, FigureConfig()), {}), PrefixedUnit(100.0, SHARE)
    by_t = effects(design, TOP1, trials, "a;x;", 0.95, "t")
    spread = math.sqrt(fmean(e.estimate.sd**2 for e in by_t.effects if not e.interaction))
    assert by_t.tests == 2
    assert by_t.level == pytest.approx(0.025)
    assert by_t.detectable == pytest.approx(detectable(spread, 3, 0.025))
    said = effects_words(by_t, looks, scale)
    assert "(p at most 0.025, the first step of Holm's method over 2" in said
    by_rank = effects(design, TOP1, trials, "a;x;", 0.95, "wilcoxon")
    assert (by_rank.detectable, by_rank.out_of_reach) == (None, True)
    lost = [t for t in trials if (t.arm, t.seed) != ("b;y;", 2)]  # and with it the third pair of all effects
    fewer = effects(design, TOP1, lost, "a;x;", 0.95, "t")
    spread = math.sqrt(fmean(e.estimate.sd**2 for e in fewer.effects if not e.interaction))
    assert fewer.detectable == pytest.approx(detectable(spread, 2, 0.025))
    assert "So few seeds can find nothing: p is never below 0.25" in effects_words(by_rank, looks, scale)


def test_an_effect_is_averaged_over_matched_combinations_alone():
    design = crossed(f=["a", "b"], g=["x", "y"])
    points = {arm: place for arm, place in design.points.items() if arm != "b;y;"}
    part = Design.of(points)
    trials = [t for seed in range(2) for t in additive(part, seed)]
    found = effects(part, TOP1, trials, "a;x;", 0.95, "t").effects
    assert [(len(e.levels), round(e.estimate.mean, 9), e.matched) for e in found] == [
        (1, 0.1, 1),
        (1, 0.05, 1),
    ]


def test_a_seed_that_lacks_a_run_is_in_no_effect_of_it():
    design = crossed(f=["a", "b"], g=["x", "y"])
    trials = [t for seed in range(3) for t in additive(design, seed) if (t.arm, t.seed) != ("b;y;", 1)]
    found = effects(design, TOP1, trials, "a;x;", 0.95, "t").effects
    assert [effect.estimate.count for effect in found] == [2, 2, 2]


def test_every_arm_is_a_point_of_the_answer_once():
    design = crossed(conv=["s", "f"], budget=[0.1, 0.5, 1.0], policy=["p", "q"])
    trials = [made_up(arm, seed, [0.1, 0.5]) for arm in design.points for seed in range(2)]
    config = StudyConfig(name="s", experiment={})
    answer = find(design, config, next(iter(design.points)), trials).answer
    assert sorted(point.arm for _, _, point in answer.points) == sorted(design.points)
    assert len(answer.panels) == 2
    assert [len(panel.series) for panel in answer.panels] == [2, 2]


def test_the_starter_draws_accuracy_against_a_budget(tmp_path):
    make_starter(tmp_path / "paper")
    found = load_study(tmp_path / "paper" / "study.toml")
    told = roles(found.design, found.config.figure)
    assert (told.x.key, told.colour.key, told.panels) == ("budget.macs_fraction", "model.conv", ())


@pytest.mark.parametrize("count", [5, 37])
def test_arms_share_panels_that_are_no_tangle(count):
    design = Design.of({f"a{i}": {"arm": f"a{i}"} for i in range(count)})
    groups = curve_groups(design, roles(design, FigureConfig()), list(design.points))
    assert [arm for group in groups for arm in group] == list(design.points)
    assert max(map(len, groups)) <= MOST_CURVES


def test_figures_of_y_are_read_from_rows():
    trial = made_up("a", 0, [0.1, 0.4, 0.3])
    assert metrics()["top1"].of(trial) == 0.3
    assert metrics()["best_top1"].of(trial) == 0.4
    assert metrics()["macs"].of(trial) == 2.0
    assert metrics()["bytes"].of(trial) == 20.0
    losses = (2.3, 1.1, None)  # beyond all bounds in the end
    rows = [replace(row, test_loss=loss) for row, loss in zip(trial.run.rounds, losses, strict=True)]
    diverged = Trial("a", 0, replace(trial.run, rounds=tuple(rows)))
    assert metrics()["test_loss"].of(diverged) is None
    assert {"test_loss", "uplink_bytes", "energy_joules", "wasted_share", "budget_met"} <= set(metrics())
