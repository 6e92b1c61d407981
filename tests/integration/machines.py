"""Machines that share nothing but a network: each a network namespace, all joined by a switch."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ADDRESS = "10.77.0.{}"
"""Of the machines in their order, from 1."""
OWN = ("HOME", "PATH", "FLWR_HOME", "FEDFMD_CACHE", "PYTHONPATH", "PYTHON")
"""Variables that are each machine's own."""


@dataclass
class Machine:
    """One machine: who logs in there finds ``folder`` as his home."""

    name: str
    namespace: str
    folder: Path
    programs: Path
    """A folder of programs that are found first."""
    here: Path = field(init=False)
    """Where the shell is."""

    def __post_init__(self) -> None:
        self.here = self.folder

    def start(self, line: str, log: Path | None = None) -> "subprocess.Popen[str]":
        """Start a command line; what it prints goes to ``log``, or is to be read."""
        output = log.open("wb") if log else subprocess.PIPE
        return subprocess.Popen(
            ["ip", "netns", "exec", self.namespace, "sh", "-c", f"exec {line}"],
            cwd=self.here,
            env=self._environment(),
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, line: str, timeout: float = 600) -> str:
        """Run a command line to its end; gives what it printed. Fails unless it ended well."""
        process = self.start(line)
        try:
            said, _ = process.communicate(timeout=timeout)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        assert process.returncode == 0, f"{self.name}: {line}\n{said[-3000:]}"
        return said

    def _environment(self) -> dict[str, str]:
        others = {name: value for name, value in os.environ.items() if name not in OWN}
        paths = [str(self.programs), str(Path(sys.executable).parent), os.environ["PATH"]]
        code = os.environ.get("PYTHONPATH")
        return {
            **others,
            "HOME": str(self.folder),
            "PATH": os.pathsep.join(paths),
            "PYTHON": sys.executable,
            "FEDFMD_CACHE": str(self.folder / "cache"),
            "FEDFMD_KERNELS": "0",
            "OMP_NUM_THREADS": "1",
            **({"PYTHONPATH": code} if code else {}),
        }


@contextmanager
def network(names: Sequence[str], folder: Path) -> Iterator[dict[str, Machine]]:
    """Join machines by a switch; skips the test, with the reason, where namespaces are not to be had."""
    prefix = f"fedfmd-{os.getpid()}"
    switch = f"{prefix}-switch"
    spaces = {name: f"{prefix}-{name}" for name in names}
    programs = folder / "programs"
    programs.mkdir()
    try:
        _ip("netns", "add", switch)
        _ip("-n", switch, "link", "add", "switch", "type", "bridge")
        _ip("-n", switch, "link", "set", "switch", "up")
        for number, (name, space) in enumerate(spaces.items(), 1):
            _ip("netns", "add", space)
            _join(space, switch, number)
            (folder / name).mkdir()
        yield {name: Machine(name, space, folder / name, programs) for name, space in spaces.items()}
    finally:
        for space in (switch, *spaces.values()):
            subprocess.run(["ip", "netns", "del", space], capture_output=True, check=False)


def _join(space: str, switch: str, number: int) -> None:
    port = f"port{number}"
    _ip("-n", space, "link", "add", "eth0", "type", "veth", "peer", "name", port, "netns", switch)
    _ip("-n", switch, "link", "set", port, "master", "switch", "up")
    _ip("-n", space, "address", "add", f"{ADDRESS.format(number)}/24", "dev", "eth0")
    for device in ("lo", "eth0"):
        _ip("-n", space, "link", "set", device, "up")


def _ip(*words: str) -> None:
    if shutil.which("ip") is None:
        pytest.skip("no program `ip`, which makes network namespaces")
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no network namespaces: ip {' '.join(words)}: {done.stderr.strip()}")
