"""Files of a deployment that were emptied, cut off, exchanged or edited: a line names the file and the cure.

What a command does all the same has to hold: no certificate that nobody trusts, no client under another's
number or in another server's name.
"""

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography import x509
from registers import AGREED, CONFIG, SuperLink

from fedfmd.config.experiment import parse_config
from fedfmd.deployment.doctor import findings_on
from fedfmd.deployment.keys import check_issued, read_node_key
from fedfmd.deployment.local import LOCK, SERVING, LocalServer
from fedfmd.deployment.members import Deployed
from fedfmd.deployment.registration import reconcile
from fedfmd.deployment.setup import make_open_deployment
from fedfmd.errors import UserError
from fedfmd.files import locked
from fedfmd.flower.node import check_keys

DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "emptied": lambda content: b"",
    "cut off": lambda content: content[: len(content) // 2],
    "other bytes": lambda content: bytes(range(256)),
}
KEYS = [
    f"keys/{name}"
    for name in (
        "ca/ca.key", "ca/inside.key", "public/ca.crt", "public/inside.crt", "public/client-0.pub",
        "server/server.key", "server/server.crt", "server/ca.crt",
        "gate/gate.key", "gate/gate.crt", "gate/ca.crt", "gate/inside.crt",
        "client-0/node.key", "client-0/client.key", "client-0/client.crt", "client-0/ca.crt",
    )
]  # fmt: skip
AUTHORITIES = {"keys/ca/ca.key", "keys/ca/inside.key", "keys/public/ca.crt", "keys/public/inside.crt"}
SERVERS = {name for name in KEYS if "/server/" in name or "/gate/" in name} | {
    "keys/public/ca.crt",
    "keys/public/inside.crt",
}
"""Without which no client comes to the server."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "made"
    make_open_deployment(folder, parse_config(CONFIG), AGREED, ["north", "south"], places=4)
    return folder


@pytest.fixture
def deployed(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Deployed:
    monkeypatch.setattr("fedfmd.deployment.handover.write_context", lambda folder: None)  # takes seconds
    return Deployed(shutil.copytree(whole, tmp_path / "made", ignore=shutil.ignore_patterns("image")))


def replace(file: Path, content: bytes) -> None:
    file.unlink()
    file.write_bytes(content)


def refusal(call: Callable[[], object]) -> str:
    """Give the one line with which a call is refused; an empty text where it is not."""
    with suppress(UserError):
        call()
        return ""
    with pytest.raises(UserError) as refused:
        call()
    assert "\n" not in str(refused.value)
    return str(refused.value)


def check_certificates_hold(deployed: Deployed) -> None:
    """What the server and each client have is issued by the authority that all hold."""
    keys, trusted = deployed.keys, deployed.keys.outside.certificate
    check_issued(keys.server, keys.inside.certificate, "")
    check_issued(keys.gate, trusted, "")
    for member in deployed.members():
        if member.number:  # client 0's own files may be those that are damaged
            check_issued(keys.client(member.number), trusted, "")


@pytest.mark.parametrize("damage", [*DAMAGE, "exchanged"])
@pytest.mark.parametrize("name", KEYS)
def test_a_key_that_is_none_is_named_or_made_anew(deployed: Deployed, name: str, damage: str) -> None:
    file = deployed.folder / name
    if damage == "exchanged":
        names = [other for other in KEYS if Path(other).suffix == file.suffix]
        others = [(deployed.folder / other).read_bytes() for other in names]
        content = next((other for other in others if other != file.read_bytes()), b"another's")
    else:
        content = DAMAGE[damage](file.read_bytes())
    replace(file, content)
    served = refusal(deployed.check_certificates)
    assert bool(served) == (name in SERVERS)
    for call in (lambda: deployed.renew(["server"]), lambda: deployed.renew(["north"]),
                 lambda: deployed.add("west")):  # fmt: skip
        said = refusal(call)
        assert bool(said) == (name in AUTHORITIES), said
        if said:
            assert str(file) in said
            assert "bring it back" in said
    if name not in AUTHORITIES:
        deployed.check_certificates()
        check_certificates_hold(deployed)
        return
    if served:
        assert str(file) in served
    for finding in findings_on(deployed.folder):
        assert "\n" not in (finding.found or "") + finding.remedy


def test_a_damaged_certificate_of_one_client_keeps_no_server_from_starting(deployed: Deployed) -> None:
    own = deployed.keys.client(0).certificate
    replace(own, b"")
    deployed.check_certificates()
    assert refusal(deployed.expiries).startswith(f"{own}: holds no certificate in PEM")
    assert "fedfmd deploy renew north --dir" in refusal(deployed.expiries)
    deployed.renew(["north"])
    assert deployed.expiries()["north"] == 364


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_public_key_keeps_its_client_out_and_no_other(
    deployed: Deployed, tmp_path: Path, damage: str
) -> None:
    link, nodes = SuperLink(), tmp_path / "nodes.json"
    public = deployed.keys.public_key(0)
    replace(public, DAMAGE[damage](public.read_bytes()))
    first, second = reconcile(deployed.keys.public, nodes, link)
    assert first.startswith(f"{public}: holds no public key of OpenSSH")
    assert second == "client-1.pub: registered"
    deployed.renew(["north"])
    assert reconcile(deployed.keys.public, nodes, link) == ["client-0.pub: registered"]


def test_a_superlink_that_lost_its_database_is_told_anew_who_belongs(
    deployed: Deployed, tmp_path: Path
) -> None:
    """The notes are of the one before; nobody would ever be admitted again."""
    nodes, told = tmp_path / "nodes.json", ["client-0.pub: registered", "client-1.pub: registered"]
    assert reconcile(deployed.keys.public, nodes, SuperLink()) == told
    link = SuperLink()
    assert reconcile(deployed.keys.public, nodes, link) == told
    assert len(link.nodes) == 2
    assert reconcile(deployed.keys.public, nodes, link) == []


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"x": 1}', b'{"x": {}}', bytes(range(256))])
def test_notes_that_say_nothing_are_named(deployed: Deployed, content: bytes) -> None:
    server = LocalServer(deployed.folder)
    server.state.mkdir()
    nodes, noted = server.state / "nodes.json", server.state / SERVING
    for file in (nodes, noted):
        file.write_bytes(content)
    for call in (lambda: reconcile(deployed.keys.public, nodes, SuperLink()), server.nodes):
        said = refusal(call)
        assert said.startswith(f"{nodes}: does not say which key has which node")
        assert "fedfmd deploy renew" in said
    with locked(server.state / LOCK):
        assert str(noted) in refusal(lambda: server.ask(["list"]))


LINES = ["FEDFMD_CLIENTS", "FEDFMD_NEXT_CLIENT", "FEDFMD_SERVER", "GATE_PORT", "FEDFMD_SERVER_NAMES"]


@pytest.mark.parametrize("line", LINES)
def test_a_lost_setting_is_no_other_one(deployed: Deployed, line: str) -> None:
    """A server's certificate without its names, or a client's folder with another server's address, is worse
    than none."""
    env = deployed.folder / ".env"
    env.write_text("".join(f"{kept}\n" for kept in env.read_text().splitlines() if f"{line}=" not in kept))
    before = sorted(deployed.keys.folder.rglob("*.crt"))
    calls: dict[str, Callable[[], object]] = {
        "FEDFMD_CLIENTS": lambda: LocalServer(deployed.folder).submit("first"),
        "GATE_PORT": lambda: deployed.gate_port,
        "FEDFMD_SERVER_NAMES": lambda: deployed.renew(["server"]),
    }
    said = refusal(calls.get(line, lambda: deployed.add("west")))
    assert said.startswith(f"{env}: {line} is missing; bring back the line {line}=")
    assert sorted(deployed.keys.folder.rglob("*.crt")) == before


def test_settings_that_are_no_text_are_named(deployed: Deployed) -> None:
    env = deployed.folder / ".env"
    env.write_bytes(bytes(range(256)))
    for call in (lambda: deployed.room, lambda: deployed.renew(["server"]), lambda: deployed.add("west")):
        assert refusal(call).startswith(f"{env}: cannot be read as UTF-8 text")


def test_no_number_is_given_twice_by_a_setting_that_was_edited(deployed: Deployed) -> None:
    deployed.set(FEDFMD_NEXT_CLIENT=1)
    said = refusal(lambda: deployed.add("west"))
    assert said.endswith(
        ".env: FEDFMD_NEXT_CLIENT = 1: must be above 1, the number of a client that has a folder"
    )


def test_no_client_is_called_after_a_folder_that_is_another_s(deployed: Deployed) -> None:
    north, south = (deployed.handed(name) / "client.toml" for name in ("north", "south"))
    own = north.read_text()
    north.write_text(south.read_text())
    assert refusal(deployed.members).startswith(f"{north}: name = 'south': must be 'north'")
    north.write_text(own.replace("client = 0", "client = 1"))
    assert refusal(deployed.members).startswith(f"{south}: client = 1: is the number of north")


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", ["ca.crt", "node.key"])
def test_a_client_whose_keys_are_none_does_not_start(deployed: Deployed, name: str, damage: str) -> None:
    """Flower would start its servers first, and never end."""
    own = deployed.handed("north")
    words = [f"--root-certificates={own / 'ca.crt'}", "--auth-supernode-private-key", str(own / "node.key")]
    check_keys([*words, "--superlink=x:1"])
    replace(own / name, DAMAGE[damage]((own / name).read_bytes()))
    said = refusal(lambda: check_keys(words))
    assert said.startswith(f"{own / name}: holds no ")
    assert said.endswith("take this client's folder from the server again")
    found = {finding.what: finding for finding in findings_on(own)}
    assert str(own / name) in found["own key" if name == "node.key" else "server"].remedy


def test_a_key_of_another_kind_is_not_taken_for_a_clients(deployed: Deployed) -> None:
    """The key of its certificate, which lies beside it."""
    key = deployed.keys.client(0).key
    assert "holds no private key of OpenSSH" in refusal(lambda: read_node_key(key, "cure"))


def test_a_lost_authority_certificate_is_said_to_be_made_again(deployed: Deployed) -> None:
    """The cure that the message names is one."""
    file = deployed.keys.outside.certificate
    replace(file, b"")
    assert f"delete it: {deployed.keys.outside.key} issues it again" in refusal(lambda: deployed.add("west"))
    file.unlink()
    deployed.add("west")
    x509.load_pem_x509_certificate(file.read_bytes())
    check_certificates_hold(deployed)
    assert json.loads(json.dumps(deployed.expiries()))["west"] == 364
