"""What an intruder tries by the door for clients, with a client's files or the authority's file alone.

Tests on loopback import this. In a container it is a program, ``python - SITUATION < intruder.py``, that is
told in JSON what the intruder knows, and prints in JSON what became of it.
"""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.proto import fleet_pb2, heartbeat_pb2, message_pb2, run_pb2
from flwr.proto.fab_pb2 import GetFabRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.primitives.asymmetric import generate_key_pairs, public_key_to_bytes
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor
from google.protobuf.message import Message

from fedfmd.deployment.keys import make_keys

PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "foreign"
version = "1.0.0"
description = "an app of an intruder"
license = "Apache-2.0"
dependencies = []
[tool.flwr.app]
publisher = "intruder"
[tool.flwr.app.components]
serverapp = "foreign.app:server"
clientapp = "foreign.app:client"
[tool.flwr.app.config]
"""
APP = """
from pathlib import Path
from flwr.app import Message, MessageType, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

client = ClientApp()
server = ServerApp()

@client.query()
def query(message, context):
    Path({on_client!r}).write_text(str(context.node_config))
    return Message(RecordDict(), reply_to=message)

@server.main()
def main(grid, context):
    Path({on_server!r}).write_text("here\\n")
    nodes = list(grid.get_node_ids())
    asked = [Message(RecordDict(), dst_node_id=n, message_type=MessageType.QUERY) for n in nodes]
    replies = list(grid.send_and_receive(asked, timeout=120))
    said = "".join("refused\\n" if reply.has_error() else "obeyed\\n" for reply in replies)
    Path({on_server!r}).write_text("here\\n" + said + "end\\n")
"""
"""It leaves a file wherever its code runs; the server's says what became of asking every client to run it."""
NEVER_ADMITTED = {"register-node": 404, "unregister-node": 404}
"""Flower's paths for clients without keys, which the gate does not have."""


def write_app(folder: Path, on_client: Path, on_server: Path, code: str = APP) -> Path:
    """Write an app of the intruder's below ``folder``; gives its own folder."""
    (folder / "foreign" / "foreign").mkdir(parents=True)
    (folder / "foreign" / "pyproject.toml").write_text(PROJECT)
    (folder / "foreign" / "foreign" / "__init__.py").touch()
    text = code.format(on_client=str(on_client), on_server=str(on_server)) if code is APP else code
    (folder / "foreign" / "foreign" / "app.py").write_text(text)
    return folder / "foreign"


def attempts(foreign: Path, installed: Path, run: str, node: str, key: Path) -> list[tuple[str, ...]]:
    """Give what an operator can tell Flower's command line, for an intruder to try."""
    return [
        ("run", str(foreign), "here"),
        ("run", str(installed), "here"),
        ("list",),
        ("log", run),
        ("stop", run),
        ("supernode", "list"),
        ("supernode", "register", str(key)),
        ("supernode", "unregister", node),
    ]


def write_settings(home: Path, address: str, authority: Path) -> None:
    """Tell Flower's command line, whose FLWR_HOME is ``home``, of a server."""
    home.mkdir(parents=True, exist_ok=True)
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "here"\n[superlink.here]\naddress = "{address}"\n'
        f'root-certificates = "{authority}"\n'
    )


