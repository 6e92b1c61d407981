"""The real thing: an image, a SuperLink and four clients of different limits, in containers.

Needs a Docker engine and an image ``fedfmd:local``, or what it takes to build one: see ``make test-docker``.
"""

import json
import platform
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import intruder
import pytest
from containers import built, container, docker, running, skip_without_engine
from waiting import wait_until

from fedfmd.config.experiment import parse_config
from fedfmd.deployment.client import RESERVED_BYTES
from fedfmd.deployment.setup import DEFAULT_TIERS, make_deployment
from fedfmd.deployment.stack import Stack
from fedfmd.errors import RunError
from fedfmd.records.rundir import RunDirectory

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


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    skip_without_engine()
    folder = tmp_path_factory.mktemp("docker") / "deploy"
    make_deployment(folder, parse_config(CONFIG), DEFAULT_TIERS)
    with running(built(folder)) as here:
        yield here


@pytest.fixture(scope="module")
def first(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return run(stack, "first", tmp_path_factory.mktemp("runs"))


INTRODUCED = "test -s clients.json"
"""The clients have said who they are; the model is still to be measured before the first order is given."""
ONE_ROUND = "test $(wc -l < rounds.jsonl) -ge 2"


def run(
    stack: Stack,
    name: str,
    into: Path,
    overrides: Sequence[str] = (),
    disturb: Callable[[], object] = lambda: None,
    when: str = INTRODUCED,
) -> RunDirectory:
    """Run to the end; ``disturb`` is called once, as soon as ``when`` is true in the run directory."""
    number, superlink = stack.submit(name, overrides), container(stack, "superlink")
    asked = f"exec 2>/dev/null; cd /results/{name} && {when} && echo yes || true"
    assert wait_until(lambda: docker("exec", superlink, "sh", "-c", asked), timeout=480)
    disturb()
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


@pytest.mark.parametrize("vectors", ["avx2", "avx512"])
def test_the_image_has_the_compiled_kernels(stack: Stack, vectors: str) -> None:
    """For the CPU that torch finds, or is told to have found; nothing in the container may build them."""
    if platform.machine() != "x86_64" or vectors not in Path("/proc/cpuinfo").read_text():
        pytest.skip(f"no {vectors} here")
    image = stack.settings.get("FEDFMD_IMAGE", "fedfmd:local")
    code = "from fedfmd.nn import kernels; print(kernels.available())"
    limits = ["--rm", "--read-only", "--network", "none", "--env", f"ATEN_CPU_CAPABILITY={vectors}"]
    assert docker("run", *limits, "--tmpfs", "/tmp", image, "python", "-W", "error", "-c", code) == "True"


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
    keys = ["ca.crt", "client.crt", "client.key", "node.key"]
    assert sorted(seen) == ["/data/pictures.safetensors", *(f"/keys/{name}" for name in keys)]


def test_what_client_1_holds_opens_nothing(stack: Stack) -> None:
    """From its own container, with its key: through the gate, past it, and to the other clients."""
    situation = known_to_an_intruder(stack)
    told = intrude(stack, situation, "exec", "-i", container(stack, "client-1"))
    as_itself = [codes for codes in told["registered"] if codes["pull-messages"] != 401]
    as_others = [codes for codes in told["registered"] if codes["pull-messages"] == 401]
    assert as_others == [dict.fromkeys(intruder.QUIET, 401)] * (CLIENTS - 1)
    assert [401 in codes.values() for codes in as_itself] == [False]


def test_the_authoritys_file_alone_opens_nothing(stack: Stack) -> None:
    """From a machine in the clients' network that has nothing else of the deployment's."""
    authority = stack.folder / "keys" / "client-1" / "ca.crt"
    where = [
        "--network",
        f"{stack.settings['COMPOSE_PROJECT_NAME']}_clients",
        "-v",
        f"{authority}:/keys/ca.crt:ro",
    ]
    image = stack.settings.get("FEDFMD_IMAGE", "fedfmd:local")
    told = intrude(stack, known_to_an_intruder(stack), "run", "--rm", "-i", *where, image)
    assert "registered" not in told


def known_to_an_intruder(stack: Stack) -> dict[str, Any]:
    """Give all that an intruder could know: every number and address, besides the files it has."""
    runs, nodes = inside(stack)
    hidden = [("superlink", 8000), (address(stack, "superlink"), 8000)]
    for client in range(CLIENTS):
        hidden += [(f"client-{client}", 9094), (address(stack, f"client-{client}"), 9094)]
    return {
        "door": "gate:8000",
        "folder": "/keys",
        "run": int(runs[0]) if runs else 1,
        "nodes": [int(node) for node in nodes],
        "addresses": hidden,
    }


def intrude(stack: Stack, situation: dict[str, Any], *docker_words: str) -> dict[str, Any]:
    """Let an intruder try everything from a container; gives what it was told.

    Nothing became of it: no run, no client, nothing beyond the gate reached, no foreign code anywhere.
    """
    before = inside(stack)
    program = Path(intruder.__file__).read_text()
    words = [*docker_words, "python", "-", json.dumps(situation)]
    told: dict[str, Any] = json.loads(docker(*words, typed=program).splitlines()[-1])
    assert {words: said for words, said in told["commands"].items() if "404" not in said} == {}
    assert told["stranger"] == [intruder.STRANGER] * CLIENTS
    assert told["reached"] == []
    assert inside(stack) == before
    assert not foreign_code(stack)
    return told


def inside(stack: Stack) -> tuple[list[str], list[str]]:
    """Give what the operator sees: the numbers of all runs and of all clients."""
    runs, nodes = stack.flwr("list")["runs"], stack.flwr("supernode", "list")["nodes"]
    return sorted(str(run["run-id"]) for run in runs), sorted(str(node["node-id"]) for node in nodes)


def foreign_code(stack: Stack) -> list[str]:
    """Name the services on which an intruder's code ran."""
    places = {"superlink": "/results", **{f"client-{client}": "/state" for client in range(CLIENTS)}}
    return [
        service
        for service, folder in places.items()
        if any("foreign" in name for name in docker("exec", container(stack, service), "ls", folder).split())
    ]


def address(stack: Stack, service: str) -> str:
    (network,) = json.loads(docker("inspect", container(stack, service)))[0]["NetworkSettings"][
        "Networks"
    ].values()
    return str(network["IPAddress"])


def written(stack: Stack, name: str) -> list[str]:
    """Give the lines of a file that an app has left among the results."""
    return stack.texts(name)[0].splitlines()


def submit(stack: Stack, folder: Path, code: str = intruder.APP) -> None:
    """Submit an app of somebody else's, as the operator can."""
    app = intruder.write_app(folder, Path("/state/foreign"), Path("/results/foreign.txt"), code)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755)
    stack.read(
        "run",
        "--rm",
        "-T",
        "-v",
        f"{app}:/tmp/foreign:ro",
        "cli",
        "flwr",
        "run",
        "/tmp/foreign",
        "--format",
        "json",
    )


