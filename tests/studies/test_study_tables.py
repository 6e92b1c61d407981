"""The tables of a study: true to the figures, whole in every format."""

import csv
import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from made_up import looks_of, made_up, tables_of, two_arms
from markdown_it import MarkdownIt
from pydantic import ValidationError

from fedfmd.config.study import MEASURES, ArmConfig, CompareConfig, FigureConfig
from fedfmd.pages.study.head import _facts, answer_cards
from fedfmd.pages.study.latex import latex_comparison, latex_text
from fedfmd.pages.study.payload import difference_measures
from fedfmd.pages.study.tables import (
    markdown,
    paired_lines,
    short_lines,
    write_study_tables,
)
from fedfmd.results.analysis import compare_axes, compare_on
from fedfmd.results.costs import AXES
from fedfmd.studies.runner import RunOutcome

MACS = next(axis for axis in AXES if axis.key == "macs")

LOOKS = looks_of(["cheap", "dear"])


@pytest.fixture
def found():
    return compare_on(MACS, two_arms(), CompareConfig(budgets=[2.0], targets=[0.4]), "cheap")


def test_markdown_says_what_was_measured_and_how(found):
    lines = markdown(found, LOOKS).splitlines()
    assert lines[0].startswith(
        "Mean \N{PLUS-MINUS SIGN} standard deviation (median) [95% interval of the mean"
    )
    assert "by Student's t], n = 3 seeds" in lines[0]
    assert "Warning: 3 seeds, fewer than 5" in lines[0]
    assert any("Arm (n = 3, few)" in line for line in lines)
    cheap = next(line for line in lines if line.startswith("| cheap"))
    assert "| 40.00 \N{PLUS-MINUS SIGN} 10.00 (40.00) [15.16, 64.84] |" in cheap
    assert "| \N{EN DASH} (2) (n=2) |" in cheap
    assert "| 2 (=) |" in cheap
    assert cheap.endswith("| 3/3 \\* |")
    dear = next(line for line in reversed(lines) if line.startswith("| dear"))
    assert "| +30.00 (=) |" in dear
    assert "| 2.00 (=) |" in dear
    assert any(line.startswith("Paired with cheap") and "Holm's method" in line for line in lines)


def test_all_lines_of_a_table_have_as_many_cells(found):
    for text in markdown(found, LOOKS).split("\n\n"):
        rows = [line for line in text.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in rows}) <= 1
    for table in [latex_comparison(found, LOOKS, "s", ())]:
        rows = [line for line in table.splitlines() if line.endswith(r" \\")]
        assert len({line.replace(r"\&", "").count("&") for line in rows}) == 1
        width = len(re.findall("[lr]", table.split(r"\begin{tabular}{")[1].split("\n")[0]))
        assert rows[0].count("&") + 1 == width


def test_latex_has_the_columns_that_are_chosen_in_their_order(found):
    def heads(*columns):
        table = latex_comparison(found, LOOKS, "s", columns)
        head = table.split("toprule\n")[1].split(r" \\")[0]
        return re.sub(r"\\shortstack\[r\]|[{}]", "", head).split(" & ")

    assert heads("cost", "final") == ["Arm", r"MACs spent\\(MAC)", r"Final top-1\\(\%)"]
    assert heads("final", "clients_gain") == ["Arm", r"Final top-1\\(\%)"]  # nothing was measured on clients
    measured = {measure.key for measure in found.measures}
    assert {"final", "cost", "ies", "at_budget_1"} <= measured
    assert all(re.match(MEASURES, key) for key in measured)
    with pytest.raises(ValidationError, match="columns"):
        FigureConfig(columns=["final", "at_budget_0"])


def test_latex_escapes_what_means_something_there():
    assert latex_text(r"50% & a_b #1 $x^2 {~} \n") == (
        r"50\% \& a\_b \#1 \$x\textasciicircum{}2 \{\textasciitilde{}\} \textbackslash{}n"
    )


