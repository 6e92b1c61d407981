"""What a person sees of a run as it goes: a live bar on a terminal, plain lines elsewhere."""

from typing import get_args

from rich.console import Console
from rich.table import Table

from fedfmd.config.sections import ClientModel
from fedfmd.costs.scores import chance_remark
from fedfmd.records.documents import SpentPrivacy
from fedfmd.records.schema import Json
from fedfmd.terminal.bar import LiveBar, Showing
from fedfmd.units import ABSENT, percent, quantity, rate


class RunProgress(Showing):
    """Shows the rounds of a run; hand ``on_round`` every row of ``rounds.jsonl`` as it comes."""

    def __init__(self, console: Console, rounds: int, done: int = 0):
        self.console = console
        self.rounds = rounds
        self.bar = LiveBar(console)
        self.task = self.bar.add(self._name(done), rounds, done)
        self.bar.below(["starting the workers ..."])

    def on_round(self, row: Json) -> None:
        """Show one more round: a line that stays, and where the run is now."""
        self.bar.show(self.task, row["round"], figure=_accuracy(row), description=self._name(row["round"]))
        if not self.bar.live:
            self.console.print(self._line(row), soft_wrap=True, highlight=False)
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
        parts.append(f"epsilon {row['epsilon']:.3g}")
    return ", ".join(parts)


def _accuracy(row: Json) -> str | None:
    """Say how good the model is after a round, and on whose images; null where nobody measured."""
    top1, whose = _top1(row), "clients' " if row["scored_on"] == "clients" else ""
    return None if top1 is None else f"{whose}top-1 {percent(top1)}"


def _top1(row: Json) -> float | None:
    """Return what a round's scores stand on: where the server measures nothing, the clients' mean."""
    found: float | None = row["client_top1_global_mean" if row["scored_on"] == "clients" else "top1"]
    return found


def summary_table(summary: Json) -> Table:
    """Lay out the end of a run."""
    cost, clients = summary["cumulative"], summary["clients"]
    table = Table(title=f"{summary['name']}: {summary['rounds']} rounds", show_header=False, min_width=56)
    table.add_column(style="bold")
    table.add_column(justify="right")
    final, untested = summary["final_top1"], summary["top1_reason"]
    remark = chance_remark(final, summary["num_classes"], summary["test_samples"])
    best = (
        f"{percent(summary['best_top1'])} (round {summary['best_round']}, chosen by validation)"
        if summary["best_top1"] is not None
        else f"{ABSENT} ({summary['best_reason']})"
    )
    rows = [
        ("final top-1", percent(final) + (f" ({untested})" if untested else f", {remark}" if remark else "")),
        ("best top-1", best),
        ("final top-5", percent(summary["final_top5"])),
        ("parameters", quantity(summary["parameters"])),
        ("forward pass, an image", quantity(summary["forward_macs"], "MAC")),
        ("training", quantity(cost["macs"], "MAC")),
        ("downlink", quantity(cost["downlink_bytes"], "B")),
        ("uplink", quantity(cost["uplink_bytes"], "B")),
        ("client clock", f"{quantity(cost['client_train_seconds'], 's')} of training, summed over clients"),
        ("host clock", f"{quantity(cost['host_seconds'], 's')} in rounds, with evaluation"),
        ("wall clock", f"{quantity(summary['seconds'], 's')} from the first round to the model file"),
        ("IES, MACs / top-1", quantity(summary["ies"]["macs"], "MAC")),
        ("RCS, correct / MACs", rate(summary["rcs"]["macs"], "MAC")),
    ]
    rows[3:3] = [
        (
            f"clients, {model}",
            f"{percent(mean)}, worst tenth {percent(clients[f'client_top1_{model}_worst10'])}",
        )
        for model in get_args(ClientModel)
        if (mean := clients.get(f"client_top1_{model}_mean")) is not None
    ]
    if "client_gain_mean" in clients:
        rows.append(("gain over training alone", f"{100 * clients['client_gain_mean']:+.2f} points"))
    if summary["scored_on"] == "clients":
        rows.append(("IES and RCS", "stand on the clients' mean top-1 of global"))
    if summary["client_top1"] is not None:
        rows.insert(3, ("clients' training top-1", percent(summary["client_top1"])))
    if summary["diverged_round"] is not None:
        rows.append(("diverged", f"from round {summary['diverged_round']} on; lower server.learning_rate"))
    if cost["wasted_macs"]:
        rows.append(("wasted", f"{percent(cost['wasted_macs'] / max(cost['macs'], 1))} of the MACs"))
    if summary["privacy"]:
        rows.append(("privacy", SpentPrivacy(**summary["privacy"]).words))
    if summary["ended_early"]:
        rows.append(("ended early", summary["ended_early"]))
    if summary["control"]:
        rows.append(("control", summary["control"]["remark"]))
    for name, value in rows:
        table.add_row(name, value)
    return table
