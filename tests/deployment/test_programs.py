"""The programs of a server without Docker: real processes, and what is said of their end."""

import os
import sys
from pathlib import Path

import pytest
from waiting import wait_until

from fedfmd.deployment.programs import Place, Program
from fedfmd.errors import RunError, UserError
from fedfmd.machine.ports import LOOPBACK, listener


def ended(folder: Path, port: int, code: str) -> Program:
    place = Place("--inside", LOOPBACK, port)
    program = Program.start("link", place, [sys.executable, "-c", code], folder, os.environ)
    assert wait_until(lambda: program.process.poll() is not None)
    return program


def test_why_a_program_ended_is_what_it_said_of_an_error_this_time(tmp_path: Path) -> None:
    """Its log is that of earlier starts, too, and what it says last may be a farewell."""
    (tmp_path / "link.log").write_text("ERROR of yesterday\n")
    with listener(LOOPBACK, 0) as found:
        port = found.getsockname()[1]
    said = "print('ERROR no space', 'bye', sep=chr(10)); raise SystemExit(1)"
    with pytest.raises(RunError, match=r"^link ended: ERROR no space; .*link\.log says more"):
        ended(tmp_path, port, said).check()
    with pytest.raises(RunError, match=r"^link ended: only this; .*link\.log says more"):
        ended(tmp_path, port, "print('only this')").check()


def test_a_port_that_was_taken_between_look_and_start_is_named_with_the_cure(tmp_path: Path) -> None:
    with listener(LOOPBACK, 0) as taken:
        port = taken.getsockname()[1]
        program = ended(tmp_path, port, "print('shutdown complete')")
        with pytest.raises(
            UserError, match=rf"^--inside 127\.0\.0\.1:{port}: cannot be used: Address already in use; choose"
        ):
            program.check()
