"""The gate alone, before a server that notes what reaches it."""

import asyncio
import hashlib
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from fedfmd.deployment import gate
from fedfmd.deployment.gate import ADMITTED, FLEET, MAX_BODY_BYTES, Endpoint, Event, Gate, Receive, serve
from fedfmd.deployment.keys import make_keys
from fedfmd.errors import UserError

MEBI = 1 << 20


@dataclass
class Seen:
    """What reached the server behind the gate."""

    requests: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)

    @property
    def paths(self) -> list[str]:
        return [path for _, path, _, _ in self.requests]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError(f"nothing listens on {port}")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gate") / "keys"
    make_keys(folder, range(2))
    return folder


@pytest.fixture(scope="module")
def seen() -> Seen:
    return Seen()


@pytest.fixture(scope="module")
def inside(keys: Path, seen: Seen) -> Iterator[int]:
    """The port of a server with the SuperLink's certificate that answers with what it got."""

    class Echo(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            seen.requests.append((self.command, self.path, dict(self.headers.items()), body))
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Set-Cookie", "inside=1")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = do_DELETE = do_POST  # noqa: N815

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(keys / "server" / "server.crt", keys / "server" / "server.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield int(server.server_address[1])
    server.shutdown()


def start(*options: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-P", "-m", "fedfmd", "deploy", "gate", *options])


def stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    assert process.wait(20) is not None


def at_the_server(keys: Path) -> list[str]:
    own = keys / "gate"
    return [f"--authority={own}/inside.crt", f"--certificate={own}/gate.crt", f"--key={own}/gate.key"]


@pytest.fixture(scope="module")
def door(keys: Path, inside: int) -> Iterator[int]:
    port = free_port()
    process = start(f"--listen=127.0.0.1:{port}", f"--to=127.0.0.1:{inside}", *at_the_server(keys))
    wait_for(port)
    yield port
    stop(process)


@pytest.fixture
def client(door: int, keys: Path, seen: Seen) -> Iterator[httpx.Client]:
    seen.requests.clear()
    context = ssl.create_default_context(cafile=keys / "client-0" / "ca.crt")
    with httpx.Client(base_url=f"https://127.0.0.1:{door}", verify=context, trust_env=False) as here:
        yield here


def raw(door: int, keys: Path, request: bytes) -> bytes:
    """Send bytes as they are, and give the first line of the answer."""
    context = ssl.create_default_context(cafile=keys / "client-0" / "ca.crt")
    plain = socket.create_connection(("127.0.0.1", door), 20)
    with context.wrap_socket(plain, server_hostname="127.0.0.1") as secure:
        secure.sendall(request)
        return secure.recv(4096).split(b"\r\n", 1)[0]


def test_what_a_client_needs_goes_through_whole(client: httpx.Client, seen: Seen) -> None:
    """Body, Flower's headers and the answer; nothing else of what the client sent, and no cookies back."""
    for name in FLEET:
        body = os.urandom(5 * MEBI if name == "push-object" else 100)
        answer = client.post(
            f"/v1/fleet/{name}",
            content=body,
            headers={
                "Content-Type": "application/x-protobuf",
                "Flwr-Signature": "s",
                "Host": "evil/v1/control/start-run?",
                "X-Forwarded-For": "1.2.3.4",
                "Cookie": "a=b",
            },
        )
        assert answer.status_code == 200
        assert hashlib.sha256(answer.content).digest() == hashlib.sha256(body).digest()
        assert "set-cookie" not in answer.headers
    assert seen.paths == [f"/v1/fleet/{name}" for name in FLEET]
    method, _, headers, received = seen.requests[-1]
    lowered = {name.lower(): value for name, value in headers.items()}
    assert (method, received) == ("POST", body)
    assert lowered["flwr-signature"] == "s"
    assert "evil" not in lowered["host"]
    assert not {"x-forwarded-for", "cookie"} & lowered.keys()
    assert client.get("/health").status_code == 200


REFUSED = (
    ("POST", "/v1/control/start-run"),
    ("POST", "/v1/control/list-runs"),
    ("POST", "/v1/control/register-node"),
    ("POST", "/v1/runtime/acquire-task"),
    ("POST", "/v1/fleet/register-node"),
    ("POST", "/v1/fleet/unregister-node"),
    ("POST", "/v1/fleet/../control/start-run"),
    ("POST", "/v1/fleet/%2e%2e/control/start-run"),
    ("POST", "/v1/fleet/..%2fcontrol%2fstart-run"),
    ("POST", "/v1/fleet/pull-messages/../../control/start-run"),
    ("POST", "//v1/control/start-run"),
    ("POST", "/v1/fleet//pull-messages"),
    ("POST", "/v1/fleet/pull-messages/"),
    ("POST", "/V1/FLEET/PULL-MESSAGES"),
    ("POST", "/v1/fleet/pull-messages?x=/v1/control/start-run"),
    ("POST", "/v1/fleet/pull-messages;/../../control/start-run"),
    ("POST", "/v1/fleet/pull-messages%00"),
    ("POST", "/v1/fleet/pull-messages%0d%0aHost:x"),
    ("POST", "http://superlink:8000/v1/control/start-run"),
    ("POST", "https://127.0.0.1/v1/fleet/../control/start-run"),
    ("POST", "*"),
    ("GET", "/v1/fleet/pull-messages"),
    ("PUT", "/v1/fleet/pull-messages"),
    ("post", "/v1/fleet/pull-messages"),
    ("POST", "/health"),
    ("GET", "/docs"),
    ("GET", "/openapi.json"),
    ("CONNECT", "superlink:8000"),
)


@pytest.mark.parametrize(("method", "target"), REFUSED)
def test_everything_else_stays_outside(
    client: httpx.Client, door: int, keys: Path, seen: Seen, method: str, target: str
) -> None:
    line = raw(door, keys, f"{method} {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode())
    assert line.split()[1:2] in ([b"404"], [b"400"]), line
    assert not seen.requests


@pytest.mark.parametrize(
    "request_",
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /v1/fleet/pull-messages HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
        b"POST /v1/fleet/pull-messages HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    ],
    ids=["http2", "websocket", "negative-length"],
)
def test_other_protocols_stay_outside(
    client: httpx.Client, door: int, keys: Path, seen: Seen, request_: bytes
) -> None:
    line = raw(door, keys, request_)
    assert not line or line.split()[1] in (b"400", b"404", b"426"), line
    assert not seen.requests


def test_a_second_request_hidden_in_the_first_is_judged_by_itself(
    client: httpx.Client, door: int, keys: Path, seen: Seen
) -> None:
    """Two lengths for one body: a proxy and a server that choose differently could be played off."""
    hidden = b"POST /v1/control/start-run HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
    chunked = b"0\r\n\r\n" + hidden
    head = b"POST /v1/fleet/pull-messages HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
    raw(door, keys, head + b"Content-Length: %d\r\n\r\n" % len(chunked) + chunked)
    raw(door, keys, head + b"\r\n" + chunked)
    time.sleep(0.2)
    assert set(seen.paths) <= {"/v1/fleet/pull-messages"}


def test_a_superlink_that_is_not_there_is_said(keys: Path) -> None:
    port = free_port()
    process = start(f"--listen=127.0.0.1:{port}", f"--to=127.0.0.1:{free_port()}", *at_the_server(keys))
    try:
        wait_for(port)
        context = ssl.create_default_context(cafile=keys / "client-0" / "ca.crt")
        answer = httpx.get(f"https://127.0.0.1:{port}/health", verify=context, trust_env=False)
        assert answer.status_code == 502
    finally:
        stop(process)


def test_with_client_certificates_a_client_comes_by_a_gate_of_its_own(
    keys: Path, inside: int, seen: Seen
) -> None:
    """Who shows no certificate, or one of another authority, does not get to say a word."""
    door, beside, own = free_port(), free_port(), keys / "client-0"
    server = start(
        f"--listen=127.0.0.1:{door}",
        f"--to=127.0.0.1:{inside}",
        f"--client-authority={keys / 'public' / 'ca.crt'}",
        *at_the_server(keys),
    )
    forwarder = start(
        f"--listen=127.0.0.1:{beside}",
        f"--to=127.0.0.1:{door}",
        f"--authority={own}/ca.crt",
        f"--certificate={own}/client.crt",
        f"--key={own}/client.key",
        "--present",
    )
    context = ssl.create_default_context(cafile=own / "ca.crt")
    try:
        wait_for(door)
        wait_for(beside)
        seen.requests.clear()
        with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError, httpx.ConnectError)):
            httpx.get(f"https://127.0.0.1:{door}/health", verify=context, trust_env=False)
        stranger = ssl.create_default_context(cafile=own / "ca.crt")
        stranger.load_cert_chain(keys / "server" / "server.crt", keys / "server" / "server.key")
        with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError, httpx.ConnectError)):
            httpx.get(f"https://127.0.0.1:{door}/health", verify=stranger, trust_env=False)
        assert not seen.requests
        url = f"https://127.0.0.1:{beside}/v1/fleet/pull-messages"
        answer = httpx.post(url, content=b"hello", verify=context, trust_env=False)
        assert (answer.status_code, answer.content) == (200, b"hello")
        assert seen.paths == ["/v1/fleet/pull-messages"]
    finally:
        stop(server)
        stop(forwarder)


