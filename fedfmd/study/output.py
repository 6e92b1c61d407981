"""Everything that a study leaves beside its runs: tables, figures, and one page."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedfmd.errors import UserError
from fedfmd.files import write_atomic
from fedfmd.study.analysis import compare_axes
from fedfmd.study.figures import write_study_figures
from fedfmd.study.page import render_study
from fedfmd.study.plan import Study
from fedfmd.study.runner import Outcome
from fedfmd.study.tables import short_lines, write_study_tables
from fedfmd.study.trials import load_trials
from fedfmd.study.wording import intervals_caption


@dataclass(frozen=True)
class Written:
    """The page, and the table on the study's own cost axis with its caption."""

    page: Path
    lines: list[list[str]]
    caption: str


def write_study(study: Study, folder: Path, outcomes: Sequence[Outcome]) -> Written:
    """Analyse the finished runs and write ``tables``, ``figures`` and ``report.html``."""
    trials = load_trials(study, folder, outcomes)
    found = compare_axes(trials, study.config.compare, study.baseline)
    page = folder / "report.html"
    try:
        write_study_tables(found, trials, outcomes, folder / "tables")
        write_study_figures(found, trials, folder / "figures")
        write_atomic(page, render_study(study, found, trials, outcomes))
    except OSError as error:
        raise UserError(f"{page}: the report cannot be written ({error})") from error
    return Written(page, short_lines(found[0]), intervals_caption(found[0]))
