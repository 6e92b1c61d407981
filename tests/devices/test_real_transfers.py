"""Simulated transfers beside real ones: TCP through network namespaces whose links ``tc`` limits.

A namespace stands for the server, one for each client, joined by pairs of virtual interfaces; the server's
own link is its one interface to a bridge in between. Clients' links are token buckets (tbf). The server's is
shared by classes that lend to each other (htb), a client's packets in its own: a plain queue is no fair one
for a few flows of some seconds, and lets one of them win. It needs root and these two of the kernel.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

import pytest

from fedfmd.devices.bandwidth import Bandwidth
from fedfmd.devices.traffic import Leg, Route, Traffic

pytestmark = pytest.mark.slow
MEGA = 1e6
FIRST_CLASS = 16
FRAMES = 1514 / 1448
"""Bytes on the wire for each byte of the payload, with Ethernet's, IP's and TCP's headers."""
SENDER = """
import socket, sys
size, server = int(sys.argv[1]), socket.create_server((sys.argv[2], 5001), backlog=16)
print("ready", flush=True)
import threading
def send(place):
    with place:
        place.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, int(sys.argv[3]))  # the class of htb
        place.sendall(b"0" * size)
while True:
    threading.Thread(target=send, args=(server.accept()[0],), daemon=True).start()
"""
RECEIVER = """
import socket, sys, time
start = time.perf_counter()
with socket.create_connection((sys.argv[1], 5001)) as place:
    while place.recv(65536): pass
print(time.perf_counter() - start)
"""


def sh(command: str) -> None:
    subprocess.run(command, shell=True, check=True, capture_output=True)


@contextmanager
def namespaces(server_mbit: float, clients_mbit: Sequence[float]) -> Iterator[str]:
    """Build the network; gives the prefix of the namespaces' names: ``...s``, ``...0``, ``...1``."""
    prefix = f"fmd{os.getpid()}x"
    names = ["s", *map(str, range(len(clients_mbit)))]
    shaped = "burst 16kb latency 100ms"
    with ExitStack() as stack:
        for name in (*names, "b"):
            sh(f"ip netns add {prefix}{name}")
            stack.callback(subprocess.run, ["ip", "netns", "del", prefix + name], check=False)
        sh(f"ip netns exec {prefix}b ip link add bridge type bridge")
        sh(f"ip netns exec {prefix}b ip link set bridge up")
        for i, name in enumerate(names):
            sh(f"ip -n {prefix}{name} link add eth0 type veth peer name to{name} netns {prefix}b")
            sh(f"ip -n {prefix}{name} addr add 10.77.0.{i + 1}/24 dev eth0")
            sh(f"ip -n {prefix}{name} link set eth0 up")
            sh(f"ip -n {prefix}b link set to{name} master bridge")
            sh(f"ip -n {prefix}b link set to{name} up")
        sh(f"tc -n {prefix}s qdisc add dev eth0 root handle 1: htb")
        sh(f"tc -n {prefix}s class add dev eth0 parent 1: classid 1:1 htb rate {server_mbit}mbit")
        each = server_mbit / len(clients_mbit)
        for i in range(len(clients_mbit)):
            lends = f"htb rate {each}mbit ceil {server_mbit}mbit"
            sh(f"tc -n {prefix}s class add dev eth0 parent 1:1 classid 1:{FIRST_CLASS + i:x} {lends}")
        for name, mbit in zip(names[1:], clients_mbit, strict=True):  # what reaches the client
            sh(f"tc -n {prefix}b qdisc add dev to{name} root tbf rate {mbit}mbit {shaped}")
        yield prefix


@pytest.fixture(autouse=True)
def capable() -> None:
    if os.geteuid() or not shutil.which("tc"):
        pytest.skip("needs root and tc")
    try:
        with namespaces(10, [10]):
            pass
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no namespaces or no tbf here: {error.stderr.decode().strip()}")


