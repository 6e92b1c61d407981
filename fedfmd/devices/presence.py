"""When a device is there: a trace of intervals that repeats. Work goes on only while it is."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate
from math import inf, nextafter


@dataclass(frozen=True)
class Presence:
    """A device's intervals of presence, in seconds of the simulated clock; they come again every period."""

    start: float
    """Where on the clock a period begins."""
    period_seconds: float
    begins: tuple[float, ...]
    """Of the intervals, from the period's begin; ascending."""
    ends: tuple[float, ...]
    before: tuple[float, ...]
    """Presence in the period before each interval, and last that of the whole period."""

    @classmethod
    def of(cls, intervals: Iterable[tuple[float, float]], start: float, end: float) -> "Presence":
        """Make it of intervals between ``start`` and ``end``, in any order, which may overlap.

        Raises ``ValueError`` where there is no presence in them.
        """
        joined: list[tuple[float, float]] = []
        for begin, stop in sorted((max(a, start) - start, min(b, end) - start) for a, b in intervals):
            if begin >= stop:
                continue
            if joined and begin <= joined[-1][1]:
                joined[-1] = (joined[-1][0], max(stop, joined[-1][1]))
            else:
                joined.append((begin, stop))
        if not joined:
            raise ValueError("never there")
        begins, ends = zip(*joined, strict=True)
        before = accumulate((stop - begin for begin, stop in joined), initial=0.0)
        return cls(start, end - start, begins, ends, tuple(before))

    @property
    def share(self) -> float:
        """Part of the time that the device is there."""
        return self.before[-1] / self.period_seconds

    def there(self, now: float) -> bool:
        """Return whether the device is there."""
        _, place = self._place(now)
        index = bisect_right(self.begins, place) - 1
        return index >= 0 and place < self.ends[index]

    def returns(self, now: float) -> float:
        """Return when it is there next; ``now`` while it is."""
        if self.there(now):
            return now
        periods, place = self._place(now)
        index = bisect_right(self.begins, place)
        if index == len(self.begins):
            periods, index = periods + 1, 0
        return self.start + periods * self.period_seconds + self.begins[index]

    def at(self, now: float) -> tuple[bool, float]:
        """Return whether the device is there, and until when that stays so: always later than ``now``."""
        there = self.there(now)
        periods, place = self._place(now)
        index = bisect_right(self.begins, place) - 1
        end = self.start + periods * self.period_seconds + self.ends[index] if there else self.returns(now)
        return there, max(end, nextafter(now, inf))

    def worked(self, now: float, seconds: float) -> float:
        """Return how much of the ``seconds`` from ``now`` on it is there."""
        return self._until(now + seconds) - self._until(now)

    def takes(self, now: float, work_seconds: float) -> float:
        """Return the time from ``now`` until it has been there for ``work_seconds``."""
        if work_seconds <= 0:
            return 0.0
        whole = self.before[-1]
        periods, rest = divmod(self._until(now) + work_seconds, whole)
        if rest == 0:  # done with the last interval of a period, not with the next one's begin
            periods, rest = periods - 1, whole
        index = bisect_left(self.before, rest) - 1
        place = self.begins[index] + rest - self.before[index]
        return max(work_seconds, self.start + periods * self.period_seconds + place - now)

    def _place(self, now: float) -> tuple[float, float]:
        return divmod(now - self.start, self.period_seconds)

    def _until(self, now: float) -> float:
        """Return the presence from ``start`` to ``now``, negative before it."""
        periods, place = self._place(now)
        index = bisect_right(self.begins, place) - 1
        inside = self.before[index] + min(place, self.ends[index]) - self.begins[index] if index >= 0 else 0.0
        return periods * self.before[-1] + inside
