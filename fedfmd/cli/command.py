"""How commands of this project are parsed."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

import click
import typer
from typer.core import TyperCommand

from fedfmd.errors import UserError


def set_once(lines: list[str] | None, also: Sequence[str] = ()) -> list[str]:
    """Return the changes of --set and those that other options ``also`` stand for.

    Raises ``UserError`` for a key that is set twice: one of the two would not count.
    """
    changes = [*(lines or []), *also]
    keys = [line.partition("=")[0].strip() for line in changes]
    if twice := next((key for key in keys if keys.count(key) > 1), None):
        given = " and ".join(line for key, line in zip(keys, changes, strict=True) if key == twice)
        raise UserError(f"--set: {twice} is set twice, by {given}; set it once, by --set or by its option")
    return changes


def _each_once(lines: list[str] | None) -> list[str] | None:
    """Look at --set alone, for every command that has it."""
    set_once(lines)
    return lines


Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change one value, as in `server.rounds=5`; repeatable.",
        callback=_each_once,
    ),
]
"""Keys of a config that a command changes."""


class Command(TyperCommand):
    """A command that knows what KEY=VALUE without --set was meant to be."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse as usual; a usage error over a bare KEY=VALUE says how to write it."""
        words = list(args)
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            bare = next(
                (b for a, b in pairwise(["", *words]) if "=" in b and b[0] != "-" and a != "--set"), None
            )
            if bare is not None:
                from fedfmd.config.documents import shown_key  # brings the whole schema

                hint = f"{error.message}. Did you mean --set {shown_key(bare)}?"
                raise click.UsageError(hint, ctx) from None
            raise
