"""What a folder holds: run directories and studies, a line each, without reading their ledgers whole."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from fedfmd.config.documents import leaves
from fedfmd.config.values import LONGEST_NAME
from fedfmd.errors import UserError, did_you_mean
from fedfmd.files import is_locked
from fedfmd.records import filenames
from fedfmd.records.documents import Ending, RunSummary, TrainSummary
from fedfmd.records.marks import changed_since
from fedfmd.records.rows import EpochRow, RoundRow
from fedfmd.records.schema import Json, Number, Record, SchemaError, one_line, parse
from fedfmd.results.runs import edited_summary, read_toml, salvaged_document, sound_rows
from fedfmd.results.summary import spent

Row = TypeVar("Row", bound=Record)
EntryKind = Literal["federated", "central", "study"]
EntryStatus = Literal["finished", "running", "interrupted", "stopped", "damaged"]
FIGURES = ("top1", "macs", "bytes", "device_seconds", "host_seconds")
FIELDS = ("folder", "name", "kind", "status", "done", "wanted", *FIGURES)
"""What can be sorted by and filtered on beside the keys of the config."""
WRITTEN = (filenames.ENVIRONMENT, filenames.ROUNDS, filenames.EPOCHS)
"""A folder with a config and one of these is a run directory."""
DEPTH = 3
"""So many folders deep a run is looked for below a folder that is named."""
TAIL_BYTES = 1 << 16
WANTED = {"federated": "server.rounds", "central": "train.epochs"}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A run or a study; ``done`` of ``wanted`` are rounds, epochs, or the runs of a study."""

    folder: Path
    name: str
    kind: EntryKind
    status: EntryStatus
    done: int = 0
    wanted: int | None = None
    top1: Number = None
    macs: Number = None
    bytes: Number = None
    device_seconds: Number = None
    host_seconds: Number = None
    damage: str = ""
    """Why it is damaged, with the file."""
    changed: float = 0.0
    """When it was last written, in seconds since 1970."""
    config: Mapping[str, Any] | None = None
    """Its resolved keys; null for a study."""

    def value(self, key: str) -> Any:
        """Return a field or a key of the config; null where there is none of that name."""
        return getattr(self, key) if key in FIELDS else (self.config or {}).get(key)

    def to_json(self) -> Json:
        """Return the entry as ``fedfmd runs --json`` prints it."""
        fields = {name: getattr(self, name) for name in (*FIELDS, "damage", "changed")}
        return fields | {"folder": str(self.folder), "config": dict(self.config or {})}


def catalogue(roots: Iterable[Path]) -> list[Entry]:
    """Return what the folders are or hold, each once, the last written first.

    The runs of a study are found when its folder, or one in it, is named itself. Raises ``UserError`` for a
    folder that does not exist.
    """
    found: dict[Path, Entry] = {}
    for root in roots:
        if not root.is_dir():
            raise UserError(f"{root}: no such folder")
        for folder in _holders(root, DEPTH, named=True):
            found.setdefault(folder.resolve(), entry(folder))
    return sorted(found.values(), key=lambda one: -one.changed)


def is_run(folder: Path) -> bool:
    """Return whether ``folder`` is a run directory."""
    return filenames.holds_run(folder) and any((folder / name).is_file() for name in WRITTEN)


def is_study(folder: Path) -> bool:
    """Return whether ``folder`` is a study's."""
    return (folder / filenames.STUDY).is_file() and (folder / filenames.RUNS).is_dir()


def entry(folder: Path) -> Entry:
    """Read the line of one run or study, finished or not, damaged or not."""
    if not _readable(folder):
        damage = f"{folder}: cannot be read: Permission denied"
        return Entry(folder=folder, name=folder.name, kind="federated", status="damaged", damage=damage)
    return _study(folder) if is_study(folder) else _run(folder)


def selected(entries: Sequence[Entry], conditions: Sequence[str]) -> list[Entry]:
    """Return the entries that meet all ``KEY=VALUE``; raises ``UserError`` for a key that none has."""
    kept = list(entries)
    for condition in conditions:
        key, equals, text = condition.partition("=")
        if not equals:
            raise UserError(f"--where {condition}: must look like model.conv=fmdconv")
        check_known(key, entries, "--where")
        kept = [one for one in kept if _is(one.value(key), text.strip().strip("\"'"))]
    return kept


def arranged(entries: Sequence[Entry], key: str) -> list[Entry]:
    """Return the entries by a field or key of the config, downwards with ``-`` before it; absent comes last.

    Raises ``UserError`` for a key that none of them has.
    """
    name, down = key.removeprefix("-"), key.startswith("-")
    if name == "changed":
        return sorted(entries, key=lambda one: -one.changed if down else one.changed)
    check_known(name, entries, "--sort")
    known = [one for one in entries if one.value(name) is not None]
    numeric = all(isinstance(one.value(name), int | float) for one in known)
    order: Callable[[Entry], Any] = (
        (lambda one: one.value(name)) if numeric else (lambda one: _written(one.value(name)))
    )
    return sorted(known, key=order, reverse=down) + [one for one in entries if one.value(name) is None]


def differing_keys(entries: Sequence[Entry]) -> list[str]:
    """Return the keys of the config in which the runs differ, but for their names."""
    configs = [one.config for one in entries if one.config]
    keys = dict.fromkeys(key for config in configs for key in config if key != "name")
    return [key for key in keys if len({_written(config.get(key)) for config in configs}) > 1]


def check_known(key: str, entries: Sequence[Entry], option: str) -> None:
    """Raise ``UserError`` for a key, given to an option, that none of the runs has."""
    if key in FIELDS or any(key in (one.config or {}) for one in entries) or not entries:
        return
    hint = did_you_mean(key, [*FIELDS, *(known for one in entries for known in one.config or {})])
    raise UserError(
        f"{option} {key}: no run has such a key{hint} "
        f"(allowed: {', '.join(FIELDS)}, changed and a config's keys)"
    )


