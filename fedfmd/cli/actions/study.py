"""What ``fedfmd study`` does once its arguments are read."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.table import Table

from fedfmd.errors import RunError, UserError, pasted
from fedfmd.records import filenames
from fedfmd.studies.course import Ended, Witness, bring_to_end
from fedfmd.studies.plan import Study, load_study
from fedfmd.studies.runner import Listener
from fedfmd.studies.search import Tuning
from fedfmd.terminal.consoles import PlainConsole
from fedfmd.terminal.study import StudyProgress, failures_table, tuning_words
from fedfmd.terminal.whole import print_words
from fedfmd.units import counted


class _Shown(Witness):
    """Shows a study on a terminal."""

    def __init__(self, console: PlainConsole, folder: Path):
        self.console, self.folder = console, folder

    def on_begin(self, study: Study, folder: Path) -> None:
        self._say(f"study: {folder}, {counted(len(study.arms), 'arm')}, {counted(len(study.runs), 'run')}")
        for note in study.notes:
            self._say(f"note: {note}")

    @contextmanager
    def listening(self, part: Study, folder: Path) -> Iterator[Listener]:
        if folder != self.folder:
            self._say(f"search: {len(part.runs)} candidates")
        with StudyProgress(self.console, part, folder) as progress:
            yield progress

    def on_tuned(self, tunings: Sequence[Tuning]) -> None:
        for text in tuning_words(tunings):
            self._say(text)

    def _say(self, text: str) -> None:
        self.console.say(text)


def study_shown(
    console: PlainConsole,
    config: Path | None,
    out: Path | None,
    resume: Path | None,
    jobs: int | None,
    overrides: Sequence[str] = (),
) -> Path:
    """Run or continue a study, then write its tables, figures and report; returns the report's page.

    Raises ``UserError`` before any work for everything that is wrong with the input, ``RunError`` at the end
    if a run failed; what the other runs give is written all the same.
    """
    study, folder = _find(config, out, resume, overrides)
    try:
        return _conclude(console, bring_to_end(study, folder, jobs, _Shown(console, folder)), folder)
    except KeyboardInterrupt:
        console.say(f"interrupted; continue with: fedfmd study --resume {pasted(folder)}")
        raise


def _find(
    config: Path | None, out: Path | None, resume: Path | None, overrides: Sequence[str]
) -> tuple[Study, Path]:
    if resume is not None:
        if config or out:
            raise UserError(f"--resume {resume}: takes its study from that folder; give no other with it")
        if not (resume / filenames.STUDY).is_file():
            raise UserError(f"--resume {resume}: is no study folder (it holds no {filenames.STUDY})")
        study = load_study(resume / filenames.STUDY, overrides, folder=resume)
        if study.config.base is not None:
            file = pasted(resume / filenames.STUDY)
            raise UserError(
                f"--resume {resume}: is no study folder, it holds a study's file; run: fedfmd study {file}"
            )
        return study, resume
    if config is None:
        raise UserError("fedfmd study: give a study file, as `fedfmd new NAME` writes, or --resume DIR")
    study = load_study(config, overrides)
    folder = out or Path(filenames.STUDIES) / study.name
    if (folder / filenames.STUDY).resolve() == config.resolve() and study.config.base is not None:
        raise UserError(
            f"{config}: the study's folder, {folder}, would put its own file there; give another --out"
        )
    return study, folder


def _conclude(console: PlainConsole, ended: Ended, folder: Path) -> Path:
    from fedfmd.pages.study.output import (
        write_study,  # brings the plotting libraries, which the runs do not need
    )

    study, outcomes = ended.study, ended.outcomes
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    if failed:
        console.print(failures_table(failed))
    reason = (
        f"{folder}: {len(failed)} of {len(outcomes)} runs failed; try them again with: "
        f"fedfmd study --resume {pasted(folder)}"
    )
    if len(failed) == len(outcomes):
        raise RunError(reason)
    with console.status("writing the report ..."):
        written = write_study(study, folder, outcomes, ended.tunings)
    print_words(console, _table(written.lines, f"{study.name}: means over seeds", written.caption))
    for note in written.notes:
        console.say(f"note: {note}")
    console.say(f"report: {written.page}")
    if failed:
        raise RunError(reason)
    if written.damaged:
        first = written.damaged[0]
        raise RunError(
            f"{folder / filenames.RUNS / first.folder}: {first.reason} {len(written.damaged)} of "
            f"{len(outcomes)} runs are damaged and left out; put sound copies in their place, or delete them "
            f"and try again with: fedfmd study --resume {pasted(folder)}"
        )
    return written.page


def _table(lines: Sequence[Sequence[str]], title: str, caption: str) -> Table:
    head, *body = lines
    table = Table(title=title, caption=caption)
    for i, name in enumerate(head):
        table.add_column(name, justify="right" if i else "left", overflow="fold")
    for line in body:
        table.add_row(*line)
    return table
