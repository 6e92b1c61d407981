"""Tables of figures that are printed whole: on a narrow terminal their lines wrap, and no figure is cut."""

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

WIDEST = 1000


def print_whole(console: Console, *tables: Table) -> None:
    """Print tables, each as wide as it needs to be where the console is narrower than that."""
    for table in tables:
        needed = Measurement.get(console, console.options.update(max_width=WIDEST), table).maximum
        if needed <= console.width:
            console.print(table, highlight=False)
        elif not console.quiet:
            wide = Console(file=console.file, width=needed, force_terminal=console.is_terminal)
            wide.print(table, highlight=False)