def _holders(folder: Path, depth: int, *, named: bool = False) -> Iterator[Path]:
    if not _readable(folder) or is_run(folder) or (is_study(folder) and not named):
        yield folder
        return
    if is_study(folder):
        folder = folder / filenames.RUNS
    if depth:
        for inner in sorted(folder.iterdir()):
            if inner.is_dir() and not inner.is_symlink() and not inner.name.startswith("."):
                yield from _holders(inner, depth - 1)


def _readable(folder: Path) -> bool:
    return os.access(folder, os.R_OK | os.X_OK)


def _run(folder: Path) -> Entry:
    kind: EntryKind = "central" if filenames.holds_central_run(folder) else "federated"
    name = one_line(folder.resolve().name, LONGEST_NAME)
    try:
        keys = leaves(read_toml(filenames.computed_config(folder))[1])
    except UserError as error:
        damage = str(error)
        return Entry(
            folder=folder, name=name, kind=kind, status="damaged", damage=damage, changed=_changed(folder)
        )
    config = {key: value for key, value in keys.items() if value != {}}
    ending = salvaged_document(
        folder / filenames.SUMMARY, TrainSummary if kind == "central" else RunSummary, []
    )
    rows = list(_last_rows(folder / filenames.ROUNDS, RoundRow))
    epochs = list(_last_rows(folder / filenames.EPOCHS, EpochRow))
    costs = spent(ending, rows[0] if rows else None) if isinstance(ending, RunSummary) else {}
    measured = [*(row.accuracy for row in rows), *(row.top1 for row in epochs)]
    done = rows[0].round if rows else epochs[0].epoch if epochs else 0
    ended = getattr(ending, "epochs" if kind == "central" else "rounds")
    damage = _damage(folder, ending, lost=max(0, (ended or 0) - done))
    return Entry(
        folder=folder,
        name=one_line(config.get("name") or name, LONGEST_NAME),
        kind=kind,
        status=_status(folder, ending, damaged=bool(damage)),
        done=done,
        wanted=config.get(WANTED[kind]),
        top1=next((top1 for top1 in measured if top1 is not None), ending.final_top1),
        macs=costs.get("macs"),
        bytes=costs.get("bytes"),
        device_seconds=costs.get("device_seconds"),
        host_seconds=costs.get("host_seconds"),
        damage=damage,
        changed=_changed(folder),
        config=config,
    )


def _study(folder: Path) -> Entry:
    runs = [_run(run) for run in sorted((folder / filenames.RUNS).iterdir()) if is_run(run)]
    done = sum(run.status == "finished" for run in runs)
    try:
        outcomes = parse((folder / filenames.OUTCOMES).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, SchemaError):
        outcomes = None
    wanted = len(outcomes) if isinstance(outcomes, list) else None
    busy = any(run.status == "running" for run in runs)
    status: EntryStatus = "running" if busy else "finished" if done == wanted else "interrupted"
    return Entry(
        folder=folder,
        name=one_line(folder.resolve().name, LONGEST_NAME),
        kind="study",
        status=status,
        done=done,
        wanted=wanted,
        changed=max([_changed(folder), *(run.changed for run in runs)]),
        macs=_total(runs, "macs"),
        bytes=_total(runs, "bytes"),
        device_seconds=_total(runs, "device_seconds"),
        host_seconds=_total(runs, "host_seconds"),
    )


def _total(runs: Sequence[Entry], name: str) -> Number:
    known = [value for value in (getattr(run, name) for run in runs) if value is not None]
    return sum(known) if known else None


def _status(folder: Path, ending: Ending, *, damaged: bool) -> EntryStatus:
    if is_locked(folder / filenames.LOCK):
        return "running"
    return "damaged" if damaged else ending.status or "interrupted"


def _damage(folder: Path, ending: Ending, *, lost: int) -> str:
    """Say what became of the files of a finished run, of whose rounds, or epochs, some may be ``lost``.

    Of ledgers whose figures are not in an entry only the length is looked at.
    """
    if not ending.finished:
        return ""
    if lost:
        return f"{folder}: the ledger lacks {lost} of the rounds, or epochs, that the run ended with"
    shown = {name: mark for name, mark in ending.ledgers.items() if name in WRITTEN}
    others = {name: mark.length for name, mark in ending.ledgers.items() if name not in WRITTEN}
    changed = changed_since(folder, shown) + [
        name for name, length in others.items() if _length(folder / name) != length
    ]
    changed += edited_summary(folder)
    return f"{folder / changed[0]}: was changed since the run ended" if changed else ""


def _length(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0


def _last_rows(path: Path, kind: type[Row]) -> Iterator[Row]:
    """Yield the last rows of a ledger, the last first, as far as its last bytes reach; none without it."""
    try:
        with path.open("rb") as file:
            start = max(file.seek(0, 2) - TAIL_BYTES, 0)
            file.seek(start)
            lines = file.read().split(b"\n")
    except OSError:
        return
    yield from sound_rows(reversed(lines[1:] if start else lines), kind)


def _changed(folder: Path) -> float:
    names = (
        filenames.ROUNDS,
        filenames.EPOCHS,
        filenames.SUMMARY,
        filenames.CONFIG,
        filenames.OUTCOMES,
        filenames.STUDY,
    )
    return max((path.stat().st_mtime for path in map(folder.joinpath, names) if path.exists()), default=0.0)


def _is(value: Any, text: str) -> bool:
    """Whether a value is the one that is written so; a number, however it is written."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        with suppress(ValueError):
            return float(text) == value
    return _written(value) == text


def _written(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else json.dumps(value, default=str)
