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
        self.when_unread: Callable[[], object] | None = None
        """Called when what is printed goes nowhere any more: `head` has ended, the terminal was closed.

        Null where what is printed is all that was asked for: then a full disk is an error.
        """

    def say(self, line: str, *, style: str | None = None) -> None:
        """Print one line whole, however narrow the terminal is, so that what it names can be pasted."""
        self.print(line, soft_wrap=True, style=style)

    def on_broken_pipe(self) -> None:
        """Go on, and print into nothing from now on: what is done is worth more than what is said of it."""
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, self.file.fileno())
        os.close(nothing)
        if self.when_unread is not None:
            self.when_unread()

    def _check_buffer(self) -> None:
        """Print what is due; Rich knows of no other end of an output than that of a pipe."""
        try:
            super()._check_buffer()
        except OSError:
            if self.when_unread is None:
                raise
            self.on_broken_pipe()
