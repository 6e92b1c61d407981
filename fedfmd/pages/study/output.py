"""Everything that a study leaves beside its runs: tables, figures, and one page."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedfmd.errors import UserError
from fedfmd.files import write_atomic
from fedfmd.pages.study.figures import write_study_figures
from fedfmd.pages.study.page import render_study
from fedfmd.pages.study.tables import short_lines, write_study_tables
from fedfmd.pages.study.wording import intervals_caption
from fedfmd.results.analysis import compare_axes
from fedfmd.results.runs import load_run
from fedfmd.results.trials import Trial
from fedfmd.studies.plan import Study
from fedfmd.studies.runner import Outcome


@dataclass(frozen=True)
class Written:
    """The page, and the table on the study's own cost axis with its caption."""

    page: Path
    lines: list[list[str]]
    caption: str


def write_study(study: Study, folder: Path, outcomes: Sequence[Outcome]) -> Written:
    """Analyse the finished runs and write ``tables``, ``figures`` and ``report.html``."""
    trials = _trials(study, folder, outcomes)
    found = compare_axes(trials, study.config.compare, study.baseline)
    page = folder / "report.html"
    try:
        write_study_tables(found, trials, outcomes, folder / "tables")
        write_study_figures(found, trials, folder / "figures")
        write_atomic(page, render_study(study, found, trials, outcomes))
    except OSError as error:
        raise UserError(f"{page}: the report cannot be written ({error})") from error
    return Written(page, short_lines(found[0]), intervals_caption(found[0]))


def _trials(study: Study, folder: Path, outcomes: Sequence[Outcome]) -> list[Trial]:
    """Read the runs that are finished, arm by arm in the order of the study, seeds in theirs."""
    done = {o.folder for o in outcomes if o.status != "failed"}
    runs = [run for arm in study.arms for run in study.runs if run.arm == arm.name and run.folder in done]
    return [Trial(run.arm, run.seed, load_run(folder / "runs" / run.folder)) for run in runs]
