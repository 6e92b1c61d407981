"""How a figure is written for people: one rule from (value, unit) to text, the same wherever it stands.

Terminal, report page, charts, captions and tables all use it; the script of a page is given the same prefixes
(``script``), and both languages round the value that is stored, ties away from zero.

- Three significant digits; whole digits are never dropped: ``12.4 TMAC``, ``1 GB``, ``1,235 s``.
- A prefix is chosen after rounding, so that 999.7 MB is ``1 GB``. Seconds take none above the second.
- An accuracy, or another share of one (unit ``%``), has two decimals, ``84.20%``, as have ratios and
  z-scores.
- Figures below each other that share a unit share their decimals, too: as many as give the least of them
  three significant digits (``column``, ``metric_scale``).
- Absent is a dash.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_HALF_UP, Context, Decimal

from fedfmd.errors import UserError

MEMORY = re.compile(r"([1-9][0-9]{0,15})([kmg]?)", re.IGNORECASE)
ABSENT = "\N{EN DASH}"
SHARE = "%"
"""Unit of fractions of one, which are written as percentages."""
RATIO = "x"
SCORE = "z"
"""Unit of differences of z-scores."""
DIGITS = 3
LARGE = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
SMALL = ((1e-3, "m"), (1e-6, "\N{MICRO SIGN}"), (1e-9, "n"))
PLAIN_FROM = 0.1
"""Below it a figure takes a small prefix."""
TWO_DECIMALS = (SHARE, RATIO, SCORE)
GLUED = ("", *TWO_DECIMALS)
"""Units that follow the number without a space."""
MOST_DECIMALS = 9
"""Of a column, whatever its least figure is."""
UNSCALED = (*GLUED, "nat")
"""Units without prefixes."""
NO_LARGE = (*UNSCALED, "s")
_EXACT = Context(prec=400, rounding=ROUND_HALF_UP)
"""Holds all whole digits of the largest float."""


@dataclass(frozen=True)
class PrefixedUnit:
    """A unit with its prefix: a value times ``factor`` is in ``unit``."""

    factor: float
    unit: str
    places: int | None = None
    """Decimals of all figures of a column; null where each has three significant digits by itself."""

    def number(self, value: float | None, *, signed: bool = False) -> str:
        """Write a value without its unit, for a column whose head names it."""
        if value is None:
            return ABSENT
        scaled, places = value * self.factor, 2 if self.unit in TWO_DECIMALS else self.places
        text = number(scaled) if places is None else decimals(scaled, places)
        return f"+{text}" if signed and not text.startswith("-") else text


def unit_of(key: str) -> str:
    """Return the unit of a key of the config by its name's end; empty for a count or what has none."""
    last = key.rpartition(".")[2]
    ends = {"macs": "MAC", "bytes": "B", "seconds": "s", "joules": "J", "watts": "W", "fraction": SHARE}
    return next((unit for end, unit in ends.items() if last == end or last.endswith(f"_{end}")), "")


def of_key(key: str, value: float) -> str:
    """Write a number that a key of the config has, with the key's unit: ``1 GMAC``, ``25%``, ``0.5``."""
    unit = unit_of(key)
    if unit == SHARE:
        return level(value)
    return quantity(value, unit) if unit and not isinstance(value, bool) else f"{value:g}"


def quantity(value: float | None, unit: str = "") -> str:
    """Write a value with its unit: ``12.4 TMAC``, ``184 MB``, ``1,235 s``, ``84.20%``; absent is a dash."""
    if value is None:
        return ABSENT
    scale = scale_of(value, unit)
    return _joined(scale.number(value), scale.unit)


def counted(count: int, what: str) -> str:
    """Write how many there are of something: ``1 round``, ``12 rounds``, ``1,000 clients``."""
    return f"{count:,} {what}{'s' * (count != 1)}"


def percent(value: float | None) -> str:
    """Write a fraction as a percentage."""
    return quantity(value, SHARE)


def level(value: float) -> str:
    """Write a chosen fraction, such as a target, with no more decimals than it has: ``80%``, ``82.5%``."""
    return f"{100 * value:.6g}%"


def rate(value: float | None, unit: str) -> str:
    """Write correct answers per cost with the prefix that makes a readable number: ``3.2 / TMAC``."""
    if value is None:
        return ABSENT
    scale = rate_scale(value, unit)
    return f"{scale.number(value)} {scale.unit}"


