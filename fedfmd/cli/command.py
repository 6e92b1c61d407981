"""How commands of this project are parsed, and the options that several of them have."""

from collections.abc import Callable, Sequence
from itertools import combinations, pairwise
from pathlib import Path
from typing import Annotated, Any, TypeVar

import click
import typer
from typer.core import TyperCommand

from fedfmd.errors import UserError

Function = TypeVar("Function", bound=Callable[..., Any])

OF_STUDIES = ("study", "plan")
"""Commands that take a study's file."""


def set_once(lines: list[str] | None, also: Sequence[str] = ()) -> list[str]:
    """Return the changes of --set and those that other options ``also`` stand for.

    Raises ``UserError`` for a key that is set twice, by itself or as a part of a table: one of the two would
    not count.
    """
    changes = [*(lines or []), *also]
    named = [(_key(line), line) for line in changes]
    for (key, line), (other, another) in combinations(named, 2):
        outer, inner = sorted((key, other), key=len)
        if f"{inner}.".startswith(f"{outer}.") and not _adds_nothing({key: line, other: another}[outer]):
            raise UserError(
                f"--set: {inner} is set twice, by {line} and {another}; "
                "set it once, by --set or by its option"
            )
    return changes


def _key(line: str) -> str:
    """Return the key of KEY=VALUE as it is meant, however it is spaced and quoted."""
    return ".".join(name.strip() for name in line.partition("=")[0].replace('"', "").split("."))


def _adds_nothing(line: str) -> bool:
    """Return whether a change only makes a section, as ``train={}``, where there is none."""
    return line.partition("=")[2].replace(" ", "") == "{}"


def _each_once(lines: list[str] | None) -> list[str] | None:
    """Look at --set alone, for every command that has it."""
    set_once(lines)
    return lines


def _keys_with(context: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Offer a shell the keys that begin so, each with what it is; after the equals sign nothing."""
    from pydantic import BaseModel

    from fedfmd.config.documents import described_keys  # bring the whole schema
    from fedfmd.config.experiment import ExperimentConfig
    from fedfmd.config.study import StudyConfig

    documents: list[type[BaseModel]] = [
        ExperimentConfig,
        *([StudyConfig] if context.info_name in OF_STUDIES else []),
    ]
    known = {key: words for document in documents for key, words in described_keys(document)}
    return [(f"{key}=", words) for key, words in known.items() if key.startswith(incomplete)]


Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change one value, for example `server.rounds=5`; repeatable.",
        callback=_each_once,
        autocompletion=_keys_with,
    ),
]
"""Keys of a config that a command changes."""
Accept = Annotated[
    bool, typer.Option("--accept", help="With --resume: continue although the config or a part has changed.")
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print only errors and, at the end, the folder of the results.")
]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Also print what goes into the log, such as failed clients.")
]
Open = Annotated[bool, typer.Option("--open", help="Open the report in a browser at the end.")]


def check_resumed(resume: Path | None, accept: bool, config: Path | None, out: Path | None) -> None:
    """Raise ``UserError`` for options that do not go with, or without, ``--resume``."""
    if resume is not None and (config or out):
        raise UserError(f"--resume {resume}: takes its config from that run; give no CONFIG or --out with it")
    if accept and resume is None:
        raise UserError("--accept: belongs to --resume DIR")


class Command(TyperCommand):
    """A command that knows what KEY=VALUE without --set was meant to be, where it has that option."""

    def get_short_help_str(self, limit: int = 120) -> str:
        """Return the first sentence of the help, whole: Click would cut it off after 45 characters."""
        return super().get_short_help_str(limit)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse as usual; a usage error over a bare KEY=VALUE says how to write it."""
        words = list(args)
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            bare = next(
                (b for a, b in pairwise(["", *words]) if "=" in b and b[0] != "-" and a != "--set"), None
            )
            if bare is not None and any("--set" in option.opts for option in self.params):
                from fedfmd.config.documents import shown_key  # brings the whole schema

                hint = f"{error.message}. Did you mean --set {shown_key(bare)}?"
                raise click.UsageError(hint, ctx) from None
            raise


class App(typer.Typer):
    """An application, or a group of commands, all of which are a ``Command``."""

    def __init__(self, **options: Any):
        # Click names similar commands itself since it has this exception; Typer would name them once more.
        named_by_click = hasattr(click.exceptions, "NoSuchCommand")
        super().__init__(no_args_is_help=True, suggest_commands=not named_by_click, **options)

    def command(self, name: str | None = None, **options: Any) -> Callable[[Function], Function]:
        """Register a command."""
        return super().command(name, cls=Command, **options)
