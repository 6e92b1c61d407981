"""A run survives a crash after any of its writes, a torn write, a loss of power, and a disk that fails.

The writes of a whole run are recorded by system call; every state that a crash may leave behind is made and
resumed, and has to end with the tensors and rows of the undisturbed run. One state in twenty of single runs
by default, all of them and of a study under ``-m slow``.
"""

import json
import os
import pickle
import random
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from recording import Call, cuts, record, reordered, state

HERE = Path(__file__).parent
WAYS = 50
"""Orders of the writes between two syncs that are tried at most."""
KINDS = ["plain", "scaffold", "buffered", "study"]
QUICK = 20
"""Of so many states one is tried by default."""
SECONDS, QUICK_SECONDS = 7200, 280

pytestmark = pytest.mark.skipif(
    shutil.which("strace") is None or sys.platform != "linux", reason="needs strace: apt-get install strace"
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def environment(cache: Path, **more: str) -> dict[str, str]:
    return {**os.environ, "FEDFMD_CACHE": str(cache), "OMP_NUM_THREADS": "1", **more}


@pytest.fixture(scope="module")
def recorded(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Call]]:
    """Return the writes of a kind of run, recorded when they are first asked for."""

    class Recorded(dict[str, list[Call]]):
        def __missing__(self, kind: str) -> list[Call]:
            root = tmp_path_factory.mktemp(kind)
            command = [sys.executable, str(HERE / "scenarios.py"), kind, str(root)]
            self[kind] = record(command, root, environment(cache))
            assert whole(root) == {n: bytes(c) for n, c in contents(self[kind]).items()}
            return self[kind]

    return Recorded()


def whole(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def contents(calls: Sequence[Call]) -> dict[str, bytearray]:
    folder = state(calls)
    return {name: folder.contents[file] for name, file in folder.names.items()}


def driven(*arguments: object, seconds: int, environment: dict[str, str]) -> dict[str, int]:
    done = subprocess.run(
        [sys.executable, str(HERE / "driver.py"), *map(str, arguments)],
        capture_output=True, text=True, env=environment, timeout=seconds, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    outcome = json.loads(done.stdout.splitlines()[-1])
    print(outcome["tried"])
    assert not outcome["wrong"], "\n\n".join(outcome["wrong"][:5])
    tried: dict[str, int] = outcome["tried"]
    return tried


@pytest.mark.parametrize(
    ("kind", "every"),
    [("scaffold", QUICK)] + [pytest.param(kind, 1, marks=pytest.mark.slow) for kind in KINDS],
)
def test_resumed_from_any_crash_it_ends_the_same(
    kind: str, every: int, recorded: dict[str, list[Call]], cache: Path, tmp_path: Path
) -> None:
    calls = recorded[kind]
    states = {state(made).key(): (name, made) for name, made in [*cuts(calls), *reordered(calls, WAYS, 0)]}
    chosen = random.Random(every).sample(sorted(states.values(), key=lambda s: s[0]), len(states) // every)
    (tmp_path / "states").write_bytes(pickle.dumps(chosen))
    tried = driven(
        "replay", kind, tmp_path, tmp_path / "states",
        seconds=SECONDS if every == 1 else QUICK_SECONDS, environment=environment(cache),
    )  # fmt: skip
    assert sum(tried.values()) == len(chosen)


@pytest.mark.parametrize(
    ("kind", "step"),
    [("plain", 2 * QUICK + 1)]
    + [pytest.param(kind, 1, marks=pytest.mark.slow) for kind in KINDS[:3]]
    + [pytest.param("study", 3, marks=pytest.mark.slow)],  # a second or more each
)
def test_a_failing_disk_stops_it_clearly_and_it_goes_on_the_same(
    kind: str, step: int, cache: Path, tmp_path: Path
) -> None:
    """At each call the disk fails with both codes, once and for ever; ``step`` is odd, to meet all four."""
    library = tmp_path / "disk_faults.so"
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    source = str(HERE / "disk_faults.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), source, "-ldl"], check=True)
    preloaded = environment(cache, LD_PRELOAD=str(library), DISK_FAULTS_ROOT=str(tmp_path / "failing"))
    seconds = QUICK_SECONDS if step > QUICK else SECONDS
    tried = driven("faults", kind, tmp_path, library, step, seconds=seconds, environment=preloaded)
    assert {name.split()[0] for name in tried} == {"ENOSPC", "EROFS"}
