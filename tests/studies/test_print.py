"""Printed figures of studies: nothing cut or overprinted, letters that stay letters, looks that stay."""

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from boxes import faults
from made_up import made_up, tables_of, two_arms

from fedfmd.config.study import CompareConfig, FigureConfig, StudyConfig
from fedfmd.pages.paper import QUIET, legend_above, line_style, paper_style, save_figure, settle
from fedfmd.pages.study.answer import Shown, draw_answer
from fedfmd.pages.study.figures import Paper, draw_budgets, draw_differences, draw_pareto
from fedfmd.pages.study.latex import latex_comparison
from fedfmd.pages.study.looks import Looks
from fedfmd.pages.study.tables import Tables, write_study_tables
from fedfmd.results.design import Design
from fedfmd.results.findings import Findings, find
from fedfmd.studies.runner import RunOutcome

BUDGET = "devices.tiers.weak.budget.macs_fraction"
LONG = "a convolution with a name that goes on for longer than a column of a paper is wide"


def findings(points: dict[str, dict[str, object]], figure: FigureConfig) -> tuple[Findings, Paper, list]:
    design = Design.of(points)
    trials = [
        made_up(arm, seed, [0.1, 0.31 + 0.013 * i + 0.01 * seed, 0.5 + 0.011 * i], 1e9 + 3e8 * i)
        for seed in range(3)
        for i, arm in enumerate(points)
    ]
    found = find(design, StudyConfig(name="s", experiment={}, figure=figure), next(iter(points)), trials)
    return found, Paper(Looks(design, found.answer.roles, figure.labels), figure), trials


def budgets(levels: tuple[float, ...], convs: tuple[str, ...] = ("static", "fmdconv")) -> dict:
    return {f"{c} {v}": {"model.conv": c, BUDGET: v} for c in convs for v in levels}


DESIGNS = {
    "budget": budgets((0.1, 0.25, 0.5, 1.0)),
    "close levels": budgets((0.01, 0.011, 0.012, 0.3, 1.0)),
    "long names": {LONG + str(i): {"arm": LONG + str(i)} for i in range(5)},
    "many": {f"a{i}": {"arm": f"a{i}", "model.kernels": i % 4 + 1} for i in range(37)},
}


@pytest.mark.parametrize("width", ["column", "page"])
@pytest.mark.parametrize("name", DESIGNS)
def test_no_text_is_cut_or_overprinted(name, width):
    found, paper, _ = findings(DESIGNS[name], FigureConfig(width=width))
    with paper_style():
        drawn = [draw_answer(found.answer, paper.looks, width, None, Shown.asked(found.answer, paper.looks))]
        if name != "many" or width == "column":
            drawn += [draw_budgets(found.first, paper), draw_differences(found.first, paper)]
        for figure in drawn:
            settle(figure)
            assert faults(figure) == []


def test_a_logarithmic_axis_marks_the_levels_themselves():
    found, paper, _ = findings(DESIGNS["budget"], FigureConfig())
    with paper_style():
        figure = draw_answer(
            found.answer, paper.looks, "column", None, Shown.asked(found.answer, paper.looks)
        )
        settle(figure)
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["10", "25", "50", "100"]
    assert figure.axes[0].get_xlabel() == "MAC budget of weak (% of the full work)"


@pytest.mark.parametrize(("x", "lines"), [("model.conv", False), (BUDGET, True)])
def test_lines_join_what_has_an_order(x, lines):
    figure = FigureConfig(x=x)
    found, paper, _ = findings(DESIGNS["budget"], figure)
    with paper_style():
        plot = draw_answer(
            found.answer, paper.looks, "page", None, Shown.asked(found.answer, paper.looks)
        ).axes[0]
    drawn = [line.get_linestyle() for line in plot.get_lines() if np.size(line.get_xdata()) > 1]
    assert any(style != "None" for style in drawn) == lines


@pytest.mark.parametrize("design", ["budget", "long names"])
def test_the_axis_of_a_share_ends_where_its_values_do(design):
    """Though the interval of two seeds that lie far apart is wider."""
    points = DESIGNS[design]
    trials = [made_up(arm, seed, [0.1, 0.2 + 0.5 * seed]) for seed in range(2) for arm in points]
    config = StudyConfig(name="s", experiment={})
    answer = find(Design.of(points), config, next(iter(points)), trials).answer
    assert any((point.y.high or 0) > 1 for _, _, point in answer.points)
    looks = Looks(Design.of(points), answer.roles, {})
    with paper_style():
        plot: Any = draw_answer(answer, looks, "column", None, Shown.asked(answer, looks)).axes[0]
    low, high = plot.get_ylim() if design == "budget" else plot.get_xlim()
    assert low >= -0.05
    assert high <= 1.05
    arrows = [line for line in plot.lines if line.get_marker() in "<>^v" and not line.get_clip_on()]
    across = design == "long names"
    assert {line.get_marker() for line in arrows} == set("<>" if across else "v^")
    ends = [(line.get_xdata() if across else line.get_ydata())[0] for line in arrows]
    assert sorted(set(ends)) == [low, high]
    assert len(arrows) == 2 * len(points)  # each interval is cut at both ends


