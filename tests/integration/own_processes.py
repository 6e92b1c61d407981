"""Which processes of this machine the tests have started, at any depth."""

import os
from pathlib import Path
from typing import NamedTuple

MARKER = "FEDFMD_TEST_MARKER"


class Seen(NamedTuple):
    """A living process; a number alone may be given again."""

    pid: int
    began: int


class OwnProcesses:
    """Finds the processes that inherited a marker in their environment, and all that these have started.

    A process may write its title over its environment, as Ray's agents do, and loses the marker then; and one
    whose parent has died is nobody's child. So children are found by their parents, and those found once are
    known from then on.
    """

    def __init__(self, marker: str):
        self.marker = f"{MARKER}={marker}".encode()
        self.known: set[Seen] = set()

    def living(self) -> list[tuple[int, str]]:
        """List those that live, by number and command."""
        parents: dict[Seen, int] = {}
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit() and int(folder.name) != os.getpid():
                try:
                    fields = (folder / "stat").read_text().rpartition(")")[2].split()
                    process = Seen(int(folder.name), int(fields[19]))
                    if self.marker in (folder / "environ").read_bytes():
                        self.known.add(process)
                except OSError:
                    continue
                if fields[0] != "Z":
                    parents[process] = int(fields[1])
        own = self.known & parents.keys()
        while born := {p for p, parent in parents.items() if parent in {o.pid for o in own}} - own:
            own |= born
        self.known |= own
        return [(process.pid, command(process.pid)) for process in sorted(own)]


def command(pid: int) -> str:
    """Return a process's command; an empty text for one that has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""
