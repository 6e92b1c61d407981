"""Who a Flower node is, from its node config: ``client-id=2 data="/data/client.safetensors" threads=1``."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from fedfmd.config.sections.machine import EnergyConfig, MeterName
from fedfmd.data.prepared import open_prepared
from fedfmd.errors import UserError, did_you_mean
from fedfmd.machine.gauge import check_meters

NodeConfig = Mapping[str, bool | int | float | str]
FLOWERS = {"partition-id", "num-partitions"}
"""Keys that Flower's simulation sets."""
KEYS = FLOWERS | {"client-id", "data", "state", "threads", "device", "meter", "plug", "idle-watts"}
"""What a node config may have."""


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
    energy: EnergyConfig = field(default_factory=EnergyConfig)
    """What measures the energy of its machine, with the power at rest."""


def identity_of(node: NodeConfig) -> Identity:
    """Read a node config; Flower's own ``partition-id`` means the same as ``client-id``.

    Raises ``UserError`` when neither is there, or a value is of no use.
    """
    if unknown := sorted(set(node) - KEYS):
        hint = did_you_mean(unknown[0], KEYS)
        raise UserError(f"node config: unknown key {unknown[0]}{hint} (allowed: {', '.join(sorted(KEYS))})")
    client = node.get("client-id", node.get("partition-id"))
    if type(client) is not int or client < 0:
        raise UserError(f"node config: client-id = {client!r}: must be a whole number from 0")
    threads, device = node.get("threads"), str(node.get("device", "cpu"))
    if threads is not None and (type(threads) is not int or threads < 1):
        raise UserError(f"node config: threads = {threads!r}: must be a whole number from 1")
    if device not in ("cpu", "cuda"):
        raise UserError(f"node config: device = {device!r}: must be cpu or cuda")
    return Identity(
        client=client,
        data=_path(node, "data"),
        state=_path(node, "state"),
        threads=threads,
        device=device,
        energy=_energy(node),
    )


def check_identity(identity: Identity) -> None:
    """Raise ``UserError`` for images that are not there or damaged, and for a meter that cannot be read."""
    if identity.data is not None and not identity.data.is_file():
        raise UserError(
            f"node config: data = {str(identity.data)!r}: no such file; it is the client's pack of images, "
            "as fedfmd deploy init or fedfmd data pack has made it"
        )
    if identity.data is not None:
        try:
            open_prepared(identity.data, check=True)
        except UserError as error:
            raise UserError(f"node config: data: {error}") from None
    check_meters(identity.energy, "node config: ")


def is_real_client(node: NodeConfig) -> bool:
    """Whether a node is one client and nothing else: Flower's simulation also sets ``partition-id``."""
    return "client-id" in node


def _energy(node: NodeConfig) -> EnergyConfig:
    """Read ``meter``, ``plug`` and ``idle-watts``: a process for one message has no time to measure that."""
    meter, plug, idle = node.get("meter", "none"), _path(node, "plug"), node.get("idle-watts")
    if meter not in get_args(MeterName):
        allowed = ", ".join(get_args(MeterName))
        raise UserError(f"node config: meter = {meter!r}: must be one of {allowed}")
    if meter == "none":
        unused = [key for key in ("plug", "idle-watts") if key in node]
        if unused:
            raise UserError(f"node config: {unused[0]} = {node[unused[0]]!r}: counts only with a meter")
        return EnergyConfig()
    if isinstance(idle, bool) or not isinstance(idle, int | float) or not 0 <= idle < 1e9:
        raise UserError(
            f"node config: idle-watts = {idle!r}: must be the machine's power at rest, in watts, with "
            f"meter = {meter!r}"
        )
    if (plug is not None) != (meter == "plug"):
        raise UserError(
            f"node config: plug = {node.get('plug')!r}: must be the log of a plug with meter = 'plug' alone"
        )
    return EnergyConfig.model_validate(
        {"meter": meter, "plug": None if plug is None else str(plug), "idle_watts": float(idle)}
    )


def _path(node: NodeConfig, key: str) -> Path | None:
    value = node.get(key)
    return Path(str(value)) if value else None
