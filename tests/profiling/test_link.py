"""The link of a card: measured over loopback and a relay that delays, written with where it is from."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import tomli_w

from fedfmd.cli.app import main
from fedfmd.config.documents import read_toml
from fedfmd.config.sections.devices import DeviceConfig
from fedfmd.devices.profiles import device_from
from fedfmd.errors import UserError
from fedfmd.profiling.card import measure_card
from fedfmd.profiling.link import EXCHANGES, LARGEST, MAGIC, REQUEST, measure_link, serve_link, serving

HERE = "127.0.0.1"


@contextmanager
def served(told: list[str]) -> Iterator[int]:
    """Serve links on a free port; ``told`` gets what was answered."""
    with serving(HERE, 0) as listener:
        thread = threading.Thread(target=serve_link, args=(listener, told.append))
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@contextmanager
def relayed(to: int, *, delay_seconds: float, up: float, down: float) -> Iterator[int]:
    """Relay connections to a port: each chunk is delayed, and takes its time at so many bits per second."""
    with serving(HERE, 0) as listener:

        def pass_on(source: socket.socket, sink: socket.socket, rate: float) -> None:
            with suppress(OSError):
                while chunk := source.recv(4096):
                    time.sleep(delay_seconds + 8 * len(chunk) / rate)
                    sink.sendall(chunk)
                sink.shutdown(socket.SHUT_WR)

        def accept() -> None:
            with suppress(OSError):
                while True:
                    near = listener.accept()[0]
                    far = socket.create_connection((HERE, to))
                    for way in ((near, far, up), (far, near, down)):
                        threading.Thread(target=pass_on, args=way, daemon=True).start()

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_a_link_is_measured_both_ways() -> None:
    told: list[str] = []
    with served(told) as port:
        found = measure_link(HERE, port, least_seconds=0.001)
    assert 0 < found.least_round_trip_seconds <= found.round_trip_seconds
    assert found.jitter_seconds >= 0
    for flow in (found.uplink, found.downlink):
        assert flow.bits_per_second > 0
        assert flow.payload_bytes <= LARGEST["up"]
    assert {line.split(": ")[1].split(",")[0] for line in told} == set(EXCHANGES)


def test_a_relay_that_delays_is_in_the_round_trip_and_its_rates_in_the_bandwidth() -> None:
    """No machine is too slow for that: a trip takes both delays at least; the narrow way is the narrower."""
    with served([]) as port, relayed(port, delay_seconds=0.005, up=2e6, down=2e7) as door:
        found = measure_link(HERE, door, least_seconds=0.05)
    assert found.least_round_trip_seconds >= 2 * 0.005
    assert found.uplink.bits_per_second < found.downlink.bits_per_second


def test_a_card_has_its_link_and_where_it_is_from(tmp_path: Path) -> None:
    """It is measured again whenever it is asked for; a tier that is like the card has it."""
    path = tmp_path / "board.toml"
    done = {
        "operators": [{"kind": "conv", "shape": "16 channels", "macs_per_second": 1e9, "spread": 0.1}],
        "calibration": {},
        "memory": {"limit_bytes": 1, "bound": "none"},
        "start": {"seconds": 1.0},
        "power": {"source": "none", "reason": "no meter"},
        "validation": {"median_ratio": 1.0, "worst_ratio": 1.0, "batch_size": 16, "networks": []},
    }
    flow = {"bits_per_second": 1.0, "spread": 0.0, "payload_bytes": 1}
    old = {
        "server": "old",
        "date": "2026-01-01",
        "clock": "own",
        "round_trip_seconds": 1.0,
        "jitter_seconds": 1.0,
        "least_round_trip_seconds": 1.0,
        "round_trips": 1,
        "uplink": flow,
        "downlink": flow,
    }
    path.write_text(tomli_w.dumps({"device": {"name": "board"}, "link": old | {"uplink": 1}, **done}))
    with pytest.raises(UserError, match=r"board\.toml: link\.uplink = 1: must be a section"):
        measure_card(path, like="laptop", memory_limit=1, share=1.0, tell=print, server=(HERE, 1))
    path.write_text(tomli_w.dumps({"device": {"name": "board"}, "link": old, **done}))
    asked: list[str] = []
    with served([]) as port:
        made = measure_card(
            path, like="laptop", memory_limit=1, share=1.0, tell=asked.append, server=(HERE, port)
        )
    assert asked == ["the link"]
    assert made == dict(read_toml(path))
    link, device = made["link"], device_from(DeviceConfig(name="d", like=str(path)))
    assert link["server"] == f"{HERE}:{port}"
    assert device.uplink_bits_per_second == link["uplink"]["bits_per_second"]
    assert device.downlink_bits_per_second == link["downlink"]["bits_per_second"]
    assert device.link.round_trip_seconds == link["round_trip_seconds"]
    assert device.link.jitter_seconds == link["jitter_seconds"]


@pytest.mark.parametrize(
    "request_",
    [
        b"GET / HTTP/1.1\r\nHost: here\r\n\r\n",
        REQUEST.pack(b"x" * len(MAGIC), 0, 1),
        REQUEST.pack(MAGIC, len(EXCHANGES), 1),
        REQUEST.pack(MAGIC, EXCHANGES.index("echo"), LARGEST["echo"] + 1),
        REQUEST.pack(MAGIC, EXCHANGES.index("down"), LARGEST["down"] + 1),
        REQUEST.pack(MAGIC, EXCHANGES.index("down"), 0),
    ],
    ids=["HTTP", "another magic", "no kind", "too long an echo", "too many bytes", "nothing"],
)
def test_whoever_asks_for_anything_else_is_hung_up_on(request_: bytes) -> None:
    """And the next one is answered."""
    told: list[str] = []
    with served(told) as port:
        with socket.create_connection((HERE, port)) as peer:
            peer.sendall(request_)
            with suppress(ConnectionResetError):
                assert peer.recv(10) == b""
        with socket.create_connection((HERE, port)) as peer:
            peer.sendall(REQUEST.pack(MAGIC, EXCHANGES.index("echo"), 1) + b"7")
            assert peer.recv(10) == b"7"
    assert told == [f"{HERE}: no such exchange", f"{HERE}: echo, 1 bytes"]


def test_where_nobody_answers_or_somebody_else_it_is_said() -> None:
    with socket.create_server((HERE, 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(UserError, match=rf"--server {HERE}:{port}: .*refused.*--serve-link 0\.0\.0\.0:PORT"):
        measure_link(HERE, port)
    with served([]) as port, pytest.raises(UserError, match=rf"--serve-link {HERE}:{port}: cannot listen"):
        serving(HERE, port)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--server", "h:1"], "--server: counts only with --device-card"),
        (["--plug", "x.csv"], "--plug: counts only with --device-card"),
        (["--device-card", "a.toml", "--server", "here"], "here: must look like HOST:PORT"),
        (["--device-card", "a.toml", "--plug", "nowhere.csv"], "--plug: nowhere.csv cannot be read"),
        (["--serve-link", "here"], "here: must look like HOST:PORT"),
        (
            ["--serve-link", "h:1", "--device-card", "a.toml"],
            "--device-card: cannot be given with --serve-link;",
        ),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["fedfmd", "profile", *options])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
