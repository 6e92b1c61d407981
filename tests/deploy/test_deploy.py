"""Deployments without processes: keys, pictures, compose file, identities, what the system counts."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key

from fedfmd.aggregation import Scale
from fedfmd.config import load_config, parse_config
from fedfmd.data import open_prepared
from fedfmd.deploy.assignment import Assignment, RefusedOrderError
from fedfmd.deploy.client import Introduction, RealClient
from fedfmd.deploy.compose import compose_text
from fedfmd.deploy.experiment import DeployedExperiment, declared_partition
from fedfmd.deploy.identity import Identity, identity_of, is_real_client
from fedfmd.deploy.keys import make_keys
from fedfmd.deploy.setup import DEFAULT_TIERS, PICTURES, make_deployment, parse_tier
from fedfmd.deploy.usage import (
    Meter,
    group_cpu_seconds,
    held_bytes,
    memory_limit_bytes,
    oom_kills,
    processors,
)
from fedfmd.devices.participant import Host
from fedfmd.errors import UserError
from fedfmd.nn import Temperatures
from fedfmd.plan import full_plan
from fedfmd.planning.bill import demand
from fedfmd.planning.policy import OverBudget, Planner
from fedfmd.records.schema import SchemaError
from fedfmd.wire.packages import WorkOrder

ROOT = Path(__file__).parents[2]
DOCUMENT = {
    "name": "tiny",
    "data": {"train_samples": 120, "test_samples": 30},
    "partition": {"scheme": "sampled", "clients": 3, "samples_per_client": 20},
    "model": {"width": 0.25, "conv": "static"},
    "server": {"cohort": 3},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    here = tmp_path_factory.mktemp("deploy")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDFMD_CACHE", str(here / "cache"))
        make_deployment(here / "made", parse_config(DOCUMENT), DEFAULT_TIERS[:3], ["10.0.0.7", "hub.example"])
    return here / "made"


def client(folder: Path, number: int) -> RealClient:
    config = load_config(folder / "experiment.toml")
    identity = Identity(client=number, data=folder / "data" / f"client-{number}" / PICTURES, threads=1)
    return RealClient(identity, Assignment(config=config, run="r"))


def test_the_server_certificate_is_signed_and_names_the_server(folder: Path) -> None:
    keys = folder / "keys"
    authority = x509.load_pem_x509_certificate((keys / "public" / "ca.crt").read_bytes())
    gate = x509.load_pem_x509_certificate((keys / "gate" / "gate.crt").read_bytes())
    gate.verify_directly_issued_by(authority)
    names = gate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["gate", "localhost", "hub.example"]
    assert [str(a) for a in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "10.0.0.7"]


def test_no_client_holds_what_the_superlink_is_trusted_by(folder: Path) -> None:
    """Its certificate is of another authority, which only what is inside the server knows."""
    keys = folder / "keys"
    server = x509.load_pem_x509_certificate((keys / "server" / "server.crt").read_bytes())
    inside = (keys / "public" / "inside.crt").read_bytes()
    server.verify_directly_issued_by(x509.load_pem_x509_certificate(inside))
    for number in range(3):
        held = {path.name: path.read_bytes() for path in (keys / f"client-{number}").iterdir()}
        assert sorted(held) == ["ca.crt", "client.crt", "client.key", "node.key"]
        assert inside not in held.values()
        with pytest.raises(ValueError, match="does not match"):
            server.verify_directly_issued_by(x509.load_pem_x509_certificate(held["ca.crt"]))


def test_each_client_has_the_private_half_of_its_public_key(folder: Path) -> None:
    publics = []
    for number in range(3):
        private = load_ssh_private_key((folder / f"keys/client-{number}/node.key").read_bytes(), None)
        public = load_ssh_public_key((folder / f"keys/public/client-{number}.pub").read_bytes())
        assert private.public_key() == public
        publics.append(public)
    assert len({key.public_numbers() for key in publics}) == 3  # type: ignore[union-attr]


def test_private_keys_are_their_owners_alone(folder: Path) -> None:
    for path in (folder / "keys").rglob("*.key"):
        assert path.stat().st_mode & 0o777 == 0o400


def test_keys_for_more_clients_leave_the_others_alone(tmp_path: Path) -> None:
    make_keys(tmp_path, [0])
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    make_keys(tmp_path, [0, 1])
    assert {path: path.read_bytes() for path in before} == before
    assert (tmp_path / "client-1" / "node.key").exists()


def test_clients_have_their_own_pictures_and_the_server_none(folder: Path) -> None:
    server = open_prepared(folder / "data" / "server" / PICTURES)
    assert (len(server.train_labels), len(server.test_labels)) == (0, 30)
    for number in range(3):
        own = open_prepared(folder / "data" / f"client-{number}" / PICTURES)
        assert (len(own.train_labels), len(own.test_labels)) == (20, 0)


def test_the_compose_file_at_the_top_is_the_one_for_four_clients() -> None:
    assert (ROOT / "docker-compose.yml").read_text() == compose_text(4)


@pytest.mark.parametrize("clients", [1, 7])
def test_every_client_is_a_service_with_its_own_folders(clients: int) -> None:
    document = yaml.safe_load(compose_text(clients))
    assert "version" not in document
    services = document["services"]
    assert sorted(s for s in services if s.startswith("client-")) == [f"client-{c}" for c in range(clients)]
    for number in range(clients):
        service = services[f"client-{number}"]
        mounts = [volume.rsplit("}", 1)[-1] for volume in service["volumes"]]
        assert mounts[:2] == [f"/keys/client-{number}:/keys:ro", f"/data/client-{number}:/data:ro"]
        assert f"client-id={number} " in service["command"][-1]
        assert service["read_only"]
        assert "ports" not in service
        assert service["networks"] == ["clients"]
    assert not any("ports" in service for service in services.values())
    assert services["superlink"]["networks"] == services["cli"]["networks"] == ["inside"]
    assert services["gate"]["networks"] == ["inside", "clients"]
    assert document["networks"] == {"inside": {"internal": True}, "clients": {"internal": True}}


def test_an_existing_folder_is_left_alone(folder: Path) -> None:
    with pytest.raises(UserError, match="exists already"):
        make_deployment(folder, parse_config(DOCUMENT), DEFAULT_TIERS)


@pytest.mark.parametrize("text", ["", "1", "1:", "x:1g", "0:1g", "1:1t", "-1:5m"])
def test_a_tier_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="CPUS:MEMORY"):
        parse_tier(text)


def test_identities() -> None:
    full = identity_of({"client-id": 2, "data": "/d/p", "state": "/s", "threads": 3, "device": "cuda"})
    assert full == Identity(client=2, data=Path("/d/p"), state=Path("/s"), threads=3, device="cuda")
    assert identity_of({"partition-id": 1, "num-partitions": 4}).client == 1
    assert is_real_client({"client-id": 0})
    assert not is_real_client({"partition-id": 0, "num-partitions": 4})
    for wrong in ({}, {"client-id": "a"}, {"client-id": -1}, {"client-id": 1, "threads": 0},
                  {"client-id": 1, "device": "tpu"}):  # fmt: skip
        with pytest.raises(UserError, match="node config"):
            identity_of(wrong)


def test_a_client_takes_no_orders_for_others(folder: Path) -> None:
    one = client(folder, 1)
    for clients in ((0,), (1, 2), ()):
        order = WorkOrder(
            round=1,
            attempt=0,
            clients=clients,
            learning_rate=0.1,
            temperatures=Temperatures(kernel=1.0, channel=1.0),
            scale=Scale(7, 6),
        )
        with pytest.raises(RefusedOrderError, match="came to client 1"):
            one.train(order, torch.zeros(one.worker.network.layout.elements))
    with pytest.raises(IndexError, match="not here"):
        one.experiment.partition.indices(0)


def test_a_client_beyond_the_population_is_refused(folder: Path) -> None:
    config = load_config(folder / "experiment.toml")
    with pytest.raises(RefusedOrderError, match="client-id = 3: the run has clients 0 to 2"):
        RealClient(Identity(client=3, threads=1), Assignment(config=config, run="r"))


def test_introductions_survive_the_wire_and_nonsense_does_not(folder: Path) -> None:
    said = client(folder, 2).introduce()
    assert Introduction.read(json.dumps(said.to_json())) == said
    assert (said.client, said.examples) == (2, 20)
    for name in said.to_json():
        for value in (-1, float("nan"), "2", 10**400, True, [[]], {"a": 1}, "x" * 10**5):
            with pytest.raises(SchemaError, match=f"^{name}"):
                Introduction.read(json.dumps(said.to_json() | {name: value}))
    with pytest.raises(SchemaError, match="extra"):
        Introduction.read(json.dumps(said.to_json() | {"extra": 1}))
    with pytest.raises(SchemaError, match="examples"):
        Introduction.read(json.dumps(said.to_json() | {"examples": 10**15}))


def test_a_plan_keeps_within_the_memory_of_the_clients_machine(folder: Path) -> None:
    """Without a policy the client is left out; with one it gets less, and both sides count the same."""
    config = load_config(folder / "experiment.toml")
    one = client(folder, 1)
    machine = replace(one.experiment.participant(1), host=Host(memory_bytes=None, compiled=True))
    whole = demand(one.experiment, full_plan(config), machine).memory_bytes
    small = Host(memory_bytes=whole // 2, compiled=one.introduce().host.compiled)

    def planner(policy: str, host: Host) -> Planner:
        settings = config.model_copy(update={"policy": config.policy.model_copy(update={"kind": policy})})
        shares = declared_partition(3, {0: 20, 1: 20, 2: 20})
        pictures, nowhere = folder / "data" / "server" / PICTURES, Path("nowhere")
        return Planner(
            DeployedExperiment(settings, pictures, nowhere, nowhere, shares=shares, hosts={1: host})
        )

    refused = planner("none", small).plan(1, 1, {})
    assert isinstance(refused, OverBudget)
    assert f"the client has {whole // 2 / 1e6:.0f} MB" in refused.reason
    assert planner("none", small).plan(0, 1, {}) == full_plan(config)
    assert planner("auto", Host(memory_bytes=whole, compiled=True)).plan(1, 1, {}) == full_plan(config)

    planned = planner("auto", small).plan(1, 1, {})
    assert not isinstance(planned, OverBudget)
    assert planned.why == "the full plan exceeds memory_bytes"
    told = RealClient(one.identity, Assignment(config=config, run="r"), small)
    vector = torch.zeros(told.worker.network.layout.elements)
    for plan, broken in ((planned, []), (full_plan(config), ["memory_bytes"])):
        order = WorkOrder(
            round=1,
            attempt=0,
            clients=(1,),
            learning_rate=0.1,
            temperatures=Temperatures(kernel=1.0, channel=1.0),
            scale=Scale(7, 6),
            plans=(plan,),
        )
        (row,) = told.train(order, vector).rows
        assert row.budget["memory_bytes"] == whole // 2
        assert row.budget.get("violations", []) == broken


def test_declared_sizes_make_a_partition() -> None:
    server = declared_partition(3, {0: 5, 2: 7})
    assert server.sizes.tolist() == [5, 0, 7]
    assert server.manifest()["largest"] == 7
    with pytest.raises(IndexError):
        server.indices(0)
    assert declared_partition(3, {2: 7}, here=2).indices(2).tolist() == list(range(7))


def test_control_groups_of_both_versions(tmp_path: Path) -> None:
    one, two, none = tmp_path / "1", tmp_path / "2", tmp_path / "0"
    files = {
        two / "memory.max": "536870912\n",
        two / "cpu.stat": "usage_usec 2500000\nuser_usec 2000000\n",
        two / "cpu.max": "50000 100000\n",
        two / "memory.stat": "anon 4000\nfile 9000\nkernel 70\n",
        two / "memory.events": "low 0\noom 1\noom_kill 3\n",
        one / "memory/memory.limit_in_bytes": "268435456\n",
        one / "memory/memory.stat": "cache 9000\nrss 100\ntotal_cache 9000\ntotal_rss 3000\n",
        one / "memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
        one / "cpuacct/cpuacct.usage": "1500000000\n",
        one / "cpu/cpu.cfs_quota_us": "25000\n",
        one / "cpu/cpu.cfs_period_us": "100000\n",
        none / "memory/memory.limit_in_bytes": "9223372036854771712\n",
        none / "cpuacct/cpuacct.usage": "99\n",
        none / "cpu/cpu.cfs_quota_us": "-1\n",
        none / "cpu/cpu.cfs_period_us": "100000\n",
    }
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    figures = [(memory_limit_bytes(p), group_cpu_seconds(p), processors(p), oom_kills(p))
               for p in (two, one, none, tmp_path / "missing")]  # fmt: skip
    assert figures == [
        (512 << 20, 2.5, 0.5, 3),
        (256 << 20, 1.5, 0.25, 2),
        (None, None, None, 0),
        (None, None, None, 0),
    ]
    assert [held_bytes(p) for p in (two, one, none)] == [4000, 3000, None]


def test_the_meter_counts_the_work_of_this_process() -> None:
    meter = Meter(Path("/nonexistent"))
    before = meter.read()
    sum(range(2_000_000))
    after = meter.read()
    assert after.cpu_seconds > before.cpu_seconds > 0
    assert after.wall_seconds > before.wall_seconds > 0
    assert (after.peak_memory_bytes or 0) > 10e6
