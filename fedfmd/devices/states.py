"""Presence from a file: traces of real phones in the shapes in which they were published, as JSON.

A mapping of devices, each with one of

- ``messages``: what happened to it, lines of a time, a tab and an event, as in FLASH's ``state_traces.json``.
  It is there while it is locked, charged and on Wi-Fi (Yang et al. 2021, after Bonawitz et al. 2019).
- ``ready_time``, ``trace_start``, ``trace_end``: those intervals, in seconds, as in FLASH's
  ``cached_timers.json``, which FLHetBench uses, too.
- ``active``, ``inactive``, ``finish_time``: begins and ends of the intervals and the length of the trace, in
  seconds, as in FedScale's ``client_behave_trace``. Export it to JSON first: a pickle is never read.
"""

import warnings
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from fedfmd.config.documents import read_json, shown, shown_error, shown_key
from fedfmd.devices.presence import Presence
from fedfmd.errors import InputWarning, UserError

MIDNIGHT = datetime(2020, 1, 2)
"""Second 0 of FLASH's traces: the simulated clock begins there, so days stay days."""
EVENTS = {
    "battery_charged_on": ("charged", True),
    "battery_charged_off": ("charged", False),
    "wifi": ("wifi", True),
    **dict.fromkeys(("2g", "3g", "4g", "5g", "unknown"), ("wifi", False)),
    "screen_lock": ("locked", True),
    "screen_unlock": ("locked", False),
}
LONGEST_SECONDS = 1e10
"""Of a trace: three centuries."""
WITHOUT_EFFECT = ("screen_on", "screen_off")
SHAPES = ("messages", "ready_time", "active")


def read_states(path: Path) -> tuple[Presence, ...]:
    """Read when devices are there; a warning counts those left out: never there, or with a broken trace.

    Raises ``UserError`` that names the file and what is wrong when it is of another shape, or none is left.
    """
    where = f"devices.states = {str(path)!r}"
    document = read_json(path, "trace of presence (devices.states)")
    if not isinstance(document, dict) or not document:
        raise UserError(f"{where}: must be a mapping of devices")
    found: list[Presence] = []
    reasons: dict[str, str] = {}
    for name, row in document.items():
        if not isinstance(row, dict) or not set(SHAPES) & set(row):
            raise UserError(f"{where}, device {shown_key(name)}: has none of {', '.join(SHAPES)}")
        try:
            found.append(_presence(row))
        except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
            reasons[name] = shown_error(error)
    if not found:
        name, reason = next(iter(reasons.items()))
        raise UserError(f"{where}: no device is ever there; device {shown_key(name)}: {reason}")
    if reasons:
        name, reason = next(iter(reasons.items()))
        warnings.warn(
            f"{where}: {len(reasons)} of {len(document)} devices left out; "
            f"device {shown_key(name)}: {reason}",
            InputWarning,
            stacklevel=2,
        )
    return tuple(found)


def _presence(row: Mapping[str, Any]) -> Presence:
    if "messages" in row:
        return _from_messages(row["messages"])
    if "active" in row:
        pairs, start, end = zip(row["active"], row["inactive"], strict=True), 0.0, row["finish_time"]
    else:
        pairs, start, end = row["ready_time"], row["trace_start"], row["trace_end"]
    intervals = [(_seconds(begin), _seconds(stop)) for begin, stop in pairs]
    if not intervals:
        raise ValueError("never there")
    return Presence.of(intervals, _seconds(start), _seconds(end))


def _seconds(value: Any) -> float:
    seconds = float(value)
    if not abs(seconds) <= LONGEST_SECONDS:
        raise ValueError(f"{shown(value)} is no time in seconds")
    return seconds


def _from_messages(text: str) -> Presence:
    happened = list(_events(text))
    if not happened:
        raise ValueError("never there")
    intervals: list[tuple[float, float]] = []
    state, since = dict.fromkeys(("charged", "wifi", "locked"), False), None
    for seconds, event in happened:
        if event in EVENTS:
            what, value = EVENTS[event]
            state[what] = value
        if all(state.values()):
            since = seconds if since is None else since
        elif since is not None:
            intervals.append((since, seconds))
            since = None
    start, end = happened[0][0], happened[-1][0]
    return Presence.of(intervals, start, end)


def _events(text: str) -> Iterator[tuple[float, str]]:
    for line in filter(None, map(str.strip, text.split("\n"))):
        time, tab, event = line.partition("\t")
        event = event.strip().lower()
        if not tab or not (event in EVENTS or event in WITHOUT_EFFECT or event.endswith("%")):
            raise ValueError(f"not a time, a tab and an event: {line!r}")
        yield (datetime.fromisoformat(time.strip()) - MIDNIGHT).total_seconds(), event
