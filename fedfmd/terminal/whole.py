"""Tables of which no figure is cut and no word broken, however narrow the terminal is."""

from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.table import Table

WIDEST = 1000


def print_whole(console: Console, *tables: Table) -> None:
    """Print tables, each as wide as it needs to be where the console is narrower than that."""
    for table in tables:
        _print(console, table, _measured(console, table).maximum)


def print_words(console: Console, *tables: Table) -> None:
    """Print tables in which lines break between words; wider than the console only where these need it."""
    for table in tables:
        for column in table.columns:
            cells = (column.header, *column.cells)
            column.min_width = max(_measured(console, cell).minimum for cell in cells)
        _print(console, table, _measured(console, table).minimum)


def _measured(console: Console, shown: RenderableType) -> Measurement:
    return Measurement.get(console, console.options.update(max_width=WIDEST), shown)


def _print(console: Console, table: Table, needed: int) -> None:
    if needed <= console.width:
        console.print(table, highlight=False)
    elif not console.quiet:
        size = {"width": needed, "height": console.height}  # without both, a dumb terminal has 80 columns
        wide = Console(file=console.file, force_terminal=console.is_terminal, **size)
        wide.print(table, highlight=False)
