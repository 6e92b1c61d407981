"""Replays crashes and disk faults, each in a forked child, so that the libraries are loaded once.

    driver.py replay KIND FOLDER STATES      states that ``recording`` made, pickled; resume each
    driver.py faults KIND FOLDER LIBRARY STEP   let the disk fail at every STEP-th call, then resume

Prints one JSON object: how many were tried, how each ended, and the faults, which are none.
"""

import ctypes
import errno
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import IO, NoReturn

import scenarios
from recording import Call, state

from fedfmd.errors import RunError, UserError
from fedfmd.studies import child as studied
from fedfmd.studies import runner

FOREVER = 1 << 40
CALM, STOPPED, BROKEN = 0, 1, 2
"""How a child ends: as if nothing had been, with a clear message, with anything else."""


def child(action: Callable[[], object], log: Path) -> int:
    """Do something in a forked child; returns how it ended."""
    process = os.fork()
    if process:
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            action()
            os._exit(CALM)
        except (RunError, UserError) as error:
            print(error, flush=True)
            os._exit(STOPPED)
        except BaseException:  # whatever else it is, it is told
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(BROKEN)


class Forked:
    """A study's run as a fork of the study: to its runner what a started process is, without the imports."""

    returncode: int | None = None

    def __init__(self, command: Sequence[str], *, stdout: IO[bytes], **_: object):
        """Run the child of a study in a fork, in a session of its own, that speaks to ``stdout``."""
        assert command[-1] == studied.__name__
        reading, writing = os.pipe()
        self.stdin = os.fdopen(writing, "wb")
        self.process = os.fork()
        if not self.process:
            self.stdin.close()
            os.setsid()
            for target, descriptor in enumerate((reading, stdout.fileno(), stdout.fileno())):
                os.dup2(descriptor, target)
            sys.stdin = os.fdopen(0)
            _leave(studied.main)
        os.close(reading)

    def poll(self) -> int | None:
        return self._ended(os.WNOHANG)

    def wait(self, timeout: float | None = None) -> int | None:
        del timeout
        return self._ended(0)

    def kill(self) -> None:
        os.kill(self.process, signal.SIGKILL)

    def _ended(self, options: int) -> int | None:
        if self.returncode is None:
            process, status = os.waitpid(self.process, options)
            self.returncode = os.waitstatus_to_exitcode(status) if process else None
        return self.returncode


def _leave(action: Callable[[], object]) -> NoReturn:
    """Do something and end this process as Python would have."""
    code = 0
    try:
        action()
    except SystemExit as error:
        code = int(error.code or 0)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def resumed(kind: str, folder: Path, oracle: str, log: Path) -> str:
    """Bring a folder to its end; returns what is wrong then, or nothing."""

    def finish() -> None:
        scenarios.go_on(kind, folder)
        if scenarios.results(kind, folder) != oracle:
            raise AssertionError("other results than the undisturbed run's")

    return "" if child(finish, log) == CALM else f"resume: {log.read_text()[-600:]}"


def replay(
    kind: str, root: Path, oracle: str, states: list[tuple[str, list[Call]]]
) -> Iterator[tuple[str, str]]:
    """Resume from every state; gives its name and what is wrong."""
    for number, (name, calls) in enumerate(states):
        folder = root / f"state-{number}"
        folder.mkdir()
        state(calls).write_to(folder)
        yield name.split()[0], resumed(kind, folder, oracle, root / "log")
        shutil.rmtree(folder)


def faults(kind: str, root: Path, oracle: str, library: str, step: int) -> Iterator[tuple[str, str]]:
    """Let the disk fail once, or from some call on, then resume on a good one."""
    disk = ctypes.CDLL(library)
    arm, calls = disk.disk_faults_arm, disk.disk_faults_calls
    arm.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_int]
    calls.restype = ctypes.c_long
    folder = root / "failing"
    folder.mkdir()

    def counted() -> None:
        arm(FOREVER, FOREVER, errno.EROFS)
        scenarios.start(kind, folder)
        (root / "calls").write_text(str(calls()))

    assert child(counted, root / "log") == CALM, (root / "log").read_text()
    total = int((root / "calls").read_text())
    points = [
        (n, end, code) for n in range(total) for end in (n, FOREVER) for code in (errno.ENOSPC, errno.EROFS)
    ]
    for number, end, code in points[step // 2 :: step]:
        shutil.rmtree(folder)
        folder.mkdir()

        def failing(number: int = number, end: int = end, code: int = code) -> None:
            arm(number, end, code)
            scenarios.start(kind, folder)

        clear = child(failing, root / "first") in (CALM, STOPPED)
        said = (root / "first").read_text() + "".join(log.read_text() for log in folder.rglob("logs/*.txt"))
        clear = clear and "Traceback" not in said
        wrong = resumed(kind, folder, oracle, root / "log") if clear else "not a clear refusal"
        name = f"{errno.errorcode[code]}{'' if end == FOREVER else ' once'}"
        yield name, wrong and f"call {number} of {total}: {said[-900:]} {wrong}"


def main() -> None:
    """Run what the arguments name."""
    what, kind, root = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    runner.subprocess = SimpleNamespace(  # type: ignore[assignment, attr-defined]
        Popen=Forked, PIPE=subprocess.PIPE, TimeoutExpired=subprocess.TimeoutExpired
    )
    undisturbed = root / "undisturbed"
    undisturbed.mkdir()
    hashed = root / "oracle"
    first = child(
        lambda: (scenarios.start(kind, undisturbed), hashed.write_text(scenarios.results(kind, undisturbed))),
        root / "log",
    )
    assert first == CALM, (root / "log").read_text()
    oracle = hashed.read_text()
    if what == "replay":
        ended = replay(kind, root, oracle, pickle.loads(Path(sys.argv[4]).read_bytes()))
    else:
        ended = faults(kind, root, oracle, sys.argv[4], int(sys.argv[5]))
    tried, wrong = Counter[str](), []
    for name, fault in ended:
        tried[name] += 1
        wrong += [f"{name}: {fault}"] if fault else []
    print(json.dumps({"tried": tried, "wrong": wrong}))


if __name__ == "__main__":
    main()
