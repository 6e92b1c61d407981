"""A deployment as processes on loopback: TLS, authenticated clients that have their own pictures, a run.

One deployment serves all tests; the containers of ``tests/docker`` are the same processes with limits.
"""

import json
import socket
import ssl
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from pathlib import Path

import hostile_node
import httpx
import intruder
import pytest
import torch
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Message
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.primitives.asymmetric import generate_key_pairs
from loopback import APP, CHANGES, Deployment, running
from nodes import Nodes, as_one_task
from safetensors.torch import load_file
from tiny_runs import rows, run_inline
from waiting import wait_until

from fedfmd.data.prepared import open_prepared
from fedfmd.deployment.keys import make_keys
from fedfmd.deployment.layout import PICTURES
from fedfmd.privacy.accountant import Releases, epsilon
from fedfmd.records.rundir import RunDirectory

DISHONEST = """
import sys
from importlib.util import spec_from_file_location
from pathlib import Path

class Elsewhere:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "fedfmd.flower.client":
            return spec_from_file_location(name, Path(__file__).with_name("nonsense.py"))

sys.meta_path.insert(0, Elsewhere)
"""
"""What Python reads at its start on a client's own machine: it puts the client's code in place of ours."""
NONSENSE = """
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import fedfmd.flower
from flwr.app import Message
from flwr.clientapp import ClientApp
from fedfmd.flower.messages import to_record
from fedfmd.wire.packages import Package

spec = spec_from_file_location("honest", Path(fedfmd.flower.__file__).with_name("client.py"))
honest = sys.modules["honest"] = module_from_spec(spec)
spec.loader.exec_module(honest)
app = ClientApp()
app.query()(honest.get_ready)

@app.train()
def train(message, context):
    return Message(to_record(Package('{"rows": "many"}', bytes(range(256)))), reply_to=message)
"""
"""A ClientApp that says truly who it is, and answers orders with something else."""
LIMIT_SECONDS = 20
"""Of a round in which a client does not answer; the other takes a fraction of it."""
SERVERS_OWN = """
def by_number(updates, clients):
    weights = [1 + client for client in clients]
    return sum(w * update for w, update in zip(weights, updates)) / sum(weights)
"""
"""An aggregation rule that is installed on the server alone."""


@pytest.fixture(scope="module")
def servers_code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the server alone can import."""
    code = tmp_path_factory.mktemp("deployment") / "superlink" / "code"
    code.mkdir(parents=True)
    (code / "servers_own.py").write_text(SERVERS_OWN)
    return code


@pytest.fixture(scope="module")
def deployment(servers_code: Path) -> Iterator[Deployment]:
    with running(servers_code.parents[1]) as here:
        yield here


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


@pytest.mark.slow
def test_an_aggregation_of_ones_own_is_installed_on_the_server_alone(
    deployment: Deployment, servers_code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients need not have it, and the model is that of the plain loop with it."""
    own = deployment.run("own", "server.aggregation=servers_own:by_number")
    assert own.finished(), own.summary()
    assert {row["status"] for row in rows(own, "clients.jsonl")} == {"completed"}
    monkeypatch.syspath_prepend(str(servers_code))
    server = CHANGES["server"] | {"aggregation": "servers_own:by_number"}
    oracle = run_inline(tmp_path / "oracle", **CHANGES | {"server": server})
    ours, theirs = (load_file(d.path / "model.safetensors") for d in (own, oracle))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.slow
def test_a_secure_sum_on_real_clients_has_the_same_bits(
    deployment: Deployment, finished: RunDirectory
) -> None:
    """Keys, shares, masked updates and recovery, each by processes of their own; nothing of them stays."""
    secure = deployment.run("secure", "privacy.secure=secagg privacy.min_holders=2")
    assert secure.finished(), secure.summary()
    ours, theirs = (load_file(d.path / "model.safetensors") for d in (secure, finished))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    for row in rows(secure, "clients.jsonl"):
        assert (row["examples"], row["train_loss"]) == (None, None)
        assert row["uplink_bytes"] == 2 * row["downlink_bytes"]
        assert row["secure_stages"]["recovery_bytes"] > 0
    states = [deployment.folder / f"state-{client}" for client in range(2)]
    assert not [path for state in states for path in state.rglob("secure-round.json")]


