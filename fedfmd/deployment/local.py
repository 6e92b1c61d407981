"""The server of a deployment without Docker: a SuperLink and a gate, as processes of this machine.

``state/`` in the deployment's folder has the SuperLink's database and the logs, ``results/`` the runs. The
SuperLink listens on this machine's loopback alone, where whoever may log in to it is operator; clients come
to the gate.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path

from fedfmd.deployment import layout
from fedfmd.deployment.operator import Operator, answer_in, nodes_in
from fedfmd.deployment.registration import reconcile
from fedfmd.errors import RunError, UserError
from fedfmd.files import is_locked, locked, write_atomic
from fedfmd.machine.children import module_command
from fedfmd.machine.processes import end_with_parent
from fedfmd.records import filenames
from fedfmd.records.schema import Json

LOCK = "serving.lock"
SERVING = "serving.json"
START_SECONDS = 120.0
"""How long the two processes may take until they can be reached."""
LOOK_SECONDS = 2.0
"""Between two looks at the processes and at who belongs."""
END_SECONDS = 10.0
"""How long a process may take to end, before it is killed."""


@dataclass(frozen=True)
class LocalServer(Operator):
    """A deployment's server as processes of this machine; ``serve`` runs them."""

    @property
    def app(self) -> str:  # type: ignore[override]
        """What is submitted: names, no code."""
        return str(files("fedfmd.deployment").joinpath("app"))

    @property
    def results_folder(self) -> str:  # type: ignore[override]
        """Where the runs are."""
        return str(self.folder.resolve() / "results")

    @property
    def state(self) -> Path:
        """Where the SuperLink keeps what lasts."""
        return self.folder.resolve() / "state"

    @property
    def running(self) -> bool:
        """Whether ``serve`` is at work on this folder."""
        return is_locked(self.state / LOCK)

    @property
    def options(self) -> dict[str, str]:
        """What each run is told beside its name and overrides: where this machine has what."""
        here = self.folder.resolve()
        return {"config": str(here / layout.EXPERIMENT), "data": str(here / layout.SERVER_PICTURES)}

    def flwr(self, *arguments: str) -> Json:
        """Ask Flower's command line."""
        return answer_in(self.ask([*arguments, "--format", "json"]), arguments[0])

    def ask(self, words: Sequence[str]) -> str:
        """Give Flower's command line some words, and return what it printed."""
        home = self.state / "cli"
        home.mkdir(parents=True, exist_ok=True)
        serving = json.loads((self.state / SERVING).read_text())
        authority = self.folder.resolve() / layout.KEYS / "public" / "inside.crt"
        write_atomic(
            home / "config.toml",
            f'[superlink]\ndefault = "here"\n[superlink.here]\naddress = "127.0.0.1:{serving["inside"]}"\n'
            f'root-certificates = "{authority}"\n',
        )
        done = subprocess.run(
            [_program("flwr"), *words],
            capture_output=True,
            text=True,
            env=self._environment(home),
            check=False,
        )
        return done.stdout + ("" if done.returncode == 0 else done.stderr)

    def texts(self, *paths: str) -> list[str]:
        """Read files among the results; an empty text for each that is not there."""
        return [_text(Path(self.results_folder) / path) for path in paths]

    def nodes(self) -> dict[str, str | None]:
        """Return each registered public key's file name and its node."""
        return nodes_in(_text(self.state / layout.NODES))

    def results(self, into: Path) -> list[Path]:
        """Copy the run directories; gives those that are new."""
        into.mkdir(parents=True, exist_ok=True)
        found = (path.parent for path in sorted(Path(self.results_folder).glob(f"*/{filenames.CONFIG}")))
        new = [path for path in found if not (into / path.name / filenames.SUMMARY).exists()]
        for path in new:
            shutil.copytree(path, into / path.name, dirs_exist_ok=True)
        return [into / path.name for path in new]

    def advice(self) -> str:
        """Say what may have ended a run that could not say it itself."""
        return f"{self.state / 'superlink.log'} says more"

    def serve(self, listen: str, inside: int) -> Iterator[str]:
        """Run SuperLink and gate until interrupted; yields lines on what happens.

        ``listen`` is HOST:PORT of the gate, ``inside`` the SuperLink's port on the loopback. Raises
        ``UserError`` for ports that are taken, and ``RunError`` when a process ends.
        """
        self.deployed.check()
        for folder in (self.state, Path(self.results_folder)):
            folder.mkdir(exist_ok=True)
        host, _, door = listen.rpartition(":")
        for address, option in (((host, int(door)), "--listen"), (("127.0.0.1", inside), "--inside")):
            _check_free(address, option)
        try:
            lock = locked(self.state / LOCK, patience_seconds=0)
            with lock, self._processes(listen, inside) as processes:
                write_atomic(self.state / SERVING, json.dumps({"inside": inside, "listen": listen}))
                self._await(processes, [inside, int(door)])
                yield f"clients come to {listen}; who starts runs, is on this machine"
                yield from self._watch(processes)
        except BlockingIOError:
            raise UserError(f"{self.folder}: is served already, by another process") from None

    def _watch(self, processes: dict[str, "subprocess.Popen[bytes]"]) -> Iterator[str]:
        seen: object = None
        while True:
            self._check(processes)
            now = sorted((path.name, path.stat().st_mtime_ns) for path in self.deployed.public.glob("*.pub"))
            if now != seen:
                yield from reconcile(self.deployed.public, self.state / layout.NODES, self.ask)
                seen = now
            time.sleep(LOOK_SECONDS)

    def _await(self, processes: dict[str, "subprocess.Popen[bytes]"], ports: list[int]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not all(reachable(port) for port in ports):
            self._check(processes)
            if time.monotonic() > deadline:
                raise RunError(f"the server did not start in {START_SECONDS:.0f} s; see {self.state}")
            time.sleep(0.2)

    def _check(self, processes: dict[str, "subprocess.Popen[bytes]"]) -> None:
        for name, process in processes.items():
            if process.poll() is not None:
                log = _text(self.state / f"{name}.log").strip().splitlines()[-1:]
                raise RunError(f"{name} ended: {' '.join(log)}; {self.state / name}.log says more")

    @contextmanager
    def _processes(self, listen: str, inside: int) -> Iterator[dict[str, "subprocess.Popen[bytes]"]]:
        keys = self.folder.resolve() / layout.KEYS
        server, gate = keys / "server", keys / "gate"
        commands = {
            "superlink": [
                _program("flower-superlink"),
                "--host=127.0.0.1",
                f"--port={inside}",
                f"--ssl-ca-certfile={server / 'ca.crt'}",
                f"--ssl-certfile={server / 'server.crt'}",
                f"--ssl-keyfile={server / 'server.key'}",
                "--enable-supernode-auth",
                f"--database={self.state / 'superlink.db'}",
                "--disable-runtime-dependency-installation",
            ],
            "gate": [
                *module_command("fedfmd"),
                "deploy",
                "gate",
                f"--listen={listen}",
                f"--to=127.0.0.1:{inside}",
                f"--authority={gate / 'inside.crt'}",
                f"--certificate={gate / 'gate.crt'}",
                f"--key={gate / 'gate.key'}",
            ],
        }
        processes: dict[str, subprocess.Popen[bytes]] = {}
        try:
            for name, command in commands.items():
                with (self.state / f"{name}.log").open("ab") as log:
                    processes[name] = subprocess.Popen(
                        command,
                        stdout=log,
                        stderr=log,
                        cwd=self.state,
                        env=self._environment(self.state / "flwr"),
                        start_new_session=True,
                        preexec_fn=partial(end_with_parent, signal.SIGTERM),
                    )
            yield processes
        finally:
            for process in processes.values():
                process.terminate()
            for process in processes.values():
                _end(process)

    def _environment(self, home: Path) -> dict[str, str]:
        return {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}",
            "FLWR_HOME": str(home),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "PYTHONSAFEPATH": "1",
        }


def reachable(port: int) -> bool:
    """Whether somebody listens on a port of this machine."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a port of this machine can be listened on."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def _check_free(address: tuple[str, int], option: str) -> None:
    host, port = address
    if not is_free(port, host):
        raise UserError(
            f"{option} {host}:{port}: cannot be used; choose another port, or end what has it "
            f"(`ss -ltnp 'sport = :{port}'` shows its pid)"
        )


def _end(process: "subprocess.Popen[bytes]") -> None:
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _program(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
