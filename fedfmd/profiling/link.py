"""The link between two machines: round trips, and how fast bytes go either way, measured over TCP.

One connection is one exchange. It begins with a request: ``MAGIC``, a kind, and how many bytes it is about,
from 1 to ``LARGEST``. Then

- ``echo``: each byte of the client comes back before it sends the next;
- ``up``: the client sends the bytes, and is told the seconds that their second half took to arrive;
- ``down``: the client gets the bytes, and takes that time itself.

By the second half TCP's slow start is over and the buckets of shapers are empty, and no round trip is in it:
what is left is the bandwidth, of payload and not of packets. Transfers double until it takes long enough.

Whoever serves answers one exchange at a time, so that two do not measure each other, hangs up on any other
request, and gives up on one that stands still or does not end.
"""

import math
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from statistics import median, stdev
from typing import Literal

from fedfmd.errors import UserError
from fedfmd.machine.ports import joined, listener

Exchange = Literal["echo", "up", "down"]
MAGIC = b"fedfmd-link-1\n"
REQUEST = struct.Struct(f"!{len(MAGIC)}sBQ")
EXCHANGES: tuple[Exchange, ...] = ("echo", "up", "down")
SECONDS = struct.Struct("!d")
LARGEST = {"echo": 1000, "up": 256 << 20, "down": 256 << 20}
"""Bytes of an exchange."""
CHUNK_BYTES = 16 << 10
SILENCE_SECONDS, LONGEST_SECONDS = 30.0, 120.0
"""So long a peer may stand still, and an exchange take."""
ROUND_TRIPS = 20
REPEATS = 3
LEAST_SECONDS = 0.5
"""A second half that takes as long is measured, if it also takes five round trips."""


@dataclass(frozen=True, kw_only=True)
class Flow:
    """How fast bytes went one way."""

    bits_per_second: float
    """Median of the repeats."""
    spread: float
    """Between the slowest and the fastest, over the median."""
    payload_bytes: int


@dataclass(frozen=True, kw_only=True)
class MeasuredLink:
    """What was measured between this machine and a server."""

    round_trip_seconds: float
    """Median."""
    jitter_seconds: float
    """Standard deviation."""
    least_round_trip_seconds: float
    round_trips: int
    uplink: Flow
    downlink: Flow


def measure_link(host: str, port: int, *, least_seconds: float = LEAST_SECONDS) -> MeasuredLink:
    """Measure the link to a machine that serves it.

    Raises ``UserError`` where nobody answers, or answers otherwise.
    """
    try:
        trips = _round_trips(host, port)
        trip = median(trips)
        enough = max(least_seconds, 5 * trip)
        return MeasuredLink(
            round_trip_seconds=trip,
            jitter_seconds=stdev(trips),
            least_round_trip_seconds=min(trips),
            round_trips=len(trips),
            uplink=_flow(lambda size: _up(host, port, size), enough),
            downlink=_flow(lambda size: _down(host, port, size), enough),
        )
    except OSError as error:
        raise UserError(
            f"--server {joined(host, port)}: the link cannot be measured: {error.strerror or error}; that "
            "machine has to run: fedfmd profile --serve-link 0.0.0.0:PORT"
        ) from None