def test_what_cannot_begin_says_why(keys: Path, tmp_path: Path) -> None:
    good = Endpoint(certificate=keys / "gate" / "gate.crt", key=keys / "gate" / "gate.key")
    inside = Endpoint(authority=keys / "gate" / "inside.crt")
    for listen in ("8000", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:99999", "127.0.0.1:x"):
        with pytest.raises(UserError, match="HOST:PORT"):
            serve(listen, "superlink:8000", good, inside)
    with pytest.raises(UserError, match="missing"):
        serve("127.0.0.1:8000", "superlink:8000", Endpoint(certificate=tmp_path / "missing"), inside)
    other = replace(good, key=keys / "client-0" / "client.key")
    no_certificate = replace(good, certificate=keys / "gate" / "gate.key")
    for wrong in (other, no_certificate):
        with pytest.raises(
            UserError, match=r"gate\.\w+, .*key: must be a certificate and its own key.*; copy again"
        ):
            serve("127.0.0.1:8000", "superlink:8000", wrong, inside)
    with pytest.raises(UserError, match=r"gate\.key: must be a certificate, PEM .*; copy again"):
        serve("127.0.0.1:8000", "superlink:8000", good, Endpoint(authority=keys / "gate" / "gate.key"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UserError, match="cannot be used"):
            serve(f"127.0.0.1:{taken.getsockname()[1]}", "superlink:8000", good, inside)


def ask(headers: list[tuple[bytes, bytes]], receive: Receive) -> int:
    """Let the gate answer a request in this process; gives the status."""
    sent: list[Event] = []

    async def send(event: Event) -> None:
        sent.append(event)

    async def talk() -> None:
        superlink = httpx.MockTransport(lambda request: httpx.Response(200))
        scope = {"type": "http", "method": "POST", "path": "/v1/fleet/push-object", "query_string": b""}
        await Gate(superlink, "https://inside")(scope | {"headers": headers}, receive, send)

    asyncio.run(talk())
    return int(sent[0]["status"])


def test_a_request_has_a_largest_size() -> None:
    """Said or not: it ends at the first byte too many."""
    read = 0

    async def endless() -> Event:
        nonlocal read
        read += 1
        return {"type": "http.request", "body": bytes(MEBI), "more_body": True}

    assert ask([(b"content-length", str(MAX_BODY_BYTES + 1).encode())], endless) == 413
    assert read == 0
    assert ask([], endless) == 413
    assert read == MAX_BODY_BYTES // MEBI + 1


def test_a_client_that_falls_silent_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "SILENCE_SECONDS", 0.01)

    async def never() -> Event:
        await asyncio.sleep(3600)
        return {}

    assert ask([], never) == 502


def test_no_path_of_control_is_admitted() -> None:
    assert {path for _, path in ADMITTED} == {"/health", *(f"/v1/fleet/{name}" for name in FLEET)}
