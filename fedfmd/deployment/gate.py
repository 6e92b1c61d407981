"""The gate: the one door of a deployment's server, through which clients reach what clients need.

Flower's SuperLink serves three interfaces on one port: Fleet for clients, Control for whoever starts and
stops runs and registers clients, without a login, and Runtime for its own processes. The gate stands between
it and the clients. It takes a request only if its path is, to the letter, one of ``ADMITTED``, and builds a
new one for the SuperLink from constants: no part of the path, the host or the framing that a client sent goes
on, so there is nothing in them to play tricks with.

The same program stands beside a client whose server asks for client certificates: a SuperNode cannot present
one, so it talks to a gate on its own machine, which does.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from fedfmd.errors import RunError, UserError
from fedfmd.machine.ports import address, check_free, joined

FLEET = (
    "activate-node",
    "deactivate-node",
    "send-node-heartbeat",
    "pull-messages",
    "push-messages",
    "get-run",
    "get-fab",
    "pull-object",
    "push-object",
    "confirm-message-received",
)
"""What a SuperNode with a registered key calls; not Fleet's `register-node` and `unregister-node`, which are
for SuperNodes without keys."""
ADMITTED = frozenset({("GET", "/health"), *(("POST", f"/v1/fleet/{name}") for name in FLEET)})
REQUEST_HEADERS = frozenset({b"content-type", b"content-length", b"accept"})
RESPONSE_HEADERS = frozenset({b"content-type", b"content-length", b"date"})
"""The time is the SuperLink's, by which it accepts signatures, however many gates are on the way."""
FLOWER_PREFIX = b"flwr-"
"""Flower's own headers: a client's key and signature, versions."""
MAX_BODY_BYTES = 64 << 20
"""Largest request. Flower sends arrays in pieces of 5 MiB; what is larger is one document."""
MAX_CONNECTIONS = 1000
GRACE_SECONDS = 5
"""How long requests under way may take when the gate is told to stop."""
SILENCE_SECONDS = 60.0
"""How long either side may be silent in the middle of a request."""
COPY_AGAIN = "copy again what is damaged, or name other files"

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]


class TooLargeError(Exception):
    """A request of more than ``MAX_BODY_BYTES``."""


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """One side's TLS files, PEM: what it shows, and which authority it asks of the other side."""

    certificate: Path | None = None
    key: Path | None = None
    authority: Path | None = None

    def check(self) -> None:
        """Raise ``UserError`` naming a file that is missing, cannot be read, or holds something else."""
        for path in (self.certificate, self.key, self.authority):
            try:
                if path is not None:
                    path.open("rb").close()
            except OSError as error:
                raise UserError(f"{path}: cannot be read: {error.strerror}") from None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            if self.certificate is not None:
                context.load_cert_chain(self.certificate, self.key)
        except ssl.SSLError as error:
            raise UserError(
                f"{self.certificate}, {self.key}: must be a certificate and its own key, both PEM "
                f"({error.reason or error}); {COPY_AGAIN}"
            ) from None
        try:
            if self.authority is not None:
                context.load_verify_locations(self.authority)
        except ssl.SSLError as error:
            raise UserError(
                f"{self.authority}: must be a certificate, PEM ({error.reason or error}); {COPY_AGAIN}"
            ) from None


class Gate:
    """An ASGI application that hands admitted requests to ``upstream``, as ``https://superlink:8000``."""

    def __init__(self, transport: httpx.AsyncBaseTransport, upstream: str):
        """Take a bare transport: a client would keep cookies, of one for all, and follow redirections."""
        self.transport = transport
        self.upstream = upstream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request: 404 for a path that is not admitted, 413 for a body that is too large."""
        if scope["type"] != "http":
            return None
        if (scope["method"], scope["path"]) not in ADMITTED or scope["query_string"]:
            return await _refuse(send, 404, "not for clients")
        started = False
        try:
            async with asyncio.timeout(None) as alarm:
                answer = await self.transport.handle_async_request(self._request(scope, receive, alarm))
                started = True
                await _pass_on(answer, send)
        except TooLargeError:
            await _refuse(send, 413, f"at most {MAX_BODY_BYTES} bytes")
        except (httpx.HTTPError, TimeoutError):
            if started:
                raise  # half an answer is out: the connection is closed
            await _refuse(send, 502, "the SuperLink does not answer")

    def _request(self, scope: Scope, receive: Receive, alarm: asyncio.Timeout) -> httpx.Request:
        """Build the SuperLink's request; raises ``TooLargeError`` for a body that says so."""
        headers = _kept(scope["headers"], REQUEST_HEADERS)
        if int(dict(headers).get(b"content-length", b"0")) > MAX_BODY_BYTES:
            raise TooLargeError
        return httpx.Request(
            scope["method"],
            self.upstream + scope["path"],
            headers=headers,
            content=_body(receive, alarm) if scope["method"] == "POST" else None,
            extensions={"timeout": httpx.Timeout(SILENCE_SECONDS).as_dict()},
        )


