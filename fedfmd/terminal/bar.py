"""The one bar of all that takes long, right at 60 columns as at 200, with a line of figures under it."""

from collections.abc import Iterable, Sequence
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

from rich.console import RenderableType
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column
from rich.text import Text

from fedfmd.terminal.consoles import PlainConsole

BESIDE = 42
"""Columns that everything but the description takes, with a bar that can still be read."""
SHORTEST = 12
"""Columns of a description that are always shown."""


class LiveBar:
    """Bars on a terminal or in a notebook; elsewhere nothing, and the caller prints lines.

    Time left is judged by the work that this bar was shown, so it is right for a resumed run, too; and from
    when it was first shown any, so that starting, as processes and compilers do, is not taken for work.
    """

    def __init__(self, console: PlainConsole):
        self.console, self.live = console, is_live(console)
        self._progress = _Lines(console, disable=not self.live)

    def __enter__(self) -> Self:
        """Start drawing."""
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the last state on the screen."""
        self._progress.below = ""
        self._progress.stop()

    def add(self, description: str, total: int, done: int = 0) -> TaskID:
        """Add a bar, of which ``done`` lies behind; returns its number."""
        return self._progress.add_task(
            description, total=total, completed=done, since=(done, 0.0), shown=False, figure="", ends=None
        )

    def show(self, bar: TaskID, done: int, *, figure: str | None = None, **fields: Any) -> None:
        """Move a bar to ``done``, with the figure beside it and any other ``fields``."""
        task = self._progress.tasks[self._progress.task_ids.index(bar)]
        if done != task.completed:
            fields["ends"] = _end(task, done, task.total or 0.0)
        if not task.fields["shown"]:
            fields |= {"since": (done, task.elapsed or 0.0), "shown": True}
        if figure is not None:
            fields["figure"] = figure
        self._progress.update(bar, completed=done, **fields)

    def spare(self, bar: TaskID, work: int) -> None:
        """Take ``work`` off what a bar has to do: nobody will do it."""
        task = self._progress.tasks[self._progress.task_ids.index(bar)]
        total = (task.total or 0.0) - work
        self._progress.update(bar, total=total, ends=_end(task, task.completed, total))

    def left(self, bar: TaskID) -> str:
        """Return the time left as in ``3 min 20 s left``; empty at the end, and before the first work."""
        task = self._progress.tasks[self._progress.task_ids.index(bar)]
        if task.fields["ends"] is None or task.finished:
            return ""
        return f"{duration(max(0.0, task.fields['ends'] - (task.elapsed or 0.0)))} left"

    def hide(self, bar: TaskID) -> None:
        """Take a bar away."""
        self._progress.update(bar, visible=False)

    def below(self, parts: Sequence[str]) -> None:
        """Write a line of figures under the bars; those that do not fit are left out, from the end."""
        self._progress.below = fitted(parts, self.console.width)

    def history(self, parts: Sequence[str]) -> None:
        """Print a line that stays, above the bars."""
        self._progress.console.print(fitted(parts, self.console.width))


class Showing:
    """Draws its bars from the beginning of a ``with`` to the end."""

    bar: LiveBar

    def __enter__(self) -> Self:
        """Start drawing."""
        self.bar.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the last state on the screen."""
        self.bar.__exit__(kind, error, trace)


class _Lines(Progress):
    """Rich's bars with a line under them."""

    below = ""

    def __init__(self, console: PlainConsole, *, disable: bool):
        longest = max(SHORTEST, console.width - BESIDE)
        description = Column(no_wrap=True, overflow="ellipsis", max_width=longest)
        super().__init__(
            TextColumn("{task.description}", markup=False, style="bold", table_column=description),
            BarColumn(bar_width=None, table_column=Column(min_width=6, ratio=1)),
            TextColumn("{task.fields[figure]}", markup=False, table_column=Column(no_wrap=True)),
            TimeElapsedColumn(table_column=Column(no_wrap=True)),
            _Left(table_column=Column(no_wrap=True, min_width=12)),
            console=console,
            disable=disable,
            expand=True,
        )

    def get_renderables(self) -> Iterable[RenderableType]:
        """Yield the bars, then the line."""
        yield self.make_tasks_table(self.tasks)
        if self.below:
            yield Text(self.below, style="dim", no_wrap=True, overflow="ellipsis")


def _end(task: Task, done: float, total: float) -> float | None:
    """Return when a bar ends that has ``done`` of ``total``; what was known of it, before any work."""
    now, (before, since) = task.elapsed or 0.0, task.fields["since"]
    known: float | None = task.fields["ends"]
    return known if done <= before else now + (now - since) / (done - before) * (total - done)


class _Left(ProgressColumn):
    """Time left until the moment at which the work so far says that it will end."""

    def render(self, task: Task) -> Text:
        """Return it as ``0:01:10 left``; nothing at the end, dashes as long as nothing is done."""
        if task.finished:
            return Text("")
        ends = task.fields["ends"]
        if ends is None:
            return Text("-:--:-- left", style="dim")
        left = timedelta(seconds=max(0, round(ends - (task.elapsed or 0.0))))
        return Text(f"{left} left", style="cyan")


def is_live(console: PlainConsole) -> bool:
    """Return whether a bar can move on it: on a terminal, and in a notebook."""
    return console.is_terminal or console.is_jupyter


def duration(seconds: float) -> str:
    """Write a time by its two largest units, as in ``3 min 20 s`` or ``2 d 19 h``."""
    left = round(seconds)
    parts: list[str] = []
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")):
        count, left = divmod(left, size)
        if count or parts or size == 1:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])


def fitted(parts: Sequence[str], width: int, between: str = "  ") -> str:
    """Join the first of ``parts`` that fit into ``width`` columns; the first one always stands."""
    line = parts[0] if parts else ""
    for part in parts[1:]:
        if len(line) + len(between) + len(part) > width:
            break
        line += between + part
    return line
