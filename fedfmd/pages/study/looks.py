"""How arms look and what they are called, the same in every figure, table and page of a study."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedfmd.results.design import Design, Factor, Levels
from fedfmd.results.metrics import Metric
from fedfmd.results.question import Answer, Roles, curve_panels, panel_of
from fedfmd.units import SHARE, level, number, of_key, scale_of, unit_of

FACTORS = {
    "arm": "Arm",
    "model.conv": "Convolution",
    "model.kernels": "Kernels",
    "model.width": "Width",
    "policy.kind": "Policy",
    "partition.alpha": "Dirichlet \N{GREEK SMALL LETTER ALPHA}",
    "server.strategy": "Strategy",
    "client.learning_rate": "Learning rate",
    "temperature.mode": "Annealed",
}
BUDGETS = {
    "macs": "MAC budget",
    "macs_fraction": "MAC budget",
    "bytes_fraction": "Byte budget",
    "downlink_bytes": "Download budget",
    "uplink_bytes": "Upload budget",
    "memory_bytes": "Memory budget",
    "joules": "Energy budget",
    "device_seconds": "Time budget",
}
LEVELS = {
    "static": "Static",
    "se": "SE",
    "condconv": "CondConv",
    "dyconv": "DyConv",
    "odconv": "ODConv",
    "fmdconv": "FMDConv",
    "kernelwarehouse": "KernelWarehouse",
    "fedavg": "FedAvg",
    "fedadam": "FedAdam",
    "fedyogi": "FedYogi",
}


LONG_NAME = 14
"""Letters from which names do not stand side by side."""
LOG_FROM = 8.0
"""Ratio of the largest level of x to the smallest from which x is logarithmic."""


@dataclass(frozen=True)
class Look:
    """Colour, dash and mark of an arm, by their places in the palette."""

    colour: int
    dash: int | None
    """Absent for the dash that belongs to the colour."""


@dataclass(frozen=True)
class Looks:
    """Names and looks of a study's arms; ``labels`` are those of its file, and go before ours."""

    design: Design
    roles: Roles
    labels: Mapping[str, str]

    def of(self, arm: str) -> Look:
        """Return how an arm looks."""
        line = self.roles.line
        dash = line.levels.index(self.design.level(arm, line)) if line else None
        colour = self.roles.colour
        return Look(colour.levels.index(self.design.level(arm, colour)), dash)

    def arm(self, arm: str) -> str:
        """Call an arm by its own label, or else by its levels: ``FMDConv, MAC budget 25%``."""
        if arm in self.labels:
            return self.labels[arm]
        told = self.places({factor.key: self.design.level(arm, factor) for factor in self.design.varied})
        return told or arm

    def curve(self, arm: str) -> str:
        """Call an arm by what its look tells, among those of its panel."""
        shown = [factor for factor in (self.roles.colour, self.roles.line) if factor and factor.varied]
        if not curve_panels(self.design, self.roles):
            return self.arm(arm)
        return self.places({factor.key: self.design.level(arm, factor) for factor in shown}) or self.arm(arm)

    def panel(self, arm: str) -> str:
        """Title the panel of curves that an arm is in; empty where there is only one."""
        keys = [factor.key for factor in curve_panels(self.design, self.roles)]
        return self.places(dict(zip(keys, panel_of(self.design, self.roles, arm), strict=True)))

    def places(self, levels: Levels) -> str:
        """Call a combination of levels by their names."""
        return ", ".join(self.placed(key, value) for key, value in levels.items())

    def placed(self, key: str, value: Any) -> str:
        """Call a level so that it stands alone: a number with its factor's name."""
        text = self.level(key, value)
        named = isinstance(value, str) or f"{key}={value}" in self.labels
        return text if named else f"{self.factor(key)} {text}"

    def level(self, key: str, value: Any) -> str:
        """Call a level of a factor by its name."""
        for name in (f"{key}={value}", str(value)):
            if name in self.labels:
                return self.labels[name]
        if isinstance(value, str):
            return LEVELS.get(value, value)
        return of_key(key, value)

    def factor(self, key: str) -> str:
        """Call a factor by its name, as an axis is titled: ``MAC budget of weak``."""
        if key in self.labels:
            return self.labels[key]
        *sections, last = key.split(".")
        if "budget" in sections and last in BUDGETS:
            tier = ".".join(sections[2:-1]) if sections[:2] == ["devices", "tiers"] else ""
            return f"{BUDGETS[last]} of {tier}" if tier else BUDGETS[last]
        return FACTORS.get(key, last.replace("_", " ").capitalize())

    def metric(self, metric: Metric) -> str:
        """Call what is on y by its name."""
        return self.labels.get(metric.key, metric.label)


def axis_title(looks: Looks, factor: Factor) -> tuple[str, float]:
    """Return the title of a numeric factor's axis with its unit, and what its levels are multiplied with."""
    unit, title = unit_of(factor.key), looks.factor(factor.key)
    if not unit:
        return title, 1.0
    if unit == SHARE:
        return f"{title} (% of the full work)" if factor.limits else f"{title} (%)", 100.0
    scale = scale_of(max(factor.levels), unit)
    return f"{title} ({scale.unit})", scale.factor


def tick(factor: Factor, value: float, scale: float) -> str:
    """Write a level at its place on a numeric axis, whose title has the unit."""
    return level(value).rstrip("%") if unit_of(factor.key) == SHARE else number(value * scale)


def spread(levels: Sequence[float]) -> bool:
    """Return whether levels span so wide a range that their axis is logarithmic."""
    return min(levels) > 0 and max(levels) >= LOG_FROM * min(levels)


def in_a_list(answer: Answer, looks: Looks) -> bool:
    """Return whether the arms of an answer stand below each other: many of them, or ones with long names."""
    x = answer.roles.x
    return answer.tangled or (
        not x.numeric and max(len(looks.level(x.key, level)) for level in x.levels) > LONG_NAME
    )
