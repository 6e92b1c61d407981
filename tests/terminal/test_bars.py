"""The live bars: everything that matters is there at any width, and no line is longer than the terminal."""

import io
import re
from typing import Any

import pytest
from rich.table import Table

from fedfmd.terminal.bar import LiveBar, duration, fitted
from fedfmd.terminal.consoles import PlainConsole
from fedfmd.terminal.rounds import RunProgress, figures
from fedfmd.terminal.training import TrainProgress
from fedfmd.terminal.whole import print_folded, print_whole, print_words

WIDTHS = [60, 80, 100, 200]


def terminal(width: int) -> PlainConsole:
    return PlainConsole(
        file=io.StringIO(), force_terminal=True, width=width, color_system=None, legacy_windows=False
    )


def drawn(bar: LiveBar) -> list[str]:
    """Return the lines that stand on the screen now, without what stays above them."""
    page = PlainConsole(file=io.StringIO(), width=bar.console.width, color_system=None)
    for part in bar._progress.get_renderables():
        page.print(part)
    written = page.file
    assert isinstance(written, io.StringIO)
    return [line.rstrip() for line in written.getvalue().splitlines()]


def printed(console: PlainConsole) -> str:
    assert isinstance(console.file, io.StringIO)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue())


def row(round: int, top1: float | None = 0.612) -> dict[str, Any]:
    spent = {"macs": 19.9e9 * round, "downlink_bytes": 12.6e6, "uplink_bytes": 12.6e6, "wasted_macs": 2.5e9}
    return {
        "round": round,
        "top1": top1,
        "scored_on": None if top1 is None else "test set",
        "cohort": 10,
        "completed": 8,
        "partial": 1,
        "host_seconds": 3.456,
        "epsilon": None,
        "cumulative": spent,
        **spent,
    }


def test_work_that_nobody_will_do_is_waited_for_by_nobody() -> None:
    bar = LiveBar(PlainConsole(file=io.StringIO()))
    whole = bar.add("study", 6)
    bar.show(whole, 1)
    bar.show(whole, 2)
    assert bar.left(whole)
    bar.spare(whole, 3)
    bar.show(whole, 3)
    assert bar.left(whole) == ""


@pytest.mark.parametrize("width", WIDTHS)
def test_round_accuracy_elapsed_and_left_fit(width: int) -> None:
    console = terminal(width)
    with RunProgress(console, 1000, 998) as progress:
        assert drawn(progress.bar)[1] == "starting the workers ..."
        progress.on_round(row(999))
        first, second = drawn(progress.bar)
        assert first.startswith("round  999/1000 ")
        assert "top-1 61.20%" in first
        assert " 0:00:00 " in first
        assert first.endswith("0:00:00 left")
        assert second.startswith("so far 19.9 TMAC")
        assert max(len(first), len(second)) <= width
    history = next(line for line in printed(console).splitlines() if "61.20%" in line)
    assert history.startswith("round  999/1000   61.20%  9/10 clients  19.9 TMAC")
    assert len(history) <= width


@pytest.mark.parametrize("width", WIDTHS)
def test_a_round_that_was_not_evaluated_keeps_the_last_accuracy(width: int) -> None:
    with RunProgress(terminal(width), 3) as progress:
        progress.on_round(row(1))
        progress.on_round(row(2, None))
        assert "round 2/3" in drawn(progress.bar)[0]
        assert "top-1 61.20%" in drawn(progress.bar)[0]


def test_a_round_without_any_figure_says_so() -> None:
    """The first row of real clients, who have not trained, where the server has no test images."""
    assert figures(row(0, None) | {"cohort": 0}) == "not measured"


@pytest.mark.parametrize("width", WIDTHS)
def test_where_only_clients_have_images_their_mean_accuracy_is_shown(width: int) -> None:
    measured = row(1, None) | {"scored_on": "clients", "client_top1_global_mean": 0.5}
    assert figures(measured).startswith("clients' top-1 50.00%, 9/10 clients")
    with RunProgress(terminal(width), 3) as progress:
        progress.on_round(measured)
        first, _ = drawn(progress.bar)
        assert "clients' top-1 50.00%" in first
        assert first.endswith(" left")
        assert len(first) <= width


@pytest.mark.parametrize("width", WIDTHS)
def test_training_shows_its_rate(width: int) -> None:
    with TrainProgress(terminal(width), 10, 50_000) as progress:
        ended = {
            "epoch": 1,
            "train_loss": 1.5,
            "top1": 0.4,
            "samples_per_second": 1234.5,
            "train_seconds": 40.0,
        }
        progress.on_epoch(ended)
        progress.shown = 0.0
        progress.on_step(2, 100)
        first, second = drawn(progress.bar)
        assert first.startswith("epoch  2/10 ")
        assert "top-1 40.00%" in first
        assert first.endswith(" left")
        assert "images/s  loss 1.5" in second
        assert max(len(first), len(second)) <= width


@pytest.mark.parametrize("width", WIDTHS)
def test_a_long_name_is_cut_and_costs_nothing_else(width: int) -> None:
    with LiveBar(terminal(width)) as bar:
        task = bar.add("conv=[fmdconv] " * 20, 144, 24)
        bar.show(task, 25, figure="25/144")
        (line,) = drawn(bar)
        assert "conv=[fmdc" in line
        assert "25/144" in line
        assert line.endswith(" left")
        assert len(line) <= width