def test_no_client_runs_an_app_that_it_has_not_installed(stack: Stack, tmp_path: Path) -> None:
    """Started by the operator himself; the clients then still take honest orders (the tests below)."""
    submit(stack, tmp_path)
    assert wait_until(lambda: "end" in written(stack, "foreign.txt"), timeout=480)
    assert written(stack, "foreign.txt") == ["here", *["refused"] * CLIENTS, "end"]
    assert foreign_code(stack) == ["superlink"]


THIEF_APP = """
import json
from pathlib import Path
import torch
from flwr.app import Message, MessageType
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from fedfmd.config.experiment import load_config
from fedfmd.deployment.assignment import assignment
from fedfmd.flower.messages import to_record
from fedfmd.wire.packages import Package, pack

client = ClientApp()
server = ServerApp()
names = ("../state/precious", "/state/precious", "..", ".")

@server.main()
def main(grid, context):
    told = json.loads(assignment(load_config(Path("/deployment/experiment.toml")), "run", 0))
    asked = []
    for name, node in zip(names, grid.get_node_ids(), strict=True):
        meta = json.dumps({"deployment": json.dumps(told | {"run": name})})
        package = Package(meta, pack({}, {"vector": torch.zeros(1)}).tensors)
        asked.append(Message(to_record(package), dst_node_id=node, message_type=MessageType.TRAIN))
    replies = grid.send_and_receive(asked, timeout=240)
    said = [r.error.reason.splitlines()[-1] if r.has_error() else "obeyed" for r in replies]
    Path("/results/thief.txt").write_text("\\n".join(said) + "\\n")
"""


