"""How measures and estimates are called and written, the same in tables, figures and the page."""

from collections.abc import Iterable
from dataclasses import dataclass

from fedfmd.records.schema import Number
from fedfmd.report.costs import ABSENT, Axis, percent, quantity, significant
from fedfmd.study.analysis import Comparison, Measure
from fedfmd.study.statistics import Estimate

RATIO = "x"
_PREFIXES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def axis_name(axis: Axis) -> str:
    """Call a cost by its name inside a sentence."""
    return axis.label if axis.key == "macs" else axis.label.lower()


def seeds(count: int) -> str:
    """Write a number of seeds."""
    return f"{count} seed{'s' * (count != 1)}"


def name(measure: Measure, axis: Axis) -> str:
    """Call a measure by its name, as ``Top-1 within 3.1 GMAC``."""
    if measure.key.startswith("at_budget"):
        return f"Top-1 within {quantity(measure.level, axis.unit or 'rounds')}"
    if measure.key.startswith("to_target"):
        return f"{axis.label} to {percent(measure.level, 0)}"
    fixed = {"final": "Final top-1", "best": "Best top-1", "cost": f"{axis.label} spent"}
    return fixed.get(measure.key, measure.key.upper())


@dataclass(frozen=True)
class Scale:
    """The unit of a column: its figures times ``factor`` are in ``unit``."""

    factor: float
    unit: str

    def text(self, value: Number, *, signed: bool = False) -> str:
        """Write one figure without its unit."""
        if value is None:
            return ABSENT
        scaled = value * self.factor
        if self.unit == "%":
            return f"{scaled:+.1f}" if signed else f"{scaled:.1f}"
        if self.unit == "":
            return f"{scaled:+.2f}" if signed else f"{scaled:.2f}"
        if self.unit == RATIO and scaled < 10:
            return f"{scaled:.2f}"
        return significant(scaled)

    def estimate(self, estimate: Estimate, *, signed: bool = False) -> str:
        """Write a median and its interval, as ``84.2 [83.1, 85.0]``; beyond all measurements is infinity."""
        if estimate.count == 0 or (estimate.median is None and estimate.low is None):
            return ABSENT
        if estimate.count == 1 and estimate.high is not None:  # one figure has no interval
            return self.text(estimate.median, signed=signed)
        high = "\N{INFINITY}" if estimate.high is None else self.text(estimate.high, signed=signed)
        median = "\N{INFINITY}" if estimate.median is None else self.text(estimate.median, signed=signed)
        return f"{median} [{self.text(estimate.low, signed=signed)}, {high}]"


def column_scale(found: Comparison, measure: Measure) -> Scale:
    """Choose the unit of a column: percent, or the cost's with the prefix that suits the arms' medians."""
    if measure.kind == "accuracy":
        return Scale(100.0, "%")
    if measure.kind == "score":
        return Scale(1.0, "")
    medians = (found.cell(arm, measure).estimate.median for arm in found.arms)
    values = [abs(value) for value in medians if value]
    unit = found.axis.unit
    if measure.kind == "rate":
        return _rate_scale(values, unit)
    return _cost_scale(values, unit)


def _cost_scale(values: Iterable[float], unit: str) -> Scale:
    if not unit or unit == "s":
        return Scale(1.0, unit or "rounds")
    least = min(values, default=1.0)
    factor, prefix = next(((f, p) for f, p in _PREFIXES if least >= f), (1.0, ""))
    return Scale(1 / factor, f"{prefix}{unit}")


def _rate_scale(values: Iterable[float], unit: str) -> Scale:
    least = min(values, default=1.0)
    steps = [(1.0, "")] if unit == "s" else [(1.0, ""), *reversed(_PREFIXES)]
    factor, prefix = next(((f, p) for f, p in steps if least * f >= 1), steps[-1])
    return Scale(factor, f"1/{prefix}{unit}")


def paired_scale(measure: Measure) -> Scale:
    """Give the unit of a comparison with the baseline: points of accuracy, a score's own, or a ratio."""
    return (
        Scale(100.0, "%")
        if measure.kind == "accuracy"
        else Scale(1.0, "" if measure.kind == "score" else RATIO)
    )


def paired_text(measure: Measure, estimate: Estimate) -> str:
    """Write a comparison with the baseline, as ``+1.2 [+0.3, +2.0]`` points or ``0.84 [0.80, 0.91]``."""
    return paired_scale(measure).estimate(estimate, signed=not measure.by_ratio)
