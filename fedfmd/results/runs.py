"""Read run directories: finished, still running or killed half-way."""

import gc
import math
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

from fedfmd.costs.scores import Chance
from fedfmd.errors import UserError
from fedfmd.records import filenames
from fedfmd.records.documents import Ending, Environment, Manifest, Note, Parts, RunSummary, TestSet
from fedfmd.records.marks import changed_since, was_edited
from fedfmd.records.rows import ClientRow, EvaluationRow, RoundRow
from fedfmd.records.schema import SCHEMA_VERSION, Number, Record, SchemaError, one_line, parse

Row = TypeVar("Row", bound=Record)
Made = TypeVar("Made")
LONGEST_NOTE = 500


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run directory in memory; ``notes`` say in plain words what was missing or damaged."""

    folder: Path
    name: str
    finished: bool
    config: Mapping[str, Any]
    config_text: str
    environment: Environment
    partition: Manifest
    summary: RunSummary
    chance: Chance | None
    """What guessing scores on the test set; null where neither the start nor the end of the run says it."""
    rounds: tuple[RoundRow, ...]
    clients: tuple[ClientRow, ...]
    evaluations: tuple[EvaluationRow, ...] = ()
    notes: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    """Names of files that are not what they were when the run ended: ledgers, the summary."""
    kept: dict[str, Any] = field(default_factory=dict, init=False, compare=False, repr=False)
    """What ``once_per_run`` has computed of it."""


def once_per_run(compute: Callable[[Run], Made]) -> Callable[[Run], Made]:
    """Keep what is computed of all rows of a run with it: page, tables and figures ask for the same."""

    @wraps(compute)
    def kept(run: Run) -> Made:
        name = f"{compute.__module__}.{compute.__qualname__}"
        if name not in run.kept:
            run.kept[name] = compute(run)
        found: Made = run.kept[name]
        return found

    return kept


def load_run(folder: Path) -> Run:
    """Read ``folder``, finished or not; what a killed run did not write, or is damaged, gets a note.

    Raises :class:`UserError` if it is no run directory, or its config is damaged.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such run directory")
    if not filenames.holds_run(folder):
        raise UserError(filenames.no_run(folder))
    notes: list[str] = []
    text, config = read_toml(filenames.computed_config(folder))
    summary = salvaged_document(folder / filenames.SUMMARY, RunSummary, notes)
    environment = read_environment(folder, notes)
    partition = salvaged_document(folder / filenames.PARTITION, Manifest, notes)
    rounds = salvaged_rows(folder / filenames.ROUNDS, RoundRow, notes)
    if lost := lost_rounds(summary, rounds):
        notes.append(
            f"{filenames.ROUNDS} lacks {lost} of the {summary.rounds} rounds that the run ended with."
        )
    clients = salvaged_rows(folder / filenames.CLIENTS, ClientRow, notes)
    evaluations = _evaluations(folder, rounds, notes)
    recorded = {row.round for row in rounds}
    if any(row.round not in recorded for row in clients):
        notes.append("Client rows of a round that was never recorded are left out.")
        clients = tuple(row for row in clients if row.round in recorded)
    changed = changed_files(folder, summary)
    notes += [*edited_notes(folder, config), *changed_notes(changed), *read_notes(folder)]
    if not summary.finished:
        notes.insert(0, _unfinished_note(summary, rounds))
    return Run(
        folder=folder,
        name=one_line(summary.name or config.get("name") or folder.resolve().name),
        finished=summary.finished,
        config=config,
        config_text=text,
        environment=environment,
        partition=partition,
        summary=summary,
        chance=read_chance(folder, summary),
        rounds=rounds,
        clients=clients,
        evaluations=evaluations,
        notes=tuple(notes),
        changed=tuple(changed),
    )


def read_chance(folder: Path, ending: TestSet) -> Chance | None:
    """Return what guessing scores in a run, from its start on; older ones say it in their ``ending``."""
    return salvaged_document(folder / filenames.PARTS, Parts, []).chance or ending.chance


def edited_notes(folder: Path, config: Mapping[str, Any]) -> list[str]:
    """Say that users have edited a run's config, where the rounds were computed with ``config``."""
    try:
        edited = read_toml(folder / filenames.CONFIG)[1] != config
    except UserError:
        edited = True
    return [f"{filenames.CONFIG} was edited; here is what the rounds were computed with."] if edited else []


def changed_files(folder: Path, ending: Ending) -> list[str]:
    """Name the ledgers of a finished run, and its summary, that are not what they were when it ended."""
    return [*changed_since(folder, ending.ledgers), *edited_summary(folder)]


def edited_summary(folder: Path) -> list[str]:
    """Name the summary if its figures were edited; of one that is no JSON object others say so."""
    try:
        summary = parse(_read_text(folder / filenames.SUMMARY))
    except SchemaError:
        return []
    return [filenames.SUMMARY] if isinstance(summary, dict) and was_edited(summary) else []


def changed_notes(changed: Iterable[str]) -> list[str]:
    """Say of files that they are not what the run wrote."""
    return [f"{name} was changed since the run ended: bring back what it was." for name in changed]


