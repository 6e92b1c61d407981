"""The power that work takes beyond the machine's at rest, for a device card."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from fedfmd.machine.energy import Counters, NoEnergyError, net_joules, read_rapl
from fedfmd.machine.gauge import IDLE_SECONDS, Meter, kept, watts_at_rest
from fedfmd.machine.plug import Plug

PLUG_SECONDS = 30.0
"""At rest, and at work at least: a plug's lines are seconds apart."""
LEAST_SHARE = 0.01
"""Of the power at rest that training takes beyond it, or it was not measured."""


@dataclass(frozen=True, kw_only=True)
class MeasuredPower:
    """What was measured of it."""

    source: str
    idle_watts: float
    compute_watts: float
    """While it works, beyond those at rest."""
    seconds: float
    """How long it worked."""


def measured_power(work: Callable[[], object], plug: Plug | None) -> MeasuredPower:
    """Measure the power of some work, repeated where it is short, by RAPL or by the log of a plug.

    Raises ``NoEnergyError`` where there is none that can be read, or work and rest are alike.
    """
    if plug is None:
        counters = Counters("RAPL", read_rapl)
        with kept([counters]):
            return power_by(counters, work, IDLE_SECONDS, 0.0)
    return power_by(plug, work, PLUG_SECONDS, PLUG_SECONDS)


def power_by(
    meter: Meter, work: Callable[[], object], rest_seconds: float, least_seconds: float
) -> MeasuredPower:
    """Measure by one meter: ``rest_seconds`` at rest, then ``work`` again and again for ``least_seconds``."""
    idle_watts = watts_at_rest([meter], rest_seconds)
    start, finish = time.perf_counter(), meter.begin()
    work()
    while time.perf_counter() - start < least_seconds:
        work()
    joules, seconds = finish(), time.perf_counter() - start
    compute_watts = net_joules(joules, seconds, idle_watts) / seconds
    if compute_watts <= LEAST_SHARE * idle_watts:
        raise NoEnergyError(
            f"{meter.name}: training took {joules / seconds:.3g} W and the machine at rest "
            f"{idle_watts:.3g} W: something else ran on it, or the meter is not its"
        )
    return MeasuredPower(
        source=meter.name, idle_watts=idle_watts, compute_watts=compute_watts, seconds=seconds
    )
