"""The server behind ``fedfmd watch``: pages of run directories, and their changes as server-sent events.

It answers GET alone, from this machine unless told otherwise, and only requests that name it as their host,
by its name or by any address: a page from elsewhere that the same browser has open cannot read it by a host
name of its own, which is all that it could make lead here.
"""

import asyncio
import hashlib
import ipaddress
import json
import socket
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import (
    HTMLResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from fedfmd.errors import UserError
from fedfmd.machine.ports import joined, listener
from fedfmd.pages.watch import list_page, missing_page, run_page
from fedfmd.records.schema import Json
from fedfmd.results.catalogue import Entry, catalogue
from fedfmd.watch.follower import Follower

LOOK_SECONDS = 0.5
"""Pause between two looks at the files, at least."""
LOOKING_SHARE = 0.1
"""Of the time, at most, that is spent looking: the runs that are watched need the machine."""
QUIET_LOOKS = 20
"""After so many looks without a change a comment is sent, so that a connection that is gone is noticed."""
HEADERS = {"cache-control": "no-store", "x-content-type-options": "nosniff", "referrer-policy": "no-referrer"}
REFUSAL = PlainTextResponse("not by this host name", 400, HEADERS)


class HostGuard:
    """Hands on requests whose ``Host`` is one of some names, or an address."""

    def __init__(self, app: ASGIApp, names: Sequence[str]):
        self.app, self.names = app, {name.lower() for name in names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request: 400 for another host."""
        asked = scope["type"] != "lifespan"
        refused = asked and not self._admits(Headers(scope=scope).get("host", ""))
        await (REFUSAL if refused else self.app)(scope, receive, send)

    def _admits(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
            return name in self.names or bool(ipaddress.ip_address(name))
        except ValueError:
            return False


class Watched:
    """The runs below some folders, by the short names that stand in the addresses of their pages."""

    def __init__(self, roots: Sequence[Path]):
        self.roots = tuple(roots)

    def entries(self) -> dict[str, Entry]:
        """Return the runs and studies that are there now, the last written first."""
        return _listed(root for root in self.roots if root.is_dir())

    def find(self, name: str) -> Entry | None:
        """Return the entry of a page's name, runs of studies among them; null if it is gone."""
        entries = self.entries()
        if name in entries:
            return entries[name]
        studies = [one.folder for one in entries.values() if one.kind == "study"]
        return _listed(studies).get(name)


def name_of(folder: Path) -> str:
    """Return what a folder is called in addresses."""
    return hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12]


def application(roots: Sequence[Path], hosts: Sequence[str]) -> Starlette:
    """Return the application that serves what is in ``roots``, to requests for ``hosts`` or an IP address."""
    watched = Watched(roots)

    async def overview(_: Request) -> Response:
        entries = await run_in_threadpool(watched.entries)
        if len(entries) == 1 and next(iter(entries.values())).kind != "study":
            return RedirectResponse(f"run/{next(iter(entries))}", headers=HEADERS)
        return _html(list_page("Runs", "events"))

    async def run(request: Request) -> Response:
        name = request.path_params["name"]
        one = await run_in_threadpool(watched.find, name)
        if one is None:
            return _html(missing_page(), 404)
        if one.kind == "study":
            return _html(list_page(one.name, f"../events?of={name}"))
        try:
            return _html(await run_in_threadpool(run_page, one, f"../events?of={name}"))
        except UserError as error:
            return _html(missing_page(str(error)), 404)

    async def events(request: Request) -> Response:
        one = None
        if name := request.query_params.get("of"):
            one = await run_in_threadpool(watched.find, name)
            if one is None:
                return Response("no such run", 404, HEADERS)
        stream = _changes(watched, one)
        return StreamingResponse(stream, media_type="text/event-stream", headers=HEADERS)

    routes = [
        Route("/", overview),
        Route("/run/{name}", run),
        Route("/events", events),
    ]
    guards = [Middleware(HostGuard, names=["localhost", *hosts])]
    return Starlette(routes=routes, middleware=guards)


def _html(page: str, status: int = 200) -> HTMLResponse:
    return HTMLResponse(page, status, HEADERS)


def _listed(roots: Iterable[Path]) -> dict[str, Entry]:
    return {name_of(one.folder): one for one in catalogue(roots)}


async def _changes(watched: Watched, one: Entry | None) -> AsyncIterator[str]:
    """Yield an event with the states of a run, a study's runs, or all, whenever they have changed."""
    followers: dict[str, Follower] = {}
    before, quiet = "", 0
    while True:
        began = time.monotonic()
        states = await run_in_threadpool(_look, watched, one, followers)
        text = json.dumps(states, allow_nan=False)
        if text != before:
            before, quiet = text, 0
            yield f"data: {text}\n\n"
        elif quiet >= QUIET_LOOKS:
            quiet = 0
            yield ": still here\n\n"
        quiet += 1
        await asyncio.sleep(_pause(time.monotonic() - began))


def _pause(look_seconds: float) -> float:
    return max(LOOK_SECONDS, look_seconds * (1 / LOOKING_SHARE - 1))


def _look(watched: Watched, one: Entry | None, followers: dict[str, Follower]) -> Mapping[str, Json]:
    if one is None:
        return {name: _line(entry) for name, entry in watched.entries().items()}
    if one.kind == "study":
        return {name: _line(entry) for name, entry in _listed([one.folder]).items()}
    follower = followers.setdefault(str(one.folder), Follower(one.folder))
    return {name_of(one.folder): follower.look()}


def _line(one: Entry) -> Json:
    fields: dict[str, Any] = one.to_json()
    return {key: value for key, value in fields.items() if key not in ("config", "changed")}


def serve(roots: Sequence[Path], host: str, port: int, on_start: Any) -> None:
    """Serve until Ctrl-C; ``on_start`` is told the address. Raises ``UserError`` for a port that is taken."""
    listening = _listening(host, port)
    on_start(f"http://{joined(host, listening.getsockname()[1])}/")
    config = uvicorn.Config(
        application(roots, (host, socket.gethostname(), socket.getfqdn())),
        log_level="error",
        server_header=False,
        timeout_graceful_shutdown=1,
    )
    with listening:
        uvicorn.Server(config).run(sockets=[listening])


def _listening(host: str, port: int) -> socket.socket:
    try:
        return listener(host, port)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"watch --host {host} --port {port}: cannot listen there: {reason}; 0 takes a free port"
        ) from None