def answered(accuracies: list[list[float]], points: dict | None = None) -> Any:
    """Draw the answer of arms, each with the final accuracies of its seeds, and lay it out."""
    points = points or {f"arm {i}": {"arm": f"arm {i}"} for i in range(len(accuracies))}
    trials = [
        made_up(arm, seed, [0.1, 0.2, final], samples=1000)
        for arm, finals in zip(points, accuracies, strict=True)
        for seed, final in enumerate(finals)
    ]
    found = find(Design.of(points), StudyConfig(name="s", experiment={}), next(iter(points)), trials)
    looks = Looks(Design.of(points), found.answer.roles, {})
    with paper_style():
        figure = draw_answer(found.answer, looks, "page", None, Shown.asked(found.answer, looks))
        settle(figure)
    return figure


def chance_lines(figure: Any) -> list[float]:
    lines = [line for plot in figure.axes for line in plot.lines if line.get_transform() != plot.transData]
    return [
        line.get_ydata()[0] for line in lines if np.size(line.get_ydata()) == 2 and line.get_color() == QUIET
    ]


def test_chance_is_drawn_where_the_axis_nearly_reaches_it():
    near = answered([[0.13, 0.14, 0.15], [0.3, 0.31, 0.32]])
    assert chance_lines(near) == [0.1]
    assert near.axes[0].get_ylim()[0] < 0.1
    assert [text.get_text() for text in near.legends[0].get_texts()] == ["chance 10%"]
    assert faults(near) == []


def test_an_axis_is_not_stretched_to_chance():
    far = answered([[0.80, 0.81, 0.82], [0.83, 0.84, 0.85]])
    assert chance_lines(far) == []
    assert far.legends == []
    low, high = far.axes[0].get_ylim()
    assert low > 0.7
    assert high < 0.95


def test_an_arm_at_chance_is_hollow():
    figure = answered([[0.1, 0.11, 0.1], [0.3, 0.31, 0.32]])
    faces = [box[0].get_markerfacecolor() for box in figure.axes[0].containers]
    assert [face == "white" for face in faces] == [True, False]
    assert "chance 10%, hollow: no better" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_an_axis_says_what_it_shows_wherever_the_figure_is_put():
    figure = answered([[0.5, 0.51, 0.52], [0.55, 0.56, 0.57]])
    label = " ".join(figure.axes[0].get_ylabel().split())
    assert label == "Final top-1 (mean of 3 seeds, 95% interval)"
    lost = answered([[0.5, 0.51, 0.52], [0.55, 0.56]])  # a run of the second arm failed
    assert "(mean of 2 to 3 seeds, 95% interval)" in " ".join(lost.axes[0].get_ylabel().split())
    one = answered([[0.5], [0.55]])
    assert one.axes[0].get_ylabel() == "Final top-1"


def test_ticks_are_round_and_costs_have_their_unit_in_the_name():
    found, paper, trials = findings(DESIGNS["budget"], FigureConfig())
    with paper_style():
        for figure in (draw_pareto(found.first, trials, paper), draw_budgets(found.first, paper)):
            settle(figure)
            assert figure.get_supxlabel().endswith("(GMAC)")
            for axis in (figure.axes[0].xaxis, figure.axes[0].yaxis):
                marked = axis.get_majorticklocs()
                step = float(f"{marked[1] - marked[0]:.6e}".split("e")[0])
                assert round(step, 6) in (1, 2, 5)


def test_a_mark_that_is_alone_at_its_level_stands_on_the_tick():
    arms = {
        "a": {"arm": "a", "policy.kind": "x"},
        "b": {"arm": "b", "policy.kind": "x"},
        "b y": {"arm": "b", "policy.kind": "y"},
    }
    plot = answered([[0.5, 0.51]] * 3, arms).axes[0]
    places = [box[0].get_transform().transform((box[0].get_xdata()[0], 0.5))[0] for box in plot.containers]
    ticks = plot.transData.transform([(0, 0.5), (1, 0.5)])[:, 0]
    assert places[0] == pytest.approx(ticks[0])
    assert sorted(places[1:]) == pytest.approx([ticks[1] - 2.5, ticks[1] + 2.5])


