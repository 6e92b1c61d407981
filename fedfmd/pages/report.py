"""Reports: run directories in; one self-contained HTML page, figures for print and CSV tables out."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from fedfmd.errors import InputWarning, UserError, refused
from fedfmd.files import remove_leftovers, write_atomic
from fedfmd.pages.run.page import render_page
from fedfmd.pages.run.tables import write_tables
from fedfmd.records import filenames
from fedfmd.records.schema import one_line
from fedfmd.results.catalogue import is_run
from fedfmd.results.runs import Run, changed_notes, load_run

if TYPE_CHECKING:
    from fedfmd.pages.training import TrainRun

Writer = Callable[[Path], Any]

__all__ = ["Run", "load_run", "write_report"]


def write_report(
    dirs: Sequence[Path], out: Path | None = None, *, labels: Mapping[Path, str] = MappingProxyType({})
) -> Path:
    """Report on one run directory, or compare several, and return the path of the page.

    ``out`` is the page, or a folder for ``report.html``; by default the run's own directory, or ``report/``
    beside the first of several. Of several, those that are no runs, as ``runs/*`` meets them, are left out
    with an ``InputWarning``. Folders ``figures`` and ``tables`` are written next to the page. A run that is
    still going or was killed is reported as far as it got. ``labels`` are what figures and tables call a run
    instead of its name.

    Runs of `fedfmd train` get a page of their own, with their epochs beside the published results.

    Raises :class:`UserError` if a directory is no run directory or the report cannot be written.
    """
    from fedfmd.pages.run.figures import write_figures  # matplotlib takes a second to import

    labels = {folder: one_line(label) for folder, label in labels.items()}
    if not dirs:
        raise UserError("report: name at least one run directory")
    dirs = _reported(dirs)
    page = _page_path(list(dirs), out)
    if any(map(filenames.holds_central_run, dirs)):
        html, writers = _training_report(dirs, labels)
    else:
        found = ((folder, load_run(folder)) for folder in dirs)
        runs = [replace(run, name=labels.get(folder, run.name)) for folder, run in found]
        _tell_changes(runs)
        html, writers = render_page(runs), (partial(write_tables, runs), partial(write_figures, runs))
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(page.parent, page.name)
        for write, name in zip(writers, ("tables", "figures"), strict=True):
            write(page.parent / name)
        write_atomic(page, html)
    except OSError as error:
        reason = refused(error, "give fedfmd report another --out")
        raise UserError(f"{page}: the report cannot be written: {reason}") from error
    return page


def _reported(dirs: Sequence[Path]) -> list[Path]:
    """Return what can stand in one report: runs, all of the kind of the first."""
    runs = [folder for folder in dirs if is_run(folder)]
    if len(dirs) == 1 or not runs:
        return list(dirs)
    central = filenames.holds_central_run(runs[0])
    alike = [folder for folder in runs if filenames.holds_central_run(folder) == central]
    for folder in dirs:
        if folder not in runs:
            _warn(f"{folder}: left out, it is no run directory")
        elif folder not in alike:
            other = "fedfmd simulate" if central else "fedfmd train"
            _warn(f"{folder}: left out, it is a run of {other}, as others are not; report on it apart")
    return alike


def _warn(text: str) -> None:
    warnings.warn(text, InputWarning, stacklevel=4)


def _tell_changes(runs: "Sequence[Run] | Sequence[TrainRun]") -> None:
    for run in runs:
        for note in changed_notes(run.changed):
            _warn(f"{run.folder}: {note}")


def _training_report(dirs: Sequence[Path], labels: Mapping[Path, str]) -> tuple[str, tuple[Writer, Writer]]:
    from fedfmd.pages.run.figures import write_training_figures
    from fedfmd.pages.training import load_training, render_training, write_training_tables

    found = ((folder, load_training(folder)) for folder in dirs)
    runs = [replace(run, name=labels.get(folder, run.name)) for folder, run in found]
    _tell_changes(runs)
    writers = partial(write_training_tables, runs), partial(write_training_figures, runs)
    return render_training(runs), writers


def _page_path(dirs: list[Path], out: Path | None) -> Path:
    if out is None:
        home = dirs[0] if len(dirs) == 1 else dirs[0].resolve().parent / "report"
        return home / filenames.REPORT
    return out if out.suffix.lower() in (".html", ".htm") else out / filenames.REPORT