@pytest.mark.slow
def test_a_private_run_on_real_clients_accounts_for_its_round(
    deployment: Deployment, finished: RunDirectory
) -> None:
    """Its noise is the operating system's, for the whole model; the ledger says what one round costs."""
    overrides = "privacy.dp=central privacy.noise_multiplier=1 privacy.delta=0.01 server.weighting=uniform"
    private = deployment.run("private", overrides)
    assert private.finished(), private.summary()
    assert {row["status"] for row in rows(private, "clients.jsonl")} == {"completed"}
    spent = epsilon([Releases(1.0, 2, 2, "replace-one", 1)], 0.01)
    assert [row["epsilon"] for row in rows(private, "rounds.jsonl")] == [None, spent]
    ours, theirs = (load_file(d.path / "model.safetensors") for d in (private, finished))
    assert not any(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_rows_say_what_the_clients_really_took(finished: RunDirectory) -> None:
    for line in (finished.path / "clients.jsonl").read_text().splitlines():
        row = json.loads(line)
        assert 0 < row["train_seconds"] < row["wall_seconds"]
        assert row["cpu_seconds"] > row["train_seconds"] / 10
        assert 50e6 < row["peak_memory_bytes"] < 4e9
        assert row["downlink_wire_bytes"] > row["downlink_bytes"]
        assert (
            row["uplink_bytes"] < row["uplink_wire_bytes"] < row["uplink_bytes"] + 4000
        )  # what is billed is sent


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
    plain = deployment.supernode("plain", "client-id=0", "--insecure", "--max-retries=1")
    assert unknown.wait(90) != 0
    assert untrusted.wait(90) != 0
    assert plain.wait(90) != 0
    assert "CERTIFICATE_VERIFY_FAILED" in deployment.log("untrusted")
    assert "does not know this client's key" in deployment.log("unknown-key")


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder of an intruder's app; what it brings home is in ``spoils`` beside it."""
    folder = tmp_path_factory.mktemp("intruder")
    spoils = folder / "spoils"
    spoils.mkdir()
    return intruder.write_app(folder, on_client=spoils / "on-a-client", on_server=spoils / "on-the-server")


def inside(deployment: Deployment) -> tuple[list[str], list[str]]:
    """Give what the operator sees: the numbers of all runs and of all clients."""
    runs = json.loads(deployment.flwr("list", "--format", "json"))["runs"]
    nodes = json.loads(deployment.flwr("supernode", "list", "--format", "json"))["nodes"]
    return sorted(str(run["run-id"]) for run in runs), sorted(str(node["node-id"]) for node in nodes)


def test_a_clients_files_open_nothing_of_the_operators(
    deployment: Deployment, finished: RunDirectory, foreign: Path, tmp_path: Path
) -> None:
    """With all that client 1 holds: no run is started, seen or stopped, no client registered or removed."""
    del finished
    before = inside(deployment)
    assert before[0]
    assert len(before[1]) == 2
    authority = deployment.keys / "client-1" / "ca.crt"
    make_keys(tmp_path, [7])
    key = tmp_path / "public" / "client-7.pub"
    for attempt in intruder.attempts(foreign, APP, before[0][0], before[1][0], key):
        done = deployment.flwr_at(deployment.door, authority, *attempt)
        assert done.returncode != 0, (attempt, done.stdout)
    # What a client holds does not even trust the SuperLink, where somebody has published its port as well.
    context = ssl.create_default_context(cafile=authority)
    plain = socket.create_connection(("127.0.0.1", deployment.port))
    with plain, pytest.raises(ssl.SSLCertVerificationError):
        context.wrap_socket(plain, server_hostname="127.0.0.1")
    assert inside(deployment) == before
    assert not list((foreign.parent / "spoils").iterdir())


def statuses(
    deployment: Deployment,
    private: ec.EllipticCurvePrivateKey,
    node: int,
    run: int,
    names: Collection[str] = frozenset(intruder.STRANGER),
) -> dict[str, int]:
    """Give what Fleet's paths of ``names`` answer a key that says to be ``node``, by the gate."""
    authority = deployment.keys / "client-1" / "ca.crt"
    return intruder.statuses(f"127.0.0.1:{deployment.door}", authority, private, node, run, names)


def test_a_key_is_good_for_its_own_client_alone(deployment: Deployment, finished: RunDirectory) -> None:
    """An unregistered key gets nothing on any path, and client 1's gets nothing as client 0."""
    del finished
    runs, nodes = inside(deployment)
    private, _ = generate_key_pairs()
    for node in map(int, nodes):
        assert statuses(deployment, private, node, int(runs[0])) == intruder.STRANGER
    theirs = intruder.private_key(deployment.keys / "client-1" / "node.key")
    told = [statuses(deployment, theirs, node, int(runs[0]), intruder.QUIET) for node in map(int, nodes)]
    as_another, as_itself = sorted(told, key=lambda codes: codes["pull-messages"] != 401)
    assert as_another == dict.fromkeys(intruder.QUIET, 401)
    assert 401 not in as_itself.values()


def test_foreign_code_runs_on_no_client(
    deployment: Deployment, finished: RunDirectory, foreign: Path
) -> None:
    """Not even an app that was started from inside: a client runs what is installed on it."""
    del finished
    spoils = foreign.parent / "spoils"
    said = spoils / "on-the-server"
    deployment.flwr("run", str(foreign), "here")
    ended = wait_until(lambda: said.exists() and "end" in said.read_text(), timeout=240)
    assert ended, deployment.log("superlink")[-3000:]
    assert said.read_text().split() == ["here", "refused", "refused", "end"]
    assert not (spoils / "on-a-client").exists()


def end_client_1(deployment: Deployment) -> None:
    """End whatever is there with client 1's key."""
    for name in ("client-1", "other-client-1"):
        if name in deployment.processes:
            deployment.processes[name].terminate()
            deployment.processes[name].wait()


def finished_beside(
    deployment: Deployment,
    answer: Callable[[hostile_node.HostileNode, Message], None],
    cache: Path,
    name: str,
    change: str,
) -> RunDirectory:
    """Finish a run of which client 1 is a node that answers so."""
    with (
        as_one_task(cache),
        hostile_node.connected(f"127.0.0.1:{deployment.door}", deployment.keys / "client-1") as node,
        node.at_work(answer),
    ):
        directory = deployment.run(name, change, LIMIT_SECONDS)
    assert directory.finished(), directory.summary()
    return directory


@pytest.mark.slow
def test_a_client_that_sends_nonsense_is_rejected(deployment: Deployment, finished: RunDirectory) -> None:
    """Client 1 ends and comes back with its key and other code: it fails, client 0's rounds go on."""
    del finished
    end_client_1(deployment)
    code = deployment.folder / "other-client-1" / "code"
    code.mkdir(parents=True)
    (code / "sitecustomize.py").write_text(DISHONEST)
    (code / "nonsense.py").write_text(NONSENSE)
    deployment.client(1, "other-client-1")
    directory = deployment.run("nonsense")
    assert directory.finished(), directory.summary()
    honest, dishonest = rows(directory, "clients.jsonl")
    assert (honest["client"], honest["status"], honest["reason"]) == (0, "completed", None)
    assert (dishonest["client"], dishonest["status"]) == (1, "failed")
    assert dishonest["reason"].startswith("not a package")


@pytest.mark.slow
def test_a_client_that_keeps_all_waiting_costs_a_round_its_limit(
    deployment: Deployment, finished: RunDirectory, tmp_path: Path
) -> None:
    """Client 1 announces its update and uploads nothing: nobody waits longer for it than the limit says.

    Once it has uploaded it after all, too late, it is asked again.
    """
    del finished
    end_client_1(deployment)
    orders: list[float] = []

    def answer(node: hostile_node.HostileNode, message: Message) -> None:
        client = Nodes(deployment.folder, 2)
        reply = client.answer(1, message)
        if message.metadata.message_type == "train":
            orders.append(time.monotonic())
            if len(orders) == 1:
                session = node.announce(reply)
                time.sleep(LIMIT_SECONDS + 3)
                node.beat()
                node.upload(reply, session)
                return
        node.send(reply)

    directory = finished_beside(deployment, answer, tmp_path / "cache", "waiting", "server.rounds=30")
    told = [
        (row["round"], row["client"], row["status"], row["reason"])
        for row in rows(directory, "clients.jsonl")
    ]
    assert told[0] == (1, 0, "completed", None)
    assert told[1][:3] == (1, 1, "failed")
    assert told[1][3] == f"the client did not answer in the {LIMIT_SECONDS} s of a round"
    assert [(row[0], row[2]) for row in told if row[1] == 0] == [(n, "completed") for n in range(1, 31)]
    assert (2, 1) not in [row[:2] for row in told]  # it owes an answer still, and nobody waits for it again
    assert (30, 1, "completed", None) in told


@pytest.mark.slow
def test_a_client_that_names_the_parts_of_others_messages_ends_no_run(
    deployment: Deployment, finished: RunDirectory, tmp_path: Path
) -> None:
    """It says that what its order consists of is made of something else: one that goes out again is taken."""
    del finished
    end_client_1(deployment)

    def answer(node: hostile_node.HostileNode, message: Message) -> None:
        reply = Nodes(deployment.folder, 2).answer(1, message)
        if message.metadata.message_type != "train":
            return node.send(reply)
        theirs = list(get_all_nested_objects(message.content))
        time.sleep(3)  # until the SuperLink has forgotten them, as both clients have the order
        for part in theirs:
            with suppress(httpx.HTTPStatusError):
                node.announce(reply, ObjectTree(object_id=part, children=[ObjectTree(object_id="0" * 64)]))
        return None

    directory = finished_beside(deployment, answer, tmp_path / "cache", "named", "server.rounds=2")
    told = [(row["round"], row["client"], row["status"]) for row in rows(directory, "clients.jsonl")]
    assert {(1, 0, "completed"), (1, 1, "failed"), (2, 0, "completed")} <= {*told}
