"""The way to a server that is not there yet: through Flower's own connection, to real sockets."""

import re
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import NoReturn

import pytest
from flwr.common.constant import TIMESTAMP_HEADER
from flwr.proto.fleet_pb2 import ActivateNodeResponse, DeactivateNodeResponse, PullMessagesResponse
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatResponse
from flwr.supercore.constant import TaskType
from flwr.supercore.corestate import in_memory_corestate
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.primitives.asymmetric import generate_key_pairs
from flwr.supernode.nodestate.in_memory_nodestate import InMemoryNodeState
from google.protobuf.message import Message

from fedfmd.deployment import keys
from fedfmd.deployment.keys import make_keys
from fedfmd.errors import UserError
from fedfmd.flower import node
from fedfmd.machine.ports import listener

NODE = 4711
ANSWERS: dict[str, Message] = {
    "activate-node": ActivateNodeResponse(node_id=NODE),
    "send-node-heartbeat": SendNodeHeartbeatResponse(success=True),
    "pull-messages": PullMessagesResponse(),
    "deactivate-node": DeactivateNodeResponse(),
}


class Server(HTTPServer):
    """A SuperLink that comes up slowly: cuts the first connection off, knows no key at the second request."""

    asked = 0
    cut_off = 0
    ahead_seconds = 0.0
    """Of the client's, this server's clock."""

    def knows(self, signed: str) -> bool:
        """Whether it takes what was signed at a time, as Flower's SuperLink does."""
        age = time.time() + self.ahead_seconds - datetime.fromisoformat(signed).timestamp()
        return -5 < age < 305

    def finish_request(self, request: object, client_address: object) -> None:
        if not self.cut_off:
            self.cut_off += 1
            return
        assert self.context is not None
        with self.context.wrap_socket(request, server_side=True) as encrypted:  # type: ignore[arg-type]
            self.RequestHandlerClass(encrypted, client_address, self)  # type: ignore[arg-type]

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: clients that trust another authority hang up."""

    context: ssl.SSLContext | None = None


class Handler(BaseHTTPRequestHandler):
    """Answers as Fleet does."""

    server: Server

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked += 1
        refusal = 412 if self.server.asked <= 1 else 401
        known = self.server.asked > 1 and self.server.knows(self.headers[TIMESTAMP_HEADER])
        body = ANSWERS[self.path.removeprefix("/v1/fleet/")].SerializeToString() if known else b"{}"
        self.send_response(200 if known else refusal)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def date_time_string(self, timestamp: float | None = None) -> str:
        """Say what this server's clock shows."""
        return super().date_time_string(timestamp or time.time() + self.server.ahead_seconds)

    def log_message(self, *said: object) -> None:
        """Print nothing."""


@contextmanager
def serving(keys: Path) -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as server:
        server.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.context.load_cert_chain(keys / "gate" / "gate.crt", keys / "gate" / "gate.key")
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def leave(code: int, said: str) -> NoReturn:
    raise SystemExit(f"{code}: {said}")


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Change Flower as ``deploy node`` does, but for the thread that ends the process at its exit."""
    monkeypatch.setattr(node.fleet, "FleetHttpClient", node.PatientClient)
    monkeypatch.setattr(node, "CLOCK", node.ServersClock())
    monkeypatch.setattr(node.signing, "now", lambda: node.CLOCK.now())
    monkeypatch.setattr("flwr.supercore.retry.http_retry.MAX_RETRY_DELAY", 0.1)
    monkeypatch.setattr(node.fleet, "flwr_exit", leave)


def test_a_port_that_is_taken_is_named_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """As by the client of another deployment on this machine, which ``start.sh`` gave the same port."""
    with listener("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        command = ["flower-supernode", "--superlink=127.0.0.1:1", "--insecure", f"--port={port}"]
        monkeypatch.setattr(sys, "argv", [*command, "--node-config=client-id=0"])
        with pytest.raises(UserError, match=rf"PORT=9501 \./start\.sh\) 127\.0\.0\.1:{port}: cannot be used"):
            node.checked_options()


def test_a_client_asks_until_its_server_is_there_and_knows_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_keys(tmp_path, [0])
    authority = (tmp_path / "client-0" / "ca.crt").read_bytes()
    with serving(tmp_path) as server:
        address = f"127.0.0.1:{server.server_port}"
        with node.connect_for_installed_app(address, False, authority, generate_key_pairs()) as connected:
            assert connected[0] == NODE
    assert server.cut_off == 1
    said = capsys.readouterr().err
    assert said.index("the server cannot be reached") < said.index("does not know this client's key")


@pytest.mark.parametrize(
    ("ahead_seconds", "said"), [(7200.0, r"(7200|7199) s behind"), (-60.0, r"6[01] s ahead of")]
)
def test_a_client_whose_clock_is_wrong_takes_the_servers_time(
    ahead_seconds: float, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_keys(tmp_path, [0])
    authority = (tmp_path / "client-0" / "ca.crt").read_bytes()
    with serving(tmp_path) as server:
        server.cut_off, server.asked, server.ahead_seconds = 1, 1, ahead_seconds
        address = f"127.0.0.1:{server.server_port}"
        with node.connect_for_installed_app(address, False, authority, generate_key_pairs()) as connected:
            receive = connected[1]
            before = receive()
            server.ahead_seconds = 4000.0  # either clock is set
            after = receive()
    assert before is after is None
    assert re.search(said, told := capsys.readouterr().err)
    assert re.search(r"(4000|3999) s behind", told)


def test_a_key_that_is_refused_at_the_right_time_is_refused_for_good(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Flower interrupts the process then."""
    make_keys(tmp_path, [0])
    authority = (tmp_path / "client-0" / "ca.crt").read_bytes()
    with serving(tmp_path) as server:
        server.cut_off, server.asked = 1, 1
        server.knows = lambda signed: False  # type: ignore[method-assign]
        address = f"127.0.0.1:{server.server_port}"
        connecting = node.connect_for_installed_app(address, False, authority, generate_key_pairs())
        with pytest.raises(KeyboardInterrupt), connecting:
            pass
    assert server.asked == 2
    assert "takes this client's key no more" in capsys.readouterr().err


