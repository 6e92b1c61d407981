"""What a person sees of a run as it goes: a live bar on a terminal, plain lines elsewhere."""

from fedfmd.records.schema import Json
from fedfmd.terminal.bar import LiveBar, Showing
from fedfmd.terminal.consoles import PlainConsole
from fedfmd.units import number, percent, quantity


class RunProgress(Showing):
    """Shows the rounds of a run; hand ``on_round`` every row of ``rounds.jsonl`` as it comes."""

    def __init__(self, console: PlainConsole, rounds: int, done: int = 0):
        self.console = console
        self.rounds = rounds
        self.bar = LiveBar(console)
        self.task = self.bar.add(self._name(done), rounds, done)
        self.bar.below(["starting the workers ..."])

    def on_round(self, row: Json) -> None:
        """Show one more round: a line that stays, and where the run is now."""
        self.bar.show(self.task, row["round"], figure=_accuracy(row), description=self._name(row["round"]))
        if not self.bar.live:
            self.console.say(self._line(row))
            return
        self.bar.history([self._name(row["round"]), *_columns(row)])
        self.bar.below(_so_far(row) if row["round"] else ["training the first round ..."])

    def _name(self, round: int) -> str:
        return f"round {round:>{len(str(self.rounds))}}/{self.rounds}"

    def _line(self, row: Json) -> str:
        said = ", ".join(filter(None, (figures(row), self.bar.left(self.task))))
        return f"round {row['round']}/{self.rounds}: {said}"


def _columns(row: Json) -> list[str]:
    """Return a round's figures at the width that they have in every round, the most telling first."""
    parts = [f"{percent(_top1(row)):>7}"]
    if row["cohort"]:
        traffic = quantity(row["downlink_bytes"] + row["uplink_bytes"], "B")
        used = f"{row['completed'] + row['partial']}/{row['cohort']} clients"
        parts += [used, f"{quantity(row['macs'], 'MAC'):>9}", f"{traffic:>7}"]
        parts.append(f"{quantity(row['host_seconds'], 's'):>7}")
    return parts


def _so_far(row: Json) -> list[str]:
    """Return what the run has cost until now, and the pace."""
    spent = row["cumulative"]
    parts = [
        f"so far {quantity(spent['macs'], 'MAC')}",
        f"{quantity(spent['downlink_bytes'], 'B')} down",
        f"{quantity(spent['uplink_bytes'], 'B')} up",
        f"{quantity(row['host_seconds'], 's')} per round",
    ]
    if spent["wasted_macs"]:
        parts.append(f"wasted {quantity(spent['wasted_macs'], 'MAC')}")
    return parts


def figures(row: Json) -> str:
    """Say in one short line what a round brought and cost."""
    parts = [said] if (said := _accuracy(row)) else []
    if row["cohort"]:
        used = row["completed"] + row["partial"]
        parts.append(f"{used}/{row['cohort']} clients")
        parts.append(quantity(row["macs"], "MAC"))
        parts.append(f"{quantity(row['downlink_bytes'], 'B')} down, {quantity(row['uplink_bytes'], 'B')} up")
        parts.append(f"host {quantity(row['host_seconds'], 's')}")
    if row["epsilon"] is not None:
        parts.append(f"epsilon {number(row['epsilon'])}")
    return ", ".join(parts) or "not measured"


def _accuracy(row: Json) -> str | None:
    """Say how good the model is after a round, and on whose images; null where nobody measured."""
    top1, whose = _top1(row), "clients' " if row["scored_on"] == "clients" else ""
    return None if top1 is None else f"{whose}top-1 {percent(top1)}"


def _top1(row: Json) -> float | None:
    """Return what a round's scores stand on: where the server measures nothing, the clients' mean."""
    found: float | None = row["client_top1_global_mean" if row["scored_on"] == "clients" else "top1"]
    return found
