"""Deployments without processes: keys, pictures, compose file, identities, what the system counts."""

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key
from flwr.common.config import parse_config_args
from orders import order_for
from typer.testing import CliRunner

from fedfmd.cli.deploy import app
from fedfmd.config.experiment import load_config, parse_config
from fedfmd.config.sections.machine import EnergyConfig
from fedfmd.data.prepared import open_prepared
from fedfmd.deployment.assignment import Assignment, RefusedOrderError
from fedfmd.deployment.client import RealClient
from fedfmd.deployment.compose import compose_text
from fedfmd.deployment.context import PACKAGE
from fedfmd.deployment.experiment import DeployedExperiment, Roll, declared_partition
from fedfmd.deployment.identity import Identity, check_identity, identity_of, is_real_client
from fedfmd.deployment.introduction import Introduction
from fedfmd.deployment.keys import days_left, make_keys
from fedfmd.deployment.layout import PICTURES, KeyFiles
from fedfmd.deployment.operator import as_document, run_config
from fedfmd.deployment.setup import DEFAULT_TIERS, make_deployment, parse_tier
from fedfmd.deployment.usage import UsageMeter
from fedfmd.devices.participant import Host
from fedfmd.errors import UserError
from fedfmd.flower.server import overrides_in
from fedfmd.machine.cgroups import (
    group_cpu_seconds,
    memory_left_bytes,
    memory_limit_bytes,
    oom_kills,
    processors,
)
from fedfmd.machine.processes import available_cores, memory_bytes
from fedfmd.planning.demand import demand
from fedfmd.planning.policy import OverBudget, Planner
from fedfmd.records.cost import Cost
from fedfmd.records.schema import SchemaError
from fedfmd.wire.plan import full_plan

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
        assert {"cpus", "mem_limit", "memswap_limit"} <= service.keys()
    assert {service["pids_limit"] for service in services.values()} == {1024}
    assert not any("ports" in service for service in services.values())
    assert services["superlink"]["networks"] == services["cli"]["networks"] == ["inside"]
    assert services["gate"]["networks"] == ["inside", "clients"]
    assert document["networks"] == {"inside": {"internal": True}, "clients": {"internal": True}}


def test_an_existing_folder_is_left_alone(folder: Path) -> None:
    with pytest.raises(UserError, match="exists already"):
        make_deployment(folder, parse_config(DOCUMENT), DEFAULT_TIERS)


@pytest.mark.parametrize(
    "text",
    ["", "1", "1:", "x:1g", "0:1g", "1:1t", "-1:5m", "nan:1g", "inf:1g", "-inf:1g", "1e9:1g", "1:0g", "1:00m",
     "1:0512m", "1:64m", "1:-1g", "1:1.5g", "1:1g:1g", "1:\u0661g", "1:1g\n", "0.001:1g", "1:99999999999g"],
)  # fmt: skip
def test_a_tier_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="CPUS:MEMORY"):
        parse_tier(text)


@pytest.mark.parametrize(
    ("text", "tier"), [("0.5:768m", (0.5, "768m")), ("2:1G", (2.0, "1g")), ("1:300m", (1.0, "300m"))]
)
def test_a_tier_is_processors_and_memory(text: str, tier: tuple[float, str]) -> None:
    assert (parse_tier(text).cpus, parse_tier(text).memory) == tier


REFUSED = (
    (["--set", "partition.scheme=dirichlet", "--set", "partition.min_size=299"], "partition"),
    (["--server-name", "bücher.example"], "xn--"),
    (["--server-name", "a b"], "--server-name 'a b'"),
    (["--server-name", ""], "--server-name ''"),
    (["--server-name", "-x.example"], "--server-name"),
    (["--server-name", "x..example"], "--server-name"),
    (["--server-name", "*.example"], "--server-name"),
    (["--server-name", "x" * 64], "--server-name"),
    (["--server-name", "10.0.0.0/8"], "--server-name"),
    (["--tier", "nan:1g"], "CPUS:MEMORY"),
    (["--tier", "1:1g", "--tier", "1:0g"], "CPUS:MEMORY"),
    (["--set", "data.train_samples=0"], "train_samples"),
)