def _flow(second_half: Callable[[int], float], enough: float) -> Flow:
    """Transfer more and more bytes until the second half takes long enough, and then that many again."""
    size = 2 * CHUNK_BYTES
    while (taken := second_half(size)) < enough and size < LARGEST["up"]:
        size *= 2
    seconds = [taken, *(second_half(size) for _ in range(REPEATS - 1))]
    rates = [8 * (size // 2) / max(one, 1e-9) for one in seconds]
    middle = median(rates)
    return Flow(bits_per_second=middle, spread=(max(rates) - min(rates)) / middle, payload_bytes=size)


def _round_trips(host: str, port: int) -> list[float]:
    """Time single bytes there and back; the first one, which wakes the other side, does not count."""
    found = []
    with _asked(host, port, "echo", ROUND_TRIPS + 1) as peer:
        for _ in range(ROUND_TRIPS + 1):
            start = time.perf_counter()
            peer.sendall(b"0")
            _receive(peer, 1)
            found.append(time.perf_counter() - start)
    return found[1:]


def _up(host: str, port: int, size: int) -> float:
    with _asked(host, port, "up", size) as peer:
        _send(peer, size)
        (seconds,) = SECONDS.unpack(_receive(peer, SECONDS.size))
    if not 0 <= seconds <= LONGEST_SECONDS:
        raise ConnectionError("the other side answers otherwise than --serve-link does")
    return float(seconds)


def _down(host: str, port: int, size: int) -> float:
    with _asked(host, port, "down", size) as peer:
        return _second_half(peer, size)


def _asked(host: str, port: int, kind: Exchange, size: int) -> socket.socket:
    """Connect, and ask for an exchange."""
    peer = socket.create_connection((host, port), timeout=SILENCE_SECONDS)
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    peer.sendall(REQUEST.pack(MAGIC, EXCHANGES.index(kind), size))
    return peer


def serving(host: str, port: int) -> socket.socket:
    """Listen for exchanges; raises ``UserError`` where that cannot be."""
    try:
        return listener(host, port, backlog=16)
    except OSError as error:
        raise UserError(f"--serve-link {joined(host, port)}: cannot listen: {error.strerror}") from None


def serve_link(listening: socket.socket, done: Callable[[str], None]) -> None:
    """Answer exchanges, one after another, until the socket is shut; ``done`` is told of each."""
    while True:
        try:
            peer, address = listening.accept()
        except ConnectionError:
            continue  # that one is gone again
        except OSError:
            return
        with peer, suppress(OSError):
            peer.settimeout(SILENCE_SECONDS)
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            done(f"{address[0]}: {_answer(peer)}")


def _answer(peer: socket.socket) -> str:
    """Answer one exchange; returns what it was. Raises ``OSError`` for a peer that goes or stands still."""
    magic, number, size = REQUEST.unpack(_receive(peer, REQUEST.size))
    kind = EXCHANGES[number] if magic == MAGIC and number < len(EXCHANGES) else None
    if kind is None or not 0 < size <= LARGEST[kind]:
        return "no such exchange"
    until = time.monotonic() + LONGEST_SECONDS
    if kind == "echo":
        for _ in range(size):
            peer.sendall(_receive(peer, 1, until))
    elif kind == "up":
        peer.sendall(SECONDS.pack(_second_half(peer, size, until)))
    else:
        _send(peer, size, until)
    return f"{kind}, {size:,} bytes"


def _second_half(peer: socket.socket, size: int, until: float = math.inf) -> float:
    """Receive so many bytes; returns the seconds from the first half to the end."""
    _drop(peer, size - size // 2, until)
    start = time.perf_counter()
    _drop(peer, size // 2, until)
    return time.perf_counter() - start


def _send(peer: socket.socket, size: int, until: float = math.inf) -> None:
    chunk = bytes(CHUNK_BYTES)
    while size > 0:
        _check(until)
        peer.sendall(chunk[:size])
        size -= len(chunk)


def _drop(peer: socket.socket, size: int, until: float) -> None:
    while size > 0:
        _check(until)
        size -= len(_some(peer, min(size, CHUNK_BYTES)))


def _receive(peer: socket.socket, size: int, until: float = math.inf) -> bytes:
    """Return the next so many bytes; raises ``OSError`` for fewer."""
    kept = b""
    while len(kept) < size:
        _check(until)
        kept += _some(peer, size - len(kept))
    return kept


def _some(peer: socket.socket, most: int) -> bytes:
    chunk = peer.recv(most)
    if not chunk:
        raise ConnectionError("the other side hung up")
    return chunk


def _check(until: float) -> None:
    if time.monotonic() > until:
        raise TimeoutError("the exchange does not end")
