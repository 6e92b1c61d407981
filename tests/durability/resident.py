"""The command line in forked children of one process that has the libraries imported already.

A child is a process of its own as one that was started: it has its working directory, its output, its exit
code, and can be killed. Two things are other than a user's: a study's runs are forks, too, and figures, which
take ten times as long to draw as these runs to train, are left out of reports.

``Resident`` starts the process and asks it; ``python resident.py`` is that process, and
``python resident.py COMMAND ...`` runs one command in itself.
"""

import ctypes
import gc
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import IO, ClassVar, NoReturn, Self

PRELOADED = (
    "fedfmd.api",
    "fedfmd.cli.app",
    "fedfmd.cli.actions.study",
    "fedfmd.cli.actions.train",
    "fedfmd.pages.report",
    "fedfmd.pages.run.figures",
    "fedfmd.pages.study.output",
    "fedfmd.rounds.inline",
    "fedfmd.rounds.lifecycle",
    "fedfmd.studies.child",
    "fedfmd.studies.runner",
    "fedfmd.terminal.rounds",
    "fedfmd.terminal.summary",
)
"""What the commands import when they need it."""
FIGURES = (
    ("fedfmd.pages.run.figures", "write_figures"),
    ("fedfmd.pages.study.output", "write_study_figures"),
)
"""What draws."""
CALM: tuple[int, int, int] = (-1, -1, 0)


@dataclass(frozen=True)
class Ended:
    """How a command ended, what it printed, and how many calls that change the disk it made."""

    code: int
    said: str
    calls: int = 0


@dataclass(frozen=True)
class Running:
    """A command that runs in a child of a resident process."""

    pid: int
    log: Path
    replies: IO[str]

    def wait(self) -> Ended:
        """Wait until it, and all that it has started, have ended."""
        reply = json.loads(self.replies.readline())
        return Ended(reply["code"], self.log.read_text(errors="replace"), reply["calls"])


class Resident:
    """A process that runs one command after the other, each in a child of its own."""

    def __init__(self, environment: Mapping[str, str]):
        self.process = subprocess.Popen(
            [sys.executable, "-P", __file__],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.communicate()

    def start(
        self, arguments: Sequence[str], folder: Path, log: Path, fault: tuple[int, int, int] = CALM
    ) -> Running:
        """Start ``fedfmd ARGUMENTS`` in a working directory; its output goes to ``log``.

        The calls ``fault[0]`` to ``fault[1]`` that change the disk fail with the error ``fault[2]``, where
        ``disk_faults.c`` is preloaded.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        order = {"arguments": arguments, "folder": str(folder), "log": str(log), "fault": fault}
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        started = json.loads(self.process.stdout.readline())
        return Running(started["pid"], log, self.process.stdout)

    def run(
        self, arguments: Sequence[str], folder: Path, log: Path, fault: tuple[int, int, int] = CALM
    ) -> Ended:
        """Run a command to its end."""
        return self.start(arguments, folder, log, fault).wait()


class Forked:
    """A study's run as a fork of the study: to its runner what a started process is, without the imports."""

    returncode: int | None = None
    lifelines: ClassVar[list[IO[bytes]]] = []
    """The writing ends of all runs' standard inputs: a run must hold none but through its study."""

    def __init__(self, command: Sequence[str], *, stdout: IO[bytes], **_: object):
        """Run the child of a study in a fork, in a session of its own, that speaks to ``stdout``."""
        assert command[-1] == "fedfmd.studies.child"
        reading, writing = os.pipe()
        self.stdin = os.fdopen(writing, "wb")
        self.lifelines.append(self.stdin)
        self.pid = os.fork()
        if not self.pid:
            for lifeline in self.lifelines:
                with suppress(OSError):
                    lifeline.close()
            os.setsid()
            _leave(import_module("fedfmd.studies.child").main, (reading, stdout.fileno(), stdout.fileno()))
        os.close(reading)

    def poll(self) -> int | None:
        """Return the exit code, or null while it runs."""
        return self._ended(os.WNOHANG)

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait for the end, however long that takes."""
        del timeout
        return self._ended(0)

    def kill(self) -> None:
        """Kill it."""
        os.kill(self.pid, signal.SIGKILL)

    def _ended(self, options: int) -> int | None:
        if self.returncode is None:
            process, status = os.waitpid(self.pid, options)
            self.returncode = os.waitstatus_to_exitcode(status) if process else None
        return self.returncode


def main() -> None:
    """Be the command that the arguments are, or serve."""
    loaded = {module: import_module(module) for module in PRELOADED}
    for module, drawing in FIGURES:
        setattr(loaded[module], drawing, lambda *_: None)
    loaded["fedfmd.studies.runner"].subprocess = SimpleNamespace(  # type: ignore[attr-defined]
        Popen=Forked, PIPE=subprocess.PIPE, TimeoutExpired=subprocess.TimeoutExpired
    )
    if sys.argv[1:]:
        loaded["fedfmd.cli.app"].main()
    else:
        serve()


def serve() -> None:
    """Run what standard input orders, line by line; tell the child's number, then how it ended."""
    gc.freeze()  # what is loaded is no child's to look through
    disk = _disk()
    for line in sys.stdin:
        order = json.loads(line)
        if disk is not None:
            disk.disk_faults_arm(*order["fault"])
        reading, writing = os.pipe()
        process = os.fork()
        if not process:
            os.close(reading)
            os.set_inheritable(writing, True)
            _command(order)
        os.close(writing)
        _tell(pid=process)
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        os.read(reading, 1)  # ends when nothing lives any more that came of the child
        os.close(reading)
        _tell(code=code, calls=disk.disk_faults_calls() if disk is not None else 0)


def _disk() -> ctypes.CDLL | None:
    library = os.environ.get("LD_PRELOAD")
    if not library:
        return None
    disk = ctypes.CDLL(library)
    disk.disk_faults_arm.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_int]
    disk.disk_faults_calls.restype = ctypes.c_long
    return disk


def _tell(**words: int) -> None:
    print(json.dumps(words), flush=True)


def _command(order: dict[str, object]) -> NoReturn:
    """Be the command that was ordered."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    log = os.open(str(order["log"]), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.chdir(str(order["folder"]))
    sys.argv = ["fedfmd", *order["arguments"]]  # type: ignore[misc]
    _leave(import_module("fedfmd.cli.app").main, (nothing, log, log))


def _leave(main: Callable[[], object], files: tuple[int, int, int]) -> NoReturn:
    """Do something with other standard files, and end this process as Python would have."""
    for target, descriptor in enumerate(files):
        os.dup2(descriptor, target)
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(n, mode, closefd=False) for n, mode in enumerate("rww"))
    code = 0
    try:
        main()
    except SystemExit as error:
        code = int(error.code or 0)
    except BaseException:  # whatever it is, it is told
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
