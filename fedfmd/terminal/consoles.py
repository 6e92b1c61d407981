"""Consoles that print what they are given: names and paths may hold brackets, or what looks like an emoji."""

from typing import Any

from rich.console import Console


def plain_console(**options: Any) -> Console:
    """Return a console that reads neither Rich's markup nor names of emojis in texts; options are Rich's."""
    return Console(markup=False, emoji=False, **options)