def lost_rounds(summary: RunSummary, rounds: Sequence[RoundRow]) -> int:
    """Count the rounds of a finished run that its ledger no longer holds."""
    if not summary.finished or summary.rounds is None:
        return 0
    return max(0, summary.rounds - sum(row.round > 0 for row in rounds))


def _evaluations(folder: Path, rounds: Sequence[RoundRow], notes: list[str]) -> tuple[EvaluationRow, ...]:
    """Return what clients measured after recorded rounds; older runs have no such file."""
    measured = {row.round for row in rounds if row.on_clients}
    path = folder / filenames.EVALUATIONS
    if not measured and not path.is_file():
        return ()
    return tuple(row for row in salvaged_rows(path, EvaluationRow, notes) if row.round in measured)


def _unfinished_note(summary: RunSummary, rounds: Sequence[RoundRow]) -> str:
    last = f"the last recorded round is {rounds[-1].round}" if rounds else "no round was recorded"
    if summary.status == "stopped" and summary.reason:
        return f"This run stopped, {last}. Reason: {summary.reason}"
    return f"This run is unfinished: {last}."


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SchemaError(one_line(f"cannot be read as UTF-8 text ({error})")) from None


def read_toml(path: Path) -> tuple[str, dict[str, Any]]:
    """Return the text of a file and what it says; raises ``UserError`` for a damaged one."""
    try:
        text = _read_text(path)
        return text, tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path}: is not valid TOML ({error})") from error
    except SchemaError as error:
        raise UserError(f"{path}: {error}") from None


def salvaged_document(path: Path, kind: type[Row], notes: list[str]) -> Row:
    """Return a document of a run; what is missing of it is absent, what is damaged, too, with a note."""
    if not path.is_file():
        return kind()
    try:
        content = parse(_read_text(path))
        if not isinstance(content, dict):
            raise SchemaError("must hold a JSON object")
    except SchemaError as error:
        notes.append(f"{path.name} {error}, and is left out.")
        return kind()
    found, faults = kind.partly(content)
    if faults:
        notes.append(f"Figures of {path.name} are damaged and left out: {_some(faults)}.")
    return found


def read_environment(folder: Path, notes: list[str]) -> Environment:
    """Return what a run ran on, with a note where a newer version wrote it."""
    found = salvaged_document(folder / filenames.ENVIRONMENT, Environment, notes)
    if found.schema is not None and found.schema > SCHEMA_VERSION:
        notes.append(
            f"A newer fedfmd wrote this run (schema {found.schema}; this one reads {SCHEMA_VERSION}): "
            "figures may be wrong or missing here."
        )
    return found


def read_notes(folder: Path) -> list[str]:
    """Return what befell a run from outside, a sentence each."""
    notes: list[str] = []
    if (folder / filenames.NOTES).is_file():
        rows = salvaged_rows(folder / filenames.NOTES, Note, notes)
        notes += [f"After round {row.round}: {one_line(row.note, LONGEST_NOTE)}." for row in rows]
    return notes


def salvaged_rows(path: Path, kind: type[Row], notes: list[str]) -> tuple[Row, ...]:
    """Return the rows of a ledger in the order of their key; of rows with one key the last counts.

    What is missing, torn by a kill or damaged is left out and added to ``notes``.
    """
    if not path.is_file():
        notes.append(f"{path.name} is missing.")
        return ()
    try:
        lines = [(n, line) for n, line in enumerate(_read_text(path).split("\n"), 1) if line.strip()]
    except SchemaError as error:
        notes.append(f"{path.name} {error}, and is left out.")
        return ()
    with _uncollected():
        rows, repeated, damage = _parsed(lines, kind)
    if damage and not lines[-1][1].rstrip().endswith("}"):
        damage.pop()
        notes.append(f"The last line of {path.name} was torn and is left out.")
    if damage:
        notes.append(f"Lines of {path.name} are damaged and left out: {_some(damage)}.")
    if repeated:
        notes.append(f"{path.name} holds repeated rows; the last of each counts.")
    return tuple(rows[k] for k in sorted(rows))


def _parsed(
    lines: Iterable[tuple[int, str]], kind: type[Row]
) -> tuple[dict[tuple[Any, ...], Row], int, list[str]]:
    """Return rows by key, how many had a key for another time, and what is wrong by line."""
    rows: dict[tuple[Any, ...], Row] = {}
    repeated, damage = 0, []
    for number, line in lines:
        try:
            row = kind.from_line(line)
        except SchemaError as error:
            damage.append(f"line {number}: {error}")
            continue
        key = tuple(getattr(row, name) for name in kind.key)
        repeated += key in rows
        rows[key] = row
    return rows, repeated, damage


@contextmanager
def _uncollected() -> Iterator[None]:
    """Look for no garbage meanwhile: rows have no cycles, and the search takes a sixth of reading."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def sound_rows(lines: Iterable[bytes], kind: type[Row]) -> Iterator[Row]:
    """Yield the rows of those lines of a ledger that hold one: others are torn, being written or damaged."""
    for line in lines:
        with suppress(SchemaError, UnicodeDecodeError):
            yield kind.from_line(line.decode())


def _some(faults: Sequence[str]) -> str:
    more = f", and {len(faults) - 1:,} more" if len(faults) > 1 else ""
    return f"{faults[0]}{more}"


def number(value: Any) -> Number:
    """Return a finite number as it is, and ``None`` for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value
