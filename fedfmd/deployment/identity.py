"""Who a Flower node is, from its node config: ``client-id=2 data="/data/client.safetensors" threads=1``."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fedfmd.errors import UserError

NodeConfig = Mapping[str, bool | int | float | str]


@dataclass(frozen=True, kw_only=True)
class Identity:
    """One real client."""

    client: int
    data: Path | None = None
    """Its prepared images; null when it makes its share of the configured set itself."""
    state: Path | None = None
    """Folder for what lasts between rounds; null for the cache folder."""
    threads: int | None = None
    """Threads of torch; null for the processors that it is allowed."""
    device: str = "cpu"
    """``cpu`` or ``cuda``."""


def identity_of(node: NodeConfig) -> Identity:
    """Read a node config; Flower's own ``partition-id`` means the same as ``client-id``.

    Raises ``UserError`` when neither is there, or a value is of no use.
    """
    client = node.get("client-id", node.get("partition-id"))
    if type(client) is not int or client < 0:
        raise UserError(f"node config: client-id = {client!r}: must be a whole number from 0")
    threads, device = node.get("threads"), str(node.get("device", "cpu"))
    if threads is not None and (type(threads) is not int or threads < 1):
        raise UserError(f"node config: threads = {threads!r}: must be a whole number from 1")
    if device not in ("cpu", "cuda"):
        raise UserError(f"node config: device = {device!r}: must be cpu or cuda")
    return Identity(
        client=client, data=_path(node, "data"), state=_path(node, "state"), threads=threads, device=device
    )


def is_real_client(node: NodeConfig) -> bool:
    """Whether a node is one client and nothing else: Flower's simulation also sets ``partition-id``."""
    return "client-id" in node


def _path(node: NodeConfig, key: str) -> Path | None:
    value = node.get(key)
    return Path(str(value)) if value else None
