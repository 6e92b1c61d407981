"""Clients that come by name: keys, the folder that is handed over, and what the SuperLink is told."""

import json
import os
import shutil
import subprocess
import time
import tomllib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from registers import AGREED, CONFIG, SuperLink
from typer.testing import CliRunner

import fedfmd
from fedfmd.cli.deploy import app
from fedfmd.config.experiment import load_config, parse_config
from fedfmd.data.agreement import Agreement
from fedfmd.data.prepared import open_prepared
from fedfmd.deployment import keys as making
from fedfmd.deployment.doctor import findings_on
from fedfmd.deployment.handover import SCRIPTS
from fedfmd.deployment.layout import PICTURES
from fedfmd.deployment.local import LocalServer
from fedfmd.deployment.members import Deployed, Member
from fedfmd.deployment.registration import reconcile
from fedfmd.deployment.setup import make_open_deployment
from fedfmd.errors import RunError, UserError
from fedfmd.files import write_guarded
from fedfmd.machine.ports import listener


@pytest.fixture
def deployed(tmp_path: Path) -> Deployed:
    folder = tmp_path / "made"
    make_open_deployment(
        folder, parse_config(CONFIG), AGREED, ["north", "south"], server_names=["hub.example"], port=8443
    )
    return Deployed(folder)


def test_a_deployment_without_images(deployed: Deployed) -> None:
    """Its experiment is one of clients' packs; they keep a share to test on, as the server has nothing."""
    config = load_config(deployed.folder / "experiment.toml")
    assert (config.data.name, config.partition.scheme, config.partition.clients) == ("packs", "natural", 2)
    assert (config.server.cohort, config.partition.holdout, config.evaluation.clients) == (2, 0.2, "all")
    server = open_prepared(deployed.folder / "data" / "server" / PICTURES)
    assert (len(server.train_labels), len(server.test_labels)) == (0, 0)
    assert (server.classes, server.input_shape, server.mean) == (AGREED.classes, (3, 16, 16), ())
    services = yaml.safe_load((deployed.folder / "docker-compose.yml").read_text())["services"]
    assert [name for name, service in services.items() if "ports" in service] == ["gate"]
    assert not any(name.startswith("client") for name in services)


PRIVATE = {
    "dp": {"privacy": {"dp": "central", "noise_multiplier": 1.0}, "server": {"weighting": "uniform"}},
    "secagg": {"privacy": {"secure": "secagg"}},
}


@pytest.mark.parametrize("private", PRIVATE.values(), ids=PRIVATE)
def test_a_private_deployment_keeps_no_images_to_measure_on(tmp_path: Path, private: dict[str, Any]) -> None:
    """With secure sums a client does not tell what it measured; under noise models are not shown so early."""
    config = parse_config({**CONFIG, "server": {"cohort": 10}, **private})
    made = make_open_deployment(tmp_path / "made", config, AGREED, ["north", "south", "west"])
    assert (made.partition.holdout, made.evaluation.clients) == (0.0, None)


def test_overrides_that_the_experiment_does_not_take_are_refused_at_once(deployed: Deployed) -> None:
    """No server runs here: nothing is submitted."""
    with pytest.raises(
        UserError, match=r"privacy\.secure = 'secagg': needs no client that measures by itself"
    ):
        LocalServer(deployed.folder).submit("run", ["privacy.secure=secagg"])


def test_parts_that_clients_would_not_import_are_refused_before_they_are_asked(
    deployed: Deployed, tmp_path: Path
) -> None:
    """What the server alone uses may be of any module."""
    own = "client.optimizer=torch.optim:SGD"
    with pytest.raises(UserError, match=r"client\.optimizer = 'torch.optim:SGD': a client imports no module"):
        LocalServer(deployed.folder).submit("run", [own])
    with pytest.raises(UserError, match=r"client\.optimizer = .*: a client imports no module"):
        make_open_deployment(
            tmp_path / "new", parse_config({**CONFIG, "client": {"optimizer": "torch.optim:SGD"}}), AGREED, []
        )
    assert not (tmp_path / "new").exists()
    (deployed.folder / "of_server.py").write_text(
        "def mean(updates):\n    return sum(updates) / len(updates)\n"
    )
    with pytest.raises(UserError, match="the server is off"):
        LocalServer(deployed.folder).submit("run", ["server.aggregation=of_server:mean"])