def serve(listen: str, upstream: str, shown: Endpoint, trusted: Endpoint) -> None:
    """Run the gate on ``listen`` (HOST:PORT) before ``upstream`` (HOST:PORT) until it is told to stop.

    ``shown`` is the certificate for clients; its ``authority`` makes client certificates mandatory.
    ``trusted`` is for the way to the upstream: the authority of its certificate, and what to present there.
    Raises ``UserError`` for an address or a file that is no good, or a port that is taken.
    """
    (host, port), target = address(listen, "--listen "), address(upstream, "--to ")
    shown.check()
    trusted.check()
    check_free("--listen", host, port)
    config = uvicorn.Config(
        _unready,
        host=host,
        port=port,
        ssl_certfile=shown.certificate,
        ssl_keyfile=shown.key,
        ssl_ca_certs=str(shown.authority) if shown.authority else None,
        ssl_cert_reqs=ssl.CERT_REQUIRED if shown.authority else ssl.CERT_NONE,
        ws="none",
        lifespan="off",
        access_log=False,
        server_header=False,
        date_header=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=GRACE_SECONDS,
        log_level="warning",
    )
    asyncio.run(_serve(config, f"https://{joined(*target)}", trusted))


async def _serve(config: uvicorn.Config, upstream: str, trusted: Endpoint) -> None:
    context = ssl.create_default_context(cafile=trusted.authority)
    if trusted.certificate:
        context.load_cert_chain(trusted.certificate, trusted.key)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
    async with httpx.AsyncHTTPTransport(verify=context, limits=limits, trust_env=False) as transport:
        config.app = Gate(transport, upstream)
        server = uvicorn.Server(config)
        try:
            await server.serve()
        except SystemExit:  # how uvicorn says that it could not begin, as where the port was taken just now
            check_free("--listen", config.host, config.port)
            raise RunError(f"--listen {joined(config.host, config.port)}: cannot be used") from None


async def _unready(scope: Scope, receive: Receive, send: Send) -> None:
    """Stand in until the gate is made, in the loop that it runs in."""


async def _body(receive: Receive, alarm: asyncio.Timeout) -> AsyncIterator[bytes]:
    """Yield a request's body as it comes; raises ``TooLargeError``, or ``TimeoutError`` by ``alarm``."""
    loop, received, more = asyncio.get_running_loop(), 0, True
    while more:
        alarm.reschedule(loop.time() + SILENCE_SECONDS)
        event = await receive()
        if event["type"] == "http.disconnect":
            raise httpx.ReadError("the client hung up")
        received, more = received + len(event["body"]), event.get("more_body", False)
        if received > MAX_BODY_BYTES:
            raise TooLargeError
        yield event["body"]
    alarm.reschedule(None)


async def _pass_on(answer: httpx.Response, send: Send) -> None:
    headers = _kept(answer.headers.raw, RESPONSE_HEADERS)
    await send({"type": "http.response.start", "status": answer.status_code, "headers": headers})
    try:
        async for chunk in answer.aiter_raw():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
    finally:
        await answer.aclose()
    await send({"type": "http.response.body", "body": b""})


async def _refuse(send: Send, status: int, reason: str) -> None:
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(reason)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": reason.encode()})


def _kept(headers: Iterable[tuple[bytes, bytes]], names: frozenset[bytes]) -> Headers:
    lowered = ((name.lower(), value) for name, value in headers)
    return [(name, value) for name, value in lowered if name in names or name.startswith(FLOWER_PREFIX)]
