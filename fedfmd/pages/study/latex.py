"""A study's tables for a paper: they need the package booktabs, and fit one column."""

from collections.abc import Sequence

from fedfmd.pages.study.looks import Looks
from fedfmd.pages.study.wording import (
    CHANCE,
    EQUAL_MARK,
    TWO_SEEDS_CAPTION,
    column_scale,
    effect_name,
    effects_scale,
    effects_words,
    few,
    few_words,
    fewer,
    figures_of,
    interval_text,
    name,
    two_seeds,
)
from fedfmd.results.analysis import AT_BUDGET, Comparison
from fedfmd.results.effects import Effects
from fedfmd.results.metrics import Metric
from fedfmd.results.question import Answer
from fedfmd.results.statistics import EQUAL_VALUES, STUDENT, Estimate
from fedfmd.units import ABSENT, PrefixedUnit, counted, level, metric_scale

COLUMN_CELLS = 5
"""Columns of figures that fit one column of text; a table of more goes over both."""
WRAPPED = r"p{0.31\columnwidth}"
"""Alignment of long names, which go on in the next line."""
MARKS = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{",
    "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "\N{INFINITY}": r"$\infty$", "\N{EN DASH}": "--", "\N{PLUS-MINUS SIGN}": r"$\pm$",
    "\N{MICRO SIGN}": r"$\mu$", "<": r"$<$", ">": r"$>$", "\N{GREEK SMALL LETTER ALPHA}": r"$\alpha$",
    "\N{MULTIPLICATION SIGN}": r"$\times$", "|": r"$|$",
}  # fmt: skip


def latex_text(text: str) -> str:
    """Escape a text for LaTeX."""
    return "".join(MARKS.get(character, character) for character in text)


def latex_comparison(
    found: Comparison, looks: Looks, study: str, columns: Sequence[str], said: str = ""
) -> str:
    """Return the arms on some measures, by default final accuracy, that at the largest budget, and cost.

    ``said``, here and in the tables below, is what no figure shows: which runs failed, whose images count.
    """
    wanted = list(columns) or [f"{AT_BUDGET}{len(found.budgets)}", "final", "cost"]
    known = {measure.key: measure for measure in found.measures}
    shown = [(known[key], column_scale(found, known[key])) for key in wanted if key in known]
    head = [_head(name(measure, found.axis), scale.unit) for measure, scale in shown]
    body = [[latex_text(looks.arm(arm)), *figures_of(found, arm, shown, _cell)] for arm in found.arms]
    about = f"{study}: {_about(len(found.seeds), found.confidence)} Cost: {found.axis.meaning}. {said}"
    return _table(["Arm", *head], body, about, f"{study}-{found.axis.key}", 1, WRAPPED)


def latex_answer(answer: Answer, looks: Looks, study: str, said: str = "") -> str:
    """Return the figure's content: a line for each level of x and panel, a column for each line drawn."""
    told, scale = answer.roles, metric_scale([p.y.mean for _, _, p in answer.points], answer.metric.unit)
    series = list(dict.fromkeys((s.colour, s.line) for panel in answer.panels for s in panel.series))
    cells = {
        (tuple(panel.levels.items()), point.level, s.colour, s.line): _cell(
            point.y, scale, answer.seeds, [CHANCE] if point.guess else [], signed=answer.metric.signed
        )
        for panel, s, point in answer.points
    }
    heads = [looks.places(told.drawn_at(*pair)) or looks.metric(answer.metric) for pair in series]
    names = [*(looks.factor(factor.key) for factor in told.panels), looks.factor(told.x.key)]
    body = []
    for panel in answer.panels:
        place = tuple(panel.levels.items())
        for value in told.x.levels:
            row = [cells.get((place, value, *pair), latex_text(ABSENT)) for pair in series]
            if any(key[:2] == (place, value) for key in cells):
                labels = [looks.level(k, v) for k, v in place] + [looks.level(told.x.key, value)]
                body.append([latex_text(text) for text in labels] + row)
    about = (
        f"{study}: {_named(looks, answer.metric, scale)}. {_about(answer.seeds, answer.confidence)} {said}"
    )
    return _table(list(map(latex_text, names + heads)), body, about, f"{study}-answer", len(names))


