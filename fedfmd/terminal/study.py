"""What a person sees of a study as it goes: live bars on a terminal, plain lines elsewhere."""

from collections.abc import Sequence
from pathlib import Path

from rich.progress import TaskID
from rich.table import Table

from fedfmd.studies.plan import PlannedRun, Study, some_arms
from fedfmd.studies.runner import Ledger, Listener, RunOutcome
from fedfmd.studies.search import Tuning, early_words, searches
from fedfmd.terminal.bar import LiveBar, Showing, duration
from fedfmd.terminal.consoles import PlainConsole
from fedfmd.units import counted, quantity


class StudyProgress(Showing, Listener):
    """Shows all runs together, those at work one by one, and the time left."""

    def __init__(self, console: PlainConsole, study: Study, folder: Path):
        self.console = console
        self.rounds = {run.folder: run.config.server.rounds for run in study.runs}
        self.done = {run.folder: Ledger(folder, run).rounds_done() for run in study.runs}
        self.ended = 0
        self.bars: dict[str, TaskID] = {}
        self.bar = LiveBar(console)
        self.whole = self.bar.add("study", sum(self.rounds.values()), sum(self.done.values()))

    def on_start(self, run: PlannedRun, rounds_done: int) -> None:
        """Show a run that begins."""
        total = self.rounds[run.folder]
        self.bars[run.folder] = self.bar.add(run.label, total, rounds_done)
        if not self.bar.live:
            after = f", continued after round {rounds_done}" if rounds_done else ""
            self._line(f"start {run.label}: {counted(total, 'round')}{after}")

    def on_rounds(self, run: PlannedRun, rounds_done: int) -> None:
        """Show how far a run is."""
        self.done[run.folder] = rounds_done
        self.bar.show(self.bars[run.folder], rounds_done, figure=f"{rounds_done}/{self.rounds[run.folder]}")
        self.bar.show(self.whole, sum(self.done.values()), figure=f"{self.ended}/{len(self.rounds)} runs")

    def on_end(self, outcome: RunOutcome) -> None:
        """Show what became of a run."""
        self.ended += 1
        if outcome.folder in self.bars:
            self.bar.hide(self.bars[outcome.folder])
        if outcome.status == "failed":
            self.bar.spare(self.whole, self.rounds[outcome.folder] - self.done[outcome.folder])
        if outcome.status != "kept" or not self.bar.live:
            runs = f"{self.ended}/{len(self.rounds)} runs"
            told = ", ".join(filter(None, (runs, self.bar.left(self.whole))))
            self._line(f"{self._told(outcome)} ({told})")

    def _told(self, outcome: RunOutcome) -> str:
        what = f"{outcome.arm}, seed {outcome.seed}"
        if outcome.status == "failed":
            return f"FAILED {what}: {outcome.reason}"
        took = f" in {duration(outcome.seconds)}" if outcome.status == "finished" else ""
        return f"{outcome.status} {what}{took}"

    def _line(self, text: str) -> None:
        self.console.say(text)


def failures_table(outcomes: list[RunOutcome]) -> Table:
    """Lay out the runs that failed, with their reasons."""
    table = Table(title="Failed runs")
    for name in ("arm", "seed", "reason"):
        table.add_column(name, overflow="fold")
    for outcome in outcomes:
        table.add_row(outcome.arm, str(outcome.seed), outcome.reason)
    return table


def tuning_words(tunings: Sequence[Tuning]) -> list[str]:
    """Say what each search chose, for which arms, what it cost, and what speaks against it."""
    lines = []
    for found in searches(tunings):
        one, arms = found[0], some_arms([tuning.arm for tuning in found], len(tunings))
        if one.chosen is None:
            lines.append(f"{arms}: every candidate diverged or failed: not tuned.")
            continue
        keys = ", ".join(f"{key} = {value}" for key, value in one.chosen.items())
        count = len({tried.candidate for tried in one.tried})
        lines.append(f"{arms}: {keys}, of {count} candidates for {quantity(one.macs, 'MAC')}.")
        lines += [
            f"{arms}: {key} = {one.chosen[key]} is at the edge of its list; the best may lie beyond."
            for key in one.edges
        ]
    return [*lines, *early_words((one.judged_rounds, one.run_rounds) for one in tunings)]