def test_a_server_whose_certificates_have_expired_is_not_started(
    deployed: Deployed, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as earlier:
        earlier.setattr(making, "_now", lambda: datetime.now(UTC) - timedelta(days=400))
        deployed.renew(["server"])
    with pytest.raises(UserError, match=r"of server and gate has expired; .*deploy renew server --dir"):
        next(LocalServer(deployed.folder).serve("127.0.0.1:1", 2))
    deployed.renew(["server"])
    deployed.check_certificates()


def test_what_is_handed_over_is_one_clients_alone(deployed: Deployed) -> None:
    north, south = deployed.handed("north"), deployed.handed("south")
    told = tomllib.loads((south / "client.toml").read_text())
    assert told == {
        "client": 1, "name": "south", "server": "hub.example:8443", "fedfmd": fedfmd.__version__
    }  # fmt: skip
    assert Agreement.read(north / "classes.txt") == AGREED
    inside = (deployed.keys.public / "inside.crt").read_bytes()
    others = {path.read_bytes() for path in (deployed.folder / "keys" / "client-1").glob("*.key")}
    held = {path.read_bytes() for path in north.glob("*.*") if path.is_file()}
    assert not held & (others | {inside})
    assert (north / "node.key").stat().st_mode & 0o777 == 0o400
    for name in SCRIPTS:
        assert (north / name).stat().st_mode & 0o111
        subprocess.run(["sh", "-n", north / name], check=True)
    assert "client-id=1 " in (south / "start.sh").read_text()
    assert "client-id=1 " in (south / "start-docker.sh").read_text()


def test_a_container_of_a_client_is_bounded(deployed: Deployed, tmp_path: Path) -> None:
    """What `start-docker.sh` asks of Docker, by a program of that name that only tells it."""
    folder = deployed.handed("south")
    (folder / "client.safetensors").touch()
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text('#!/bin/sh\n[ "$1" = image ] || for word in "$@"; do echo "$word"; done\n')
    docker.chmod(0o755)
    paths = {"PATH": f"{docker.parent}:{os.environ['PATH']}", "PIDS_LIMIT": "200"}
    done = subprocess.run(
        [folder / "start-docker.sh"], capture_output=True, text=True, check=True, env=os.environ | paths
    )
    words = done.stdout.splitlines()
    limits = {name: words[words.index(name) + 1] for name in ("--memory", "--cpus", "--pids-limit")}
    assert limits == {"--memory": "2g", "--cpus": "1", "--pids-limit": "200"}


def test_without_a_pack_nothing_starts_and_the_next_step_is_said(deployed: Deployed) -> None:
    for script in ("start.sh", "start-docker.sh"):
        done = subprocess.run(
            [deployed.handed("north") / script], capture_output=True, text=True, check=False
        )
        assert done.returncode == 2
        assert "no client.safetensors here" in done.stderr


def test_the_start_script_starts_one_client_that_is_told_all(deployed: Deployed) -> None:
    """And nothing else: the client itself waits for its server, and signals go to it."""
    folder = deployed.handed("south")
    (folder / "client.safetensors").touch()
    (folder / "fedfmd").unlink()
    (folder / "fedfmd").write_text('#!/bin/sh\necho $$ > pid\nfor word in "$@"; do echo "$word"; done\n')
    (folder / "fedfmd").chmod(0o755)
    started = subprocess.Popen([folder / "start.sh"], stdout=subprocess.PIPE, text=True)
    said, _ = started.communicate(timeout=60)
    assert int((folder / "pid").read_text()) == started.pid
    words = said.splitlines()
    assert words[:4] == ["deploy", "node", "--superlink", "hub.example:8443"]
    config = f'client-id=1 data="{folder}/client.safetensors" state="{folder}/state" threads=1'
    assert words[words.index("--node-config") + 1] == config


def test_numbers_are_never_given_twice(deployed: Deployed) -> None:
    """A run's ledger and a client's own state refer to them."""
    assert deployed.add("west") == Member(2, "west")
    assert deployed.room == 3
    deployed.remove("west")
    assert not deployed.handed("west").exists()
    assert deployed.add("west") == Member(3, "west")
    deployed.remove("north")
    assert deployed.members() == [Member(1, "south"), Member(3, "west")]
    assert deployed.room == 4
    for name, said in (("west", "has a client of that name"), ("../x", "NAME"), ("", "NAME")):
        with pytest.raises(UserError, match=said):
            deployed.add(name)
    with pytest.raises(UserError, match="has no such client; it has south, west"):
        deployed.remove("north")


def test_commands_at_the_same_time_give_each_client_a_number_of_its_own(deployed: Deployed) -> None:
    """Of those that add one name all but the first are told that it is taken; one is put out meanwhile."""
    names = ["west", "east", "west", "up", "down", "west"]

    def add(name: str) -> Member | str:
        try:
            return Deployed(deployed.folder).add(name)
        except UserError as error:
            return str(error)

    with ThreadPoolExecutor(len(names) + 1) as pool:
        out = pool.submit(lambda: Deployed(deployed.folder).remove("north"))
        told = list(pool.map(add, names))
        assert out.result() == Member(0, "north")
    added = [member for member in told if isinstance(member, Member)]
    refused = [line for line in told if isinstance(line, str)]
    assert len(refused) == 2
    assert all("has a client of that name" in line for line in refused)
    assert sorted(member.number for member in added) == [2, 3, 4, 5]
    assert sorted(member.name for member in added) == ["down", "east", "up", "west"]
    assert deployed.members() == [Member(1, "south"), *sorted(added, key=lambda member: member.number)]
    assert (deployed.number("FEDFMD_NEXT_CLIENT"), deployed.room) == (6, 6)


def test_processes_at_the_same_time_register_each_key_once(deployed: Deployed, tmp_path: Path) -> None:
    """Else the second one is told that a key is known already, and nobody knows its node any more."""
    asked: list[str] = []

    def link(words: Sequence[str]) -> str:
        if words[1] == "list":
            listed = [{"node-id": 1 + place, "status": "online"} for place in range(len(asked))]
            return json.dumps({"success": True, "nodes": listed})
        key = Path(words[2]).name
        if key in asked:
            return "already in use"
        asked.append(key)
        time.sleep(0.05)
        return json.dumps({"success": True, "node-id": len(asked)})

    nodes = tmp_path / "nodes.json"
    with ThreadPoolExecutor(4) as pool:
        said = list(pool.map(lambda _: reconcile(deployed.keys.public, nodes, link), range(4)))
    assert sum(map(len, said)) == 2
    assert sorted(entry["node"] for entry in json.loads(nodes.read_text()).values()) == ["1", "2"]


def test_renewal_makes_new_keys_of_the_same_authority(deployed: Deployed) -> None:
    keys, handed = deployed.folder / "keys", deployed.handed("south")
    (handed / "client.safetensors").write_text("its pack")
    before = {path: path.read_bytes() for path in keys.rglob("*") if path.is_file()}
    assert deployed.renew(["server", "south"]) == ["server", "south"]
    changed = {path for path, content in before.items() if path.read_bytes() != content}
    renewed = {path.parent.name for path in changed}
    assert renewed == {"server", "gate", "client-1", "public"}
    assert {path.name for path in changed if path.parent.name == "public"} == {"client-1.pub"}
    gate = x509.load_pem_x509_certificate((keys / "gate" / "gate.crt").read_bytes())
    gate.verify_directly_issued_by(x509.load_pem_x509_certificate((handed / "ca.crt").read_bytes()))
    assert (handed / "node.key").read_bytes() == (keys / "client-1" / "node.key").read_bytes()
    assert (handed / "client.safetensors").read_text() == "its pack"
    assert deployed.expiries() == {"server": 364, "gate": 364, "north": 364, "south": 364}


def test_keys_are_made_again_where_a_kill_has_left_a_part(deployed: Deployed, tmp_path: Path) -> None:
    """At every file that the renewal writes: what is there is whole, nobody is out, and it goes on."""
    calls = 0
    for stop in range(1, 30):
        folder = tmp_path / f"copy-{stop}"
        shutil.copytree(deployed.folder, folder, ignore=shutil.ignore_patterns("clients", "image", "data"))
        copy, calls = Deployed(folder), 0

        def write(*words: Any, last: int = stop) -> None:
            nonlocal calls
            calls += 1
            if calls == last:
                raise KeyboardInterrupt
            write_guarded(*words)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("fedfmd.deployment.keys.write_guarded", write)
            try:
                copy.renew(["server", "client-1"])
            except KeyboardInterrupt:
                assert [member.number for member in copy.members()] == [0, 1]
                copy.renew(["server", "client-1"])
        _assert_whole(copy)
        if calls < stop:
            break
    assert calls == 12


def _assert_whole(deployed: Deployed) -> None:
    """Each folder of keys has its files, and each client's public key is that of its private one."""
    found = {
        path.name: sorted(file.name for file in path.iterdir()) for path in deployed.keys.folder.iterdir()
    }
    own = ["ca.crt", "client.crt", "client.key", "node.key"]
    assert found == {
        "ca": ["ca.key", "inside.key"],
        "public": ["ca.crt", "client-0.pub", "client-1.pub", "inside.crt"],
        "server": ["ca.crt", "server.crt", "server.key"],
        "gate": ["ca.crt", "gate.crt", "gate.key", "inside.crt"],
        "client-0": own,
        "client-1": own,
    }
    for client in (0, 1):
        private = (deployed.keys.of_client(client) / "node.key").read_bytes()
        public = serialization.load_ssh_private_key(private, password=None).public_key()
        form = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
        assert deployed.keys.public_key(client).read_bytes() == public.public_bytes(*form) + b"\n"


def test_an_authority_kept_elsewhere_is_asked_for_before_anything_is_gone(deployed: Deployed) -> None:
    key = deployed.folder / "keys" / "ca" / "ca.key"
    key.rename(deployed.folder / "offline.key")
    before = {path: path.read_bytes() for path in deployed.folder.rglob("*") if path.is_file()}
    for change in (lambda: deployed.renew(["south", "server"]), lambda: deployed.add("west")):
        with pytest.raises(UserError, match=r"ca\.key: is needed for new certificates"):
            change()
    assert {path: path.read_bytes() for path in before} == before


def test_the_superlink_is_told_who_belongs_and_nothing_twice(deployed: Deployed, tmp_path: Path) -> None:
    link, nodes = SuperLink(), tmp_path / "nodes.json"

    def told() -> list[str]:
        link.asked.clear()
        reconcile(deployed.keys.public, nodes, link)
        return link.asked

    def keys() -> list[str]:
        return sorted(path.read_text() for path in deployed.keys.public.glob("*.pub"))

    assert told() == ["register", "register"]
    assert told() == []
    deployed.remove("north")
    deployed.add("west")
    assert sorted(told()) == ["register", "unregister"]
    assert sorted(link.nodes.values()) == keys()
    deployed.renew(["south"])
    assert sorted(told()) == ["register", "unregister"]
    assert sorted(link.nodes.values()) == keys()
    assert {entry["node"] for entry in json.loads(nodes.read_text()).values()} == set(link.nodes)
    assert sorted(link.names[node] for node in link.nodes) == ["client-1", "client-2"]


def test_after_a_kill_the_superlink_knows_the_keys_that_are_there_and_no_others(
    deployed: Deployed, tmp_path: Path
) -> None:
    """A key that was registered and not noted is its client's, and opens nothing once that is put out."""
    link, nodes, public = SuperLink(), tmp_path / "nodes.json", deployed.keys.public

    def killed() -> None:
        link.killed = True
        with pytest.raises(KeyboardInterrupt):
            reconcile(public, nodes, link)
        link.killed = False

    killed()
    assert len(link.nodes) == 1
    assert reconcile(public, nodes, link) == ["client-0.pub: registered", "client-1.pub: registered"]
    assert {entry["node"] for entry in json.loads(nodes.read_text()).values()} == set(link.nodes)
    deployed.add("west")
    killed()
    assert len(link.nodes) == 3
    deployed.remove("west")
    (said,) = reconcile(public, nodes, link)
    assert said.endswith("removed; it has none of these keys")
    assert sorted(link.nodes.values()) == sorted(path.read_text() for path in public.glob("*.pub"))
    assert reconcile(public, nodes, link) == []


def test_nodes_that_nobody_can_tell_apart_are_let_in_no_more(deployed: Deployed, tmp_path: Path) -> None:
    """Where the notes are lost: whoever is put out later has to be out."""
    link, nodes, public = SuperLink(), tmp_path / "nodes.json", deployed.keys.public
    reconcile(public, nodes, link)
    nodes.unlink()
    said = reconcile(public, nodes, link)
    assert [line for line in said if line.endswith("fedfmd deploy renew makes it a new key")] == said[:2]
    assert link.nodes == {}
    deployed.renew(["north", "south"])
    assert reconcile(public, nodes, link) == ["client-0.pub: registered", "client-1.pub: registered"]


def test_a_superlink_that_refuses_is_said(
    deployed: Deployed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedfmd.deployment.registration.PAUSE_SECONDS", 0.0)

    def refusing(words: Sequence[str]) -> str:
        return '{"success": true, "nodes": []}' if words[1] == "list" else "no such key"

    with pytest.raises(RunError, match=r"flwr supernode register .*: no such key"):
        reconcile(deployed.keys.public, tmp_path / "nodes.json", refusing)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--no-data"], "needs --classes FILE"),
        (["--no-data", "--classes", "classes.txt", "--tier", "1:1g"], "--tier: not with --no-data"),
        (["--no-data", "--classes", "nowhere.txt"], "no such file of agreed classes"),
        (["--no-data", "--classes", "classes.txt", "--client", "a/b"], "--client"),
        (["--no-data", "--classes", "classes.txt", "--client", "a", "--client", "a"], "a name of its own"),
        (["--no-data", "--classes", "classes.txt", "--test", "nowhere"], "nowhere: there is no such folder"),
        (["--client", "a"], "--client: only with --no-data"),
        (["--port", "80"], "--port: only with --no-data"),
        (
            ["--no-data", "--classes", "classes.txt", "--client", "a", "--client", "b", "--places", "1"],
            "--places 1: fewer than the 2 clients",
        ),
    ],
)
def test_a_refusal_leaves_nothing(
    tmp_path: Path, options: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "classes.txt").write_text(AGREED.text)
    result = CliRunner().invoke(app, ["init", "--dir", "dep", *options])
    assert isinstance(result.exception, UserError), result.output
    assert said in str(result.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["classes.txt"]


def test_a_folder_that_is_no_deployment_has_no_clients_to_put_out(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no deployment; make one with: fedfmd deploy init"):
        Deployed(tmp_path).remove("a")


def test_a_server_on_a_taken_port_is_refused(deployed: Deployed) -> None:
    with listener("127.0.0.1", 0) as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(UserError, match=rf"--listen {where}: cannot be used: Address already in use"):
            next(LocalServer(deployed.folder).serve(where, 9443))


def test_the_doctor_knows_both_sides(deployed: Deployed) -> None:
    found = {finding.what: finding for finding in findings_on(deployed.folder)}
    assert found["image's version"].found == f"fedfmd {fedfmd.__version__}"
    assert found["clients"].found == "north, south"
    assert found["gate's certificate"].found == "valid for 364 days"
    told = deployed.handed("north") / "client.toml"
    told.write_text(
        told.read_text().replace("hub.example:8443", "127.0.0.1:9").replace(fedfmd.__version__, "9.9.9")
    )
    on_client = {finding.what: finding for finding in findings_on(deployed.handed("north"))}
    assert on_client["version"].found is None
    assert on_client["version"].remedy.startswith("the server has fedfmd 9.9.9")
    assert on_client["server"].found is None
    assert on_client["server"].remedy.startswith("127.0.0.1:9: cannot be reached")
    assert "./fedfmd data pack FOLDER" in on_client["pack"].remedy
    with pytest.raises(UserError, match="is no deployment"):
        findings_on(deployed.keys.public)


@pytest.mark.parametrize("name", ["server", "gate"])
def test_no_client_is_called_as_a_part_of_the_server(deployed: Deployed, name: str) -> None:
    """``renew server`` would not reach it, and the status would show the server's certificate as its own."""
    with pytest.raises(UserError, match=rf"^NAME {name}: is what a part of the server is called"):
        deployed.add(name)
    assert name not in {member.name for member in deployed.members()}


def test_an_unknown_name_renews_nobody(deployed: Deployed) -> None:
    before = deployed.keys.server.certificate.read_bytes()
    with pytest.raises(UserError, match=r"^nobody: .* has no such client; it has north, south"):
        deployed.renew(["server", "nobody"])
    assert deployed.keys.server.certificate.read_bytes() == before


@pytest.mark.parametrize("line", ["GATE_PORT=many", "GATE_PORT="])
def test_a_setting_that_is_no_number_is_named(deployed: Deployed, line: str) -> None:
    name, _, value = line.partition("=")
    deployed.set(**{name: value})
    with pytest.raises(UserError, match=rf"\.env: {name} = '{value}': must be a whole number"):
        findings_on(deployed.folder)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("client = 0", 'client = "zero"', r"client.toml: client = 'zero': must be a valid integer"),
        ("client = 0", "client = 0\nextra = 1", r"client.toml: unknown key extra"),
        ("hub.example:8443", "hub.example", r"client.toml: server = hub.example: must look like HOST:PORT"),
        ("client = 0", "client = ", r"client.toml: not valid TOML"),
    ],
)
def test_what_a_client_is_told_of_itself_is_checked(
    deployed: Deployed, old: str, new: str, said: str
) -> None:
    folder = deployed.handed("north")
    told = folder / "client.toml"
    told.write_text(told.read_text().replace(old, new))
    with pytest.raises(UserError, match=said):
        findings_on(folder)


def test_a_server_that_is_off_is_not_asked(deployed: Deployed) -> None:
    with pytest.raises(UserError, match="the server is off; start it with: fedfmd deploy serve --dir"):
        LocalServer(deployed.folder).submit("first")


def test_a_servers_address_of_ipv6_has_its_brackets(tmp_path: Path) -> None:
    made = tmp_path / "made"
    make_open_deployment(made, parse_config(CONFIG), AGREED, ["north"], server_names=["2001:db8::7"])
    told = tomllib.loads((made / "clients" / "north" / "client.toml").read_text())
    assert told["server"] == "[2001:db8::7]:8000"
