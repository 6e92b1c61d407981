"""Reports: run directories in; one self-contained HTML page, figures for print and CSV tables out."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fedfmd.errors import UserError
from fedfmd.files import write_atomic
from fedfmd.pages.run.page import render_page
from fedfmd.pages.run.tables import write_tables
from fedfmd.pages.training import is_training
from fedfmd.results.runs import Run, load_run

Writer = Callable[[Path], Any]

__all__ = ["Run", "load_run", "write_report"]


def write_report(dirs: Sequence[Path], out: Path | None = None) -> Path:
    """Report on one run directory, or compare several, and return the path of the page.

    ``out`` is the page, or a folder for ``report.html``; by default the run's own directory, or ``report/``
    beside the first of several; that folder is left out when it is among ``dirs``. Folders ``figures`` and
    ``tables`` are written next to the page. A run that is still going or was killed is reported as far as it
    got.

    Runs of `fedfmd train` get a page of their own, with their epochs beside the published results.

    Raises :class:`UserError` if a directory is no run directory or the report cannot be written.
    """
    from fedfmd.pages.run.figures import write_figures  # matplotlib takes a second to import

    if not dirs:
        raise UserError("report: name at least one run directory")
    dirs = [folder for folder in dirs if not _holds_a_report_alone(folder)] or dirs
    page = _page_path(list(dirs), out)
    if any(map(is_training, dirs)):
        html, writers = _training_report(dirs)
    else:
        runs = [load_run(folder) for folder in dirs]
        html, writers = render_page(runs), (partial(write_tables, runs), partial(write_figures, runs))
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        for write, name in zip(writers, ("tables", "figures"), strict=True):
            write(page.parent / name)
        write_atomic(page, html)
    except OSError as error:
        raise UserError(f"{page}: the report cannot be written ({error})") from error
    return page


def _training_report(dirs: Sequence[Path]) -> tuple[str, tuple[Writer, Writer]]:
    from fedfmd.pages.run.figures import write_training_figures
    from fedfmd.pages.training import load_training, render_training, write_training_tables

    federated = [folder for folder in dirs if not is_training(folder)]
    if federated:
        raise UserError(f"{federated[0]}: is no run of fedfmd train, as others are; report on it apart")
    runs = [load_training(folder) for folder in dirs]
    writers = partial(write_training_tables, runs), partial(write_training_figures, runs)
    return render_training(runs), writers


def _holds_a_report_alone(folder: Path) -> bool:
    """Return whether a folder is what an earlier comparison wrote, as ``report runs/*`` meets it."""
    return (folder / "report.html").is_file() and not (folder / "config.toml").exists()


def _page_path(dirs: list[Path], out: Path | None) -> Path:
    if out is None:
        return (
            dirs[0] / "report.html" if len(dirs) == 1 else dirs[0].resolve().parent / "report" / "report.html"
        )
    return out if out.suffix.lower() in (".html", ".htm") else out / "report.html"
