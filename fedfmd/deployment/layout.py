"""What lies where in the folder of a deployment, on the server."""

from pathlib import Path

EXPERIMENT = "experiment.toml"
"""What is to be run."""
CLASSES = "classes.txt"
"""What all clients have agreed on, where they bring images of their own."""
COMPOSE, ENVIRONMENT = "docker-compose.yml", ".env"
"""The containers and their settings: resources, the clients' names, who was revoked."""
IMAGE = "image"
"""What the containers' image is built from."""
KEYS, CLIENTS = "keys", "clients"
"""Folders: keys and certificates, and what is handed to each client."""
PICTURES = "pictures.safetensors"
"""Images in one of the folders below ``data``: the server's, and in a trial those of each client."""
SERVER_PICTURES = Path("data", "server", PICTURES)
NODES = "nodes.json"
"""Which key has which node, in the server's state."""