def tiny_init(tmp_path: Path, *options: str, folder: str = "dep") -> tuple[int, str]:
    """Run ``deploy init`` on a tiny experiment, in ``tmp_path``; gives its code and what it says."""
    (tmp_path / "tiny.toml").write_text(tomli_w.dumps(DOCUMENT))
    environment = {**os.environ, "FEDFMD_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "fedfmd", "deploy", "init", "tiny.toml", "--dir", folder, *options]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def make_refused(tmp_path: Path, options: list[str]) -> str:
    """Call the command in this process: starting Python anew for each case would take a second."""
    result = CliRunner().invoke(
        app, ["init", str(tmp_path / "tiny.toml"), "--dir", str(tmp_path / "dep"), *options]
    )
    assert isinstance(result.exception, UserError), (result.exception, result.output)
    return str(result.exception)


@pytest.mark.parametrize(
    ("options", "said"), REFUSED, ids=lambda value: "-".join(value) if isinstance(value, list) else ""
)
def test_a_refusal_leaves_nothing(
    tmp_path: Path, options: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDFMD_CACHE", str(tmp_path / "cache"))
    (tmp_path / "tiny.toml").write_text(tomli_w.dumps(DOCUMENT))
    text = make_refused(tmp_path, options)
    assert said in text
    assert "\n" not in text
    assert {path.name for path in tmp_path.iterdir()} <= {"tiny.toml", "cache"}


@pytest.mark.parametrize("folder", ["file/x", "a:b", "a$b", "a'b", "a\nb", "tiny.toml"])
def test_a_folder_that_cannot_be_made_is_refused(
    tmp_path: Path, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "tiny.toml").write_text(tomli_w.dumps(DOCUMENT))
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["init", "tiny.toml", "--dir", folder])
    assert isinstance(result.exception, UserError)
    assert str(result.exception).startswith("--dir ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "tiny.toml"]


def test_a_cohort_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "endless.toml").write_text("[server]\ncohort = inf\n")
    result = CliRunner().invoke(app, ["init", "endless.toml", "--dir", "dep"])
    assert isinstance(result.exception, UserError)
    assert "server.cohort = inf" in str(result.exception)


def test_a_mistake_is_a_line_and_code_2(tmp_path: Path) -> None:
    code, said = tiny_init(tmp_path, "--tier", "nan:1g")
    assert code == 2
    assert "Traceback" not in said
    assert not (tmp_path / "dep").exists()


def test_what_fails_halfway_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk, when the keys and half of the images are written."""

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setenv("FEDFMD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("fedfmd.deployment.setup.write_client_file", fail)
    with pytest.raises(UserError, match="No space left on device"):
        make_deployment(tmp_path / "dep", parse_config(DOCUMENT), DEFAULT_TIERS[:3])
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


OVERRIDES = (
    'data.name="embedded"',
    "name='single' and \"double\"",
    "a.b=back\\slash \\n \\u0027",
    "a.b=two\nlines\tand tabs\r",
    "a.b=ü 統 🙂 \u2028",
    "a.b=$HOME `id` ; rm -rf / && x | y > z",
    "a.b=",
    " spaces = around ",
    "a.b=[1, 2, {c = 'd'}]",
    "a.b=out='/results/other' clients=9",
    "a.b=x.toml",
)


def test_a_deployed_run_gets_the_very_overrides() -> None:
    """Through Flower's own reader of run configs, whatever characters they hold."""
    for given in ([], *([text] for text in OVERRIDES), list(OVERRIDES)):
        text = run_config(clients="4", out="/results/first", set=as_document(given))
        read = parse_config_args([text])
        assert read.keys() == {"clients", "out", "set"}
        assert (read["clients"], read["out"]) == ("4", "/results/first")
        assert overrides_in(read["set"]) == given


def test_words_still_serve_for_people() -> None:
    assert overrides_in("server.rounds=5 'name=a b'") == ["server.rounds=5", "name=a b"]
    assert overrides_in("") == []
    for text in ("[", "[1]", "[null]"):
        with pytest.raises(UserError, match="JSON list"):
            overrides_in(text)


@pytest.mark.parametrize("name", ["", "a/b", "..", "../x", "a b", "ü", "x" * 101, "-x"])
def test_a_run_has_a_name(tmp_path: Path, name: str) -> None:
    result = CliRunner().invoke(app, ["run", "--name", name, "--dir", str(tmp_path)])
    assert isinstance(result.exception, UserError)
    assert str(result.exception).startswith("--name")


def test_what_is_no_deployment_is_said(tmp_path: Path) -> None:
    for command in (["run"], ["status"], ["results"], ["down"], ["logs"], ["up"]):
        result = CliRunner().invoke(app, [*command, "--dir", str(tmp_path / "missing")])
        assert isinstance(result.exception, UserError), (command, result.exception)
        assert "is no deployment" in str(result.exception)


def test_identities() -> None:
    full = identity_of({"client-id": 2, "data": "/d/p", "state": "/s", "threads": 3, "device": "cuda"})
    assert full == Identity(client=2, data=Path("/d/p"), state=Path("/s"), threads=3, device="cuda")
    assert identity_of({"partition-id": 1, "num-partitions": 4}).client == 1
    assert is_real_client({"client-id": 0})
    assert not is_real_client({"partition-id": 0, "num-partitions": 4})
    wrong: Any
    for wrong in ({}, {"client-id": "a"}, {"client-id": -1}, {"client-id": 1, "threads": 0},
                  {"client-id": 1, "device": "tpu"}):  # fmt: skip
        with pytest.raises(UserError, match="node config"):
            identity_of(wrong)
    with pytest.raises(UserError, match="unknown key metre; did you mean meter"):
        identity_of({"client-id": 1, "metre": "rapl"})
    with pytest.raises(UserError, match="data = '/d/p': no such file"):
        check_identity(full)
    with pytest.raises(UserError, match=r"node config: plug: /log\.csv cannot be read"):
        check_identity(identity_of({"client-id": 1, "meter": "plug", "plug": "/log.csv", "idle-watts": 3}))


def test_a_damaged_pack_keeps_a_client_from_starting(folder: Path, tmp_path: Path) -> None:
    """Else it would be connected, and fail at every order."""
    content = bytearray((folder / "data" / "client-0" / PICTURES).read_bytes())
    own = tmp_path / "own.safetensors"
    own.write_bytes(content)
    check_identity(Identity(client=0, data=own))
    content[-1] ^= 1
    own.write_bytes(content)
    with pytest.raises(UserError, match=r"node config: data: .*own\.safetensors: .*checksum; .*pack it anew"):
        check_identity(Identity(client=0, data=own))


def test_a_client_that_measures_knows_its_power_at_rest() -> None:
    """Between two orders there is no time to measure it."""
    found = identity_of({"client-id": 1, "meter": "plug", "plug": "/log.csv", "idle-watts": 3})
    assert found.energy == EnergyConfig(meter="plug", plug="/log.csv", idle_watts=3.0)
    wrong: Any
    for wrong, told in (
        ({"meter": "scale"}, "meter = 'scale': must be one of none, auto, rapl, nvml, plug"),
        ({"meter": "rapl"}, "idle-watts = None: must be the machine's power at rest"),
        ({"meter": "rapl", "idle-watts": -1}, "idle-watts = -1"),
        ({"meter": "rapl", "idle-watts": True}, "idle-watts = True"),
        ({"meter": "plug", "idle-watts": 2.5}, "plug = None: must be the log of a plug"),
        ({"meter": "rapl", "idle-watts": 2.5, "plug": "/log.csv"}, "plug = '/log.csv': must be the log"),
        ({"idle-watts": 2.5}, "idle-watts = 2.5: counts only with a meter"),
    ):
        with pytest.raises(UserError, match=f"node config: {re.escape(told)}"):
            identity_of({"client-id": 1, **wrong})


@pytest.mark.parametrize("measured", [True, False])
def test_a_client_says_what_its_training_took(measured: bool, folder: Path, tmp_path: Path) -> None:
    """30 W at the plug, 10 W of them at rest: 20 J a second of training."""
    log, now = tmp_path / "plug.csv", time.time()
    # A line a millisecond: training takes a few, and without a line in it there is no figure.
    log.write_text("".join(["ts,watts\n", *(f"{now + i / 1e3:.3f},30\n" for i in range(-1_000, 60_000))]))
    one = client(folder, 1)
    if measured:
        energy = EnergyConfig(meter="plug", plug=str(log), idle_watts=10.0)
        one.identity = replace(one.identity, energy=energy)
    (row,) = one.train(order_for(1), torch.zeros(one.worker.network.layout.elements)).rows
    assert row.status == "completed"
    cost = row.cost
    if measured:
        assert row.measured_joules is not None
        assert 20 * row.train_seconds < row.measured_joules < 20.2 * (row.wall_seconds or 0.0)
        assert row.measured_joules_source == "measured: plug plug.csv, less the power at rest"
        assert (Cost() + cost).measured_joules == row.measured_joules
    else:
        assert (row.measured_joules, cost.measured_joules) == (None, None)
        assert row.measured_joules_reason == "energy.meter is 'none'"


def test_a_client_takes_no_orders_for_others(folder: Path) -> None:
    one = client(folder, 1)
    for clients in ((0,), (1, 2), ()):
        with pytest.raises(RefusedOrderError, match="came to client 1"):
            one.train(order_for(*clients), torch.zeros(one.worker.network.layout.elements))
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
        wrong: tuple[Any, ...] = (-1, float("nan"), "2", 10**400, True, [[]], {"a": 1}, "x" * 10**5)
        for value in wrong:
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
        return Planner(DeployedExperiment(settings, pictures, nowhere, nowhere, roll=Roll(shares, {1: host})))

    refused = planner("none", small).plan(1, 1, {})
    assert isinstance(refused, OverBudget)
    assert f"the client has {whole // 2 / 1e6:.3g} MB" in refused.reason
    assert planner("none", small).plan(0, 1, {}) == full_plan(config)
    assert planner("auto", Host(memory_bytes=whole, compiled=True)).plan(1, 1, {}) == full_plan(config)

    planned = planner("auto", small).plan(1, 1, {})
    assert not isinstance(planned, OverBudget)
    assert planned.why == "the full plan exceeds memory_bytes"
    told = RealClient(one.identity, Assignment(config=config, run="r"), small)
    vector = torch.zeros(told.worker.network.layout.elements)
    for plan, broken in ((planned, []), (full_plan(config), ["memory_bytes"])):
        order = order_for(1, plans=(plan,))
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
    nowhere = tmp_path / "nowhere"
    figures = [(memory_limit_bytes(p, nowhere), group_cpu_seconds(p), processors(p, nowhere), oom_kills(p))
               for p in (two, one, none, tmp_path / "missing")]  # fmt: skip
    assert figures == [
        (512 << 20, 2.5, 0.5, 3),
        (256 << 20, 1.5, 0.25, 2),
        (None, None, None, 0),
        (None, None, None, 0),
    ]
    whole = memory_bytes(none, nowhere) or 0
    assert [memory_bytes(p, nowhere) for p in (two, one)] == [512 << 20, 256 << 20]
    assert whole > 512 << 20
    assert [available_cores(p, nowhere) for p in (two, one)] == [1, 1]
    left = [memory_left_bytes(p, nowhere) for p in (two, one, none)]
    assert left == [(512 << 20) - 4000, (256 << 20) - 3000, None]


def test_a_service_has_the_least_of_its_control_groups(tmp_path: Path) -> None:
    """A slice of half a processor, and a service of a quarter or of two in it; in both versions."""
    member, files = tmp_path / "cgroup", ("cpu.max", "cpu.cfs_quota_us", "cpu.cfs_period_us")
    for top, line in ((tmp_path / "v2", "0::"), (tmp_path / "v1/cpu", "4:cpu,cpuacct:")):
        for group, quota in (("a.slice", 50000), ("a.slice/low", 25000), ("a.slice/high", 200000)):
            (top / group).mkdir(parents=True)
            for name, text in zip(files, (f"{quota} 100000", str(quota), "100000"), strict=True):
                (top / group / name).write_text(text + "\n")
        found = []
        for path in ("/a.slice/low", "/a.slice/high", "/", "/elsewhere"):
            member.write_text(f"1:name=systemd:/a.slice\n{line}{path}\n")
            found.append(processors(tmp_path / top.relative_to(tmp_path).parts[0], member))
        assert found == [0.25, 0.5, None, None]


def test_a_service_has_the_memory_that_all_of_its_control_groups_leave(tmp_path: Path) -> None:
    """A slice of 900 bytes of which 700 are held, and a service of 400 or of 2000 in it; in both versions."""
    member, groups = (
        tmp_path / "cgroup",
        {"a.slice": (900, 700), "a.slice/low": (400, 300), "a.slice/high": (2000, 0)},
    )
    for top, line in ((tmp_path / "v2", "0::"), (tmp_path / "v1/memory", "4:memory:")):
        for group, (limit, held) in groups.items():
            (top / group).mkdir(parents=True)
            for name in ("memory.max", "memory.limit_in_bytes"):
                (top / group / name).write_text(f"{limit}\n")
            (top / group / "memory.stat").write_text(f"anon {held}\ntotal_rss {held}\nfile 9\n")
        root, limits, left = tmp_path / top.relative_to(tmp_path).parts[0], [], []
        for path in ("/a.slice/low", "/a.slice/high", "/", "/elsewhere"):
            member.write_text(f"1:name=systemd:/a.slice\n{line}{path}\n")
            limits.append(memory_limit_bytes(root, member))
            left.append(memory_left_bytes(root, member))
        assert limits == [400, 900, None, None]
        assert left == [100, 200, None, None]
        assert group_cpu_seconds(root) is None  # the slice's time is not the client's alone


def test_the_meter_counts_the_work_of_this_process() -> None:
    meter = UsageMeter(Path("/nonexistent"))
    before = meter.read()
    sum(range(2_000_000))
    after = meter.read()
    assert after.cpu_seconds > before.cpu_seconds > 0
    assert after.wall_seconds > before.wall_seconds > 0
    assert (after.peak_memory_bytes or 0) > 10e6


def test_a_node_checks_what_it_is_told_without_pytorch(folder: Path) -> None:
    """It holds that memory for as long as the client is there, beside the process that trains."""
    pack = folder / "data" / "client-1" / PICTURES
    code = f"""
import sys
import fedfmd.flower.node
from fedfmd.deployment.identity import check_identity, identity_of
check_identity(identity_of({{"client-id": 1, "data": {str(pack)!r}, "meter": "auto", "idle-watts": 2}}))
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_no_certificate_outlives_its_authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An authority lasts for many renewals: with it every client's folder is handed over anew."""
    make_keys(tmp_path / "usual", [0])
    usual = KeyFiles(tmp_path / "usual")
    assert days_left(usual.outside.certificate, "") > 9 * 365
    assert days_left(usual.inside.certificate, "") > 9 * 365
    assert {days_left(c.certificate, "") for c in (usual.server, usual.gate, usual.client(0))} == {364}
    monkeypatch.setattr("fedfmd.deployment.keys.AUTHORITY_DAYS", 100)
    make_keys(tmp_path / "old", [0])
    old = KeyFiles(tmp_path / "old")
    assert {days_left(c.certificate, "") for c in (old.outside, old.server, old.gate, old.client(0))} == {99}


def test_an_authority_that_has_ended_signs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    past = datetime.now(UTC) - timedelta(days=20)
    monkeypatch.setattr("fedfmd.deployment.keys._now", lambda: past)
    monkeypatch.setattr("fedfmd.deployment.keys.AUTHORITY_DAYS", 10)
    with pytest.raises(
        UserError, match=rf"ca\.crt: the authority ended on {past + timedelta(days=10):%Y-%m-%d},"
    ):
        make_keys(tmp_path, [0])
    assert not (tmp_path / "client-0").exists()


def test_the_compose_file_names_keys_that_are_there(folder: Path) -> None:
    """Each container, in the folder that it mounts."""
    services = yaml.safe_load(compose_text(3))["services"]
    places = {
        name: volume.removeprefix("${FEDFMD_DEPLOYMENT:-./deploy}/").partition(":")[0]
        for name, service in services.items()
        for volume in service.get("volumes", ())
        if volume.endswith(":/keys:ro")
    }
    assert len(places) == 7
    named = {
        (place, file)
        for name, place in places.items()
        for file in re.findall(r"(?<!})/keys/([\w.-]+)", json.dumps(services[name]))
    }
    settings = (PACKAGE / "deployment" / "image" / "config.toml").read_text()
    named |= {(places["cli"], file) for file in re.findall(r"/keys/([\w.-]+)", settings)}
    assert len(named) > 8
    assert [str(Path(*one)) for one in sorted(named) if not folder.joinpath(*one).is_file()] == []


def test_statistics_are_not_asked_for_where_they_cannot_be_written(folder: Path) -> None:
    words = ["statistics", "--dir", str(folder), "--out", "nowhere/mean.json"]
    result = CliRunner().invoke(app, words)
    assert isinstance(result.exception, UserError)
    assert str(result.exception) == "--out nowhere/mean.json: must be a file in a folder that exists"
