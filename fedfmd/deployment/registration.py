"""Tell the SuperLink who belongs: exactly the clients whose public keys are in a folder.

``python -m fedfmd.deployment.registration KEYS NODES`` registers what is new in ``KEYS`` (client-N.pub) and
removes what is no longer there; ``NODES`` keeps which key has which node. It runs inside the server.
"""

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from fedfmd.deployment.keys import check_node_key
from fedfmd.deployment.layout import public_key
from fedfmd.errors import RunError, UserError
from fedfmd.files import locked, write_atomic
from fedfmd.records.schema import Json, SchemaError, parse

TRIES = 10
PAUSE_SECONDS = 2.0
KNOWN = ("already in use", "already registered")
GONE = ("not found", "unregistered")
UNREGISTERED = "unregistered"
"""Flower's word for a node that it lets in no more."""

Ask = Callable[[Sequence[str]], str]
"""Gives Flower's command line some arguments, and returns what it printed."""


def reconcile(keys: Path, nodes: Path, ask: Ask) -> list[str]:
    """Make the SuperLink know the keys in a folder, and no others; returns a line on each change.

    Each node is called after its client, so that no client can pass for another. A kill between a
    registration and its note leaves a node that nobody has noted: it is that of the key which is registered
    already, or that of a key which is gone, and then opens nothing any more. One process reconciles at a
    time. Raises ``RunError`` when the SuperLink refuses one, a few times.
    """
    with locked(nodes.with_name(f"{nodes.name}.lock")):
        return _reconciled(keys, nodes, ask)


def _reconciled(keys: Path, nodes: Path, ask: Ask) -> list[str]:
    said: list[str] = []
    registered = _registered(ask)
    noted = noted_in(nodes.read_text(errors="replace"), nodes) if nodes.is_file() else {}
    # A SuperLink whose database was lost knows none of those that are noted.
    known = {digest: entry for digest, entry in noted.items() if entry["node"] in registered}
    unnoted = registered - {entry["node"] for entry in known.values()}
    wanted: dict[str, Path] = {}
    for key in sorted(keys.glob(public_key("*"))):
        try:
            check_node_key(key, "fedfmd deploy renew makes it a new key")
        except UserError as error:  # of one client, for whose sake no other is kept out
            said.append(str(error))
            continue
        wanted[hashlib.sha256(key.read_bytes()).hexdigest()] = key
    for digest in [digest for digest in known if digest not in wanted]:
        said.append(f"{known[digest]['key']}: removed")
        _remove(ask, known.pop(digest)["node"])
        _keep(nodes, known)
    for digest, key in wanted.items():
        if digest not in known:
            answer = _asked(ask, ["supernode", "register", str(key), "--name", key.stem], KNOWN)
            node = _node_in(answer) or (unnoted.pop() if len(unnoted) == 1 else None)
            if node is None:
                said.append(f"{key.name}: cannot be admitted; fedfmd deploy renew makes it a new key")
                continue
            known[digest] = {"key": key.name, "node": node}
            said.append(f"{key.name}: registered")
            _keep(nodes, known)
    for node in sorted(unnoted):
        said.append(f"node {node}: removed; it has none of these keys")
        _remove(ask, node)
    return said


def noted_in(text: str, source: object) -> dict[str, Json]:
    """Return by digest which key has which node, as a file says.

    Raises ``UserError`` for a file that says something else; ``source`` is its name.
    """
    try:
        noted = parse(text)
        if isinstance(noted, dict) and all({*entry} >= {"key", "node"} for entry in noted.values()):
            return noted
    except (SchemaError, TypeError):
        pass
    raise UserError(
        f"{source}: does not say which key has which node: it is empty or damaged; delete it, and make the "
        "clients' keys anew with: fedfmd deploy renew NAME..."
    )


def _registered(ask: Ask) -> set[str]:
    """Return the nodes that the SuperLink lets in."""
    listed = json_in(_asked(ask, ["supernode", "list"], ())).get("nodes") or []
    return {str(node["node-id"]) for node in listed if node["status"] != UNREGISTERED}


def _remove(ask: Ask, node: str) -> None:
    _asked(ask, ["supernode", "unregister", node], GONE)


def _keep(nodes: Path, known: dict[str, Json]) -> None:
    write_atomic(nodes, json.dumps(known, indent=1))


def _asked(ask: Ask, words: Sequence[str], fine: Sequence[str]) -> str:
    answer = ""
    for _ in range(TRIES):
        answer = ask([*words, "--format", "json"])
        if '"success": true' in answer or any(word in answer for word in fine):
            return answer
        time.sleep(PAUSE_SECONDS)
    raise RunError(f"flwr {' '.join(words)}: {' '.join(answer.split())[-300:]}")


def _node_in(answer: str) -> str | None:
    """Return the number that the SuperLink gave a key; null for a key that it knew already."""
    found = json_in(answer)
    node = found.get("node-id") or found.get("node_id")
    return None if node is None else str(node)


def json_in(text: str) -> Json:
    """Return the JSON object in what Flower's command line has printed; an empty one where there is none."""
    try:
        found = json.loads(text[max(text.find("{"), 0) : text.rfind("}") + 1])
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _ask_flwr(words: Sequence[str]) -> str:
    done = subprocess.run(["flwr", *words], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def main(arguments: Sequence[str]) -> None:
    """Run as a command."""
    keys, nodes = map(Path, arguments)
    for line in reconcile(keys, nodes, _ask_flwr) or ["nothing new"]:
        print(line, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
