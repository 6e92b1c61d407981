"""What lies where in the folder of a deployment, on the server."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

EXPERIMENT = "experiment.toml"
"""What is to be run."""
CLASSES = "classes.txt"
"""What all clients have agreed on, where they bring images of their own."""
COMPOSE, ENVIRONMENT = "docker-compose.yml", ".env"
"""The containers and their settings: resources, the clients' names, who was revoked."""
LOCK = ".lock"
"""Held by the one command that changes who belongs."""
IMAGE = "image"
"""What the containers' image is built from."""
KEYS, CLIENTS = "keys", "clients"
"""Folders: keys and certificates, and what is handed to each client."""
PICTURES = "pictures.safetensors"
"""Images in one of the folders below ``data``: the server's, and in a trial those of each client."""
SERVER_PICTURES = Path("data", "server", PICTURES)
NODES = "nodes.json"
"""Which key has which node, in the server's state."""
GATE_PORT = 8000
"""Where clients come, unless it is said otherwise."""
ROUND_SECONDS, MOST_ROUND_SECONDS = 3600, 12 * 3600
"""How long a round waits for its clients unless it is said otherwise, as Flower's strategies do; at most as
long as a SuperLink keeps a message."""
AUTHORITY, INSIDE = "ca.crt", "inside.crt"
"""Certificates of authorities: the one that the holder of a folder trusts, and that inside the server."""
NODE_KEY, CLIENT_CERTIFICATE = "node.key", "client.crt"
"""What a client has beside that."""


def node_name(client: int | str) -> str:
    """Return what the SuperLink calls a client's node, by the client's number."""
    return f"client-{client}"


def named_client(node: str) -> int | None:
    """Return the number of the client whose node is called ``node``; null for any other name."""
    found = re.fullmatch(node_name(r"(\d{1,18})"), node, re.ASCII)
    return int(found[1]) if found else None


def public_key(client: int | str) -> str:
    """Return what a client's public key is called, by its number, or ``*`` for those of all."""
    return f"{node_name(client)}.pub"


class Certified(NamedTuple):
    """A private key and its certificate."""

    key: Path
    certificate: Path


@dataclass(frozen=True)
class KeyFiles:
    """The keys and certificates of a deployment, in a folder for each who is to have them.

    Those of containers and scripts, which are texts, are named in them.
    """

    folder: Path

    @property
    def public(self) -> Path:
        """The folder that everybody may read: authorities' certificates, public keys of those who belong."""
        return self.folder / "public"

    @property
    def outside(self) -> Certified:
        """The authority of what clients meet."""
        return Certified(self.folder / "ca" / "ca.key", self.public / AUTHORITY)

    @property
    def inside(self) -> Certified:
        """The authority of what is inside the server."""
        return Certified(self.folder / "ca" / "inside.key", self.public / INSIDE)

    @property
    def server(self) -> Certified:
        """The SuperLink's, in its folder."""
        return _certified(self.folder / "server", "server")

    @property
    def gate(self) -> Certified:
        """The gate's, in its folder."""
        return _certified(self.folder / "gate", "gate")

    @property
    def gate_inside(self) -> Path:
        """By what the gate knows the SuperLink."""
        return self.gate.key.with_name(INSIDE)

    def client(self, client: int) -> Certified:
        """A client's, in its folder."""
        return _certified(self.of_client(client), "client")

    def of_client(self, client: int) -> Path:
        """The folder of what a client has."""
        return self.folder / f"client-{client}"

    def public_key(self, client: int) -> Path:
        """The key by which the SuperLink knows a client."""
        return self.public / public_key(client)


def _certified(folder: Path, name: str) -> Certified:
    return Certified(folder / f"{name}.key", folder / f"{name}.crt")
