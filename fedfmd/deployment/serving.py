"""Which way a deployment's server runs, or has run: as processes of this machine, or in containers."""

from pathlib import Path

from fedfmd.deployment.local import LocalServer
from fedfmd.deployment.operator import Operator
from fedfmd.deployment.stack import Stack
from fedfmd.errors import UserError


def operator_of(folder: Path) -> Operator:
    """Return the server of a deployment; raises ``UserError`` for any other folder."""
    local, stack = LocalServer(folder), Stack(folder)
    local.deployed.check()
    return local if local.running or (local.served and not stack.running) else stack


def containers_of(folder: Path) -> Stack:
    """Return the containers of a deployment; raises ``UserError`` while it runs without them."""
    if LocalServer(folder).running:
        raise UserError(f"{folder}: is served without Docker; Ctrl-C there ends it")
    return Stack(folder)


def tell_who_belongs(folder: Path) -> None:
    """Let a server in containers know who belongs now; one without sees it by itself."""
    stack = Stack(folder)
    if stack.running:
        stack.register()
