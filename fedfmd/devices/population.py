"""Which client has which device: a function of the seed and the client, so a population costs nothing."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import accumulate, chain
from pathlib import Path

import numpy as np

from fedfmd.config.documents import read_json, shown_error
from fedfmd.config.experiment import ExperimentConfig
from fedfmd.config.sections.devices import DeviceConfig, DevicesConfig, ServerLinkConfig, is_card
from fedfmd.devices.presence import Presence
from fedfmd.devices.profiles import Device, Rates, card_section, device_from
from fedfmd.devices.states import read_states
from fedfmd.devices.traces import read_sections, read_trace
from fedfmd.errors import UserError
from fedfmd.seeds import numpy_rng

LEAST_RATE, MOST_RATE = 1e-9, 1e18
"""MAC/s that a device may have."""


def check_devices(config: ExperimentConfig) -> None:
    """Read the files of traces, presence and calibration; raises ``UserError`` for one that is no good."""
    device_of(config, 0)
    presence_of(config, 0)


def device_files(config: ExperimentConfig) -> list[Path]:
    """Name every file that says what the devices are: cards, traces of devices, presence and bandwidth."""
    devices = config.devices
    if devices.kind == "none":
        return []
    sections: Sequence[DeviceConfig] = devices.tiers if devices.kind == "tiers" else [devices.median]
    if devices.kind == "trace":
        sections = read_sections(Path(devices.trace or ""))
    named = [devices.trace, devices.states, devices.calibration]
    files = [file for file in named if file is not None]
    return [Path(file) for file in dict.fromkeys([*files, *chain.from_iterable(map(_files, sections))])]


def _files(section: DeviceConfig) -> Iterator[str]:
    yield from filter(None, (section.link.downlink_trace, section.link.uplink_trace))
    if is_card(section.like):
        yield section.like
        yield from _files(card_section(Path(section.like)))


def device_of(config: ExperimentConfig, client: int) -> Device | None:
    """Return a client's device; null where the experiment has none."""
    if config.devices.kind == "none":
        return None
    return _device_of(_frozen(config.devices), config.seed, client)


def kinds_of(config: ExperimentConfig) -> tuple[Device, ...]:
    """Return the kinds of devices that clients have, or are drawn around; none without devices."""
    return () if config.devices.kind == "none" else _kinds(_frozen(config.devices))


def presence_of(config: ExperimentConfig, client: int) -> Presence | None:
    """Return when a client's device is there; null where it always is."""
    if config.devices.states is None:
        return None
    traces = _states(config.devices.states)
    return traces[int(numpy_rng(config.seed, "presence", client).integers(len(traces)))]


def shares_links(config: ExperimentConfig) -> bool:
    """Whether a client's time on the clock depends on more than its plan, its device and its presence."""
    limited = config.devices.server_link != ServerLinkConfig()
    return limited or any(kind.link.varies for kind in kinds_of(config))


def available(config: ExperimentConfig, client: int, round: int) -> bool:
    """Return whether a client's device takes part in a round, drawn by the seed with its chance."""
    device = device_of(config, client)
    if device is None or device.availability >= 1:
        return True
    return bool(numpy_rng(config.seed, "availability", round, client).random() < device.availability)


@lru_cache(maxsize=8)
def _states(path: str) -> tuple[Presence, ...]:
    return read_states(Path(path))


def _frozen(devices: DevicesConfig) -> str:
    return devices.model_dump_json(exclude_unset=True)


@lru_cache(maxsize=100_000)
def _device_of(document: str, seed: int, client: int) -> Device:
    rng = numpy_rng(seed, "device", client)
    devices = _devices(document)
    if devices.kind == "lognormal":
        return _spread(_kinds(document)[0], devices, rng)
    kinds = _kinds(document)
    bounds = list(accumulate(tier.share for tier in devices.tiers)) if devices.kind == "tiers" else None
    if bounds is None:
        return kinds[int(rng.integers(len(kinds)))]
    return kinds[min(bisect_right(bounds, rng.random() * bounds[-1]), len(kinds) - 1)]


@lru_cache(maxsize=8)
def _devices(document: str) -> DevicesConfig:
    return DevicesConfig.model_validate_json(document)


@lru_cache(maxsize=8)
def _kinds(document: str) -> tuple[Device, ...]:
    """Return the kinds of devices there are; reads a trace once a process."""
    devices = _devices(document)
    if devices.kind == "trace":
        kinds = read_trace(Path(devices.trace or ""))
    elif devices.kind == "tiers":
        kinds = tuple(map(device_from, devices.tiers))
    else:
        kinds = (device_from(devices.median),)
    if devices.calibration is None:
        return kinds
    ratios = read_calibration(Path(devices.calibration))
    return tuple(replace(kind, rates=ratios.scaled(kind.rates.conv)) for kind in kinds)


def _spread(middle: Device, devices: DevicesConfig, rng: np.random.Generator) -> Device:
    """Draw a device around the middle one: a factor each for the rates, the bandwidths, the memory."""
    sigmas = (devices.compute_sigma, devices.network_sigma, devices.memory_sigma)
    compute, network, memory = np.exp(rng.standard_normal(3) * sigmas).tolist()
    return replace(
        middle.faster(compute),
        downlink_bits_per_second=middle.downlink_bits_per_second * network,
        uplink_bits_per_second=middle.uplink_bits_per_second * network,
        memory_bytes=int(middle.memory_bytes * memory),
    )


def read_calibration(path: Path) -> Rates:
    """Read the rates that ``fedfmd profile --calibrate`` measured, relative to convolution's.

    Raises ``UserError`` when the file is missing or says something else.
    """
    try:
        rates = Rates(**read_json(path, "calibration (devices.calibration)")["macs_per_second"])
        if not all(LEAST_RATE <= float(rate) <= MOST_RATE for rate in vars(rates).values()):
            raise ValueError(f"a rate is not between {LEAST_RATE:g} and {MOST_RATE:g}")
    except (ArithmeticError, AttributeError, ValueError, KeyError, TypeError) as error:
        reason = shown_error(error)
        raise UserError(f"devices.calibration = {str(path)!r}: no calibration: {reason}") from None
    return Rates(**{kind: rate / rates.conv for kind, rate in vars(rates).items()})
