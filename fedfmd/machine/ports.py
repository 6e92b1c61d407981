"""Addresses and ports of this machine and of others."""

import os
import socket
from contextlib import suppress

from fedfmd.errors import UserError

LOOPBACK = "127.0.0.1"
ANSWER_SECONDS = 1.0


def address(text: str, option: str = "") -> tuple[str, int]:
    """Read HOST:PORT; raises ``UserError`` for anything else, which begins with the ``option``."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UserError(f"{option}{text}: must look like HOST:PORT, as 0.0.0.0:8000")
    return host.strip("[]"), int(port)


def joined(host: str, port: int) -> str:
    """Write HOST:PORT, with the brackets that an address of IPv6 needs there."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def listener(host: str, port: int, backlog: int | None = None) -> socket.socket:
    """Listen at a port; raises ``OSError`` as the system does."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=backlog)


def is_free(port: int, host: str = LOOPBACK) -> bool:
    """Whether a port of this machine can be listened on."""
    with suppress(OSError), listener(host, port):
        return True
    return False


def check_free(option: str, host: str, port: int) -> None:
    """Raise ``UserError`` for an address, which an option names, that cannot be listened on."""
    try:
        listener(host, port).close()
    except OSError as error:  # whose own words repeat the address
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or error
        raise UserError(
            f"{option} {joined(host, port)}: cannot be used: {reason}; choose another, or "
            f"end what has it (`ss -ltnp 'sport = :{port}'` shows its pid)"
        ) from None


def reachable(port: int, host: str = LOOPBACK) -> bool:
    """Whether somebody listens on a port of this machine."""
    with suppress(OSError), socket.create_connection((host, port), timeout=ANSWER_SECONDS):
        return True
    return False
