"""A deployment as processes on loopback: SuperLink, gate, clients, each with a folder of its own."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from intruder import write_settings
from pictures import write_pictures
from tiny_runs import tiny_config
from waiting import wait_until

from fedfmd.config.experiment import dump_config
from fedfmd.deployment.keys import make_keys
from fedfmd.deployment.layout import PICTURES
from fedfmd.deployment.setup import deployed_config
from fedfmd.records.rundir import RunDirectory

BIN = Path(sys.executable).parent
ROOT = Path(__file__).parents[2]
APP = ROOT / "fedfmd" / "deployment" / "app"
FEDFMD = ("python", "-P", "-m", "fedfmd", "deploy")
CHANGES: dict[str, dict[str, Any]] = {
    "partition": {"clients": 2},
    "model": {"conv": "static"},
    "server": {"rounds": 1, "cohort": 2},
}
"""A static network: the compiled dynamic convolution would have to be built in each new cache."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Deployment:
    folder: Path
    port: int = field(default_factory=free_port)
    """The SuperLink's, inside."""
    door: int = field(default_factory=free_port)
    """The gate's, where clients come."""
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def keys(self) -> Path:
        return self.folder / "keys"

    def start(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        home = self.folder / name
        home.mkdir(exist_ok=True)
        with (home / "log.txt").open("wb") as log:
            process = subprocess.Popen(
                [str(BIN / command[0]), *command[1:]],
                cwd=home,
                stdout=log,
                stderr=log,
                env=self.environment(name),
                start_new_session=True,
            )
        self.processes[name] = process
        return process

    def environment(self, name: str) -> dict[str, str]:
        home = self.folder / name
        paths = [str(home / "code")] if (home / "code").exists() else []
        paths += filter(None, [os.environ.get("PYTHONPATH")])
        return {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "FLWR_HOME": str(home / "flwr"),
            "FEDFMD_CACHE": str(home / "cache"),
            "FEDFMD_KERNELS": "0",
            "PATH": f"{BIN}:{os.environ['PATH']}",
        }

    def superlink(self) -> None:
        keys = self.keys / "server"
        self.start(
            "superlink",
            "flower-superlink",
            f"--ssl-ca-certfile={keys / 'ca.crt'}",
            f"--ssl-certfile={keys / 'server.crt'}",
            f"--ssl-keyfile={keys / 'server.key'}",
            "--enable-supernode-auth",
            "--host=127.0.0.1",
            f"--port={self.port}",
            f"--database={self.folder / 'superlink.db'}",
            "--disable-runtime-dependency-installation",
        )

    def gate(self) -> None:
        keys = self.keys / "gate"
        self.start(
            "gate",
            *FEDFMD,
            "gate",
            f"--listen=127.0.0.1:{self.door}",
            f"--to=127.0.0.1:{self.port}",
            f"--authority={keys / 'inside.crt'}",
            f"--certificate={keys / 'gate.crt'}",
            f"--key={keys / 'gate.key'}",
        )

    def supernode(self, name: str, config: str, *options: str) -> subprocess.Popen[bytes]:
        return self.start(
            name,
            *FEDFMD,
            "node",
            f"--superlink=127.0.0.1:{self.door}",
            *options,
            "--host=127.0.0.1",
            f"--port={free_port()}",
            f"--node-config={config}",
        )

    def stranger(self, name: str, keys: Path, authority: Path) -> subprocess.Popen[bytes]:
        """Start a node that tries twice, and ends then."""
        return self.supernode(name, "client-id=0", "--max-retries=1", *_security(keys, authority))

    def client(self, client: int, name: str | None = None) -> subprocess.Popen[bytes]:
        keys, pictures = self.keys / f"client-{client}", self.folder / "data" / f"client-{client}"
        config = (
            f'client-id={client} data="{pictures / PICTURES}" state="{self.folder}/state-{client}" threads=1'
        )
        return self.supernode(name or f"client-{client}", config, *_security(keys, keys / "ca.crt"))

    def run(self, name: str, overrides: str = "", round_seconds: int = 3600) -> RunDirectory:
        """Submit a run and wait for its end."""
        out = self.folder / name
        options = {
            "config": self.folder / "experiment.toml",
            "out": out,
            "data": self.folder / "data" / "server" / PICTURES,
            "set": overrides,
            "round_timeout": round_seconds,
        }
        text = " ".join(f"{key}='{value}'" for key, value in options.items())
        self.flwr("run", str(APP), "--run-config", f"clients=2 {text}")
        ended = wait_until(lambda: (out / "summary.json").exists(), timeout=480)
        assert ended, self.log("superlink")[-3000:]
        return RunDirectory.open(out)

    def flwr(self, *arguments: str) -> str:
        """Ask Flower's command line as the operator, inside; gives what it prints."""
        done = self.flwr_at(self.port, self.keys / "public" / "inside.crt", *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def flwr_at(self, port: int, authority: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Ask it as somebody who knows a port and the authority of its certificate."""
        home = self.folder / f"cli-{port}-{authority.parent.name}"
        write_settings(home / "flwr", f"127.0.0.1:{port}", authority)
        return subprocess.run(
            [str(BIN / "flwr"), *arguments],
            capture_output=True,
            text=True,
            env=self.environment(home.name),
            timeout=480,
            check=False,
        )

    def log(self, name: str) -> str:
        return (self.folder / name / "log.txt").read_text(errors="replace")

    def end(self) -> None:
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@contextmanager
def running(folder: Path) -> Iterator[Deployment]:
    """Start a SuperLink that knows two clients' keys, its gate, and both clients.

    Client 0 is there before its server, and before its server knows it.
    """
    config = deployed_config(tiny_config(**CHANGES), 2)
    (folder / "experiment.toml").write_text(dump_config(config))
    write_pictures(folder / "data", config)
    make_keys(folder / "keys", range(2))
    here = Deployment(folder)
    try:
        here.client(0)
        assert wait_until(lambda: "the server cannot be reached" in here.log("client-0"), timeout=180)
        here.superlink()
        here.gate()
        assert wait_until(lambda: reachable(here.port) and reachable(here.door), timeout=180)
        assert wait_until(lambda: "does not know this client's key" in here.log("client-0"), timeout=180)
        for client in range(2):
            here.flwr("supernode", "register", str(folder / "keys" / "public" / f"client-{client}.pub"))
        here.client(1)
        yield here
    finally:
        here.end()


def reachable(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _security(keys: Path, authority: Path) -> tuple[str, str]:
    return f"--root-certificates={authority}", f"--auth-supernode-private-key={keys / 'node.key'}"
