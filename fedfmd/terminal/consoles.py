"""Consoles that print what they are given: names and paths may hold brackets, or what looks like an emoji."""

import os
from collections.abc import Callable
from typing import Any

from rich.console import Console


class PlainConsole(Console):
    """A console that takes texts as they are: no markup, no names of emojis, no coloured words."""

    def __init__(self, **options: Any):
        """Take Rich's options."""
        super().__init__(markup=False, emoji=False, highlight=False, **options)
        self.when_unread: Callable[[], object] = lambda: None
        """Called when whoever has read what is printed, as `head`, does so no more."""

    def say(self, line: str, *, style: str | None = None) -> None:
        """Print one line whole, however narrow the terminal is, so that what it names can be pasted."""
        self.print(line, soft_wrap=True, style=style)

    def on_broken_pipe(self) -> None:
        """Go on, and print into nothing from now on: what is done is worth more than what is said of it."""
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, self.file.fileno())
        os.close(nothing)
        self.when_unread()
