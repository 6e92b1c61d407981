"""Any run directory: whatever its files hold, there is a page of what could be read, or one refusal.

Run directories whose documents and ledgers hold wrong values at seeded places, and bytes that are damaged.
"""

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedfmd.errors import UserError
from fedfmd.pages.report import write_report
from fedfmd.pages.run.page import render_page
from fedfmd.pages.run.tables import write_tables
from fedfmd.results.runs import load_run

sys.path.insert(0, str(Path(__file__).parents[1] / "pages"))
from synthetic_run import Made, write_run
from synthetic_training import write_training

QUICK, MANY = 15, 6_000
DAMAGES = 4
DOCUMENTS = ("environment.json", "partition.json", "summary.json", "notes.jsonl")
LEDGERS = ("rounds.jsonl", "clients.jsonl", "epochs.jsonl")
HOSTILE: list[Any] = [
    None, True, -1, 0, 1, 10**30, 10**400, 1e300, -0.5, float("nan"), "", "x" * 9_000, "\ud800", "a\nb", [],
    {}, [[]], [[1], [1, 2]], {"a": {"b": [None]}}, "<script>", [None], ["a"], {"macs": -1},
]  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the paths of all values inside one."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def damage_value(document: Any, rng: random.Random) -> Any:
    """Return a document with one of its values, or all of it, replaced by a hostile one."""
    path = rng.choice(list(places(document)))
    if not path:
        return rng.choice(HOSTILE)
    target = document
    for part in path[:-1]:
        target = target[part]
    target[path[-1]] = rng.choice(HOSTILE)
    return document


def damage_file(path: Path, rng: random.Random) -> None:
    """Damage a file: a value of it, or some bytes, or its length."""
    if rng.random() < 0.15:
        content = bytearray(path.read_bytes())
        for _ in range(rng.randint(0, 3)):
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(content[: rng.choice((len(content), rng.randrange(len(content))))])
    elif path.suffix == ".jsonl":
        lines = path.read_text().splitlines()
        chosen = rng.randrange(len(lines))
        lines[chosen] = json.dumps(damage_value(json.loads(lines[chosen]), rng))
        path.write_text("\n".join(lines) + "\n")
    else:
        path.write_text(json.dumps(damage_value(json.loads(path.read_text()), rng)))


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return sound_runs(tmp_path_factory.mktemp("sound"))


def sound_runs(root: Path) -> list[Path]:
    """Write a simulated run, one of limited devices, and a central training; returns their directories."""
    small = {"rounds": 3, "clients": 6, "cohort": 3}
    folders = [
        write_run(root / "plain", Made(**small, simulated=False)),
        write_run(root / "limited", Made(**small, limited=True, dynamic=True)),
        write_training(root / "train", 3),
    ]
    for folder in folders:
        (folder / "notes.jsonl").write_text('{"round": 1, "kind": "config", "note": "changed"}\n')
    return folders


def check(seed: int, sound: list[Path], folder: Path, *, whole: bool) -> None:
    """Damage a copy of a sound run and report on it; ``whole`` draws the figures, too."""
    rng = random.Random(seed)
    source = rng.choice(sound)
    folder.mkdir(exist_ok=True)
    for file in source.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    try:
        for _ in range(rng.randint(1, DAMAGES)):
            names = [n for n in (*DOCUMENTS, *LEDGERS) if (folder / n).is_file()]
            try:
                damage_file(folder / rng.choice(names), rng)
            except ValueError:  # what is damaged already is no JSON
                continue
        if whole or (folder / "epochs.jsonl").is_file():
            write_report([folder])
        else:
            run = load_run(folder)
            render_page([run])
            write_tables([run], folder / "tables")
    except UserError as error:
        if "\n" in str(error):
            raise AssertionError(f"seed {seed}: more than a line: {error}") from error
    except Exception as error:
        raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}") from error
    finally:
        for file in folder.iterdir():
            if file.is_file():
                file.unlink()


def test_damaged_run_directories_are_reported_as_far_as_they_go(sound: list[Path], tmp_path: Path) -> None:
    for seed in range(QUICK):
        check(seed, sound, tmp_path / "run", whole=seed % 25 == 0)


@pytest.mark.slow
def test_many_damaged_run_directories_are_reported_as_far_as_they_go(
    sound: list[Path], tmp_path: Path
) -> None:
    for seed in range(QUICK, MANY):
        check(seed, sound, tmp_path / "run", whole=seed % 5 == 0)
