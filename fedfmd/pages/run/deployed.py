"""What real clients really took, beside what was predicted of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from fedfmd.pages.run.parts import table, table_line
from fedfmd.pages.run.payload import called
from fedfmd.records.rows import ClientRow
from fedfmd.records.schema import Number
from fedfmd.results.runs import Run, number
from fedfmd.units import quantity


@dataclass(frozen=True, kw_only=True)
class DeployedClient:
    """One real client over a run; seconds are medians over its answers, memory is the most of them."""

    client: int
    answers: int
    predicted_seconds: Number
    """Of its simulated device: bytes down, compute, bytes up."""
    train_seconds: Number
    wall_seconds: Number
    cpu_seconds: Number
    estimated_memory_bytes: Number
    memory_limit_bytes: Number
    peak_memory_bytes: Number


def measured_clients(run: Run) -> list[DeployedClient]:
    """Give the clients that measured themselves; none in a simulation."""
    answers: dict[int, list[ClientRow]] = {}
    for row in run.clients:
        if row.wall_seconds is not None:
            answers.setdefault(row.client, []).append(row)
    return [_measured(client, rows) for client, rows in sorted(answers.items())]


def _measured(client: int, rows: Sequence[ClientRow]) -> DeployedClient:
    return DeployedClient(
        client=client,
        answers=len(rows),
        predicted_seconds=_median([row.device_seconds for row in rows]),
        train_seconds=_median([row.train_seconds for row in rows]),
        wall_seconds=_median([row.wall_seconds for row in rows]),
        cpu_seconds=_median([row.cpu_seconds for row in rows]),
        estimated_memory_bytes=_most([row.memory_bytes for row in rows]),
        memory_limit_bytes=_most([number(row.budget.get("memory_bytes")) for row in rows]),
        peak_memory_bytes=_most([row.peak_memory_bytes for row in rows]),
    )


def measured_table(runs: Sequence[Run]) -> str:
    """Return a section with a table for each run of real clients; nothing without any."""
    found = [(i, clients) for i, run in enumerate(runs) if (clients := measured_clients(run))]
    if not found:
        return ""
    tables = "".join(_table(i, runs[i], clients) for i, clients in found)
    return f"""<section aria-labelledby="h-measured"><h2 id="h-measured">Predicted and measured</h2>
<p class="intro">Real clients measure themselves: training alone, wall time from the order's arrival to the
answer, and processor time of the process that answers; medians over the answers. Predicted is what the
simulated device of the config would take, where it has one. Memory: the estimate that plans are made with,
its limit, and the most that the training process really had, Python and PyTorch included.</p>
{tables}
</section>"""


def _table(index: int, run: Run, clients: Sequence[DeployedClient]) -> str:
    head = ["Client", "Answers", "Predicted", "Training", "Wall", "Processor"]
    head += ["Memory estimated", "Memory limit", "Process peak"]
    lines = (_line(one, called(run, one.client)) for one in clients)
    return table("Predicted and measured, by client", head, lines, css="", data=f'data-run="{index}"')


def _line(measured: DeployedClient, name: str) -> str:
    seconds = (
        measured.predicted_seconds,
        measured.train_seconds,
        measured.wall_seconds,
        measured.cpu_seconds,
    )
    memory = (measured.estimated_memory_bytes, measured.memory_limit_bytes, measured.peak_memory_bytes)
    cells = [f"{measured.answers:,}"]
    cells += [quantity(value, "s") for value in seconds] + [quantity(value, "B") for value in memory]
    return table_line(name, cells)


def _median(values: Sequence[Number]) -> Number:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def _most(values: Sequence[Number]) -> Number:
    return max((value for value in values if value is not None), default=None)
