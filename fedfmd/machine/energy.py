"""Joules from counters that a machine keeps itself: RAPL's through Linux's powercap, and others like them.

A zone's counter, ``intel-rapl:N/energy_uj``, counts microjoules and begins again at ``max_energy_range_uj``:
a difference below zero has gone round once, which at 100 W takes some ten to forty minutes. ``Counters``
therefore reads on in between. A package's zone has its cores in it, not its memory, which has a zone within
(``dram``); the whole platform's (``psys``) has the packages in it, and is left out.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

POWERCAP = Path("/sys/class/powercap")
MICRO = 1e-6


class NoEnergyError(Exception):
    """Energy that cannot be measured; its text is the reason, in one line."""


@dataclass(frozen=True)
class EnergyReading:
    """Some counters at one moment, and where each of them begins again."""

    counters: Mapping[str, int]
    ranges: Mapping[str, int]
    """The largest value of each."""
    unit_joules: float

    def joules_until(self, later: "EnergyReading") -> float:
        """Return the energy from this reading to a later one; raises ``NoEnergyError`` for other counters."""
        if self.counters.keys() != later.counters.keys():
            other = sorted(self.counters.keys() ^ later.counters.keys())
            raise NoEnergyError(f"{', '.join(other)}: came or went away meanwhile")
        return self.unit_joules * sum(
            (later.counters[name] - before) % (self.ranges[name] + 1)
            for name, before in self.counters.items()
        )


class Counters:
    """What some counters have counted since this was made, however often they began again.

    Holds as long as ``keep`` is called more often than a counter goes round.
    """

    def __init__(self, name: str, read: Callable[[], EnergyReading]):
        """Read them for a first time; raises ``NoEnergyError`` where they cannot be."""
        self.name, self._read = name, read
        self._last, self._joules, self._lock = read(), 0.0, Lock()

    def keep(self) -> float:
        """Read on; returns the joules so far, and raises ``NoEnergyError`` where they cannot be read."""
        with self._lock:
            now = self._read()
            self._joules += self._last.joules_until(now)
            self._last = now
            return self._joules

    def begin(self) -> Callable[[], float]:
        """Return what gives the joules from now to when it is called; both raise ``NoEnergyError``."""
        before = self.keep()
        return lambda: self.keep() - before


def read_rapl(root: Path | None = None) -> EnergyReading:
    """Read the counters of all packages and of their memory; raises ``NoEnergyError`` where there are none.

    ``root`` is powercap's folder, if not this machine's.
    """
    root = POWERCAP if root is None else root
    zones = [zone for zone in sorted(root.glob("intel-rapl:[0-9]*")) if _counts(zone)]
    if not zones:
        raise NoEnergyError(f"{root} has no intel-rapl packages")
    try:
        counters = {zone.name: int((zone / "energy_uj").read_text()) for zone in zones}
        ranges = {zone.name: int((zone / "max_energy_range_uj").read_text()) for zone in zones}
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise NoEnergyError(f"{root}: a counter cannot be read: {reason}") from None
    return EnergyReading(counters, ranges, MICRO)


def _counts(zone: Path) -> bool:
    """Return whether a zone's energy is in no other zone's."""
    file = zone / "name"
    name = file.read_text().strip() if file.is_file() else ""
    within = zone.name.count(":") > 1
    return name == "dram" if within else not name.startswith("psys")


def net_joules(busy_joules: float, busy_seconds: float, idle_watts: float) -> float:
    """Return what work took beyond what the machine takes while it rests; never below zero."""
    return max(0.0, busy_joules - idle_watts * busy_seconds)
