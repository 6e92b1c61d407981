"""What ``fedfmd study`` does once its arguments are read."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fedfmd.errors import RunError, UserError
from fedfmd.studies.plan import Study, load_study
from fedfmd.studies.runner import STUDY_FILE, Outcome, check_runs, keep_study, places, run_study
from fedfmd.studies.search import Tuning, check_search, search_arms
from fedfmd.terminal.study import StudyProgress, failures_table, tuning_words


def study_shown(
    console: Console, config: Path | None, out: Path | None, resume: Path | None, jobs: int | None
) -> Path:
    """Run or continue a study, then write its tables, figures and report; returns the report's page.

    Raises ``UserError`` before any work for everything that is wrong with the input, ``RunError`` at the end
    if a run failed; what the other runs give is written all the same.
    """
    study, folder = _find(config, out, resume)
    check_search(study)
    if study.config.search is None:
        check_runs(study, folder)
    at_once, gpus = places(study, jobs)
    keep_study(study, folder)
    console.print(f"study: {folder}, {len(study.arms)} arms, {len(study.runs)} runs", soft_wrap=True)

    def run_all(part: Study, where: Path) -> list[Outcome]:
        if where != folder:
            console.print(f"search: {len(part.runs)} candidates", soft_wrap=True)
        with StudyProgress(console, part, where) as progress:
            return run_study(part, where, jobs=at_once, listener=progress, gpus=gpus)

    try:
        study, tunings = search_arms(study, folder, run_all)
        for text in tuning_words(tunings) if tunings else ():
            console.print(escape(text), highlight=False, soft_wrap=True)
        check_runs(study, folder)
        outcomes = run_all(study, folder)
    except KeyboardInterrupt:
        console.print(f"interrupted; continue with: fedfmd study --resume {folder}", soft_wrap=True)
        raise
    return _conclude(console, study, folder, outcomes, tunings)


def _find(config: Path | None, out: Path | None, resume: Path | None) -> tuple[Study, Path]:
    if resume is not None:
        if config or out:
            raise UserError(f"--resume {resume}: takes its study from that folder; give no other with it")
        if not (resume / STUDY_FILE).is_file():
            raise UserError(f"--resume {resume}: is no study folder (it holds no {STUDY_FILE})")
        return load_study(resume / STUDY_FILE), resume
    if config is None:
        raise UserError("fedfmd study: give a study file, as `fedfmd new NAME` writes, or --resume DIR")
    study = load_study(config)
    return study, out or Path("studies") / study.name


def _conclude(
    console: Console, study: Study, folder: Path, outcomes: list[Outcome], tunings: Sequence[Tuning]
) -> Path:
    from fedfmd.pages.study.output import (
        write_study,  # brings the plotting libraries, which the runs do not need
    )

    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    if failed:
        console.print(failures_table(failed))
    reason = (
        f"{folder}: {len(failed)} of {len(outcomes)} runs failed; try them again with: "
        f"fedfmd study --resume {folder}"
    )
    if len(failed) == len(outcomes):
        raise RunError(reason)
    with console.status("writing the report ..."):
        written = write_study(study, folder, outcomes, tunings)
    console.print(_table(written.lines, f"{study.name}: means over seeds", written.caption))
    console.print(f"report: {written.page}", soft_wrap=True)
    if failed:
        raise RunError(reason)
    if written.damaged:
        first = written.damaged[0]
        raise RunError(
            f"{folder / 'runs' / first.folder}: {first.reason} {len(written.damaged)} of {len(outcomes)} "
            "runs are damaged and left out; put sound copies in their place, or delete them and try again "
            f"with: fedfmd study --resume {folder}"
        )
    return written.page


def _table(lines: Sequence[Sequence[str]], title: str, caption: str) -> Table:
    head, *body = lines
    table = Table(title=title, caption=escape(caption))
    for i, name in enumerate(head):
        table.add_column(escape(name), justify="right" if i else "left", overflow="fold")
    for line in body:
        table.add_row(*map(escape, line))
    return table
