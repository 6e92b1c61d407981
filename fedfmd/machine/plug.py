"""Joules of a whole machine by the log of its plug: a CSV file of times and watts that grows while it works.

The header names the columns, in any order and case, with others beside them:

- time: ``timestamp``, ``time``, ``datetime``, ``ts``, ``last_changed`` (Home Assistant): seconds or
  milliseconds since 1970, or ISO 8601; a time without its zone is local.
- power in watts: ``watts``, ``power``, ``power_w``, ``apower`` (Shelly's status), ``energy_power`` (Tasmota's
  ENERGY.Power, flattened), ``state`` (Home Assistant, where ``unavailable`` and ``unknown`` are no figures).

Power changes along straight lines from one line of the file to the next, and stays what it was after the
last. A plug that says nothing for ``GAP_SECONDS`` says nothing of the time around. A line that is earlier
than the one before begins the log anew: whoever writes it has set its clock, or summer time has ended.
"""

import csv
import itertools
import math
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from fedfmd.errors import UserError
from fedfmd.files import regular_file
from fedfmd.machine.energy import NoEnergyError

TIMES = ("timestamp", "time", "datetime", "ts", "last_changed")
POWERS = ("watts", "power", "power_w", "apower", "energy_power", "state")
NO_FIGURE = ("", "unavailable", "unknown")
GAP_SECONDS = 300.0
MILLISECONDS_FROM = 1e11
"""As seconds, this would be in the year 5138."""
CLOCK_SECONDS = 1.0
"""By how much this machine's clock may be corrected while something is measured: the log goes by it."""


class Plug:
    """The log of a plug, of which each call reads what is new."""

    def __init__(self, path: Path, key: str, clock: Callable[[], float] = time.time):
        """Read what is there; raises ``UserError`` for no such log, which names the ``key`` that chose it.

        ``clock`` gives the seconds since 1970.
        """
        self.path, self.name, self._clock = path, f"plug {path.name}", clock
        self._offset, self._lines = 0, 0
        self._columns: tuple[int, int] | None = None
        self.times: list[float] = []
        self.watts: list[float] = []
        try:
            self.read_on()
        except NoEnergyError as error:
            raise UserError(f"{key}: {error}") from None
        if self._columns is None:
            raise UserError(f"{key}: {path}: has no header yet, such as timestamp,watts")

    def read_on(self) -> None:
        """Read the whole lines that are new; raises ``NoEnergyError`` for one that is no time and watts."""
        try:
            with regular_file(self.path).open("rb") as file:
                file.seek(self._offset)
                lines = file.read().splitlines(keepends=True)
        except OSError as error:
            raise NoEnergyError(f"{self.path} cannot be read: {error.strerror}") from None
        for line in lines:
            if not line.endswith((b"\n", b"\r")):
                return  # it is being written
            self._take(line)
            self._offset += len(line)
            self._lines += 1

    def begin(self) -> Callable[[], float]:
        """Return what gives the joules from now to when it is called, or raises ``NoEnergyError``."""
        start, began = self._clock(), time.monotonic()

        def finish() -> float:
            end, seconds = self._clock(), time.monotonic() - began
            if abs(end - start - seconds) > CLOCK_SECONDS:
                raise NoEnergyError(
                    f"this machine's clock was set by {end - start - seconds:+.3g} s meanwhile"
                )
            self.read_on()
            return self.joules(start, end)

        return finish

    def joules(self, start: float, end: float) -> float:
        """Return the energy between two times; raises ``NoEnergyError`` where the plug does not say it."""
        first, last = bisect_right(self.times, start), bisect_left(self.times, end)
        if first == last:
            raise NoEnergyError(f"{self.path.name} has no line within these {end - start:.3g} s")
        if not first:
            raise NoEnergyError(f"{self.path.name} begins only {self.times[0] - start:.3g} s after them")
        known = [*self.times[first - 1 : last + 1], *([end] if last == len(self.times) else [])]
        gap = max(b - a for a, b in itertools.pairwise(known))
        if gap > GAP_SECONDS:
            raise NoEnergyError(f"{self.path.name} says nothing for {gap:.3g} s")
        times = [start, *self.times[first:last], end]
        watts = [self._at(start), *self.watts[first:last], self._at(end)]
        return _trapezoids(times, watts)

    def _at(self, moment: float) -> float:
        """Return the watts at a moment after the first line."""
        after = bisect_right(self.times, moment)
        if after == len(self.times):
            return self.watts[-1]
        before, later = self.times[after - 1], self.times[after]
        part = (moment - before) / (later - before)
        return self.watts[after - 1] + part * (self.watts[after] - self.watts[after - 1])

    def _take(self, line: bytes) -> None:
        place = f"{self.path}, line {self._lines + 1}"
        try:
            text = line.decode("utf-8-sig").strip()
            if not text:
                return
            cells = [cell.strip() for cell in next(csv.reader([text], strict=True))]
            if self._columns is None:
                self._columns = _columns(cells)
                return
            said = cells[self._columns[1]]
            moment = _seconds(cells[self._columns[0]])
        except IndexError:
            raise NoEnergyError(f"{place}: has fewer cells than the header") from None
        except (ValueError, csv.Error) as error:
            raise NoEnergyError(f"{place}: {error}") from None
        if said.lower() in NO_FIGURE:
            return
        power = _power(said, place)
        if self.times and moment < self.times[-1]:
            self.times.clear()
            self.watts.clear()
        self.times.append(moment)
        self.watts.append(power)


def _columns(names: Sequence[str]) -> tuple[int, int]:
    """Return the places of time and power in a header; raises ``ValueError`` for none, or two."""
    lower = [name.lower() for name in names]
    found = []
    for what, allowed in (("time", TIMES), ("power", POWERS)):
        places = [i for i, name in enumerate(lower) if name in allowed]
        if len(places) != 1:
            raise ValueError(
                f"needs one column of the {what} (one of {', '.join(allowed)}), and has "
                + (", ".join(names[i] for i in places) or f"none in {', '.join(names)}")
            )
        found += places
    return found[0], found[1]


def _seconds(text: str) -> float:
    """Return a time as seconds since 1970; raises ``ValueError`` for what is none."""
    try:
        number = float(text)
    except ValueError:
        try:
            return datetime.fromisoformat(text).timestamp()
        except (ValueError, OverflowError):
            raise ValueError(f"{text!r} is no time: seconds since 1970, or ISO 8601") from None
    if not math.isfinite(number):
        raise ValueError(f"{text!r} is no time: seconds since 1970, or ISO 8601")
    return number / 1000 if number > MILLISECONDS_FROM else number


def _power(text: str, place: str) -> float:
    try:
        watts = float(text)
    except ValueError:
        watts = math.nan
    if not (math.isfinite(watts) and watts >= 0):
        raise NoEnergyError(f"{place}: {text!r} is no power: watts, from 0 on")
    return watts


def _trapezoids(times: Sequence[float], watts: Sequence[float]) -> float:
    points = itertools.pairwise(zip(times, watts, strict=True))
    return math.fsum((b - a) * (before + after) / 2 for (a, before), (b, after) in points)