def test_latex_takes_no_name_for_the_option_of_the_line_before():
    """What stands in brackets after the end of a row is the space below it."""
    arms = ["[small] a|b", "[c]"]
    found = compare_on(MACS, [made_up(arm, 0, [0.1, 0.4]) for arm in arms], CompareConfig(), arms[0])
    rows = latex_comparison(found, looks_of(arms), "s", ()).split("midrule\n")[1].splitlines()
    assert [row.split(" & ")[0] for row in rows[:2]] == ["{}[small] a$|$b", "{}[c]"]


def test_markdown_shows_names_as_they_are(tmp_path):
    arms = ["<b>a</b>", "b|c_d", "$e$ *f*"]
    trials = [made_up(arm, seed, [0.1, 0.4 + seed / 10]) for arm in arms for seed in range(3)]
    write_study_tables(tables_of(trials, CompareConfig(), arms), trials, [], tmp_path)
    for file in ("comparison_macs.md", "effects.md"):
        cells = [
            t for t in MarkdownIt().enable("table").parse((tmp_path / file).read_text()) if t.type == "inline"
        ]
        shown = {"".join(child.content for child in t.children or []) for t in cells}
        assert shown >= set(arms) - ({arms[0]} if file == "effects.md" else set()), file


@pytest.mark.parametrize("name", ["two\nlines", "", "\x1b[31mred"])
def test_names_in_tables_are_one_line_that_can_be_printed(name):
    for section, key in ((ArmConfig, {"name": name}), (FigureConfig, {"labels": {"static": name}})):
        with pytest.raises(ValidationError, match=r"one line of printable|at least 1"):
            section(**key)


def test_what_rests_on_fewer_seeds_says_so_in_every_table_and_which_runs_failed(tmp_path):
    trials = [made_up(arm, seed, [0.1, 0.4 + seed / 10]) for arm in ("a", "b") for seed in range(3)][:-1]
    outcomes = [
        RunOutcome(trial.arm, trial.seed, f"{trial.arm}-{trial.seed}", "finished") for trial in trials
    ]
    outcomes += [RunOutcome("b", 2, "b-2", "failed", "NaN"), RunOutcome("c", 0, "c-0", "failed", "NaN")]
    write_study_tables(tables_of(trials, CompareConfig(), ["a", "b", "c"]), trials, outcomes, tmp_path)
    told = "Runs that failed, and are left out: b (1 of 3), c (1 of 1)."
    assert ", n=2" in (tmp_path / "effects.md").read_text()
    for name in ("comparison_macs.tex", "comparison_macs.md", "effects.tex", "answer.tex"):
        text = (tmp_path / name).read_text()
        assert told in text, name
        lines = [line for line in text.splitlines() if line.lstrip("| ").startswith("b ")]
        assert lines, name
        assert all("n=2" in line for line in lines), name
        whole = [line for line in text.splitlines() if line.startswith("a ")]
        assert not any("n=" in line for line in whole)


def test_a_table_for_a_paper_marks_runs_that_ended_before_a_budget_and_chance(tmp_path):
    trials = [made_up("short", s, [0.1, 0.5 + s / 100], 1.0) for s in range(3)]
    trials += [made_up("guess", s, [0.1, 0.11 + s / 1000], 9.0) for s in range(3)]
    tables = tables_of(trials, CompareConfig(budgets=[5.0]), ["short", "guess"])
    write_study_tables(tables, trials, [], tmp_path)
    lines = {line[:5]: line for line in (tmp_path / "comparison_macs.tex").read_text().splitlines()}
    assert lines["short"].count("3 ended before") == 1
    assert "chance" not in lines["short"]
    assert lines["guess"].count(r"{\tiny chance}") == 1
    answer = {line[:5]: line for line in (tmp_path / "answer.tex").read_text().splitlines()}
    assert ["chance" in answer[arm] for arm in ("short", "guess")] == [False, True]
    rows = {row["arm"]: row for row in csv.DictReader((tmp_path / "answer.csv").open())}
    assert [rows[arm]["at_chance"] for arm in ("short", "guess")] == ["False", "True"]


