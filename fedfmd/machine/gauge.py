"""What the meters of this machine say that some work took, without what it takes at rest."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Protocol

from fedfmd.config.sections.machine import EnergyConfig
from fedfmd.errors import UserError
from fedfmd.machine.energy import Counters, NoEnergyError, net_joules, read_rapl
from fedfmd.machine.nvml import nvml_reader
from fedfmd.machine.plug import Plug

IDLE_SECONDS = 2.0
KEEP_SECONDS = 30.0
"""So often meters are read on in between: the smallest of RAPL's ranges, 65 kJ, lasts longer at 2 kW."""


class Meter(Protocol):
    """What counts joules."""

    name: str

    def begin(self) -> Callable[[], float]:
        """Return what gives the joules from now to when it is called; both raise ``NoEnergyError``."""


@dataclass(frozen=True, kw_only=True)
class Energy:
    """What some work took; null with the reason where that is not known."""

    joules: float | None = None
    """Beyond those at rest."""
    source: str | None = None
    reason: str | None = None
    idle_watts: float | None = None
    """Power at rest, which was subtracted."""


class Gauge:
    """The meters that a config asks for, and the machine's power at rest; or why there are none."""

    def __init__(self, meters: Sequence[Meter] = (), idle_watts: float = 0.0, reason: str = ""):
        self.meters, self.idle_watts, self.reason = meters, idle_watts, reason

    def begin(self) -> Callable[[], Energy]:
        """Return what gives the energy of the work from now to when it is called."""
        if not self.meters:
            return lambda: Energy(reason=self.reason)
        try:
            started, finishes = time.perf_counter(), [meter.begin() for meter in self.meters]
        except NoEnergyError as error:
            reason = str(error)
            return lambda: Energy(reason=reason)

        def finish() -> Energy:
            try:
                seconds, joules = time.perf_counter() - started, sum(end() for end in finishes)
            except NoEnergyError as error:
                return Energy(reason=str(error))
            return Energy(
                joules=net_joules(joules, seconds, self.idle_watts),
                source=f"measured: {' + '.join(meter.name for meter in self.meters)}, less the power at rest",
                idle_watts=self.idle_watts,
            )

        return finish


@contextmanager
def gauging(config: EnergyConfig) -> Iterator[Gauge]:
    """Give the gauge that a config asks for, after some seconds at rest where it does not say their power.

    Raises ``UserError`` for a meter that is asked for by name and cannot be read.
    """
    meters, reason = meters_of(config)
    if not meters:
        yield Gauge(reason=reason)
        return
    with kept([meter for meter in meters if isinstance(meter, Counters)]):
        try:
            idle_watts = watts_at_rest(meters) if config.idle_watts is None else config.idle_watts
        except NoEnergyError as error:
            meters, idle_watts, reason = (), 0.0, str(error)
        yield Gauge(meters, idle_watts, reason)


def check_meters(config: EnergyConfig, keys: str = "energy.") -> None:
    """Raise ``UserError`` for a meter that is asked for by name and cannot be read.

    ``keys`` stands before the names of the keys, in messages.
    """
    if config.meter != "auto" or config.plug is not None:  # looking for GPUs takes PyTorch
        meters_of(config, keys)


def meters_of(config: EnergyConfig, keys: str = "energy.") -> tuple[Sequence[Meter], str]:
    """Return the meters that a config asks for, or none and the reason; raises ``UserError``."""
    if config.meter == "none":
        return (), "energy.meter is 'none'"
    if config.plug is not None:
        return (Plug(Path(config.plug), f"{keys}plug"),), ""
    found: list[Meter] = []
    reasons: list[str] = []
    for name, make in (("rapl", _rapl), ("nvml", _nvml)):
        if config.meter in (name, "auto"):
            try:
                found.append(make())
            except NoEnergyError as error:
                reasons.append(str(error))
    if not found and config.meter != "auto":
        raise UserError(f"{keys}meter = {config.meter!r}: {reasons[0]}; 'none' measures nothing")
    return found, "; ".join(reasons)


def _rapl() -> Meter:
    return Counters("RAPL", read_rapl)


def _nvml() -> Meter:
    return Counters("NVML", nvml_reader())


def watts_at_rest(meters: Sequence[Meter], seconds: float = IDLE_SECONDS) -> float:
    """Wait for some seconds; returns the mean power in them. Raises ``NoEnergyError``."""
    started, finishes = time.perf_counter(), [meter.begin() for meter in meters]
    time.sleep(seconds)
    return sum(end() for end in finishes) / (time.perf_counter() - started)


@contextmanager
def kept(meters: Sequence[Counters], every_seconds: float = KEEP_SECONDS) -> Iterator[None]:
    """Read counters on in a thread, so that none goes round unseen."""
    ended = Event()

    def keep() -> None:
        while not ended.wait(every_seconds):
            for meter in meters:
                with suppress(NoEnergyError):
                    meter.keep()

    thread = Thread(target=keep, name="energy", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
