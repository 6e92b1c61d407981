"""What ``fedfmd export`` does once its arguments are read."""

import json
from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table

from fedfmd.errors import UserError
from fedfmd.export import Exported, Wanted, export_models
from fedfmd.files import check_file, write_atomic
from fedfmd.rounds.places import check_places
from fedfmd.terminal.consoles import PlainConsole
from fedfmd.terminal.whole import print_whole
from fedfmd.units import ABSENT, counted, percent, quantity


def export_shown(
    console: PlainConsole,
    path: Path,
    out: Path,
    wanted: Wanted,
    *,
    images: int | None,
    threads: int,
    table: Path | None,
) -> None:
    """Export, show what was written and how it did, and write that as JSON where asked for."""
    if wanted.tiers and wanted != Wanted(tiers=True):
        raise UserError("--tiers: takes the parts that the run's clients get; give no part with it")
    check_places("--threads", threads)
    if table is not None:
        check_file("--table", table)
        if table.resolve() == out.resolve():
            raise UserError(f"--table {table}: is the file of --out; name another one")
    with console.status("exporting ...") as status:
        done = export_models(
            path,
            out,
            wanted,
            images=images,
            threads=threads,
            tell=lambda what: status.update(f"exporting {what} ..."),
        )
    print_whole(console, _table(done))
    for one in done:
        console.say(_told(one))
    if table is not None:
        document = json.dumps([one.to_json() for one in done], indent=1, allow_nan=False)
        try:
            write_atomic(table, document + "\n")
        except OSError as error:
            raise UserError(f"--table {table}: cannot be written: {error.strerror}") from None
        console.say(f"table: {table}")


def _table(done: Sequence[Exported]) -> Table:
    first = done[0]
    images = f"{first.images} test images" if first.top1 is not None else f"{first.images} random images"
    threads = counted(first.threads, "thread")
    table = Table(
        title="Exported networks, each beside PyTorch's",
        caption=(
            f"one image, {threads}; top-1 and the logits' largest difference on {images}; "
            "counted: MACs by the cost rules"
        ),
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for name in ("width", "K", "size", "MACs", "counted", "time", "torch", "top-1", "torch", "diff."):
        table.add_column(name, justify="right", no_wrap=True)
    for one in done:
        table.add_row(
            f"{one.width:g}" + (f", {one.depth} stages" if one.depth else ""),
            str(one.kernels) if one.dynamic else ABSENT,
            quantity(one.file_bytes, "B"),
            quantity(one.graph_macs, "MAC"),
            quantity(one.counted_macs, "MAC"),
            quantity(one.latency_seconds, "s"),
            quantity(one.torch_seconds, "s"),
            percent(one.top1),
            percent(one.torch_top1),
            f"{one.largest_difference:.1g}",
        )
    return table


def _told(one: Exported) -> str:
    tiers = ", ".join(f"{name} ({clients} clients)" for name, clients in one.tiers)
    return f"model: {one.file}" + (f" for {tiers}" if tiers else "")