def test_no_cost_is_drawn_below_zero():
    """Where two runs cost very different things, the interval of their mean reaches far below."""
    points = DESIGNS["budget"]
    trials = [made_up(arm, seed, [0.1, 0.2], 1e9 * (1 + 4 * seed)) for seed in range(2) for arm in points]
    found = find(Design.of(points), StudyConfig(name="s", experiment={}), next(iter(points)), trials)
    cost = found.first.cell(next(iter(points)), "cost").estimate
    paper = Paper(Looks(Design.of(points), found.answer.roles, {}), FigureConfig())
    with paper_style():
        plot: Any = draw_pareto(found.first, trials, paper).axes[0]
    arrows = [line for line in plot.lines if line.get_marker() == "<" and not line.get_clip_on()]
    assert (cost.low or 0) < 0 <= plot.get_xlim()[0]
    assert {line.get_xdata()[0] for line in arrows} == {plot.get_xlim()[0]}


def test_letters_stay_letters_and_bytes_the_same(tmp_path):
    found, paper, trials = findings(DESIGNS["budget"], FigureConfig(labels={"fmdconv": "Ours, $x^2$"}))
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        with paper_style():
            save_figure(draw_pareto(found.first, trials, paper), tmp_path / folder / "pareto")
    svg = (tmp_path / "one" / "pareto.svg").read_text()
    assert "Ours, $x^2$</text>" in svg
    pdf = (tmp_path / "one" / "pareto.pdf").read_bytes()
    assert b"/FontFile2" in pdf  # TrueType, and no outlines or Type 3
    assert b"/Type3" not in pdf
    for suffix in ("png", "svg", "pdf"):
        one, two = ((tmp_path / f / f"pareto.{suffix}").read_bytes() for f in ("one", "two"))
        assert one == two


def test_a_level_looks_the_same_in_every_figure():
    _, paper, _ = findings(DESIGNS["budget"], FigureConfig())
    looks = [paper.looks.of(arm) for arm in DESIGNS["budget"]]
    assert [look.colour for look in looks] == [0, 0, 0, 0, 1, 1, 1, 1]
    styles = [tuple(map(str, line_style(i).values())) for i in range(40)]
    assert len(set(styles)) == 40
    assert len({(mark, dash) for _, dash, mark in styles[:8]}) == 8  # told apart without colour


def test_names_and_order_are_those_of_the_file():
    figure = FigureConfig(labels={"fmdconv": "FMD", BUDGET: "MACs left", f"{BUDGET}=0.5": "half"})
    _, paper, _ = findings(DESIGNS["budget"], figure)
    looks = replace(paper.looks, design=paper.looks.design.ordered(["fmdconv"]))
    assert (looks.arm("fmdconv 0.5"), looks.factor(BUDGET)) == ("FMD, half", "MACs left")
    assert looks.level(BUDGET, 0.25) == "25%"
    assert looks.design.factors[0].levels[0] == "fmdconv"


def test_a_legend_that_is_wider_than_the_column_gets_more_lines():
    from matplotlib.figure import Figure

    with paper_style():
        figure = Figure(figsize=(3.5, 2.0))
        plot = figure.subplots()
        legend_above(figure, {f"a rather long name {i}": plot.plot([0, 1], [i, i])[0] for i in range(6)})
        settle(figure)
    assert figure.get_figheight() > 2.2
    assert faults(figure) == []


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_latex_tables_compile_and_fit_a_column(tmp_path: Path):
    found, paper, trials = findings(
        budgets((0.1, 0.25, 1.0), ("static", "odconv", "fmdconv")), FigureConfig(labels={"static": "50% & _"})
    )
    outcomes = [RunOutcome(t.arm, t.seed, t.run.folder.name, "finished") for t in trials]
    chosen = ["cost", "final", "best", "at_budget_1", "at_budget_2", "at_budget_3", "ies"]
    write_study_tables(Tables("my_study", found, paper.looks), trials, outcomes, tmp_path)
    wide = latex_comparison(found.first, paper.looks, "my_study", chosen)
    assert r"\begin{table*}" in wide  # over both columns
    (tmp_path / "chosen.tex").write_text(wide.replace("my_study-macs", "chosen"))
    names = ("answer", "effects", "comparison_macs", "comparison_bytes", "chosen")
    assert r"% needs \usepackage{booktabs}" in (tmp_path / "answer.tex").read_text()
    inputs = "\n".join(f"\\input{{{name}.tex}}" for name in names)
    (tmp_path / "paper.tex").write_text(
        f"\\documentclass[twocolumn]{{article}}\\usepackage{{booktabs}}\\begin{{document}}{inputs}\\end{{document}}"
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert not re.search(r"Overfull \\hbox", done.stdout), done.stdout


def test_a_table_for_a_paper_says_n_and_level():
    tables = tables_of(two_arms(), CompareConfig(), ["cheap", "dear"])
    text = (tables.study, tables.findings.answer)
    from fedfmd.pages.study.latex import latex_answer

    table = latex_answer(text[1], tables.looks, text[0])
    assert "95\\% interval by Student's t, n = 3 seeds" in table
    assert r"\label{tab:made-up-answer}" in table
