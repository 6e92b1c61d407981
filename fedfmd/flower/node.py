"""A SuperNode that runs the installed ClientApp, whatever app a server names.

Flower 1.41's own SuperNode downloads a run's app and executes it. This one never asks for it: to Flower's
machinery it shows the app in ``fedfmd/deployment/app``, which holds names and no code, so that every message
goes to the ClientApp that is installed here. (Flower's ``--trusted-entities`` does not serve: it wants
signatures that a SuperLink attaches to apps of Flower's Hub alone.)

Nor does it end where the server is not there yet, does not know it yet or goes away for a while: it asks
again until it is told to stop, or for as long as ``--max-retries`` and ``--max-wait-time`` say.

Nor where its clock is not the server's: Flower's SuperLink refuses what is signed five seconds in the future,
or five minutes in the past, and Flower's SuperNode then ends without a word. Here the server's time is
taken for the signature as soon as it refuses one.

And it has the processes for messages started by ``resident``, and leaves a slow machine the time for the
first, which Flower starts again after 30 s, for ever.

Six private places of Flower are changed, in this process; hence the narrow version in ``pyproject.toml``.
Live tests, with another app submitted from inside the server and a client that starts before it, say when
they move.
"""

import hashlib
import os
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import cache
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx
from flwr.cli.build import build_fab_from_files
from flwr.cli.config_utils import get_fab_metadata
from flwr.common.constant import ISOLATION_MODE_PROCESS, ISOLATION_MODE_SUBPROCESS, TIMESTAMP_HEADER
from flwr.supercore.address import resolve_bind_address
from flwr.supercore.constant import TaskType
from flwr.supercore.date import now
from flwr.supercore.fab import Fab
from flwr.supercore.run import Run
from flwr.supercore.tls import get_client_tls_args
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.fleet_http_connection import http_request_response
from flwr.supernode.nodestate.in_memory_nodestate import InMemoryNodeState

from fedfmd.deployment.identity import check_identity, identity_of
from fedfmd.deployment.keys import read_certificate, read_node_key
from fedfmd.machine.children import main_command
from fedfmd.machine.ports import check_free

worker: Any = import_module("flwr.supernode.start_client_internal")
command: Any = import_module("flwr.supernode.cli.flower_supernode")
fleet: Any = import_module("flwr.supernode.fleet_http_connection")
signing: Any = import_module("flwr.supernode.node_auth_http_interceptor")
states: Any = import_module("flwr.supernode.nodestate.nodestate_factory")
read_options = command._parse_supernode_lifespan_config
"""Flower's own, of the command line."""
GET_RUN, GET_FAB = 3, 4
"""Where Flower's connection has the questions for a run and for its app."""
START_SECONDS = 120
"""How long the process for a message may take until it asks for the message: the first waits for torch."""
PORT = "--port (of start.sh: PORT=9501 ./start.sh)"
"""Where the processes for messages find the node; each of several nodes on one machine needs its own."""
UNTRUSTED = "CERTIFICATE_VERIFY_FAILED"
"""A failure to connect that time does not heal, but for those of the next."""
DATED = ("certificate is not yet valid", "certificate has expired")
"""What a clock that is wrong, or a certificate that is to be renewed, makes of a server of ours."""
EARLIEST, LATEST = timedelta(seconds=-3), timedelta(seconds=300)
"""From when something is signed to when the server looks: it takes a little more in either direction."""


def main(arguments: Sequence[str]) -> None:
    """Run a SuperNode with the arguments of ``flower-supernode``.

    Raises ``UserError`` for keys that are none, a node config that names no client, or images or a meter that
    cannot be read, and for a port that is taken.
    """
    check_keys(arguments)
    fleet.FleetHttpClient = PatientClient
    signing.now = CLOCK.now
    states.InMemoryNodeState = PatientState
    worker.http_request_response = connect_for_installed_app
    command.start_client_internal = start_as_client
    command._parse_supernode_lifespan_config = checked_options
    sys.argv = ["flower-supernode", *arguments]
    command.flower_supernode()


def check_keys(arguments: Sequence[str]) -> None:
    """Raise ``UserError`` for files of keys that hold something else.

    Flower itself looks at the authority's after it has started its servers, whose threads then keep a process
    alive that is no client.
    """
    parser = ArgumentParser(add_help=False)
    parser.add_argument("--root-certificates", type=Path)
    parser.add_argument("--auth-supernode-private-key", type=Path)
    given, _ = parser.parse_known_args(arguments)
    cure = "take this client's folder from the server again"
    if (authority := given.root_certificates) is not None:
        read_certificate(authority.expanduser(), cure)
    if (key := given.auth_supernode_private_key) is not None:
        read_node_key(key.expanduser(), cure)


def checked_options() -> Any:
    """Read the command line, and check what it says, before Flower starts its servers."""
    options = read_options()
    check_free(PORT, options.host, options.port)
    check_identity(identity_of(options.node_config or {}))
    return options


