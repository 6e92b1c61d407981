"""A program that a server consists of: its start, its end, and what it says of that."""

import re
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fedfmd.errors import RunError
from fedfmd.machine.ports import check_free, reachable
from fedfmd.machine.processes import end_with_parent

END_SECONDS = 10.0
"""How long a program may take to end, before it is killed."""
REASON = re.compile(r"\bERROR\b|\w(?:Error|Exception): ")
"""In a line of a log that says more of an end than the last one."""


@dataclass(frozen=True)
class Place:
    """Where a program listens, and the option that says so."""

    option: str
    host: str
    port: int

    def check_free(self) -> None:
        """Raise ``UserError`` where it cannot be listened at."""
        check_free(self.option, self.host, self.port)

    @property
    def reachable(self) -> bool:
        """Whether somebody listens there."""
        return reachable(self.port, self.host)


@dataclass(frozen=True)
class Program:
    """One that has been started; it ends with this process, however that ends."""

    name: str
    place: Place
    process: "subprocess.Popen[bytes]"
    log: Path
    began: int
    """Bytes of the log that are not its own."""

    @classmethod
    def start(
        cls, name: str, place: Place, command: Sequence[str], folder: Path, environment: Mapping[str, str]
    ) -> "Program":
        """Start it in a folder, where it adds to its log."""
        file = folder / f"{name}.log"
        with file.open("ab") as log:
            began = log.tell()
            process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                cwd=folder,
                env=environment,
                start_new_session=True,
                preexec_fn=partial(end_with_parent, signal.SIGTERM),
            )
        return cls(name, place, process, file, began)

    def check(self) -> None:
        """Raise ``RunError`` once it has ended, and ``UserError`` where its port was taken meanwhile."""
        code = self.process.poll()
        if code is None:
            return
        self.place.check_free()
        raise RunError(f"{self.name} {self._end_of(code)}")

    def end(self) -> None:
        """Wait for its end, after it was told to; one that does not is killed."""
        try:
            self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _end_of(self, code: int) -> str:
        """Say how it has ended: why, as it said itself, unless a signal left it no time to say anything."""
        if code < 0:
            return f"was ended by {signal.Signals(-code).name}; {self.log} says what it did before"
        try:
            said = self.log.read_bytes()[self.began :].decode("utf-8", "replace").strip().splitlines()
        except OSError:
            said = []
        reasons = [line for line in said if REASON.search(line)]
        return f"ended: {' '.join((reasons or said)[-1:])}; {self.log} says more"
