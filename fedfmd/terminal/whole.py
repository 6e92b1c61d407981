"""Tables of which no figure is cut and no word broken, however narrow the terminal is.

One that is too wide all the same comes in parts, one below the other, with the names of the rows in each.
"""

from collections.abc import Collection, Iterator, Sequence

from rich.console import RenderableType
from rich.measure import Measurement
from rich.table import Column, Table

from fedfmd.terminal.consoles import PlainConsole

WIDEST = 1000


def print_whole(console: PlainConsole, table: Table, *, names: int = 1, tied: Collection[str] = ()) -> None:
    """Print a table without breaking a line, in parts where the console is too narrow for it.

    The first ``names`` columns say what a row is; one whose heading is ``tied`` stays beside the one before.
    """
    _print(console, table, [max(widths) for widths in _widths(console, table)], names, tied)


def print_words(console: PlainConsole, *tables: Table) -> None:
    """Print tables in which lines break between words, in parts where these need more than the console."""
    for table in tables:
        _print(console, table, _narrowed(console, table, _least(console, table)))


def print_folded(console: PlainConsole, table: Table) -> None:
    """Print a table whose columns that wrap fold down to their ``min_width``, in parts beyond that.

    Rich itself takes a column away that finds no room beside those that do not wrap.
    """
    least = [
        max(own) if column.no_wrap else min(max(own), column.min_width or 1)
        for column, own in zip(table.columns, _widths(console, table), strict=True)
    ]
    _print(console, table, _narrowed(console, table, least))


def fits(console: PlainConsole, table: Table) -> bool:
    """Return whether ``print_words`` needs no parts for a table."""
    return sum(_least(console, table)) + _frame(console, table) <= console.width


def _narrowed(console: PlainConsole, table: Table, least: Sequence[int]) -> list[int]:
    """Return widths of columns that fit the console: the widest narrowed first, none below its ``least``."""
    widths = [max(own) for own in _widths(console, table)]
    room = console.width - _frame(console, table)
    while sum(widths) > room and widths != least:
        _, widest = max((w, i) for i, w in enumerate(widths) if w > least[i])
        widths[widest] -= 1
    return widths


def _measured(console: PlainConsole, shown: RenderableType) -> Measurement:
    return Measurement.get(console, console.options.update(max_width=WIDEST), shown)


def _widths(console: PlainConsole, table: Table) -> list[list[int]]:
    """Return for each column what its heading and cells need in one line."""
    return [
        [_measured(console, cell).maximum for cell in (column.header, *column.cells)]
        for column in table.columns
    ]


def _least(console: PlainConsole, table: Table) -> list[int]:
    """Return for each column what its longest word needs, or its longest line where none may break."""
    measured = [
        (column, [_measured(console, cell) for cell in (column.header, *column.cells)])
        for column in table.columns
    ]
    return [
        max(cell.maximum if column.no_wrap else cell.minimum for cell in cells) for column, cells in measured
    ]


def _frame(console: PlainConsole, table: Table) -> int:
    """Return the width of all that is between the columns, and around them."""
    return _measured(console, table).maximum - sum(max(own) for own in _widths(console, table))


def _print(
    console: PlainConsole, table: Table, widths: Sequence[int], names: int = 1, tied: Collection[str] = ()
) -> None:
    """Print a table whose columns have these widths."""
    if console.quiet:
        return
    frame = _frame(console, table)
    for column, width in zip(table.columns, widths, strict=True):
        column.width = width  # Rich itself narrows columns to less than their words
    parts = [table]
    if sum(widths) + frame > console.width:
        between = -(-frame // len(widths))
        room = console.width - between - sum(widths[:names]) - between * names
        groups = list(_groups(table.columns[names:], room, between, tied))
        parts = [
            _part(table, [*table.columns[:names], *own], first=not i, last=i == len(groups) - 1)
            for i, own in enumerate(groups)
        ]
    for part in parts:
        needed = _measured(console, part).maximum
        if needed <= console.width:
            console.print(part)
        else:  # without a height, too, a dumb terminal has 80 columns
            size = {"width": needed, "height": console.height}
            PlainConsole(file=console.file, force_terminal=console.is_terminal, **size).print(part)


def _groups(
    columns: Sequence[Column], room: int, between: int, tied: Collection[str]
) -> Iterator[list[Column]]:
    """Yield the columns in as few groups as fit ``room``, each with at least one, and those tied to it."""
    group: list[Column] = []
    for i, column in enumerate(columns):
        bound = [column]
        while i + len(bound) < len(columns) and columns[i + len(bound)].header in tied:
            bound.append(columns[i + len(bound)])
        if group and column.header not in tied:
            taken = sum((own.width or 0) + between for own in (*group, *bound))
            if taken > room:
                yield group
                group = []
        group.append(column)
    yield group


def _part(table: Table, columns: Sequence[Column], *, first: bool, last: bool) -> Table:
    """Return a table of some of another's columns; the first part has its title, the last its caption."""
    part = Table(
        title=table.title if first else None,
        caption=table.caption if last else None,
        box=table.box,
        padding=table.padding,
        pad_edge=table.pad_edge,
    )
    for column in columns:
        part.add_column(
            column.header,
            justify=column.justify,
            no_wrap=column.no_wrap,
            overflow=column.overflow,
            width=column.width,
        )
    for cells in zip(*(column.cells for column in columns), strict=True):
        part.add_row(*cells)
    return part