def scale_of(value: float, unit: str) -> PrefixedUnit:
    """Return the scale in which ``value`` is written."""
    if unit == SHARE:
        return PrefixedUnit(100.0, unit)
    for factor, prefix in _steps(unit):
        if float(_rounded(abs(value) / factor)) >= (PLAIN_FROM if factor == 1.0 else 1.0):
            return PrefixedUnit(1.0 / factor, prefix + unit)
    return PrefixedUnit(1.0, unit)


def metric_scale(
    values: Iterable[float | None], unit: str, beside: Iterable[float | None] = ()
) -> PrefixedUnit:
    """Return one scale for a column of figures, prefix and decimals: those of the least that is not 0.

    ``beside`` are further figures of the column, as deviations, which may be smaller.
    """
    known = [value for value in values if value]
    return in_column(scale_of(least_of(known), unit), known, beside)


def in_column(
    scale: PrefixedUnit, values: Iterable[float | None], beside: Iterable[float | None] = ()
) -> PrefixedUnit:
    """Return a scale with decimals that suit the least of some values; none where all are whole numbers."""
    known, more = ([value * scale.factor for value in some if value] for some in (values, beside))
    if all(value.is_integer() for value in map(float, known + more)):
        return replace(scale, places=0)
    exponent = int(_rounded(least_of(known)).as_tuple().exponent)
    return replace(scale, places=min(MOST_DECIMALS, max(0, -exponent)))


def column(values: Sequence[float | None], factor: float = 1.0) -> list[str]:
    """Write figures times ``factor`` below each other, in a unit that the column's head names."""
    scale = in_column(PrefixedUnit(factor, ""), values)
    return [scale.number(value) for value in values]


def least_of(values: Iterable[float | None]) -> float:
    """Return the least size of some values, absent ones and zeros left out; 1 of none."""
    return min((abs(value) for value in values if value), default=1.0)


def rate_scale(value: float, unit: str) -> PrefixedUnit:
    """Return the scale of a rate per ``unit``, as ``/ TMAC``: the smallest with one answer or more."""
    steps = [(1.0, "")] if unit in NO_LARGE else [(1.0, ""), *reversed(LARGE)]
    factor, prefix = next(((f, p) for f, p in steps if value * f >= 1), steps[-1] if value else steps[0])
    return PrefixedUnit(factor, f"/ {prefix}{unit}")


def number(value: float, digits: int = DIGITS) -> str:
    """Write a number with so many significant digits, all whole digits kept, thousands separated."""
    text = f"{_rounded(value, digits):,f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text


def decimals(value: float, count: int) -> str:
    """Write a number with so many decimals."""
    exact = Decimal(value)
    rounded = exact if exact.is_infinite() else exact.quantize(Decimal(1).scaleb(-count), context=_EXACT)
    return f"{rounded if rounded else abs(rounded):,f}"


def script() -> str:
    """Return the tables of this module for the script of a page."""
    tables = {
        "digits": DIGITS,
        "large": LARGE,
        "small": SMALL,
        "plainFrom": PLAIN_FROM,
        "glued": GLUED,
        "unscaled": UNSCALED,
        "noLarge": NO_LARGE,
        "share": SHARE,
        "twoDecimals": TWO_DECIMALS,
    }
    return f'"use strict";\nconst UNITS = {json.dumps(tables)};\n'


def _steps(unit: str) -> tuple[tuple[float, str], ...]:
    if unit in UNSCALED:
        return ()
    return (*(() if unit in NO_LARGE else LARGE), (1.0, ""), *SMALL)


def _rounded(value: float, digits: int = DIGITS) -> Decimal:
    exact = Decimal(value)
    if not exact:
        return Decimal(0)
    if exact.is_infinite():  # a prefix has made it larger than a float can be
        return exact
    place = min(exact.adjusted() - digits + 1, 0)
    return exact.quantize(Decimal(1).scaleb(place), context=_EXACT)


def _joined(text: str, unit: str) -> str:
    return f"{text}{unit}" if unit in GLUED else f"{text} {unit}"


def memory_size(text: str, option: str, least: int) -> int:
    """Read a size of memory in bytes: a number, with ``k``, ``m`` or ``g`` for powers of 1024, as Docker's.

    Raises ``UserError`` for another text, and for fewer than ``least`` bytes.
    """
    found = MEMORY.fullmatch(text)
    size = int(found[1]) * 1024 ** " kmg".index(found[2].lower() or " ") if found else 0
    if not least <= size < 1 << 50:
        raise UserError(
            f"{option} {text}: must be a size of memory of at least {least >> 20}m: a number of bytes, or "
            "one with k, m or g, as 768m or 2g"
        )
    return size
