"""Reports: run directories in; one self-contained HTML page, figures for print and CSV tables out."""

from collections.abc import Sequence
from pathlib import Path

from fedfmd.errors import UserError
from fedfmd.files import write_atomic
from fedfmd.report.page import render_page
from fedfmd.report.runs import Run, load_run
from fedfmd.report.tables import write_tables

__all__ = ["Run", "load_run", "write_report"]


def write_report(dirs: Sequence[Path], out: Path | None = None) -> Path:
    """Report on one run directory, or compare several, and return the path of the page.

    ``out`` is the page, or a folder for ``report.html``; by default the run's own directory, or ``report/``
    beside the first of several. Folders ``figures`` and ``tables`` are written next to the page. A run that
    is still going or was killed is reported as far as it got.

    Raises :class:`UserError` if a directory is no run directory or the report cannot be written.
    """
    from fedfmd.report.figures import write_figures  # matplotlib takes a second to import

    if not dirs:
        raise UserError("report: name at least one run directory")
    runs = [load_run(folder) for folder in dirs]
    page = _page_path(list(dirs), out)
    html = render_page(runs)
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        write_tables(runs, page.parent / "tables")
        write_figures(runs, page.parent / "figures")
        write_atomic(page, html)
    except OSError as error:
        raise UserError(f"{page}: the report cannot be written ({error})") from error
    return page


def _page_path(dirs: list[Path], out: Path | None) -> Path:
    if out is None:
        return (
            dirs[0] / "report.html" if len(dirs) == 1 else dirs[0].resolve().parent / "report" / "report.html"
        )
    return out if out.suffix.lower() in (".html", ".htm") else out / "report.html"
