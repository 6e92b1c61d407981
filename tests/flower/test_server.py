"""Why a deployed run ended before it had a run directory is written where the operator looks."""

import errno
from pathlib import Path

import pytest

from fedfmd.errors import RunError, UserError
from fedfmd.flower.server import _reasons

FULL = OSError(errno.ENOSPC, "No space left on device", "state.tmp")


@pytest.mark.parametrize("error", [UserError("out: exists"), RunError("nobody came"), FULL])
def test_the_reason_is_in_a_file_beside_the_run(error: Exception, tmp_path: Path) -> None:
    with pytest.raises(type(error)), _reasons(tmp_path / "run.1.failed"):
        raise error
    assert (tmp_path / "run.1.failed").read_text() == f"{error}\n"


def test_a_reason_that_cannot_be_written_hides_no_error(tmp_path: Path) -> None:
    """As on the disk that is full."""
    with pytest.raises(OSError, match="No space left"), _reasons(tmp_path / "gone" / "run.1.failed"):
        raise FULL
