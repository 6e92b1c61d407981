"""What is wrong with a deployment, or with a client's machine, before anything is started."""

import http.client
import ssl
from pathlib import Path

import fedfmd
from fedfmd.data.agreement import Agreement
from fedfmd.data.packs import described, open_pack
from fedfmd.deployment import layout
from fedfmd.deployment.handover import FILE, FIRST_PORT, PACK, Handover
from fedfmd.deployment.keys import days_left, read_certificate, read_node_key
from fedfmd.deployment.local import LocalServer
from fedfmd.deployment.members import Deployed
from fedfmd.errors import UserError
from fedfmd.machine.doctor import Finding
from fedfmd.machine.ports import address, is_free, reachable

ANSWER_SECONDS = 10.0
SOON_DAYS = 14
"""Certificates that are valid for less are renewed before a run."""


def findings_on(folder: Path) -> list[Finding]:
    """Examine a deployment's folder, or a client's; raises ``UserError`` for any other."""
    if (folder / FILE).is_file():
        return _of_client(folder)
    Deployed(folder).check()
    return _of_server(folder)


def _of_client(folder: Path) -> list[Finding]:
    own = Handover.read(folder / FILE)
    same = own.fedfmd == fedfmd.__version__
    port = FIRST_PORT + own.client
    return [
        Finding(
            "version",
            f"fedfmd {own.fedfmd}, as the server's" if same else None,
            f"the server has fedfmd {own.fedfmd}, this is {fedfmd.__version__}: use ./fedfmd of this folder",
            needed=True,
        ),
        _certificate(
            "own certificate",
            folder / layout.CLIENT_CERTIFICATE,
            f"fedfmd deploy renew {own.name}, on the server",
        ),
        _own_key(folder / layout.NODE_KEY, f"fedfmd deploy renew {own.name}, on the server"),
        _server(own.server, folder / layout.AUTHORITY),
        _pack(folder),
        Finding(
            f"port {port}",
            "free, or this client has it" if is_free(port) or reachable(port) else None,
            "another program has it: start with PORT=...",
        ),
    ]


def _server(server: str, authority: Path) -> Finding:
    """Ask the gate how it is, as a client would, by TLS."""
    host, port = address(server)
    remedy = f"{server}: "
    try:
        read_certificate(authority, "take this client's folder from the server again")
    except UserError as error:
        return Finding("server", None, str(error), needed=True)
    try:
        context = ssl.create_default_context(cafile=str(authority))
        connection = http.client.HTTPSConnection(host, port, timeout=ANSWER_SECONDS, context=context)
        connection.request("GET", "/health")
        answer = connection.getresponse().status
        connection.close()
        if answer == http.client.OK:
            return Finding("server", f"{server} answers", "", needed=True)
        remedy += f"answers with {answer}: is its SuperLink running?"
    except ssl.SSLCertVerificationError as error:
        remedy += f"shows another certificate ({error.verify_message}): name it with --server-name, or ask"
    except (OSError, http.client.HTTPException) as error:
        remedy += f"cannot be reached ({error}): is it running, and does a firewall let this machine through?"
    return Finding("server", None, remedy, needed=True)


def _own_key(path: Path, remedy: str) -> Finding:
    try:
        read_node_key(path, remedy)
    except UserError as error:
        return Finding("own key", None, str(error), needed=True)
    return Finding("own key", "there", "", needed=True)


def _pack(folder: Path) -> Finding:
    how = "./fedfmd data pack FOLDER --classes classes.txt"
    try:
        packed, agreed = open_pack(folder / PACK), Agreement.read(folder / layout.CLASSES)
    except UserError as error:
        return Finding("pack", None, f"{error}: {how}", needed=True)
    fits = packed.classes == agreed.classes and packed.input_shape[1] == agreed.side
    return Finding(
        "pack",
        described(packed) if fits else None,
        f"was packed by other classes or another image size than classes.txt: {how}",
        needed=True,
    )


def _of_server(folder: Path) -> list[Finding]:
    deployed, local = Deployed(folder), LocalServer(folder)
    built = sorted((folder / layout.IMAGE / "site").glob("fedfmd-*.dist-info"))
    version = built[-1].name.removeprefix("fedfmd-").removesuffix(".dist-info") if built else "none"
    same = version == fedfmd.__version__
    port, keys = deployed.gate_port, deployed.keys
    return [
        Finding(
            "image's version",
            f"fedfmd {version}" if same else None,
            f"it is fedfmd {version}, installed is {fedfmd.__version__}: fedfmd deploy up builds it anew",
        ),
        _port(
            port, "the gate's", "another program has it: fedfmd deploy serve --listen, or GATE_PORT in .env"
        ),
        Finding("server", "runs without Docker" if local.running else None, "fedfmd deploy serve, or up"),
        _certificate("gate's certificate", keys.gate.certificate, "fedfmd deploy renew server"),
        _certificate("server's certificate", keys.server.certificate, "fedfmd deploy renew server"),
        Finding(
            "clients",
            ", ".join(member.name for member in deployed.members()) or None,
            "fedfmd deploy add-client NAME",
        ),
        Finding(
            "test images",
            "there" if (folder / layout.SERVER_PICTURES).is_file() else None,
            "make the deployment anew",
            needed=True,
        ),
    ]


def _port(port: int, whose: str, remedy: str) -> Finding:
    there = "is served" if reachable(port) else "free" if is_free(port) else None
    return Finding(f"port {port}, {whose}", there, remedy)


def _certificate(what: str, path: Path, remedy: str) -> Finding:
    if not path.is_file():
        return Finding(what, None, f"{path} is missing: {remedy}", needed=True)
    try:
        days = days_left(path, remedy)
    except UserError as error:
        return Finding(what, None, str(error), needed=True)
    return Finding(what, f"valid for {days} days" if days > SOON_DAYS else None, remedy, needed=days < 0)