def test_every_cost_has_its_unit_in_a_table_for_a_paper():
    clock = next(axis for axis in AXES if axis.key == "device_clock_seconds")
    trials = [
        replace(
            trial,
            run=replace(
                trial.run,
                rounds=tuple(
                    replace(row, cumulative={"device_clock_seconds": 100.0 * row.round})
                    for row in trial.run.rounds
                ),
            ),
        )
        for trial in two_arms()
    ]
    found = compare_on(clock, trials, CompareConfig(), "cheap")
    head = next(
        line for line in latex_comparison(found, LOOKS, "s", ["cost"]).splitlines() if "Arm &" in line
    )
    assert "(s)" in head


def test_a_table_for_a_paper_says_whose_images_accuracies_are_of(tmp_path):
    trials = two_arms()
    for i, trial in enumerate(trials[:3]):
        rows = tuple(
            replace(row, top1=None, client_top1_global_mean=row.top1, scored_on="clients")
            for row in trial.run.rounds
        )
        trials[i] = replace(trial, run=replace(trial.run, rounds=rows))
    write_study_tables(tables_of(trials, CompareConfig(), ["cheap", "dear"]), trials, [], tmp_path)
    for name in ("comparison_macs.tex", "answer.tex", "effects.tex"):
        assert "the two do not compare" in (tmp_path / name).read_text(), name


def test_the_first_of_the_arms_says_of_how_many_seeds_it_is():
    trials = [made_up("whole", s, [0.1, 0.5 + s / 100]) for s in range(3)]
    trials += [made_up("lost", s, [0.1, 0.7 + s / 100]) for s in range(2)]
    cards = answer_cards(compare_on(MACS, trials, CompareConfig(), "whole"), looks_of(["whole", "lost"]))
    assert "70.50% (n=2)" in cards


def test_what_came_out_otherwise_in_one_run_is_not_told_of_all():
    """As the privacy that arms with other noise promise."""
    trials = [made_up(arm, 0, [0.1, 0.5]) for arm in ("much", "little")]
    for i, trial in enumerate(trials):
        promised = {"epsilon": 1.0 + i, "delta": 1e-5, "privacy_relation": "replace-one"}
        rounds = (*trial.run.rounds[:-1], replace(trial.run.rounds[-1], **promised))
        trials[i] = replace(trial, run=replace(trial.run, rounds=rounds))
    study: Any = SimpleNamespace(
        arms=[SimpleNamespace(keys={"privacy.noise_multiplier": noise}) for noise in (2.0, 1.0)],
        config=SimpleNamespace(seeds=[0]),
    )
    facts = _facts(study, trials)
    assert (facts["Privacy"], facts["Dataset"]) == ("varies", "embedded")
    assert str(_facts(study, trials[:1])["Privacy"]).startswith("epsilon 1 at delta 1e-05")


def test_differences_within_a_budget_have_one_name_on_every_cost():
    """Costs that the file names no budgets of have three, whatever their number on the study's own."""
    for budgets in ([2.0], [0.5, 1.0, 2.0, 3.0]):
        own, *others = compare_axes(two_arms(), CompareConfig(budgets=budgets), "cheap")
        names = difference_measures(own)
        assert next(iter(names)) == "within_1"
        assert all(difference_measures(one)["within_1"].level == one.budgets[-1] for one in (own, *others))


def test_the_baseline_is_not_compared_with_itself(found):
    assert [line[0] for line in paired_lines(found, LOOKS)] == ["Against cheap", "dear"]
    assert len(short_lines(found, LOOKS)[0]) == 6


