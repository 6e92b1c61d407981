"""The page of three machines, as it stands: its commands, each on its machine, up to the report."""

import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from machines import ADDRESS, Machine, network
from PIL import Image, ImageDraw
from tiny_runs import rows
from waiting import wait_until

from fedfmd.records.rundir import RunDirectory

PAGE = Path(__file__).parents[2] / "docs" / "three-machines.md"
LASTING = {"fedfmd deploy serve": "clients come to", "./start.sh": "SuperNode ID:"}
"""Commands that go on until they are told to end, and what they print once they are at work."""
SCP = '#!/bin/sh\nexec cp -r "$2" "{folder}/${{3%:}}/"\n'
"""Stands for a copy to another machine: `scp -r FOLDER MACHINE:`."""
PHOTOS = {
    "north": {"circle": 40, "square": 40, "triangle": 40},
    "south": {"circle": 60, "square": 20},
    "west": {"square": 10, "triangle": 50},
}
"""Images per class."""
CORNERS = {"square": 4, "triangle": 3}


def draw(folder: Path, counts: dict[str, int], size: int = 48) -> None:
    """Draw a client's own images: bright shapes of all colours, anywhere, upright or not."""
    for kind, count in counts.items():
        (folder / kind).mkdir(parents=True)
        for number in range(count):
            image = Image.new("RGB", (size, size), (number % 60, 30, 60 - number % 60))
            pen, colour = ImageDraw.Draw(image), (200, 80 + 3 * number, 120)
            x, y, r = 16 + number % 14, 18 + number % 11, 10 + number % 5
            if kind == "circle":
                pen.ellipse((x - r, y - r, x + r, y + r), fill=colour)
            else:
                pen.regular_polygon((x, y, r), CORNERS[kind], rotation=7 * number, fill=colour)
            image.save(folder / kind / f"{number}.png")


@dataclass
class Story:
    """What the page's commands have started and left behind."""

    folder: Path
    machines: dict[str, Machine]
    lasting: dict[str, "subprocess.Popen[str]"] = field(default_factory=dict)
    """By machine."""

    def tell(self) -> None:
        """Run the page's commands one after another."""
        for name, block in re.findall(r'^```sh title="(\w+)[^"]*"\n(.*?)^```', PAGE.read_text(), re.M | re.S):
            for line in block.replace("\\\n", " ").splitlines():
                self.do(self.machines[name], re.sub(r"\s+#.*", "", line))

    def do(self, machine: Machine, line: str) -> None:
        if line.startswith("cd "):
            machine.here /= shlex.split(line)[1]
        elif sign := next((LASTING[start] for start in LASTING if line.startswith(start)), None):
            log = self.folder / f"{machine.name}.log"
            self.lasting[machine.name] = machine.start(line, log)
            ready = wait_until(lambda: sign in log.read_text(errors="replace"), timeout=180)
            assert ready, log.read_text(errors="replace")[-3000:]
        else:
            print(f"{machine.name}$ {line}\n{machine.run(line)}", flush=True)

    def end(self, name: str) -> int:
        """End what goes on at a machine as Ctrl-C does; gives its exit code."""
        process = self.lasting.pop(name)
        process.terminate()
        return process.wait(60)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    folder = tmp_path_factory.mktemp("machines")
    with network(["hub", *PHOTOS], folder) as machines:
        scp = folder / "programs" / "scp"
        scp.write_text(SCP.format(folder=folder))
        scp.chmod(0o755)
        for name, counts in PHOTOS.items():
            draw(folder / name / "photos", counts)
        told = Story(folder, machines)
        try:
            told.tell()
            yield told
        finally:
            for name in list(told.lasting):
                told.end(name)


@pytest.mark.slow
def test_the_page_leads_from_three_folders_to_a_report(story: Story) -> None:
    hub = story.folder / "hub"
    first = RunDirectory.open(hub / "runs" / "first")
    assert first.finished()
    assert [(row["present"], row["completed"]) for row in rows(first, "rounds.jsonl")[1:]] == [(3, 3)] * 3
    assert (hub / "runs" / "first" / "report.html").is_file()
    agreed = json.loads((hub / "deploy" / "results" / "statistics.json").read_text())
    assert agreed["images"] == sum(first.read_json("partition.json")["sizes"])
    assert story.lasting.keys() == {"hub", *PHOTOS}


@pytest.mark.slow
def test_a_client_reaches_the_gate_and_not_the_superlink(story: Story) -> None:
    reach = "python -c 'import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)'"
    north, hub = story.machines["north"], ADDRESS.format(1)
    north.run(f"{reach} {hub} 8000")
    for address, port in ((hub, 9000), (ADDRESS.format(3), 9101)):  # nor what another client listens on
        with pytest.raises(AssertionError, match="Connection refused"):
            north.run(f"{reach} {address} {port}")


@pytest.mark.slow
def test_a_server_that_was_away_finds_its_clients_again_but_for_one_that_was_put_out(story: Story) -> None:
    hub = story.machines["hub"]
    story.end("hub")
    hub.run("fedfmd deploy remove-client west")
    story.do(hub, "fedfmd deploy serve")
    west = story.lasting.pop("west")
    assert west.wait(180) == 0  # told that it does not belong any more
    hub.run("fedfmd deploy run --name second --set server.rounds=1")
    hub.run("fedfmd deploy results --out runs")
    second = RunDirectory.open(story.folder / "hub" / "runs" / "second")
    assert [(row["present"], row["completed"]) for row in rows(second, "rounds.jsonl")[1:]] == [(2, 2)]
    assert story.end("south") == 0
