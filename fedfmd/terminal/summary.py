"""The end of a run as a table: how good the model is, what it cost, what befell it."""

from collections.abc import Iterator
from typing import get_args

from rich.table import Table

from fedfmd.config.sections.evaluation import ClientModel
from fedfmd.records.documents import RunSummary, SpentPrivacy
from fedfmd.records.schema import Json
from fedfmd.units import ABSENT, counted, percent, quantity, rate


def summary_table(summary: Json) -> Table:
    """Lay out the end of a run."""
    title = f"{summary['name']}: {counted(summary['rounds'], 'round')}"
    table = Table(title=title, show_header=False, min_width=56)
    table.add_column(style="bold")
    table.add_column(justify="right")
    for part in (_accuracy, _clients, _costs, _remarks):
        for name, value in part(summary):
            table.add_row(name, value)
    return table


def _accuracy(summary: Json) -> Iterator[tuple[str, str]]:
    final, untested = summary["final_top1"], summary["top1_reason"]
    chance = RunSummary.from_json(summary).chance
    remark = chance.remark(final) if chance else None
    yield "final top-1", percent(final) + (f" ({untested})" if untested else f", {remark}" if remark else "")
    if summary["best_top1"] is None:
        yield "best top-1", f"{ABSENT} ({summary['best_reason']})"
    else:
        best = percent(summary["best_top1"])
        yield "best top-1", f"{best} (round {summary['best_round']}, chosen by validation)"
    if summary["num_classes"] > 5:  # of five classes or fewer every answer is among the first five
        yield "final top-5", percent(summary["final_top5"])


def _clients(summary: Json) -> Iterator[tuple[str, str]]:
    """Yield what clients measured on their own images."""
    if summary["client_top1"] is not None:
        yield "clients' training top-1", percent(summary["client_top1"])
    found = summary["clients"]
    for model in get_args(ClientModel):
        if (mean := found.get(f"client_top1_{model}_mean")) is not None:
            worst = percent(found[f"client_top1_{model}_worst10"])
            yield f"clients, {model}", f"{percent(mean)}, worst tenth {worst}"


def _costs(summary: Json) -> Iterator[tuple[str, str]]:
    cost = summary["cumulative"]
    yield "parameters", quantity(summary["parameters"])
    yield "forward pass, an image", quantity(summary["forward_macs"], "MAC")
    yield "training", quantity(cost["macs"], "MAC")
    yield "downlink", quantity(cost["downlink_bytes"], "B")
    yield "uplink", quantity(cost["uplink_bytes"], "B")
    yield "client clock", f"{quantity(cost['client_train_seconds'], 's')} of training, summed over clients"
    yield "host clock", f"{quantity(cost['host_seconds'], 's')} in rounds, with evaluation"
    resumed = summary["seconds"] < cost["host_seconds"]
    since = "since the run was resumed last" if resumed else "from the first round to the model file"
    yield "wall clock", f"{quantity(summary['seconds'], 's')} {since}"
    yield "IES, MACs / top-1", quantity(summary["ies"]["macs"], "MAC")
    yield "RCS, correct / MACs", rate(summary["rcs"]["macs"], "MAC")


def _remarks(summary: Json) -> Iterator[tuple[str, str]]:
    """Yield what holds for some runs only."""
    cost = summary["cumulative"]
    if "client_gain_mean" in summary["clients"]:
        yield "gain over training alone", f"{100 * summary['clients']['client_gain_mean']:+.2f} points"
    if summary["scored_on"] == "clients":
        yield "IES and RCS", "stand on the clients' mean top-1 of global"
    if summary["diverged_round"] is not None:
        yield "diverged", f"from round {summary['diverged_round']} on; lower server.learning_rate"
    if cost["wasted_macs"]:
        yield "wasted", f"{percent(cost['wasted_macs'] / max(cost['macs'], 1))} of the MACs"
    if summary["privacy"]:
        yield "privacy", SpentPrivacy(**summary["privacy"]).words
    if summary["ended_early"]:
        yield "ended early", summary["ended_early"]
    if summary["control"]:
        yield "control", summary["control"]["remark"]
