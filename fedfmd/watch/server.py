"""The server behind ``fedfmd watch``: pages of run directories, and their changes as server-sent events.

It answers GET alone, from this machine unless told otherwise, and only requests that name it as their host:
a page from elsewhere that the same browser has open cannot read it by a host name of its own.
"""

import asyncio
import hashlib
import json
import socket
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from fedfmd.errors import UserError
from fedfmd.pages.watch import list_page, missing_page, run_page
from fedfmd.records.schema import Json
from fedfmd.results.catalogue import Entry, catalogue
from fedfmd.watch.follower import Follower

LOOK_SECONDS = 0.5
"""Pause between two looks at the files."""
QUIET_LOOKS = 20
"""After so many looks without a change a comment is sent, so that a connection that is gone is noticed."""
HEADERS = {"cache-control": "no-store", "x-content-type-options": "nosniff", "referrer-policy": "no-referrer"}
HERE = ("127.0.0.1", "localhost", "[::1]")


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
    """Return the application that serves what is in ``roots`` to requests for one of ``hosts``."""
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
    guards = [Middleware(TrustedHostMiddleware, allowed_hosts=[*HERE, *hosts], www_redirect=False)]
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
        states = await run_in_threadpool(_look, watched, one, followers)
        text = json.dumps(states, allow_nan=False)
        if text != before:
            before, quiet = text, 0
            yield f"data: {text}\n\n"
        elif quiet >= QUIET_LOOKS:
            quiet = 0
            yield ": still here\n\n"
        quiet += 1
        await asyncio.sleep(LOOK_SECONDS)


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
    listener = _listener(host, port)
    shown = f"[{host}]" if ":" in host else host
    on_start(f"http://{shown}:{listener.getsockname()[1]}/")
    config = uvicorn.Config(
        application(roots, (shown, socket.gethostname())),
        log_level="error",
        server_header=False,
        timeout_graceful_shutdown=1,
    )
    with listener:
        uvicorn.Server(config).run(sockets=[listener])


def _listener(host: str, port: int) -> socket.socket:
    try:
        (family, kind, protocol, _, address), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"watch --host {host} --port {port}: cannot listen there: {reason}; 0 takes a free port"
        ) from None
    return listener
