"""The server of a deployment without Docker: a SuperLink and a gate, as processes of this machine.

``state/`` in the deployment's folder has the SuperLink's database and the logs, ``results/`` the runs. The
SuperLink listens on this machine's loopback alone, where whoever may log in to it is operator; clients come
to the gate.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from fedfmd.config.documents import read_json
from fedfmd.deployment import layout
from fedfmd.deployment.layout import KeyFiles
from fedfmd.deployment.operator import Operator, answer_in, nodes_in
from fedfmd.deployment.programs import Place, Program
from fedfmd.deployment.registration import reconcile
from fedfmd.errors import RunError, UserError, pasted
from fedfmd.files import is_locked, locked, write_atomic
from fedfmd.machine.children import module_command
from fedfmd.machine.ports import LOOPBACK, address, joined
from fedfmd.records.schema import Json

PROGRAMS = ("superlink", "gate")
LOCK = "serving.lock"
SERVING = "serving.json"
START_SECONDS = 120.0
"""How long the two processes may take until they can be reached."""
LOOK_SECONDS = 2.0
"""Between two looks at the processes and at who belongs."""


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
    def served(self) -> bool:
        """Whether ``serve`` has been at work on this folder, now or before."""
        return self.state.is_dir()

    @property
    def options(self) -> dict[str, str]:
        """What each run is told beside its name and overrides: where this machine has what."""
        here = self.folder.resolve()
        return {"config": str(here / layout.EXPERIMENT), "data": str(here / layout.SERVER_PICTURES)}

    def flwr(self, *arguments: str) -> Json:
        """Ask Flower's command line."""
        return answer_in(self.ask([*arguments, "--format", "json"]), arguments[0])

    def ask(self, words: Sequence[str]) -> str:
        """Give Flower's command line some words, and return what it printed.

        Raises ``UserError`` while the server is off.
        """
        if not self.running:
            raise UserError(
                f"{self.folder}: the server is off; start it with: fedfmd deploy serve --dir "
                f"{pasted(self.folder)}"
            )
        home = self.state / "cli"
        home.mkdir(parents=True, exist_ok=True)
        authority = self.deployed.keys.inside.certificate.resolve()
        write_atomic(
            home / "config.toml",
            f'[superlink]\ndefault = "here"\n[superlink.here]\naddress = "{LOOPBACK}:{self._inside}"\n'
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

    @property
    def _inside(self) -> int:
        """The SuperLink's port, as ``serve`` has noted it; raises ``UserError`` where that is lost."""
        file = self.state / SERVING
        serving = read_json(file, "note on where the server is")
        port = serving.get("inside") if isinstance(serving, dict) else None
        if type(port) is not int:
            raise UserError(f"{file}: does not say where the server is; start fedfmd deploy serve again")
        return port

    def texts(self, *paths: str) -> list[str]:
        """Read files among the results; an empty text for each that is not there."""
        return [_text(Path(self.results_folder) / path) for path in paths]

    def nodes(self) -> dict[str, str | None]:
        """Return each registered public key's file name and its node."""
        file = self.state / layout.NODES
        return nodes_in(_text(file) if file.is_file() else None, file)

    @contextmanager
    def brought(self, beside: Path) -> Iterator[Path]:
        """Give the folder of the results, which is on this machine."""
        del beside
        yield Path(self.results_folder)

    def logs(self, services: Sequence[str], *, follow: bool) -> None:
        """Show the logs of SuperLink and gate; those of the clients are on their machines."""
        logs = {name: self.state / f"{name}.log" for name in PROGRAMS}
        if unknown := [name for name in services if name not in logs]:
            raise UserError(
                f"{unknown[0]}: the server has the logs of {' and '.join(PROGRAMS)}; a client's are on its "
                "own machine"
            )
        shown = [str(logs[name]) for name in services or PROGRAMS]
        subprocess.run(["tail", "-n", "+1", *(["-F"] if follow else []), *shown], check=False)

    def app_log(self, run: str) -> str:
        """Return what the server's app has printed in a run."""
        return self.ask(["log", run, "--show"])

    def advice(self) -> str:
        """Say what may have ended a run that could not say it itself."""
        return f"{self.state / 'superlink.log'} says more"

    def serve(self, listen: str, inside: int) -> Iterator[str]:
        """Run SuperLink and gate until interrupted; yields lines on what happens.

        ``listen`` is HOST:PORT of the gate, ``inside`` the SuperLink's port on the loopback. Raises
        ``UserError`` for addresses that cannot be used, and ``RunError`` when a program ends.
        """
        self.deployed.check()
        self.deployed.check_certificates()
        door = Place("--listen", *address(listen, "--listen "))
        places = {"superlink": Place("--inside", LOOPBACK, inside), "gate": door}
        self.state.mkdir(mode=0o700, exist_ok=True)  # the SuperLink's database holds what clients send
        Path(self.results_folder).mkdir(exist_ok=True)
        for place in places.values():
            place.check_free()
        try:
            lock = locked(self.state / LOCK, patience_seconds=0)
            with lock, self._programs(places) as programs:
                write_atomic(self.state / SERVING, json.dumps({"inside": inside, "listen": listen}))
                self._await(programs)
                yield f"clients come to {listen}; who starts runs, is on this machine"
                yield from self._watch(programs)
        except BlockingIOError:
            raise UserError(f"{self.folder}: is served already, by another process") from None

    def _watch(self, programs: Sequence[Program]) -> Iterator[str]:
        seen: object = None

        def ask(words: Sequence[str]) -> str:
            _check(programs)  # a SuperLink that has ended would be asked again and again
            return self.ask(words)

        while True:
            _check(programs)
            public = self.deployed.keys.public
            files = public.glob(layout.public_key("*"))
            now = sorted((path.name, path.stat().st_mtime_ns) for path in files)
            if now != seen:
                yield from reconcile(public, self.state / layout.NODES, ask)
                seen = now
            time.sleep(LOOK_SECONDS)

    def _await(self, programs: Sequence[Program]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not all(program.place.reachable for program in programs):
            _check(programs)
            if time.monotonic() > deadline:
                raise RunError(f"the server did not start in {START_SECONDS:.0f} s; see {self.state}")
            time.sleep(0.2)

    @contextmanager
    def _programs(self, places: Mapping[str, Place]) -> Iterator[list[Program]]:
        keys = KeyFiles(self.deployed.keys.folder.resolve())
        server, gate, inside, door = keys.server, keys.gate, places["superlink"], places["gate"]
        commands = {
            "superlink": [
                _program("flower-superlink"),
                f"--host={inside.host}",
                f"--port={inside.port}",
                f"--ssl-ca-certfile={server.key.with_name(layout.AUTHORITY)}",
                f"--ssl-certfile={server.certificate}",
                f"--ssl-keyfile={server.key}",
                "--enable-supernode-auth",
                f"--database={self.state / 'superlink.db'}",
                "--disable-runtime-dependency-installation",
            ],
            "gate": [
                *module_command("fedfmd"),
                "deploy",
                "gate",
                f"--listen={joined(door.host, door.port)}",
                f"--to={joined(inside.host, inside.port)}",
                f"--authority={keys.gate_inside}",
                f"--certificate={gate.certificate}",
                f"--key={gate.key}",
            ],
        }
        environment = self._environment(self.state / "flwr")
        programs: list[Program] = []
        try:
            for name, command in commands.items():
                programs.append(Program.start(name, places[name], command, self.state, environment))
            yield programs
        finally:
            for program in programs:
                program.process.terminate()
            for program in programs:
                program.end()

    def _environment(self, home: Path) -> dict[str, str]:
        return {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}",
            "FLWR_HOME": str(home),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "PYTHONSAFEPATH": "1",
        }


def _check(programs: Sequence[Program]) -> None:
    for program in programs:
        program.check()


def _program(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
