"""How commands of this project are parsed."""

from itertools import pairwise
from typing import Annotated

import click
import typer
from typer.core import TyperCommand

Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one value, as in `server.rounds=5`; repeatable."),
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