def real(server_mbit: float, clients_mbit: Sequence[float], megabytes: Sequence[float]) -> list[float]:
    """Time downloads that all begin at once."""
    with namespaces(server_mbit, clients_mbit) as prefix, ExitStack() as stack:
        into = ["ip", "netns", "exec"]
        found: list[float] = []
        for i, size in enumerate(megabytes):
            address = f"10.77.0.{100 + i}"
            sh(f"ip -n {prefix}s addr add {address}/24 dev eth0")
            program = [sys.executable, "-c", SENDER, str(int(size * MEGA)), address]
            command = [*into, f"{prefix}s", *program, str((1 << 16) + FIRST_CLASS + i)]
            sender = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            stack.callback(sender.wait)
            stack.callback(sender.kill)
            assert sender.stdout is not None
            assert sender.stdout.readline() == "ready\n"
        time.sleep(0.2)
        receivers = [
            subprocess.Popen(
                [*into, f"{prefix}{i}", sys.executable, "-c", RECEIVER, f"10.77.0.{100 + i}"],
                stdout=subprocess.PIPE,
                text=True,
            )
            for i in range(len(megabytes))
        ]
        for receiver in receivers:
            out, _ = receiver.communicate(timeout=120)
            found.append(float(out))
        return found


@dataclass
class Net:
    """The same as the simulation sees it."""

    to_clients: float
    speeds: Sequence[float]
    from_clients: float = 1e12

    def route(self, client: int) -> Route:
        speed = Bandwidth.constant(self.speeds[client])
        return Route(downlink=speed, uplink=speed)


def simulated(server_mbit: float, clients_mbit: Sequence[float], megabytes: Sequence[float]) -> list[float]:
    traffic = Traffic(Net(server_mbit * MEGA, [mbit * MEGA for mbit in clients_mbit]))
    for client, size in enumerate(megabytes):
        traffic.start(client, [Leg("download", 8 * MEGA * size * FRAMES, 0.0)])
    done: dict[int, float] = {}
    while (client_done := traffic.next_finished()) is not None:
        done[client_done] = traffic.now
    return [done[client] for client in sorted(done)]


@pytest.mark.parametrize(
    ("server_mbit", "clients_mbit", "megabytes"),
    [
        (100, [20], [8]),
        (20, [100, 100], [5, 5]),
        (20, [4, 100], [1, 8]),
        (24, [100, 100, 6], [3, 6, 3]),
    ],
    ids=["one link", "two share", "one is slow", "three"],
)
def test_a_transfer_takes_what_it_really_takes(
    server_mbit: float, clients_mbit: list[float], megabytes: list[float]
) -> None:
    expected = simulated(server_mbit, clients_mbit, megabytes)
    for attempt in range(3):  # on a machine that also does other work
        found = real(server_mbit, clients_mbit, megabytes)
        with suppress(AssertionError):
            assert found == pytest.approx(expected, rel=0.15)
            return
        print(attempt, expected, found)
    assert found == pytest.approx(expected, rel=0.15)


MEASURE = """
import json, sys
from dataclasses import asdict
from fedfmd.profiling.link import measure_link
print(json.dumps(asdict(measure_link(sys.argv[1], 5002))))
"""


def test_a_card_measures_the_link_that_there_is() -> None:
    """20 Mbit/s reach the client, with headers; what it sends is not limited."""
    with namespaces(1000, [20]) as prefix:
        into = ["ip", "netns", "exec"]
        command = [*into, f"{prefix}s", sys.executable, "-m", "fedfmd", "profile", "--serve-link"]
        serving = subprocess.Popen([*command, "10.77.0.1:5002"], stdout=subprocess.PIPE, text=True)
        try:
            assert serving.stdout is not None
            assert "--server HOST:5002" in serving.stdout.readline()
            for attempt in range(3):  # on a machine that also does other work
                measure = [*into, f"{prefix}0", sys.executable, "-c", MEASURE, "10.77.0.1"]
                done = subprocess.run(measure, capture_output=True, text=True, check=True)
                found = json.loads(done.stdout)
                print(attempt, found)
                with suppress(AssertionError):
                    assert found["downlink"]["bits_per_second"] * FRAMES == pytest.approx(20 * MEGA, rel=0.15)
                    break
        finally:
            serving.kill()
            serving.wait()
    assert found["downlink"]["bits_per_second"] * FRAMES == pytest.approx(20 * MEGA, rel=0.15)
    assert found["uplink"]["bits_per_second"] > found["downlink"]["bits_per_second"]
