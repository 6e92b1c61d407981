"""``fedfmd runs``, ``compare`` and ``watch``: what there is, what tells it apart, and how it goes on."""

import json
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from fedfmd.errors import UserError
from fedfmd.records import filenames
from fedfmd.results.catalogue import Entry, arranged, catalogue, check_known, selected
from fedfmd.results.differences import compare_runs
from fedfmd.terminal.consoles import PlainConsole
from fedfmd.terminal.listing import comparison_tables, names_of, place_of, runs_table
from fedfmd.terminal.whole import fits, print_folded, print_words

PLACES = (filenames.RUNS, filenames.STUDIES)
"""Where runs and studies are kept unless told otherwise."""


def list_runs(
    console: PlainConsole,
    folders: Sequence[Path],
    *,
    sort: str,
    where: Sequence[str],
    keys: Sequence[str],
    as_json: bool,
) -> None:
    """Print the runs and studies in ``folders``, by default those where ``fedfmd`` makes them."""
    roots = list(folders) or [Path(place) for place in PLACES if Path(place).is_dir()]
    found = catalogue(roots)
    for key in keys:
        check_known(key, found, "--key")
    entries = arranged(selected(found, where), sort)
    if as_json:
        console.say(json.dumps([one.to_json() for one in entries], indent=1))
    elif entries:
        _say_place(console, entries)
        print_folded(console, runs_table(entries, console.width, keys))
    else:
        places = ", ".join(map(str, roots)) or " and ".join(f"{place}/" for place in PLACES)
        console.say(f"no runs in {places}")


def watch_runs(
    console: PlainConsole, folders: Sequence[Path], host: str, port: int, *, open_page: bool
) -> None:
    """Serve pages of the runs in ``folders``, by default of all, until Ctrl-C."""
    from fedfmd.watch.server import serve

    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder")

    def on_start(address: str) -> None:
        console.say(f"watch: {address} (Ctrl-C ends it)")
        if open_page:
            webbrowser.open(address)

    serve(list(folders) or [Path(place) for place in PLACES], host, port, on_start)


def show_comparison(console: PlainConsole, folders: Sequence[Path], *, as_json: bool) -> None:
    """Print in what the configs of runs differ, and their results side by side."""
    comparison = compare_runs(folders)
    if as_json:
        console.say(json.dumps(comparison.to_json(), indent=1))
    else:
        _say_place(console, comparison.runs)
        names = names_of(comparison.runs)
        tables = comparison_tables(comparison, names)
        if not all(fits(console, table) for table in tables):
            letters = [_letters(place) for place in range(len(names))]
            console.say("\n".join(f"{letter} = {name}" for letter, name in zip(letters, names, strict=True)))
            tables = comparison_tables(comparison, letters)
        print_words(console, *tables)


def _letters(place: int) -> str:
    """Return A to Z for the first 26 places, AA for the next, and so on."""
    before, last = divmod(place, 26)
    return (_letters(before - 1) if before else "") + chr(ord("A") + last)


def _say_place(console: PlainConsole, entries: Sequence[Entry]) -> None:
    place = place_of(entries)
    if place != Path.cwd():
        console.say(f"in {place}:")