def start_as_client(*, node_config: dict[str, Any], isolation: str, **settings: Any) -> None:
    """Start Flower's worker as one real client: such a node takes no orders as anything else.

    The processes for messages are started by ``resident``, unless the options leave that to somebody else.
    """
    client = identity_of(node_config).client
    if isolation == ISOLATION_MODE_SUBPROCESS:
        subprocess.Popen(
            [
                *main_command("fedfmd.flower.resident"),
                *get_client_tls_args(
                    insecure=settings["runtime_certificates"] is None,
                    root_certificates_path=settings["runtime_root_certificates_path"],
                ),
                f"--runtime-api-address={resolve_bind_address(settings['runtime_api_address'])}",
                f"--parent-pid={os.getpid()}",
            ]
        )
    worker.start_client_internal(
        node_config={**node_config, "client-id": client},
        isolation=ISOLATION_MODE_PROCESS,
        **settings,
    )


class PatientState(InMemoryNodeState):
    """Flower's list of what a node has to do, with more time for the process that begins to do it."""

    def claim_task(self, task_id: int) -> str | None:
        """Give a message to a process that starts now; returns what it proves itself by, null for no more."""
        token = super().claim_task(task_id)
        if token is not None:
            with self.lock_task_store:
                self.task_token_store[task_id].active_until = now() + timedelta(seconds=START_SECONDS)
        return token


@dataclass
class ServersClock:
    """The server's time, as far as this machine knows it."""

    ahead: timedelta = timedelta(0)
    """Of the server's, this machine's clock."""

    def now(self) -> datetime:
        """Return the server's time."""
        return now() - self.ahead

    def corrected(self, refusal: httpx.Response) -> bool:
        """Take over the time of a refusal, if that can be for the time alone; gives whether it can."""
        if "date" not in refusal.headers:
            return False
        sent = parsedate_to_datetime(refusal.headers["date"])
        signed = datetime.fromisoformat(refusal.request.headers[TIMESTAMP_HEADER])
        if EARLIEST < sent - signed < LATEST:
            return False
        self.ahead = now() - sent
        return True


CLOCK = ServersClock()


class PatientClient(FleetHttpClient):
    """Flower's way to a server, to which Flower comes back after more failures than of its own accord."""

    def ActivateNode(self, request: Any) -> Any:  # noqa: N802
        """Ask to be taken as connected; raises ``httpx.ConnectError`` for a refusal.

        A server may learn this client's key after the client has started, and takes one that was killed for
        connected for another minute.
        """
        try:
            return super().ActivateNode(request)
        except httpx.HTTPStatusError as error:
            if error.response.status_code != httpx.codes.PRECONDITION_FAILED:
                raise
            raise _again(
                "the server does not know this client's key, or has it as connected: "
                "fedfmd deploy status, on the server, says who belongs"
            ) from error

    def _unary_unary(self, **call: Any) -> Any:
        """Ask the server; raises ``httpx.ConnectError`` where it cannot be reached.

        Flower gives up for ever where a message speaks of TLS. That is so, too, of a connection that was cut
        off in its first moment, as by a port that is published before the server behind it is there.
        """
        try:
            return super()._unary_unary(**call)
        except httpx.ConnectError as error:
            if dated := next((words for words in DATED if words in str(error)), None):
                print(
                    f"the server's {dated} by this machine's clock, {now():%Y-%m-%d %H:%M} UTC: "
                    "set the clock, or on the server: fedfmd deploy renew server",
                    file=sys.stderr,
                    flush=True,
                )
            elif UNTRUSTED in str(error):
                print(
                    "the server's certificate is of another authority than --root-certificates, or for "
                    "another name: it is another deployment's server, or its keys were made anew; take this "
                    "client's folder from the server again",
                    file=sys.stderr,
                    flush=True,
                )
                raise
            raise _again("the server cannot be reached") from error
        except httpx.HTTPStatusError as error:
            if error.response.status_code == httpx.codes.UNAUTHORIZED:
                if CLOCK.corrected(error.response):
                    apart = CLOCK.ahead.total_seconds()
                    raise _again(
                        f"this machine's clock is {abs(apart):.0f} s {'ahead of' if apart > 0 else 'behind'} "
                        "the server's, whose time is taken from now on"
                    ) from error
                print("the server takes this client's key no more", file=sys.stderr, flush=True)
            raise


def _again(reason: str) -> httpx.ConnectError:
    """Say the reason, and return the error after which Flower waits a while and tries again."""
    print(reason, file=sys.stderr, flush=True)
    return httpx.ConnectError(reason)


@contextmanager
def connect_for_installed_app(*arguments: Any) -> Iterator[tuple[Any, ...]]:
    """Connect as Flower does, with the installed app as every run's."""
    with http_request_response(*arguments) as connection:
        changed: list[Any] = list(connection)
        get_run = changed[GET_RUN]
        changed[GET_RUN] = lambda run: as_installed(get_run(run))
        changed[GET_FAB] = lambda _hash, _run: installed_app()
        yield tuple(changed)


def as_installed(run: Run) -> Run:
    """Return the server's run with the installed app in the place of whatever it names."""
    app = installed_app()
    name, version = get_fab_metadata(app.content)
    return replace(
        run,
        fab_id=name,
        fab_version=version,
        fab_hash=app.hash_str,
        override_config={},
        primary_task_type=TaskType.SERVER_APP,
    )


@cache
def installed_app() -> Fab:
    """Bundle the app that names this package's ClientApp."""
    document = files("fedfmd.deployment").joinpath("app", "pyproject.toml").read_bytes()
    content, _ = build_fab_from_files({"pyproject.toml": document})
    return Fab(hashlib.sha256(content).hexdigest(), content, {})


if __name__ == "__main__":
    main(sys.argv[1:])