def latex_effects(
    found: Effects, looks: Looks, study: str, count: int, confidence: float, said: str = ""
) -> str:
    """Return main effects and interactions."""
    scale = effects_scale(found)
    body = [
        [
            latex_text(effect_name(looks, effect.levels)),
            _cell(effect.estimate, scale, count, signed=True),
            _p(effect.estimate),
        ]
        for effect in found.effects
    ]
    about = f"{study}: effects on {_named(looks, found.metric, scale)}, {effects_words(found, looks, scale)} "
    about += f"{_about(count, confidence)} {said}"
    return _table(["Effect", "Difference", "$p$"], body, about, f"{study}-effects", 1, WRAPPED)


def _named(looks: Looks, metric: Metric, scale: PrefixedUnit) -> str:
    return f"{looks.metric(metric)}{f' ({scale.unit})' if scale.unit else ''}"


def _about(count: int, confidence: float) -> str:
    if count < 2:
        return "One seed: no interval."
    text = f"Mean, and {level(confidence)} interval by {STUDENT}, n = {counted(count, 'seed')}."
    parts = [text, few_words(count) if few(count) else "", TWO_SEEDS_CAPTION if count == 2 else ""]
    return " ".join(filter(None, parts))


def _head(text: str, unit: str) -> str:
    return latex_text(f"{text} ({unit})" if unit else text)


def _cell(
    found: Estimate, scale: PrefixedUnit, seeds: int, notes: Sequence[str] = (), *, signed: bool = False
) -> str:
    """Return a mean above its interval and ``notes``, in small type; one of less than all ``seeds`` says of
    how many."""
    mean = latex_text(scale.number(found.mean, signed=signed) if found.count else ABSENT)
    if less := fewer(found, seeds):
        mean = f"{mean} ({less})"
    small = two_seeds(found, scale, signed=signed) or interval_text(found, scale, signed=signed)
    if found.reason == EQUAL_VALUES:
        mean = f"{mean} ({EQUAL_MARK})"
    below = "".join(f"\\\\[-1pt]{{\\tiny {latex_text(text)}}}" for text in (small, *notes) if text)
    return f"\\shortstack[r]{{{mean}{below}}}" if below else mean


def _p(found: Estimate) -> str:
    if found.p is None:
        return latex_text(ABSENT)
    return r"$<$.001" if found.p < 0.001 else f"{found.p:.3f}".lstrip("0") or "0"


def _table(
    head: Sequence[str], body: Sequence[Sequence[str]], about: str, label: str, names: int, name: str = "l"
) -> str:
    """Return a table; its first ``names`` columns are names, aligned as ``name``, the rest figures."""
    kind = "table*" if len(head) - names > COLUMN_CELLS else "table"
    columns = name * names + "r" * (len(head) - names)
    stacked = [text if len(text) <= 12 else _stacked(text) for text in head]
    rows = "\n".join(f"{_after_break(' & '.join(line))} \\\\" for line in body)
    return f"""% needs \\usepackage{{booktabs}}
\\begin{{{kind}}}[t]
\\centering\\footnotesize
\\setlength{{\\tabcolsep}}{{3pt}}
\\caption{{{latex_text(about.strip())}}}
\\label{{tab:{label}}}
\\begin{{tabular}}{{@{{}}{columns}@{{}}}}
\\toprule
{" & ".join(stacked)} \\\\
\\midrule
{rows}
\\bottomrule
\\end{{tabular}}
\\end{{{kind}}}
"""


def _stacked(text: str) -> str:
    """Break the head of a column into lines of about twelve letters."""
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + len(word) > 12:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return text if len(lines) == 1 else "\\shortstack[r]{" + r"\\".join(map(_after_break, lines)) + "}"


def _after_break(text: str) -> str:
    """Return what follows a line's end, which takes a bracket for the space to leave below it."""
    return f"{{}}{text}" if text.startswith("[") else text
