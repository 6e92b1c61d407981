"""What the command line turns into a line of text: two exceptions, and a warning."""

import errno
import shlex
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches

DISK = (
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.EIO,
    errno.ESTALE, errno.EFBIG,
)  # fmt: skip
"""What a disk refuses, through no mistake in the program."""
ASTRAY = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP)
"""What a name refuses at which something else lies than belongs there, or nothing."""

FAULTS = (Exception, SystemExit)
"""What another's code may raise: a part that ends the process would end the run without a word."""


def refused(error: OSError, instead: str) -> str:
    """Return in a line why the system refused something; where the disk did, with what helps.

    ``instead`` is what may be done other than making room.
    """
    reason = error.strerror or str(error)
    return f"{reason}; make room or {instead}" if error.errno in DISK else reason


def unseen(error: BaseException) -> bool:
    """Return whether the system refused a file: then nothing can be said of its bytes."""
    return isinstance(error, OSError) and error.errno in (*ASTRAY, *DISK)


def place_of(error: OSError) -> str:
    """Return the beginning of a message: the file that the error names, with a colon, or nothing."""
    return f"{error.filename2 or error.filename}: " if error.filename else ""


def first_few(numbers: Sequence[object], most: int = 10, between: str = ", ") -> str:
    """Return numbers, or names, with commas between them: ``most`` of them, and how many more there are."""
    more = f" and {len(numbers) - most} more" if len(numbers) > most else ""
    return between.join(map(str, numbers[:most])) + more


def pasted(path: object) -> str:
    """Return a path as it stands in a command that a message offers: it can be pasted into a shell."""
    return shlex.quote(str(path))


def told(error: BaseException) -> str:
    """Return an error of another's code in one line."""
    if isinstance(error, UserError):  # which another's code may cause, and which says all itself
        return str(error)
    return " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """Return the end of a message about an unknown name: one that is near it, begins with it or holds it, or
    whose initials it is, as lr is of learning_rate. Capitals do not count.
    """
    known, small = {other.lower(): other for other in reversed(list(allowed))}, name.lower()
    names = list(reversed(known))
    found = get_close_matches(small, names, n=1)
    found = found or [other for other in names if small and other.startswith(small)]
    found = found or [other for other in names if small and small in other]
    found = found or [other for other in names if small == "".join(word[:1] for word in other.split("_"))]
    return f"; did you mean {known[found[0]]}?" if found else ""


class UserError(Exception):
    """Bad input: its text is one line that names the key or file, the value and what is allowed.

    The command line prints the text without a traceback and exits with code 2.
    """


class RunError(Exception):
    """A run that cannot go on, through no mistake in its input: everything computed so far is kept.

    The command line prints the text, says how to resume, and exits with code 1.
    """


@contextmanager
def as_input() -> Iterator[None]:
    """Raise an ``OSError`` inside the ``with`` as ``UserError``: what is read there is the user's to mend."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{place_of(error)}cannot be read: {error.strerror or error}") from None


class InputWarning(UserWarning):
    """Input that was changed or left out in part: the command line prints it as a note."""
