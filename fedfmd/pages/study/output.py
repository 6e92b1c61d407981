"""Everything that a study leaves beside its runs: tables, figures, and one page."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fedfmd.errors import RunError, UserError, pasted, refused
from fedfmd.files import write_atomic
from fedfmd.pages.study.figures import Paper, write_study_figures
from fedfmd.pages.study.looks import Looks
from fedfmd.pages.study.page import render_study
from fedfmd.pages.study.tables import FRONT, Tables, short_lines, write_study_tables, write_tuning
from fedfmd.pages.study.wording import intervals_caption, tuning_notes
from fedfmd.records import filenames
from fedfmd.records.stopping import ELSEWHERE
from fedfmd.results.findings import find
from fedfmd.results.runs import load_run
from fedfmd.results.trials import Trial, comparable, until
from fedfmd.studies.plan import Study
from fedfmd.studies.runner import RunOutcome
from fedfmd.studies.search import Tuning


@dataclass(frozen=True)
class Written:
    """The page, and the table on the study's own cost axis with its caption and what is to say of arms."""

    page: Path
    lines: list[list[str]]
    caption: str
    notes: tuple[str, ...]
    damaged: tuple[RunOutcome, ...] = ()
    """Runs that had ended, and whose files are no longer whole enough to compare."""


def write_study(
    study: Study, folder: Path, outcomes: Sequence[RunOutcome], tunings: Sequence[Tuning] = ()
) -> Written:
    """Analyse the finished runs and write ``tables``, ``figures`` and ``report.html``.

    Raises ``UserError`` where no run can be compared, ``RunError`` where the disk fails.
    """
    ended = {outcome.folder for outcome in outcomes if outcome.status != "failed"}
    trials, outcomes = _trials(study, folder, outcomes)
    damaged = tuple(o for o in outcomes if o.status == "failed" and o.folder in ended)
    if not trials:
        raise UserError(f"{folder}: no run can be compared: {outcomes[0].reason}")
    findings = find(study.design, study.config, study.baseline, trials)
    figure = study.config.figure
    looks = Looks(study.design, findings.answer.roles, figure.labels)
    tables = Tables(study.name, findings, looks, figure.columns)
    page = folder / filenames.REPORT
    try:
        write_study_tables(tables, trials, outcomes, folder / "tables")
        write_tuning(tunings, folder / "tables")
        write_study_figures(
            findings.comparisons, findings.answer, trials, Paper(looks, figure), folder / "figures"
        )
        write_atomic(
            page,
            render_study(
                study, findings, looks, trials, outcomes, [*study.notes, *tuning_notes(study, looks, tunings)]
            ),
        )
    except OSError as error:
        raise RunError(
            f"{page}: the report cannot be written: {refused(error, ELSEWHERE)}; continue with: "
            f"fedfmd study --resume {pasted(folder)}"
        ) from error
    first = findings.first
    caption = f"{intervals_caption(first)} {FRONT}"
    return Written(page, short_lines(first, looks), caption, first.notes, damaged)


def _trials(
    study: Study, folder: Path, outcomes: Sequence[RunOutcome]
) -> tuple[list[Trial], tuple[RunOutcome, ...]]:
    """Read the runs that are finished, arm by arm in the order of the study, seeds in theirs.

    One whose files are too damaged to compare counts as failed in the outcomes that are returned.
    """
    done = {o.folder: load_run(folder / filenames.RUNS / o.folder) for o in outcomes if o.status != "failed"}
    good = {name: run for name, run in done.items() if comparable(run)}
    damaged = {name: "; ".join(run.notes) for name, run in done.items() if name not in good}
    runs = [run for arm in study.arms for run in study.runs if run.arm == arm.name and run.folder in good]
    return (
        [Trial(run.arm, run.seed, until(good[run.folder], run.config.server.rounds)) for run in runs],
        tuple(
            replace(o, status="failed", reason=damaged[o.folder]) if o.folder in damaged else o
            for o in outcomes
        ),
    )