def test_no_client_loses_a_file_to_a_server_that_names_it(stack: Stack, tmp_path: Path) -> None:
    """A run that is named after a folder on the clients, in an order as honest servers give them."""
    clients = [container(stack, f"client-{client}") for client in range(CLIENTS)]
    for name in clients:
        docker("exec", name, "sh", "-c", "mkdir /state/precious && echo thesis > /state/precious/thesis.txt")
    submit(stack, tmp_path, THIEF_APP)
    assert wait_until(lambda: written(stack, "thief.txt"), timeout=480)
    said = written(stack, "thief.txt")
    assert len(said) == CLIENTS
    assert all("description of the run: run: " in line for line in said), said
    for name in clients:
        assert docker("exec", name, "cat", "/state/precious/thesis.txt") == "thesis"


def statuses(directory: RunDirectory, round: int) -> list[str]:
    return [row["status"] for row in client_rows(directory) if row["round"] == round]


def limit_memory(stack: Stack, service: str, limit: int) -> None:
    docker("update", f"--memory={limit}", f"--memory-swap={limit}", container(stack, service))


def held_by(directory: RunDirectory, client: int) -> int:
    """Give the bytes that a client's processes held as it introduced itself."""
    said = json.loads((directory.path / "clients.json").read_text())[str(client)]
    return int(said["memory_limit_bytes"] - said["host"]["memory_bytes"] - RESERVED_BYTES)


def test_a_plan_keeps_within_the_memory_of_its_container(
    stack: Stack, first: RunDirectory, tmp_path: Path
) -> None:
    """Half of what the full plan would need: client 1 gets smaller batches, and nothing is killed."""
    said = json.loads((first.path / "clients.json").read_text())["1"]
    limit_memory(stack, "client-1", held_by(first, 1) + RESERVED_BYTES + 40 * MEBI)
    larger = ["model.width=1.0", "client.batch_size=40", "policy.kind=batch", "policy.min_batch_size=1"]
    try:
        directory = run(stack, "small-memory", tmp_path, larger)
    finally:
        limit_memory(stack, "client-1", said["memory_limit_bytes"])
    assert directory.finished()
    rows = client_rows(directory)
    assert {row["status"] for row in rows} == {"completed"}, rows
    for row in rows:
        assert "violations" not in row["budget"]
        assert row["memory_bytes"] <= row["budget"]["memory_bytes"]
        smaller = row["client"] == 1
        assert (row["plan"]["batch_size"] < 40) == smaller
        assert row["plan"].get("why", "") == ("the full plan exceeds memory_bytes" if smaller else "")


def test_clients_in_trouble_fail_alone_and_come_back(
    stack: Stack, first: RunDirectory, tmp_path: Path
) -> None:
    """Client 1's process is killed for its memory, client 2 stands still, client 3's container is killed.

    Client 1's machine shrinks after it has said what it has: too late for a smaller plan.
    """
    killed, paused = container(stack, "client-3"), container(stack, "client-2")
    small = container(stack, "client-1")
    before = json.loads(docker("inspect", small))[0]["HostConfig"]["Memory"]
    long = ["server.rounds=1", "model.width=1.0", "client.batch_size=40", "client.epochs=5"]

    def disturb() -> None:
        docker("pause", paused, small)
        docker("kill", killed)
        limit_memory(stack, "client-1", held_by(first, 1) + 24 * MEBI)
        docker("unpause", small)

    try:
        directory = run(stack, "disturbed", tmp_path, long, disturb)
    finally:
        limit_memory(stack, "client-1", before)
        docker("unpause", paused)
        docker("start", killed)
    assert directory.finished()
    assert statuses(directory, 1) == ["completed", "failed", "failed", "failed"]
    assert all(row["reason"] for row in client_rows(directory) if row["status"] == "failed")
    again = run(stack, "again", tmp_path, ["server.rounds=1"])
    assert again.finished()
    assert statuses(again, 1) == ["completed"] * 4


def test_a_restarted_superlink_ends_a_run_that_can_be_continued(stack: Stack, tmp_path: Path) -> None:
    """It knows its clients and keys from its disk; the run goes on from its checkpoint."""
    long, superlink = ["server.rounds=4"], container(stack, "superlink")
    with pytest.raises(RunError):
        run(stack, "restarted", tmp_path, long, lambda: docker("restart", superlink), ONE_ROUND)
    directory = run(stack, "restarted", tmp_path, long)
    assert directory.finished()
    assert [row["round"] for row in directory.rounds()] == [0, 1, 2, 3, 4]
    assert statuses(directory, 4) == ["completed"] * 4
