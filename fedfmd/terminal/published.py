"""The end of a centralised training, and where it stands beside published results, on a terminal."""

from rich.box import SIMPLE_HEAD
from rich.table import Table

from fedfmd.config.experiment import ExperimentConfig
from fedfmd.costs.scores import NO_VALIDATION
from fedfmd.records.documents import TrainSummary
from fedfmd.records.schema import Number
from fedfmd.results.published import HEADINGS, caption, comparison_rows
from fedfmd.units import ABSENT, counted, percent, quantity, rate


def result_table(summary: TrainSummary) -> Table:
    """Lay out the end of a run."""
    table = Table(title=f"{summary.name}: {counted(summary.epochs or 0, 'epoch')}", show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    best = (
        f"{percent(summary.best_top1)} (epoch {summary.best_epoch}, chosen by validation)"
        if summary.best_top1 is not None
        else f"{ABSENT} ({NO_VALIDATION})"
    )
    remark = summary.chance.remark(summary.final_top1) if summary.chance else None
    rows = (
        ("final top-1 / top-5", f"{percent(summary.final_top1)} / {percent(summary.final_top5)}"),
        *([("the final top-1 is", remark)] if remark else []),
        ("best top-1", best),
        ("training, an epoch / in all", _pair(summary.seconds_per_epoch, summary.train_seconds)),
        ("IES, an epoch / in all", _pair(summary.ies_epoch_seconds, summary.ies_total_seconds)),
        ("inference on the test set", quantity(summary.inference_seconds, "s")),
        ("RCS, correct answers", rate(summary.rcs, "s")),
    )
    for row in rows:
        table.add_row(*row)
    return table


def _pair(first: Number, second: Number) -> str:
    return f"{quantity(first, 's')} / {quantity(second, 's')}"


def comparison_table(config: ExperimentConfig, summary: TrainSummary) -> Table:
    """Put a finished run beside the published results, each labelled with what differs from the run."""
    title = "This run beside published results"
    table = Table(
        title=title, caption=caption(summary), box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False
    )
    *described, last = HEADINGS
    for heading in described:
        right = heading.endswith(("%", "epoch"))
        table.add_column(heading, justify="right" if right else "left", no_wrap=right)
    table.add_column(last, min_width=len("learning rate"))
    own, *published = comparison_rows(config, summary)
    table.add_row(*own, style="bold")
    table.add_section()
    for row in published:
        table.add_row(*row)
    return table
