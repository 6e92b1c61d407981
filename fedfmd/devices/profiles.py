"""Kinds of devices.

The built-in profiles are round figures of what such devices sustain when they train small convolutional
networks in float32 on the CPU, far below their peak; they set scales and ratios, and stand for no product.
Rates differ by operator: a convolution of a batch reuses each weight, while mixing kernels and the attention
branches read every weight for few MACs, so these are bound by the memory.
"""

import math
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from fedfmd.config.documents import explained, read_toml
from fedfmd.config.sections.budget import BudgetConfig
from fedfmd.config.sections.devices import DeviceConfig, LinkConfig, is_card
from fedfmd.devices.bandwidth import Bandwidth
from fedfmd.devices.links import Link, link_from
from fedfmd.errors import UserError

if TYPE_CHECKING:  # brings PyTorch, which who only looks at devices does not need
    from fedfmd.costs.macs import Macs

GIGA, MEGA = 1e9, 1e6


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Effective MACs a second by kind, in training."""

    conv: float
    aggregation: float
    attention: float
    linear: float

    @classmethod
    def of_cpu(cls, conv: float) -> "Rates":
        """Return rates in the proportions that a CPU shows, from the MACs a second of its convolutions."""
        return cls(conv=conv, aggregation=conv / 8, attention=conv / 16, linear=conv / 4)

    def seconds(self, macs: "Macs") -> float:
        """Return the time that some MACs take."""
        return math.fsum(getattr(macs, f.name) / getattr(self, f.name) for f in fields(self))

    def scaled(self, factor: float) -> "Rates":
        """Return the rates of a device that is faster by ``factor``."""
        return Rates(**{f.name: factor * getattr(self, f.name) for f in fields(self)})


@dataclass(frozen=True, kw_only=True)
class Device:
    """What a client runs on."""

    name: str
    rates: Rates
    activation_bytes_per_second: float | None = None
    """How fast norms and activations, which are no MACs, go over what layers put out; null where the rates of
    MACs make up for them."""
    layer_seconds: float = 0.0
    """What a training step takes for each layer, however small."""
    memory_bytes: int
    """Memory that training may use."""
    downlink_bits_per_second: float
    uplink_bits_per_second: float
    compute_watts: float
    receive_watts: float
    send_watts: float
    watts_source: str
    """What the watts are from, in words."""
    availability: float = 1.0
    """Chance that the device is there in a round."""
    link: Link = field(default_factory=Link)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    """Limits of its own."""

    def faster(self, factor: float) -> "Device":
        """Return a device that computes faster by ``factor``."""
        moved = self.activation_bytes_per_second
        return replace(
            self,
            rates=self.rates.scaled(factor),
            activation_bytes_per_second=None if moved is None else factor * moved,
            layer_seconds=self.layer_seconds / factor,
        )

    @property
    def downlink(self) -> Bandwidth:
        """The bandwidth of receiving over time."""
        return self.link.downlink or Bandwidth.constant(self.downlink_bits_per_second)

    @property
    def uplink(self) -> Bandwidth:
        """The bandwidth of sending over time."""
        return self.link.uplink or Bandwidth.constant(self.uplink_bits_per_second)


def _profile(
    name: str,
    conv: float,
    memory_mb: int,
    down_mbit: float,
    up_mbit: float,
    watts: tuple[float, float, float],
) -> Device:
    return Device(
        name=name,
        rates=Rates.of_cpu(conv * GIGA),
        memory_bytes=memory_mb * 1_000_000,
        downlink_bits_per_second=down_mbit * MEGA,
        uplink_bits_per_second=up_mbit * MEGA,
        compute_watts=watts[0],
        receive_watts=watts[1],
        send_watts=watts[2],
        watts_source=f"profile {name}",
    )


PROFILES = {
    device.name: device
    for device in (
        _profile("server", 400, 32_000, 1000, 1000, (150, 5, 5)),
        _profile("laptop", 80, 4_000, 100, 40, (25, 1.5, 2)),
        _profile("phone-high", 30, 1_500, 60, 20, (5, 1.2, 2)),
        _profile("phone-mid", 12, 800, 25, 8, (4, 1.2, 2)),
        _profile("phone-low", 4, 400, 8, 2, (3, 1.2, 2)),
        _profile("raspberry-pi", 6, 600, 50, 20, (6, 0.8, 1)),
    )
}
RATE_SUFFIX = "_macs_per_second"
WATTS = ("compute_watts", "receive_watts", "send_watts")
PLACED = {"share", "availability"}
"""What a device is in one population, and not by itself."""


def section_of(device: Device) -> DeviceConfig:
    """Describe a device in full, so that ``device_from`` gives it again, as plans and bills see it.

    Traces of bandwidth, which are files of this machine, become their means.
    """
    figures = {f.name: getattr(device, f.name) for f in fields(device) if f.name not in ("rates", "link")}
    figures |= {
        "downlink_bits_per_second": device.downlink.mean,
        "uplink_bits_per_second": device.uplink.mean,
    }
    rates = {f"{f.name}{RATE_SUFFIX}": getattr(device.rates, f.name) for f in fields(device.rates)}
    link = LinkConfig(round_trip_seconds=device.link.round_trip_seconds, loss=device.link.loss)
    return DeviceConfig(**figures, **rates, link=link)


def _named(like: str) -> Device:
    if like not in PROFILES:
        raise UserError(
            f"devices: like = {like!r} is no profile (allowed: {', '.join(PROFILES)}, or a card, NAME.toml)"
        )
    return PROFILES[like]


def card_section(path: Path) -> DeviceConfig:
    """Read the section of a card that says what the device is; raises ``UserError`` for another file."""
    document = read_toml(path, "device card (devices: like)").get("device")
    if not isinstance(document, dict):
        raise UserError(
            f"{path}: no device card: has no section [device]; name another file for fedfmd profile "
            "--device-card to write"
        )
    try:
        config = DeviceConfig.model_validate(document)
    except ValidationError as error:
        raise explained(error, DeviceConfig, f"{path}: [device]") from None
    if config.like not in PROFILES:
        raise UserError(
            f"{path}: [device]: like = {config.like!r} is no profile; allowed: {', '.join(PROFILES)}"
        )
    if set_ := sorted(config.model_fields_set & PLACED):
        raise UserError(
            f"{path}: [device]: {', '.join(set_)}: is for the tier of an experiment to say, not for a card"
        )
    return config


def device_from(config: DeviceConfig, *, stated: str = "") -> Device:
    """Return the device that a config describes; raises ``UserError`` for an unknown profile or a bad card.

    ``stated`` names the file that describes it, if not the experiment's config does.
    """
    if is_card(config.like):
        card = Path(config.like)
        base = device_from(card_section(card), stated=f"card {card.name}")
    else:
        base = _named(config.like)
    given = {
        name: value
        for name in config.model_fields_set - {"name", "share", "like", "watts_source", "link", "budget"}
        if (value := getattr(config, name)) is not None
    }
    rates = {n.removesuffix(RATE_SUFFIX): v for n, v in given.items() if n.endswith(RATE_SUFFIX)}
    rest = {n: v for n, v in given.items() if not n.endswith(RATE_SUFFIX)}
    return replace(
        base,
        name=config.name,
        rates=replace(base.rates, **rates),
        link=link_from(config.link, base.link, config.name),
        budget=config.budget.over(base.budget),
        watts_source=_watts_source(config, base, stated),
        **rest,
    )


def _watts_source(config: DeviceConfig, base: Device, stated: str) -> str:
    """Say what a device's watts are from: those that its section sets, and those of what it is like."""
    own = [name for name in WATTS if getattr(config, name) is not None]
    if not own:
        return base.watts_source
    said = ", ".join(filter(None, (stated, config.watts_source))) or "the config"
    return said if len(own) == len(WATTS) else f"{said} ({', '.join(own)}) and {base.watts_source}"