def test_csv_holds_full_precision(tmp_path):
    trials = [made_up("a", seed, [0.1, 1 / 3 + seed / 7], samples=7) for seed in range(2)]
    tables = tables_of(trials, CompareConfig(), ["a", "b"])
    outcomes = [RunOutcome("a", 0, "a-seed-0", "finished"), RunOutcome("a", 1, "a-seed-1", "kept")]
    lost = RunOutcome("b", 0, "b-seed-0", "failed", "=1+1")
    write_study_tables(tables, trials, [*outcomes, lost], tmp_path)
    rows = list(csv.DictReader((tmp_path / "comparison.csv").open()))
    final = next(row for row in rows if row["measure"] == "final" and row["cost_axis"] == "macs")
    assert [float(final["seed_0"]), float(final["seed_1"])] == [1 / 3, 1 / 3 + 1 / 7]
    assert float(final["mean"]) == pytest.approx(1 / 3 + 1 / 14, abs=1e-15)
    assert (final["method"], final["interval_level"], final["seeds"]) == ("Student's t", "0.95", "2")
    assert final["caption"] == "Final top-1: mean, 95% interval by Student's t, n = 2 seeds"
    assert final["warning"].startswith("Warning: 2 seeds")
    fewer = tables_of(two_arms()[:-1], CompareConfig(), ["cheap", "dear"])
    write_study_tables(fewer, [], [], tmp_path / "fewer")
    fewer_rows = csv.DictReader((tmp_path / "fewer" / "comparison.csv").open())
    told = {row["arm"]: row["caption"][-11:] for row in fewer_rows if row["measure"] == "final"}
    assert told == {"cheap": "n = 3 seeds", "dear": "n = 2 seeds"}
    runs = list(csv.DictReader((tmp_path / "runs.csv").open()))
    assert [row["status"] for row in runs] == ["finished", "finished", "failed"]
    assert runs[2]["reason"] == "'=1+1"
    curves = list(csv.DictReader((tmp_path / "curves.csv").open()))
    assert [float(row["top1"]) for row in curves] == [0.1, 1 / 3, 0.1, 1 / 3 + 1 / 7]


def test_two_seeds_whose_interval_leaves_what_is_possible_are_told_themselves():
    trials = [made_up("a", seed, [0.1, 0.2 + 0.4 * seed], 1.0 + 5 * seed) for seed in range(2)]
    trials += [made_up("b", seed, [0.1, 0.5 + 0.004 * seed]) for seed in range(2)]
    two = compare_on(MACS, trials, CompareConfig(), "a")
    looks = looks_of(["a", "b"])
    text = markdown(two, looks)
    a, b = (next(line for line in text.splitlines() if line.startswith(f"| {arm} ")) for arm in "ab")
    assert "| 40.00 two seeds: 20.00 and 60.00 |" in a
    assert "3.50 two seeds: 1.00 and 6.00 |" in a  # MACs cannot be negative
    assert "[47.66, 52.74]" in b  # possible, and stays
    assert '"two seeds:" gives both values' in text
    latex = latex_comparison(two, looks, "s", ())
    assert r"{\tiny two seeds: 20.00 and 60.00}" in latex
    assert '"two seeds:" gives both values' in latex
    assert "50.20% [47.66, 52.74]; interval overlaps 1 other" in answer_cards(two, looks)
    alone = compare_on(MACS, trials[:2], CompareConfig(), "a")
    assert "40.00% two seeds: 20.00 and 60.00" in answer_cards(alone, looks_of(["a"]))


def test_of_more_seeds_an_interval_ends_where_what_is_possible_ends():
    trials = [made_up("a", seed, [0.1, 0.2 + 0.3 * seed], 1.0 + 5 * seed) for seed in range(3)]
    three = compare_on(MACS, trials, CompareConfig(), "a")
    looks = looks_of(["a"])
    spent = three.cell("a", "cost").estimate
    assert spent.low is not None
    assert spent.low < 0  # as Student's t has it; tables of numbers keep it
    line = next(line for line in markdown(three, looks).splitlines() if line.startswith("| a "))
    assert "two seeds" not in line
    assert re.findall(r"\[([^,]+), ([^]]+)\]", line)[0] == ("0.00", "100.00")
    assert not re.findall(r"\[-", line)
    assert r"{\tiny [0.00, 100.00]}" in latex_comparison(three, looks, "s", ())