def test_time_left_is_judged_by_what_this_process_did() -> None:
    with LiveBar(terminal(80)) as bar:
        task = bar.add("round", 100, 90)
        assert bar.left(task) == ""
        now = 0.0
        bar._progress.get_time = lambda: now
        bar._progress.tasks[0]._get_time = lambda: now
        bar._progress.tasks[0].start_time = 0.0
        now = 60.0
        bar.show(task, 92)
        assert drawn(bar)[0].endswith("0:04:00 left")
        now = 90.0
        assert drawn(bar)[0].endswith("0:03:30 left")
        assert bar.left(task) == "3 min 30 s left"
        bar.show(task, 100)
        assert bar.left(task) == ""


@pytest.mark.parametrize("first", [0, 1])
def test_time_left_leaves_out_what_was_before_the_first_work(first: int) -> None:
    with LiveBar(terminal(80)) as bar:
        task = bar.add("round", 11)
        now = 0.0
        bar._progress.tasks[0]._get_time = lambda: now
        bar._progress.tasks[0].start_time = 0.0
        now = 40.0  # a compiler ran
        bar.show(task, first)
        now = 45.0
        bar.show(task, first + 1)
        assert bar.left(task) == f"{5 * (10 - first)} s left"


def test_what_does_not_fit_is_left_out_from_the_end() -> None:
    assert fitted(["abc", "def", "ghi"], 8) == "abc  def"
    assert fitted(["abcdefghi", "j"], 4) == "abcdefghi"


def test_nothing_moves_where_nobody_looks() -> None:
    console = PlainConsole(file=io.StringIO(), width=60)
    with RunProgress(console, 3) as progress:
        progress.on_round(row(1))
    assert printed(console).splitlines() == [
        "round 1/3: top-1 61.20%, 9/10 clients, 19.9 GMAC, 12.6 MB down, 12.6 MB up, host 3.46 s, 0 s left"
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (7_384, "2 h 3 min"), (241_927, "2 d 19 h")],
)
def test_a_time_is_written_by_its_two_largest_units(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize("width", [25, 60, 80, 300])
def test_a_table_is_printed_whole_on_a_narrow_terminal(width: int) -> None:
    """In parts, each with the names of the rows; a ratio stays beside its figure."""
    table = Table("model", title="Costs", caption="of one image")
    for i in range(9):
        table.add_column("x" if i % 2 else f"figure {i}")
    for row in range(2):
        table.add_row(f"resnet{row}", *(f"{1234.5678 + 10 * row + i}" for i in range(9)))
    console = PlainConsole(file=io.StringIO(), width=width)
    print_whole(console, table, tied=["x"])
    text = console.file.getvalue()  # type: ignore[attr-defined]
    lines = text.splitlines()
    assert all(text.count(f"{1234.5678 + 10 * row + i}") == 1 for row in range(2) for i in range(9))
    assert max(map(len, lines)) <= max(width, len("┃ resnet0 ┃ 1234.5678 ┃ 1234.5678 ┃"))
    heads = [line for line in lines if "model" in line]
    assert text.count("resnet1") == len(heads) == text.count("resnet0")
    assert not any(line.split("model")[1].replace("┃", " ").split()[0] == "x" for line in heads)
    assert (text.count("Costs"), text.count("of one image")) == (1, 1)
    assert (len(heads) == 1) == (width == 300)


@pytest.mark.parametrize("width", [45, 60, 80])
def test_names_fold_beside_figures_that_do_not(width: int) -> None:
    """However narrow the console is, no column is taken away, as Rich does, and no figure cut."""
    console = PlainConsole(file=io.StringIO(), width=width)
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("Run", overflow="fold", min_width=12)
    for heading in ("Status", "MACs", "Bytes"):
        table.add_column(heading, no_wrap=True)
    name = "studies/a-study-of-a-long-name/runs/conv-static-seed-0"
    table.add_row(name, "finished", "57.6 MMAC", "423 kB")
    print_folded(console, table)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    folded = lines[0].index("Status")
    assert folded >= 12
    assert "".join(line[:folded].strip() for line in lines[1:]) == name
    assert all(figure in lines[1] for figure in ("finished", "57.6 MMAC", "423 kB"))
    assert max(map(len, lines)) <= width


@pytest.mark.parametrize("width", [20, 30])
def test_figures_beside_which_no_name_fits_come_in_parts(width: int) -> None:
    console = PlainConsole(file=io.StringIO(), width=width)
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("Run", overflow="fold", min_width=5)
    for heading in ("Status", "MACs", "Bytes"):
        table.add_column(heading, no_wrap=True)
    table.add_row("conv-static", "finished", "57.6 MMAC", "423 kB")
    print_folded(console, table)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(figure in text for figure in ("finished", "57.6 MMAC", "423 kB"))
    assert text.count("Run") > 1


@pytest.mark.parametrize("width", [30, 50, 80, 200])
def test_lines_of_a_table_break_between_words(width: int) -> None:
    """A narrow console cuts no word: the table then comes in parts, no wider than their words need."""
    console = PlainConsole(file=io.StringIO(), width=width)
    words = ["anything at all", "compute 12.4 GMAC", "FMDConv"]
    table = Table("May spend", "The full work of a client", "Arm")
    table.add_row(*words)
    print_words(console, table)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for word in " ".join([*words, "May spend The full work of a client Arm"]).split():
        assert re.search(rf"\b{re.escape(word)}\b", text), word
    lines = [line for line in text.splitlines() if line.strip()]
    assert max(map(len, lines)) <= width
    assert len(set(map(len, lines))) == 1  # no border is cut off; both parts are as wide
