"""Tables of which no figure is cut and no word broken, however narrow the terminal is."""

from rich.console import RenderableType
from rich.measure import Measurement
from rich.table import Table

from fedfmd.terminal.consoles import PlainConsole

WIDEST = 1000


def print_whole(console: PlainConsole, *tables: Table) -> None:
    """Print tables, each as wide as it needs to be where the console is narrower than that."""
    for table in tables:
        _print(console, table, _measured(console, table).maximum)


def print_words(console: PlainConsole, *tables: Table) -> None:
    """Print tables in which lines break between words; wider than the console only where these need it."""
    for table in tables:
        columns = [
            [_measured(console, cell) for cell in (column.header, *column.cells)] for column in table.columns
        ]
        least = [max(cell.minimum for cell in cells) for cells in columns]
        widths = [max(cell.maximum for cell in cells) for cells in columns]
        frame = _measured(console, table).maximum - sum(widths)
        while sum(widths) + frame > console.width and widths != least:
            _, widest = max((w, i) for i, w in enumerate(widths) if w > least[i])
            widths[widest] -= 1
        for column, width in zip(table.columns, widths, strict=True):
            column.width = width  # Rich itself narrows columns to less than their words
        _print(console, table, sum(widths) + frame)


def _measured(console: PlainConsole, shown: RenderableType) -> Measurement:
    return Measurement.get(console, console.options.update(max_width=WIDEST), shown)


def _print(console: PlainConsole, table: Table, needed: int) -> None:
    if needed <= console.width:
        console.print(table)
    elif not console.quiet:
        # Without a height, too, a dumb terminal has 80 columns.
        wide = PlainConsole(
            file=console.file, width=needed, height=console.height, force_terminal=console.is_terminal
        )
        wide.print(table)
