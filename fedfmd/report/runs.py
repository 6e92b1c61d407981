"""Read run directories: finished, still running or killed half-way."""

import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fedfmd.errors import UserError

Number = float | None
"""A figure as the run directory holds it: absent is ``None``, never NaN."""

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Row = TypeVar("Row", bound="DataclassInstance")


@dataclass(frozen=True, kw_only=True)
class Round:
    """One row of ``rounds.jsonl``: this round's figures, and the running totals up to its end.

    Round 0 is the evaluation of the initial model and costs nothing. Accuracies are fractions.
    """

    round: int
    cohort: Number = None
    completed: Number = None
    partial: Number = None
    dropped: Number = None
    failed: Number = None
    violations: Number = None
    train_loss: Number = None
    test_loss: Number = None
    top1: Number = None
    top5: Number = None
    validation_loss: Number = None
    validation_top1: Number = None
    client_top1: Number = None
    macs: Number = None
    uplink_bytes: Number = None
    downlink_bytes: Number = None
    uplink_wire_bytes: Number = None
    downlink_wire_bytes: Number = None
    client_train_seconds: Number = None
    host_seconds: Number = None
    device_seconds: Number = None
    device_clock_seconds: Number = None
    energy_joules: Number = None
    wasted_macs: Number = None
    wasted_bytes: Number = None
    temperature_kernel: Number = None
    temperature_channel: Number = None
    learning_rate: Number = None
    cumulative: Mapping[str, Number] = field(default_factory=dict)
    ies: Mapping[str, Number] = field(default_factory=dict)
    rcs: Mapping[str, Number] = field(default_factory=dict)
    ies_round: Mapping[str, Number] = field(default_factory=dict)
    rcs_round: Mapping[str, Number] = field(default_factory=dict)
    diagnostics: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ClientRow:
    """One row of ``clients.jsonl``: what one client did and cost in one round."""

    round: int
    client: int
    attempt: int = 0
    status: str = "completed"
    reason: str | None = None
    examples: Number = None
    steps: Number = None
    macs_planned: Number = None
    macs: Number = None
    uplink_bytes: Number = None
    downlink_bytes: Number = None
    uplink_wire_bytes: Number = None
    downlink_wire_bytes: Number = None
    train_seconds: Number = None
    device_seconds: Number = None
    energy_joules: Number = None
    memory_bytes: Number = None
    train_loss: Number = None
    cpu_seconds: Number = None
    wall_seconds: Number = None
    peak_memory_bytes: Number = None
    plan: Mapping[str, Any] = field(default_factory=dict)
    budget: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run directory in memory; ``notes`` say in plain words what was missing or damaged."""

    folder: Path
    name: str
    finished: bool
    config: Mapping[str, Any]
    config_text: str
    environment: Mapping[str, Any]
    partition: Mapping[str, Any]
    summary: Mapping[str, Any]
    rounds: tuple[Round, ...]
    clients: tuple[ClientRow, ...]
    notes: tuple[str, ...] = ()


def load_run(folder: Path) -> Run:
    """Read ``folder``, finished or not; what a killed run did not get to write is left out with a note.

    Raises :class:`UserError` if it is no run directory or one of its files is damaged other than in a torn
    last line.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such run directory")
    if not (folder / "config.toml").is_file():
        raise UserError(f"{folder}: is no run directory, it holds no config.toml")
    notes: list[str] = []
    text, config = read_toml(folder / "config.toml")
    summary = read_json(folder / "summary.json")
    rounds = read_rows(folder / "rounds.jsonl", Round, ("round",), notes)
    clients = read_rows(folder / "clients.jsonl", ClientRow, ("round", "attempt", "client"), notes)
    recorded = {row.round for row in rounds}
    if any(row.round not in recorded for row in clients):
        notes.append("Client rows of a round that was never recorded are left out.")
        clients = tuple(row for row in clients if row.round in recorded)
    finished = summary.get("status") == "finished"
    if not finished:
        notes.insert(0, _unfinished_note(rounds))
    return Run(
        folder=folder,
        name=str(summary.get("name") or config.get("name") or folder.resolve().name),
        finished=finished,
        config=config,
        config_text=text,
        environment=read_json(folder / "environment.json"),
        partition=read_json(folder / "partition.json"),
        summary=summary,
        rounds=rounds,
        clients=clients,
        notes=tuple(notes),
    )


def _unfinished_note(rounds: Sequence[Round]) -> str:
    if not rounds:
        return "This run is unfinished: no round was recorded."
    return f"This run is unfinished: the last recorded round is {rounds[-1].round}."


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text ({error})") from error


def read_toml(path: Path) -> tuple[str, dict[str, Any]]:
    """Return the text of a file and what it says; raises ``UserError`` for a damaged one."""
    text = _read_text(path)
    try:
        return text, tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path}: is not valid TOML ({error})") from error


def _parse(text: str) -> Any:
    """JSON, with the NaN and Infinity that Python's own writer may emit taken as absent."""
    return json.loads(text, parse_constant=lambda _: None)


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object, empty where the file is missing; raises ``UserError`` for a damaged one."""
    if not path.is_file():
        return {}
    try:
        content = _parse(_read_text(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: is not valid JSON ({error})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: must hold a JSON object")
    return content


def read_rows(path: Path, kind: type[Row], key: tuple[str, ...], notes: list[str]) -> tuple[Row, ...]:
    """Return rows of the dataclass ``kind`` in the order of ``key``; of rows with one key the last counts.

    What was missing or torn is added to ``notes``; raises ``UserError`` for other damage.
    """
    if not path.is_file():
        notes.append(f"{path.name} is missing.")
        return ()
    rows: dict[tuple[int, ...], Row] = {}
    lines = [(n, line) for n, line in enumerate(_read_text(path).splitlines(), 1) if line.strip()]
    for number, line in lines:
        try:
            record = _parse(line)
        except json.JSONDecodeError as error:
            if number != lines[-1][0]:
                raise UserError(f"{path} line {number}: is not valid JSON ({error})") from error
            notes.append(f"The last line of {path.name} was torn and is left out.")
            break
        row = _row(kind, record, f"{path} line {number}")
        rows[tuple(getattr(row, name) for name in key)] = row
    if len(rows) < len(lines) - any("torn" in note and path.name in note for note in notes):
        notes.append(f"{path.name} holds repeated rows; the last of each counts.")
    return tuple(rows[k] for k in sorted(rows))


def _row(kind: type[Row], record: Any, where: str) -> Row:
    if not isinstance(record, dict):
        raise UserError(f"{where}: must be a JSON object")
    values = {
        f.name: _value(record[f.name], f.type, f"{where}: {f.name}") for f in fields(kind) if f.name in record
    }
    missing = {"round", "client", "epoch"} & {f.name for f in fields(kind)} - {
        k for k, v in values.items() if v is not None
    }
    if missing:
        raise UserError(f"{where}: {sorted(missing)[0]} is missing")
    return kind(**values)


def _value(value: Any, kind: Any, where: str) -> Any:
    if kind in (str, str | None):
        return value if value is None else str(value)
    if kind == Mapping[str, Number]:
        return {str(k): number(v) for k, v in value.items()} if isinstance(value, dict) else {}
    if kind == Mapping[str, Any]:
        return value if isinstance(value, dict) else {}
    if value is not None and number(value) is None and not isinstance(value, float):
        raise UserError(f"{where} must be a number or null, not {value!r}")
    return number(value)


def number(value: Any) -> Number:
    """Return a finite number as it is, and ``None`` for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value
