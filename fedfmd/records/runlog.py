"""A log of a run for people, ``log.txt`` in its directory: when what happened, failures with their reasons.

Nothing that a run needs is read back from it: that is in the ledgers. A line that cannot be written ends no
run.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from fedfmd.records import filenames

LOGGER = logging.getLogger("fedfmd")
"""All of fedfmd speaks through it: DEBUG for the course of a run, which its bar shows as well, INFO for what
goes wrong with a client, WARNING for what a person should see."""


@contextmanager
def logged(folder: Path) -> Iterator[None]:
    """Also write what is logged inside the ``with`` to a run's log, behind what stands there."""
    try:
        file = _File(folder / filenames.LOG, encoding="utf-8")
    except OSError:
        yield
        return
    file.setFormatter(_Line())
    # Python shows warnings of a logger without handlers; it shall not stop to when the file is one.
    usual = [] if LOGGER.hasHandlers() or logging.lastResort is None else [logging.lastResort]
    before = LOGGER.level
    LOGGER.setLevel(logging.DEBUG)
    for handler in (file, *usual):
        LOGGER.addHandler(handler)
    try:
        yield
    finally:
        for handler in (file, *usual):
            LOGGER.removeHandler(handler)
        LOGGER.setLevel(before)
        with suppress(OSError):  # of a full disk, again
            file.close()


class _File(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name that logging calls
        """Leave a full disk to the ledgers, which say so."""


class _Line(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """Return the moment, in UTC, and the message, with the traceback of an error that it is about.

        What is more than the course of the run has its level before the message.
        """
        moment = f"{datetime.fromtimestamp(record.created, UTC):%Y-%m-%dT%H:%M:%SZ}"
        level = "" if record.levelno <= logging.DEBUG else f"{record.levelname.lower()}: "
        line = f"{moment} {level}{record.getMessage()}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def remarks(log: str) -> list[str]:
    """Return what a log tells beside the course of the run, without the moment; only whole lines count."""
    lines = (line.partition(" ")[2] for line in log.split("\n")[:-1])
    return [line.partition(": ")[2] for line in lines if line.startswith(("info: ", "warning: "))]
