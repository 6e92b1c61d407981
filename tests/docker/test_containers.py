"""The real thing: an image, a SuperLink and four clients of different limits, in containers.

Needs a Docker engine and an image ``fedfmd:local``, or what it takes to build one: see ``make test-docker``.
"""

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedfmd.config import parse_config
from fedfmd.deploy.setup import DEFAULT_TIERS, make_deployment
from fedfmd.deploy.stack import Stack
from fedfmd.errors import UserError
from fedfmd.rundir import RunDirectory

pytestmark = pytest.mark.docker
MEBI = 1 << 20
CLIENTS = len(DEFAULT_TIERS)
CONFIG: dict[str, Any] = {
    "name": "containers-under-test",
    "data": {"train_samples": 400, "test_samples": 100},
    "partition": {"scheme": "sampled", "clients": CLIENTS, "samples_per_client": 40},
    "model": {"width": 0.25, "kernels": 2},
    "client": {"batch_size": 10},
    "server": {"rounds": 2, "cohort": CLIENTS},
}


def missing() -> str | None:
    """Say why there are no containers here."""
    if not shutil.which("docker"):
        return "no docker command"
    if subprocess.run(["docker", "info"], capture_output=True, check=False).returncode:
        return "no Docker engine answers"
    return None


def docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=True).stdout.strip()


def container(stack: Stack, service: str) -> str:
    """Find a service's container by its labels: names differ between versions of compose."""
    project = stack.settings["COMPOSE_PROJECT_NAME"]
    labels = (f"project={project}", f"service={service}", "oneoff=False")
    filters = [part for label in labels for part in ("--filter", f"label=com.docker.compose.{label}")]
    return docker("ps", "-aq", *filters)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    if reason := missing():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("docker") / "deploy"
    make_deployment(folder, parse_config(CONFIG), DEFAULT_TIERS)
    folder.parent.chmod(0o755)
    here = Stack(folder)
    try:
        if os.environ.get("FEDFMD_BUILD", "1") == "1":
            here.call("build", "superlink")
        here.call("up", "-d")
        yield here
    except UserError as error:
        pytest.skip(str(error))
    finally:
        here.call("down", "--volumes", "--timeout", "5")


@pytest.fixture(scope="module")
def first(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return run(stack, "first", tmp_path_factory.mktemp("runs"))


def run(stack: Stack, name: str, into: Path) -> RunDirectory:
    number = stack.submit(name, [])
    stack.follow(number, name, lambda row: print(f"round {row['round']}: top-1 {row['top1']}", flush=True))
    stack.results(into)
    return RunDirectory.open(into / name)


def client_rows(directory: RunDirectory) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory.path / "clients.jsonl").read_text().splitlines()]


def test_containers_have_the_limits_of_their_tiers(stack: Stack) -> None:
    for client, tier in enumerate(DEFAULT_TIERS):
        found = docker(
            "inspect",
            "-f",
            "{{.HostConfig.NanoCpus}} {{.HostConfig.Memory}} {{.HostConfig.ReadonlyRootfs}} {{.Config.User}}",
            container(stack, f"client-{client}"),
        )
        amount, unit = int(tier.memory[:-1]), tier.memory[-1]
        memory = amount * MEBI * (1024 if unit == "g" else 1)
        assert found == f"{int(tier.cpus * 1e9)} {memory} true 10001:10001"


def test_a_run_on_containers(first: RunDirectory) -> None:
    assert first.finished()
    rows = client_rows(first)
    assert [row["client"] for row in rows] == [0, 1, 2, 3] * 2
    assert {row["status"] for row in rows} == {"completed"}, rows
    for row in rows:
        assert row["cpu_seconds"] > 0
        assert row["wall_seconds"] > row["train_seconds"] > 0
        assert 100 * MEBI < row["peak_memory_bytes"] < 1024 * MEBI
        assert row["uplink_wire_bytes"] > row["uplink_bytes"]


def test_the_clients_say_their_limits(first: RunDirectory) -> None:
    said = json.loads((first.path / "clients.json").read_text())
    assert [said[str(client)]["processors"] for client in range(CLIENTS)] == [t.cpus for t in DEFAULT_TIERS]
    assert said["0"]["memory_limit_bytes"] == 1024 * MEBI


def test_no_container_sees_anothers_pictures_or_key(stack: Stack) -> None:
    seen = docker("exec", container(stack, "client-1"), "find", "/keys", "/data", "-type", "f").split()
    assert sorted(seen) == ["/data/pictures.safetensors", "/keys/ca.crt", "/keys/node.key"]


def test_a_run_outlives_a_killed_client(stack: Stack, tmp_path: Path) -> None:
    """Client 3 is killed when it has said who it is: it fails, the others' rounds go on."""
    number = stack.submit("killed", [])
    begun = threading.Event()

    def on_round(row: dict[str, Any]) -> None:
        if not begun.is_set():
            docker("kill", container(stack, "client-3"))
            begun.set()

    stack.follow(number, "killed", on_round)
    stack.results(tmp_path)
    directory = RunDirectory.open(tmp_path / "killed")
    assert directory.finished()
    last = {row["client"]: row for row in client_rows(directory) if row["round"] == 2}
    assert [last[client]["status"] for client in range(3)] == ["completed"] * 3
    assert last[3]["status"] == "failed"
    assert last[3]["reason"]
