"""Clients whose owners have Docker and their images: what was handed to them, and a gate that is published.

A client's container is on the machine's own bridge, and reaches the server by the published port alone.
"""

import ipaddress
import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from containers import built, docker, running, skip_without_engine
from PIL import Image
from typer.testing import CliRunner
from waiting import wait_until

import fedfmd
from fedfmd.cli.deploy import app
from fedfmd.config.experiment import parse_config
from fedfmd.data.agreement import Agreement
from fedfmd.deployment.setup import make_open_deployment
from fedfmd.deployment.stack import Stack
from fedfmd.records.rundir import RunDirectory

pytestmark = pytest.mark.docker
AGREED = Agreement(("dark", "light"), 16)
CONFIG: dict[str, Any] = {
    "name": "handed-over",
    "model": {"width": 0.25, "conv": "static"},
    "client": {"batch_size": 10, "augment": False},
    "server": {"rounds": 1, "cohort": 2},
}
IMAGES = {"north": (20, 10), "south": (10, 20), "west": (5, 10)}
"""Of each class."""


@dataclass
class Federation:
    """A server in containers, and what its clients have started on their machines."""

    stack: Stack
    folder: Path
    started: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    def pack(self, name: str) -> str:
        """Let a client pack its images, by Docker alone; gives what it is told."""
        photos = self.folder / f"photos-{name}"
        for label, count in zip(AGREED.classes, IMAGES[name], strict=True):
            (photos / label).mkdir(parents=True)
            for number in range(count):
                shade = (200 if label == "light" else 20) + 2 * number
                Image.new("RGB", (20, 20), (shade, shade, 40)).save(photos / label / f"{number}.png")
        script = self.stack.deployed.handed(name) / "pack-docker.sh"
        done = subprocess.run([script, photos], capture_output=True, text=True, check=True)
        return done.stdout

    def start(self, name: str) -> None:
        """Start a client by its script."""
        with (self.folder / f"{name}.log").open("wb") as log:
            self.started[name] = subprocess.Popen(
                [self.stack.deployed.handed(name) / "start-docker.sh"],
                env={**os.environ, "MEMORY": "1g"},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def run(self, name: str, *overrides: str) -> RunDirectory:
        number = self.stack.submit(name, overrides)
        self.stack.follow(number, name, lambda row: print(f"round {row['round']}", flush=True))
        self.stack.results(self.folder / "runs")
        return RunDirectory.open(self.folder / "runs" / name)


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """Give a federation of two clients, of which north was there before its server."""
    skip_without_engine()
    here = tmp_path_factory.mktemp("handed")
    subnet = docker("network", "inspect", "bridge", "-f", "{{(index .IPAM.Config 0).Subnet}}")
    address = str(next(ipaddress.ip_network(subnet).hosts()))  # of this machine: not all engines name it
    with socket.socket() as probe:
        probe.bind(("0.0.0.0", 0))
        port = probe.getsockname()[1]
    config = parse_config(CONFIG)
    names = ["north", "south"]
    make_open_deployment(here / "deploy", config, AGREED, names, places=3, server_names=[address], port=port)
    stack = built(here / "deploy")
    docker("tag", stack.settings.get("FEDFMD_IMAGE", "fedfmd:local"), f"fedfmd:{fedfmd.__version__}")
    made = Federation(stack, here)
    try:
        assert "30 training and 0 test images of 2 of 2 classes" in made.pack("north")
        made.pack("south")
        made.start("north")
        assert wait_until(lambda: "the server cannot be reached" in made.log("north"), 240), made.log("north")
        with running(stack):
            made.start("south")
            yield made
    finally:
        for process in made.started.values():
            process.send_signal(signal.SIGTERM)
        for process in made.started.values():
            process.wait(120)


def test_they_agree_and_train_together_by_sums_that_hide_each_of_them(federation: Federation) -> None:
    agreed = federation.stack.agree()
    assert agreed["labels"] == {"dark": 24, "light": 24}  # a fifth is kept to measure the model on
    run = federation.run("first", "privacy.secure=secagg", "privacy.min_holders=2", "evaluation.clients=0")
    assert run.finished()
    (round,) = run.rounds()[1:]
    assert (round["present"], round["completed"]) == (2, 2)
    for line in (run.path / "clients.jsonl").read_text().splitlines():
        row = json.loads(line)
        assert (row["status"], row["examples"], row["train_loss"]) == ("completed", None, None)
        assert row["uplink_bytes"] == 2 * row["downlink_bytes"]


def test_one_comes_and_one_is_put_out_while_the_server_runs(federation: Federation) -> None:
    folder = federation.stack.folder
    for words in (["add-client", "west"], ["remove-client", "south"]):
        result = CliRunner().invoke(app, [*words, "--dir", str(folder)])
        assert result.exit_code == 0, (result.output, result.exception)
    assert federation.started["south"].wait(180) == 0  # it was told, and ended
    federation.pack("west")
    federation.start("west")
    assert wait_until(lambda: "SuperNode ID" in federation.log("west"), 240), federation.log("west")
    run = federation.run("second")
    assert run.finished()
    assert {row.client for row in run.client_rows(1)} == {0, 2}
    assert {row.status for row in run.client_rows(1)} == {"completed"}
