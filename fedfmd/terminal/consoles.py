"""Consoles that print what they are given: names and paths may hold brackets, or what looks like an emoji."""

from typing import Any

from rich.console import Console


class PlainConsole(Console):
    """A console that takes texts as they are: no markup, no names of emojis, no coloured words."""

    def __init__(self, **options: Any):
        """Take Rich's options."""
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def say(self, line: str, *, style: str | None = None) -> None:
        """Print one line whole, however narrow the terminal is, so that what it names can be pasted."""
        self.print(line, soft_wrap=True, style=style)
