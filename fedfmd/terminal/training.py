"""What a person sees of a centralised training: a live bar on a terminal, a line an epoch elsewhere."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from fedfmd.records.schema import Json
from fedfmd.terminal.rounds import duration, is_live
from fedfmd.units import percent, quantity

REFRESH_SECONDS = 0.2


class TrainProgress:
    """Hand ``on_step`` and ``on_epoch`` to ``train``; the time left is judged by what this process did."""

    def __init__(self, console: Console, epochs: int, samples: int, done: int = 0):
        """Show ``epochs`` of ``samples`` pictures each, of which ``done`` epochs lie behind."""
        self.console, self.epochs, self.samples, self.first = console, epochs, samples, done
        self.started = self.shown = time.monotonic()
        self.figures = ""
        self.bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            disable=not is_live(console),
        )
        self.task = self.bar.add_task(
            "starting ...", total=epochs * samples, completed=done * samples, figures="", left=""
        )

    def __enter__(self) -> Self:
        """Start drawing."""
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the last state of the bar on the screen."""
        self.bar.stop()

    def on_step(self, epoch: int, seen: int) -> None:
        """Show how far the epoch is, a few times a second."""
        now = time.monotonic()
        if not is_live(self.console) or now - self.shown < REFRESH_SECONDS:
            return
        self.shown = now
        completed = (epoch - 1) * self.samples + seen
        rate = (completed - self.first * self.samples) / (now - self.started)
        self.bar.update(
            self.task,
            description=f"epoch {epoch}/{self.epochs}",
            completed=completed,
            figures=", ".join(part for part in (f"{rate:,.0f} pictures/s", self.figures) if part),
            left=f"{self._left(completed)} left",
        )

    def on_epoch(self, row: Json) -> None:
        """Show an epoch's figures."""
        epoch = row["epoch"]
        self.figures = figures(row)
        completed = epoch * self.samples
        if is_live(self.console):
            self.bar.update(self.task, completed=completed)
            return
        rates = f"{row['samples_per_second']:,.0f} pictures/s, {quantity(row['train_seconds'], 's')}"
        line = f"epoch {epoch}/{self.epochs}: {self.figures}, {rates}, {self._left(completed)} left"
        self.console.print(line, soft_wrap=True, highlight=False)

    def _left(self, completed: int) -> str:
        share = (self.epochs * self.samples - completed) / (completed - self.first * self.samples)
        return duration((time.monotonic() - self.started) * share)


def figures(row: Json) -> str:
    """Say in a few words what an epoch brought."""
    parts = [f"loss {row['train_loss']:.4f}"]
    if row["top1"] is not None:
        parts.append(f"top-1 {percent(row['top1'])}")
    return ", ".join(parts)
