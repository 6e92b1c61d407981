"""A deployment as processes on loopback: TLS, authenticated clients that have their own pictures, a run.

One deployment serves all tests; the containers of ``tests/docker`` are the same processes with limits.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import rows, run_inline, tiny_config, wait_until

from fedfmd.config import dump_config
from fedfmd.data import open_prepared
from fedfmd.deploy.keys import make_keys
from fedfmd.deploy.setup import PICTURES, deployed_config, write_pictures
from fedfmd.records.rundir import RunDirectory

BIN = Path(sys.executable).parent
ROOT = Path(__file__).parents[2]
APP = ROOT / "docker" / "app"
NONSENSE = """
import json
from importlib.util import module_from_spec, spec_from_file_location
from flwr.app import Message
from flwr.clientapp import ClientApp
from fedfmd.flower.messages import from_record, to_record
from fedfmd.wire.packages import Package

spec = spec_from_file_location("honest", {honest!r})
honest = module_from_spec(spec)
spec.loader.exec_module(honest)
app = ClientApp()
app.query()(honest.get_ready)

@app.train()
def train(message, context):
    round = json.loads(from_record(message.content).meta)["order"]["round"]
    document = '{{"rows": "many"}}' if round == 1 else "no JSON at all"
    return Message(to_record(Package(document, bytes(range(256)))), reply_to=message)
"""
"""A ClientApp that says truly who it is, and answers orders with something else."""
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
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

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
        self.processes.append(process)
        return process

    def environment(self, name: str) -> dict[str, str]:
        home = self.folder / name
        other_code = {"PYTHONPATH": str(home / "code")} if (home / "code").exists() else {}
        return {
            **os.environ,
            **other_code,
            "FLWR_HOME": str(home / "flwr"),
            "FEDFMD_CACHE": str(home / "cache"),
            "FEDFMD_KERNELS": "0",
            "PATH": f"{BIN}:{os.environ['PATH']}",
        }

    def superlink(self) -> None:
        keys = self.folder / "keys" / "server"
        self.start(
            "superlink",
            "flower-superlink",
            f"--ssl-ca-certfile={keys / 'ca.crt'}",
            f"--ssl-certfile={keys / 'server.crt'}",
            f"--ssl-keyfile={keys / 'server.key'}",
            "--enable-supernode-auth",
            "--host=127.0.0.1",
            f"--port={self.port}",
            "--disable-runtime-dependency-installation",
        )

    def supernode(self, name: str, config: str, *security: str) -> subprocess.Popen[bytes]:
        return self.start(
            name,
            "flower-supernode",
            f"--superlink=127.0.0.1:{self.port}",
            *security,
            "--host=127.0.0.1",
            f"--port={free_port()}",
            "--max-retries=1",
            f"--node-config={config}",
        )

    def stranger(self, name: str, keys: Path, authority: Path) -> subprocess.Popen[bytes]:
        return self.supernode(name, "client-id=0", *_security(keys, authority))

    def client(self, client: int, name: str | None = None) -> subprocess.Popen[bytes]:
        keys, pictures = self.folder / "keys" / f"client-{client}", self.folder / "data" / f"client-{client}"
        config = (
            f'client-id={client} data="{pictures / PICTURES}" state="{self.folder}/state-{client}" threads=1'
        )
        return self.supernode(name or f"client-{client}", config, *_security(keys, keys / "ca.crt"))

    def run(self, name: str, overrides: str = "") -> RunDirectory:
        """Submit a run and wait for its end."""
        out = self.folder / name
        options = {
            "config": self.folder / "experiment.toml",
            "out": out,
            "data": self.folder / "data" / "server" / PICTURES,
            "set": overrides,
        }
        text = " ".join(f"{key}='{value}'" for key, value in options.items())
        self.flwr("run", str(APP), "--run-config", f"clients=2 {text}")
        ended = wait_until(lambda: (out / "summary.json").exists(), timeout=240)
        assert ended, self.log("superlink")[-3000:]
        return RunDirectory.open(out)

    def flwr(self, *arguments: str) -> str:
        done = subprocess.run(
            [str(BIN / "flwr"), *arguments],
            capture_output=True,
            text=True,
            env=self.environment("cli"),
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def log(self, name: str) -> str:
        return (self.folder / name / "log.txt").read_text(errors="replace")

    def end(self) -> None:
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A SuperLink that knows two clients' keys, and both clients."""
    folder = tmp_path_factory.mktemp("deployment")
    config = deployed_config(tiny_config(**CHANGES), 2)
    (folder / "experiment.toml").write_text(dump_config(config))
    write_pictures(folder / "data", config)
    make_keys(folder / "keys", range(2))
    here = Deployment(folder)
    (folder / "cli" / "flwr").mkdir(parents=True)
    (folder / "cli" / "flwr" / "config.toml").write_text(
        f'[superlink]\ndefault = "here"\n[superlink.here]\naddress = "127.0.0.1:{here.port}"\n'
        f'root-certificates = "{folder / "keys" / "public" / "ca.crt"}"\n'
    )
    try:
        here.superlink()
        assert wait_until(lambda: reachable(here.port))
        for client in range(2):
            here.flwr("supernode", "register", str(folder / "keys" / "public" / f"client-{client}.pub"))
            here.client(client)
        yield here
    finally:
        here.end()