@pytest.mark.parametrize(("days", "said"), [(-2000, "has expired"), (4000, "is not yet valid")])
def test_a_certificate_of_another_time_is_tried_again(
    days: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is the clock, which somebody sets, or it is renewed; waiting helps, unlike for a stranger's."""
    with monkeypatch.context() as patch:
        patch.setattr(keys, "_now", lambda: datetime.now(UTC) + timedelta(days=days))
        make_keys(tmp_path, [0])
    authority = (tmp_path / "client-0" / "ca.crt").read_bytes()
    with serving(tmp_path) as server:
        server.cut_off = 1
        connecting = node.connect_for_installed_app(
            f"127.0.0.1:{server.server_port}", False, authority, generate_key_pairs(), 1
        )
        with pytest.raises(SystemExit, match="cannot be reached"), connecting:
            pass
    assert f"the server's certificate {said} by this machine's clock" in capsys.readouterr().err


def test_a_server_of_another_authority_is_not_asked_again(tmp_path: Path) -> None:
    """Waiting makes nobody trustworthy."""
    make_keys(tmp_path / "ours", [0])
    make_keys(tmp_path / "theirs", [0])
    authority = (tmp_path / "theirs" / "client-0" / "ca.crt").read_bytes()
    with serving(tmp_path / "ours") as server:
        server.cut_off = 1
        address = f"127.0.0.1:{server.server_port}"
        connecting = node.connect_for_installed_app(address, False, authority, generate_key_pairs())
        with pytest.raises(SystemExit, match="CERTIFICATE_VERIFY_FAILED"), connecting:
            pass
    assert server.asked == 0


def test_a_refusal_ends_it_where_it_is_told_not_to_wait(tmp_path: Path) -> None:
    make_keys(tmp_path, [0])
    authority = (tmp_path / "client-0" / "ca.crt").read_bytes()
    with serving(tmp_path) as server:
        server.cut_off, server.asked = 1, -9
        address = f"127.0.0.1:{server.server_port}"
        connecting = node.connect_for_installed_app(address, False, authority, generate_key_pairs(), 2)
        with pytest.raises(SystemExit, match="does not know this client's key"), connecting:
            pass
    assert server.asked == -6


class Clock:
    """Flower's clock, which can be put forward."""

    ahead = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead


@pytest.mark.parametrize(("state", "heard"), [(InMemoryNodeState, False), (node.PatientState, True)])
def test_a_slow_machine_has_the_time_to_start_python(
    state: type[InMemoryNodeState], heard: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flower by itself starts the process for a message anew after 30 s, and would so for ever."""
    clock = Clock()
    for module in (node, in_memory_corestate):
        monkeypatch.setattr(module, "now", clock)
    asked = state(ObjectStoreFactory().store())
    task = asked.create_task(TaskType.CLIENT_APP, run_id=1, fab_hash="x")
    assert task is not None
    assert asked.claim_task(task) is not None
    clock.ahead = timedelta(seconds=100)
    assert asked.activate_task(task) is heard


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ("threads=1", "node config: client-id = None: must be a whole number from 0"),
        ('client-id=0 meter="plug" plug="/nowhere.csv" idle-watts=2', "/nowhere.csv cannot be read"),
    ],
)
def test_a_node_config_of_no_use_ends_the_command(config: str, told: str) -> None:
    """Flower's servers run in threads that would keep a process alive whose client never began."""
    options = ["--superlink", "127.0.0.1:1", "--insecure", "--node-config", config]
    command = [sys.executable, "-m", "fedfmd", "deploy", "node", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr
