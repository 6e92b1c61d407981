"""What a person sees of a centralised training: a live bar on a terminal, a line an epoch elsewhere."""

import time

from fedfmd.records.schema import Json
from fedfmd.terminal.bar import LiveBar, Showing
from fedfmd.terminal.consoles import PlainConsole
from fedfmd.units import percent, quantity

REFRESH_SECONDS = 0.2


class TrainProgress(Showing):
    """Hand ``on_step`` and ``on_epoch`` to ``train``; the time left is judged by what this process did."""

    def __init__(self, console: PlainConsole, epochs: int, samples: int, done: int = 0):
        """Show ``epochs`` of ``samples`` images each, of which ``done`` epochs lie behind."""
        self.console, self.epochs, self.samples, self.first = console, epochs, samples, done
        self.started = self.shown = time.monotonic()
        self.figures = ""
        self.bar = LiveBar(console)
        self.task = self.bar.add(self._name(done), epochs * samples, done * samples)
        self.bar.below(["starting ..."])

    def on_step(self, epoch: int, seen: int) -> None:
        """Show how far the epoch is, a few times a second."""
        now = time.monotonic()
        if not self.bar.live or now - self.shown < REFRESH_SECONDS:
            return
        self.shown = now
        completed = (epoch - 1) * self.samples + seen
        rate = (completed - self.first * self.samples) / (now - self.started)
        self.bar.show(self.task, completed, description=self._name(epoch))
        self.bar.below([f"{rate:,.0f} images/s", *([self.figures] if self.figures else [])])

    def on_epoch(self, row: Json) -> None:
        """Show an epoch's figures: a line that stays, and where the training is now."""
        epoch = row["epoch"]
        self.figures = figures(row)
        completed = epoch * self.samples
        rates = [f"{row['samples_per_second']:,.0f} images/s", quantity(row["train_seconds"], "s")]
        figure = None if row["top1"] is None else f"top-1 {percent(row['top1'])}"
        self.bar.show(self.task, completed, figure=figure)
        if self.bar.live:
            self.bar.history([self._name(epoch), self.figures, *rates])
            return
        said = ", ".join(filter(None, (self.figures, *rates, self.bar.left(self.task))))
        self.console.say(f"epoch {epoch}/{self.epochs}: {said}")

    def _name(self, epoch: int) -> str:
        return f"epoch {epoch:>{len(str(self.epochs))}}/{self.epochs}"


def figures(row: Json) -> str:
    """Say in a few words what an epoch brought."""
    parts = [f"loss {row['train_loss']:.4f}"]
    if row["top1"] is not None:
        parts.append(f"top-1 {percent(row['top1'])}")
    return ", ".join(parts)