def reachable(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def finished(deployment: Deployment) -> RunDirectory:
    """The run directory of a run that was submitted to the deployment."""
    return deployment.run("run")


def test_a_run_on_real_clients_is_the_run_of_the_plain_loop(finished: RunDirectory, tmp_path: Path) -> None:
    """Same weights to the bit: each client had its own pictures only, and the server none of them."""
    assert finished.finished(), finished.summary()
    oracle = run_inline(tmp_path / "oracle", **CHANGES)
    model = "model.safetensors"
    assert (finished.path / model).read_bytes() == (oracle.path / model).read_bytes()
    same = ("round", "client", "status", "examples", "steps", "macs", "uplink_bytes", "train_loss")
    ours, theirs = (
        [[row[key] for key in same] for row in rows(d, "clients.jsonl")] for d in (finished, oracle)
    )
    assert ours == theirs


def test_rows_say_what_the_clients_really_took(finished: RunDirectory) -> None:
    for line in (finished.path / "clients.jsonl").read_text().splitlines():
        row = json.loads(line)
        assert 0 < row["train_seconds"] < row["wall_seconds"]
        assert row["cpu_seconds"] > row["train_seconds"] / 10
        assert 50e6 < row["peak_memory_bytes"] < 4e9
        assert row["downlink_wire_bytes"] > row["downlink_bytes"]
        assert row["uplink_wire_bytes"] > row["uplink_bytes"]


def test_the_server_has_counts_and_no_pictures(deployment: Deployment, finished: RunDirectory) -> None:
    assert len(open_prepared(deployment.folder / "data" / "server" / PICTURES).train_labels) == 0
    manifest = json.loads((finished.path / "partition.json").read_text())
    assert manifest["sizes"] == [30, 30]
    assert "label_counts" not in manifest
    assert not (finished.path / "partition.safetensors").exists()
    said = json.loads((finished.path / "clients.json").read_text())
    assert [said[client]["examples"] for client in ("0", "1")] == [30, 30]


def test_who_does_not_belong_is_refused(deployment: Deployment, tmp_path: Path) -> None:
    """An unknown key, a client that would not trust this server, and one that does not encrypt."""
    make_keys(tmp_path / "keys", [0])
    stranger, ours = tmp_path / "keys" / "client-0", deployment.folder / "keys"
    unknown = deployment.stranger("unknown-key", stranger, ours / "public" / "ca.crt")
    untrusted = deployment.stranger("untrusted", ours / "client-0", stranger / "ca.crt")
    plain = deployment.supernode("plain", "client-id=0", "--insecure")
    assert unknown.wait(90) != 0
    assert untrusted.wait(90) != 0
    assert plain.wait(90) != 0
    assert "CERTIFICATE_VERIFY_FAILED" in deployment.log("untrusted")
    assert "[code: 2004] Failed to activate SuperNode" in deployment.log("unknown-key")


def test_a_client_that_sends_nonsense_is_rejected(deployment: Deployment, finished: RunDirectory) -> None:
    """Client 1 ends and comes back with its key and other code: it fails, client 0's rounds go on."""
    del finished
    client = deployment.processes[2]
    client.terminate()
    client.wait()
    code = deployment.folder / "other-client-1" / "code" / "clients"
    code.mkdir(parents=True)
    (code / "__init__.py").touch()
    (code / "app.py").write_text(NONSENSE.format(honest=str(ROOT / "clients" / "app.py")))
    deployment.client(1, "other-client-1")
    directory = deployment.run("nonsense", "server.rounds=2")
    assert directory.finished(), directory.summary()
    told = [(row["client"], row["status"], row["reason"]) for row in rows(directory, "clients.jsonl")]
    assert told[0::2] == [(0, "completed", None)] * 2
    assert [status for _, status, _ in told[1::2]] == ["failed"] * 2
    assert all(reason for _, _, reason in told[1::2]), told


def _security(keys: Path, authority: Path) -> tuple[str, str]:
    return f"--root-certificates={authority}", f"--auth-supernode-private-key={keys / 'node.key'}"
