"""Energy that a machine's own counters say it took: RAPL through Linux's powercap.

A package's counter, ``intel-rapl:N/energy_uj``, counts microjoules and begins again at
``max_energy_range_uj``: a difference below zero has gone round once, which at 100 W takes some forty minutes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")
MICRO = 1e-6


@dataclass(frozen=True)
class EnergyReading:
    """The packages' counters at one moment, in microjoules, and where each of them begins again."""

    counters: Mapping[str, int]
    ranges: Mapping[str, int]

    def joules_until(self, later: "EnergyReading") -> float:
        """Return the energy from this reading to a later one of the same counters."""
        return MICRO * sum(
            (later.counters[name] - before) % (self.ranges[name] + 1)
            for name, before in self.counters.items()
        )


def read_energy(root: Path = POWERCAP) -> EnergyReading | str:
    """Read every package's counter; where there is none that can be read, return the reason."""
    packages = sorted(root.glob("intel-rapl:[0-9]*"))
    packages = [folder for folder in packages if folder.name.count(":") == 1]
    if not packages:
        return f"{root} has no intel-rapl packages"
    try:
        counters = {folder.name: int((folder / "energy_uj").read_text()) for folder in packages}
        ranges = {folder.name: int((folder / "max_energy_range_uj").read_text()) for folder in packages}
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        return f"{root}: a counter cannot be read: {reason}"
    return EnergyReading(counters, ranges)


def net_joules(busy_joules: float, busy_seconds: float, idle_watts: float) -> float:
    """Return what work took beyond what the machine takes while it rests; never below zero."""
    return max(0.0, busy_joules - idle_watts * busy_seconds)
