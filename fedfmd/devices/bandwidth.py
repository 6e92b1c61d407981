"""Bandwidth over time: constant, or a trace that repeats; traces in the formats in which they are published.

Read by their columns, seconds on the simulated clock from the trace's begin:

- one column: a Mahimahi trace (Netravali et al. 2015), a line per opportunity to send a packet of 1,500
  bytes, its millisecond; the period ends with the last one;
- two columns: seconds and Mbit/s from then on, as Pensieve (Mao et al. 2017) has FCC's broadband measurements
  and the 3G traces of Riiser et al.;
- six columns: Riiser et al.'s HSDPA logs themselves (2013): Unix time, milliseconds since the log's begin,
  latitude, longitude, bytes since the line before, milliseconds that they took.
"""

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate, pairwise
from pathlib import Path

from fedfmd.config.documents import read_text, shown_error
from fedfmd.errors import UserError

PACKET_BITS = 8 * 1500
"""Of Mahimahi."""
MILLI = 1e-3
MEGA = 1e6
LONGEST_LINES = 1_000_000
LONGEST_SECONDS = 10_000_000
"""Of a trace; a Mahimahi trace has a step for each of them."""
LEAST_MEAN = 1000.0
"""Bits per second of a trace: at less, a model takes longer than anybody waits, step by step."""


@dataclass(frozen=True)
class Bandwidth:
    """Bits per second as steps over time; they come again every period."""

    ends: tuple[float, ...]
    """Of the steps, in seconds from the begin; the last one is the period, infinite where it is constant."""
    rates: tuple[float, ...]
    """Bits per second of each step."""
    begin: float = 0.0
    """Where on the clock a period begins."""

    @classmethod
    def constant(cls, bits_per_second: float) -> "Bandwidth":
        """Return what never changes."""
        return cls((math.inf,), (bits_per_second,))

    def limited(self, bits_per_second: float) -> "Bandwidth":
        """Return the same without what is above a limit."""
        return replace(self, rates=tuple(min(rate, bits_per_second) for rate in self.rates))

    def from_place(self, share: float) -> "Bandwidth":
        """Return the same, at second 0 of the clock that share of a period after its begin."""
        return self if len(self.rates) == 1 else replace(self, begin=-share * self.ends[-1])

    @property
    def mean(self) -> float:
        """Mean bits per second over a period."""
        if len(self.rates) == 1:
            return self.rates[0]
        starts = (0.0, *self.ends)
        bits = (rate * (end - start) for rate, start, end in zip(self.rates, starts, self.ends, strict=False))
        return math.fsum(bits) / self.ends[-1]

    def at(self, now: float) -> tuple[float, float]:
        """Return the rate at a time, and until when it stays; that is always later than ``now``."""
        if len(self.rates) == 1:
            return self.rates[0], math.inf
        periods, place = divmod(now - self.begin, self.ends[-1])
        step = min(bisect_right(self.ends, place), len(self.rates) - 1)
        until = self.begin + periods * self.ends[-1] + self.ends[step]
        return self.rates[step], max(until, math.nextafter(now, math.inf))


@lru_cache(maxsize=256)
def read_bandwidth(path: str) -> Bandwidth:
    """Read a trace; raises ``UserError`` that names the file and the line when it is none."""
    text = read_text(Path(path), "trace of bandwidth (link.downlink_trace, link.uplink_trace)")
    numbered = enumerate(text.splitlines(), start=1)
    lines = [(number, line.split()) for number, line in numbered if line.strip()]
    if not lines or len(lines) > LONGEST_LINES:
        raise UserError(f"{path}: must have between 1 and {LONGEST_LINES:,} lines, has {len(lines):,}")
    columns = len(lines[0][1])
    readers = {1: _mahimahi, 2: _pairs, 6: _hsdpa}
    if columns not in readers:
        raise UserError(
            f"{path}, line {lines[0][0]}: {columns} columns; allowed: 1 (Mahimahi: milliseconds), 2 "
            "(seconds, Mbit/s), 6 (HSDPA logs)"
        )
    rows: list[list[float]] = []
    for number, words in lines:
        try:
            row = [float(word) for word in words]
            if len(row) != columns or not all(map(math.isfinite, row)):
                raise ValueError(f"is not {columns} numbers, as the first line is")
        except ValueError as error:
            raise UserError(f"{path}, line {number}: {shown_error(error)}") from None
        rows.append(row)
    try:
        return readers[columns](rows)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None


def _mahimahi(rows: Sequence[Sequence[float]]) -> Bandwidth:
    """Count the opportunities of each second, the last one as long as the period leaves it."""
    times = [row[0] * MILLI for row in rows]
    period = times[-1]
    if period <= 0 or min(times) < 0:
        raise ValueError("its milliseconds must be at least 0, the last one above 0")
    if period > LONGEST_SECONDS:
        raise ValueError(
            f"its last line, {rows[-1][0]:g} ms, is {period:g} s after its begin, of at most "
            f"{LONGEST_SECONDS:,}; times of a clock have to begin at 0"
        )
    _check_growing(times, "millisecond", equal=True)
    seconds = max(1, math.ceil(period))
    counts = Counter(min(int(time), seconds - 1) for time in times)
    ends = [float(second) for second in range(1, seconds)] + [period]
    lengths = [end - start for start, end in pairwise([0.0, *ends])]
    return _steps(ends, [PACKET_BITS * counts[i] / length for i, length in enumerate(lengths)])


def _pairs(rows: Sequence[Sequence[float]]) -> Bandwidth:
    """Let each rate hold until the next line's time, the last one as long as the one before it."""
    times = [row[0] - rows[0][0] for row in rows]
    last = times[-1] - times[-2] if len(times) > 1 else 1.0
    return _steps([*times[1:], times[-1] + last], [row[1] * MEGA for row in rows])


def _hsdpa(rows: Sequence[Sequence[float]]) -> Bandwidth:
    """Spread each line's bytes over the milliseconds that they took."""
    lengths = [row[5] * MILLI for row in rows]
    if min(lengths) <= 0:
        raise ValueError("its sixth column, milliseconds, must be above 0")
    rates = [8 * row[4] / length for row, length in zip(rows, lengths, strict=True)]
    return _steps(list(accumulate(lengths)), rates)


def _steps(ends: Sequence[float], rates: Sequence[float]) -> Bandwidth:
    _check_growing([0.0, *ends], "time")
    found = Bandwidth(tuple(ends), tuple(rates))
    if min(rates) < 0 or found.mean < LEAST_MEAN:
        raise ValueError(
            f"its bandwidth must be at least 0, and {LEAST_MEAN:g} bit/s on the mean; it is {min(rates):g} "
            f"at least, {found.mean:g} on the mean"
        )
    return found


def _check_growing(times: Sequence[float], what: str, *, equal: bool = False) -> None:
    for place, (earlier, later) in enumerate(pairwise(times), start=2):
        if later < earlier or (later == earlier and not equal):
            raise ValueError(f"row {place}: each {what} must come after the one before it")