def fleet_requests(key: bytes, node: int, run: int) -> dict[str, tuple[Message, type[Message]]]:
    """Give a request for every path of Fleet, by somebody who says to be ``node``."""
    me = Node(node_id=node)
    return {
        "register-node": (
            fleet_pb2.RegisterNodeFleetRequest(public_key=key),
            fleet_pb2.RegisterNodeFleetResponse,
        ),
        "unregister-node": (
            fleet_pb2.UnregisterNodeFleetRequest(node_id=node),
            fleet_pb2.UnregisterNodeFleetResponse,
        ),
        "activate-node": (
            fleet_pb2.ActivateNodeRequest(public_key=key, heartbeat_interval=30),
            fleet_pb2.ActivateNodeResponse,
        ),
        "deactivate-node": (
            fleet_pb2.DeactivateNodeRequest(node_id=node),
            fleet_pb2.DeactivateNodeResponse,
        ),
        "send-node-heartbeat": (
            heartbeat_pb2.SendNodeHeartbeatRequest(node=me, heartbeat_interval=30),
            heartbeat_pb2.SendNodeHeartbeatResponse,
        ),
        "pull-messages": (fleet_pb2.PullMessagesRequest(node=me), fleet_pb2.PullMessagesResponse),
        "push-messages": (fleet_pb2.PushMessagesRequest(node=me), fleet_pb2.PushMessagesResponse),
        "get-run": (run_pb2.GetRunRequest(node=me, run_id=run), run_pb2.GetRunResponse),
        "get-fab": (GetFabRequest(node=me, run_id=run, hash_str="0" * 64), run_pb2.GetRunResponse),
        "pull-object": (
            message_pb2.PullObjectRequest(node=me, run_id=run, object_id="0" * 64),
            message_pb2.PullObjectResponse,
        ),
        "push-object": (
            message_pb2.PushObjectRequest(node=me, run_id=run, object_id="0" * 64, object_content=b"x"),
            message_pb2.PushObjectResponse,
        ),
        "confirm-message-received": (
            message_pb2.ConfirmMessageReceivedRequest(node=me, run_id=run, message_object_id="0" * 64),
            message_pb2.ConfirmMessageReceivedResponse,
        ),
    }


STRANGER = dict.fromkeys(fleet_requests(b"", 0, 0), 401) | NEVER_ADMITTED | {"activate-node": 412}
"""What each path of Fleet answers a key that is not registered."""
QUIET = {name for name, status in STRANGER.items() if status == 401} - {"deactivate-node"}
"""What a registered client may ask at any time, and goes on as before."""


def statuses(
    door: str,
    authority: Path,
    private: ec.EllipticCurvePrivateKey,
    node: int,
    run: int,
    names: Collection[str] = frozenset(STRANGER),
) -> dict[str, int]:
    """Give what Fleet's paths of ``names`` answer a key that says to be ``node``."""
    key = public_key_to_bytes(private.public_key())
    signed = NodeAuthHttpInterceptor(private, private.public_key())
    found = {}
    with FleetHttpClient.from_server_address(
        door, False, authority.read_bytes(), interceptors=[signed]
    ) as client:
        for name, (request, response) in fleet_requests(key, node, run).items():
            if name not in names:
                continue
            try:
                client._unary_unary(
                    path=f"/v1/fleet/{name}", rpc_method="", request=request, response_type=response
                )
                found[name] = 200
            except httpx.HTTPStatusError as error:
                found[name] = error.response.status_code
    return found


def private_key(file: Path) -> ec.EllipticCurvePrivateKey:
    """Read a client's key."""
    key = load_ssh_private_key(file.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


def main(door: str, folder: str, run: int, nodes: list[int], addresses: list[tuple[str, int]]) -> None:
    """Try everything with the files in ``folder``; ``addresses`` are those that the door hides."""
    home, authority = Path("/tmp/intruder"), Path(folder) / "ca.crt"
    write_settings(home, door, authority)
    make_keys(home / "keys", [7])
    foreign = write_app(home, Path("/state/foreign"), Path("/results/foreign.txt"))
    own_key, installed = home / "keys" / "public" / "client-7.pub", Path("/opt/fedfmd/app")
    told: dict[str, Any] = {"commands": {}, "reached": []}
    for words in attempts(foreign, installed, str(run), str(nodes[0]), own_key):
        done = subprocess.run(
            ["flwr", *words], env={**os.environ, "FLWR_HOME": str(home)}, capture_output=True, text=True
        )
        told["commands"][" ".join(words)] = done.stdout + done.stderr if done.returncode else "OBEYED"
    stranger, _ = generate_key_pairs()
    told["stranger"] = [statuses(door, authority, stranger, node, run) for node in nodes]
    if (Path(folder) / "node.key").exists():
        own = private_key(Path(folder) / "node.key")
        told["registered"] = [statuses(door, authority, own, node, run, QUIET) for node in nodes]
    for host, port in addresses:
        try:
            socket.create_connection((host, port), 5).close()
            told["reached"].append(host)
        except OSError:
            pass
    print(json.dumps(told))


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
