"""How the command line speaks: its two consoles, notes, what is logged, and what is said at the end."""

import codecs
import io
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from fedfmd.errors import InputWarning, RunError, UserError
from fedfmd.terminal.consoles import PlainConsole

if TYPE_CHECKING:
    from fedfmd.records.rundir import RunDirectory

console = PlainConsole()
errors = PlainConsole(stderr=True)

PLAIN = {"·": ".", "\u2013": "-", "\u2212": "-", "\u00d7": "x", "µ": "u", "→": "->", "…": "..."}
"""What stands for characters that a terminal lacks: dots, dashes, times, micro."""
INTERRUPTED, FINISHED_OTHERWISE = 130, 3
"""Exit codes; the second is of a run that finished after something of it was lost."""
UNREAD = "note: the output goes nowhere any more; the work goes on until it is done, or Ctrl-C ends it"


class Voice(logging.Handler):
    """Prints what is logged, above a bar that moves."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one line."""
        kind = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        errors.say(f"{kind}{record.getMessage()}")


VOICE = Voice(logging.WARNING)


def tell_notes(directory: "RunDirectory", told: int) -> int:
    """Print the notes behind the first ``told``; returns how many there are."""
    notes = directory.notes()
    for note in notes[told:]:
        errors.say(f"note: {note.note}")
    return len(notes)


@contextmanager
def resumable(command: str) -> Iterator[None]:
    """Say how to go on with what is interrupted or stops inside the ``with``."""
    try:
        yield
    except KeyboardInterrupt:
        errors.say(f"interrupted; continue with: {command}")
        raise typer.Exit(INTERRUPTED) from None
    except RunError as error:
        raise RunError(f"{error}\ncontinue with: {command}") from None


def print_anything() -> None:
    """Let a terminal, or a file, whose encoding lacks a character get a plain one, or a question mark."""
    codecs.register_error("plain", _plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="plain")


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(PLAIN.get(one, "?") for one in error.object[error.start : error.end]), error.end


def show_notes() -> None:
    """Print an ``InputWarning`` as a line of its own and once, not as Python prints warnings.

    A study opens one set of images, or one network, for many arms.
    """
    usual = warnings.showwarning
    said = set[str]()

    def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if issubclass(category, InputWarning):
            if str(message) in said:
                return
            said.add(str(message))
            errors.say(f"note: {message}")
        else:
            usual(message, category, *place, **more)

    setattr(warnings, "showwarning", show)  # noqa: B010 - its type in typeshed fits no wrapper


def speak(quiet: bool, verbose: bool) -> None:
    """Say less, or more, than usual, and where that goes nowhere any more, that the work goes on."""
    if quiet and verbose:
        raise UserError("--quiet and --verbose: give one of them")
    console.quiet = console.quiet or quiet
    console.when_unread, errors.when_unread = lambda: errors.say(UNREAD), lambda: None
    VOICE.setLevel(logging.INFO if verbose else logging.WARNING)


def conclude(folder: Path, page: Path | None = None) -> None:
    """Print the folder where nothing else was, and open the page, where there is one to open."""
    if console.quiet:
        PlainConsole().say(str(folder))
    if page is None:
        return
    import webbrowser  # a tenth of the time that --help takes

    if not webbrowser.open(page.resolve().as_uri()):
        errors.say(f"note: no browser here; open {page}")
