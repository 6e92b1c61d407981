"""A run survives a crash after any of its writes, a torn write, a loss of power, and a disk that fails.

The writes of a whole command are recorded by system call; every state that a crash may leave behind is made
and resumed, and has to end with the tensors and rows of the undisturbed run. One state in twenty of a single
run by default, all of them and of a study under ``-m slow``.
"""

import errno
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from difflib import unified_diff
from functools import cache
from pathlib import Path

import pytest
import scenarios
from recording import Call, cuts, record, reordered, state
from resident import CALM, Ended, Resident

HERE = Path(__file__).parent
COMMAND = [sys.executable, "-P", "-m", "fedfmd"]
QUICK_COMMAND = [sys.executable, "-P", str(HERE / "resident.py")]
WAYS = 50
"""Orders of the writes between two syncs that are tried at most."""
KINDS = list(scenarios.KINDS)
QUICK_KIND, QUICK = "scaffold", 20
"""Of so many states of this kind one is tried by default."""
FOREVER = 1 << 40
FAILURES = [(lasts, code) for lasts in (False, True) for code in (errno.ENOSPC, errno.EROFS)]
MEMORY = Path("/dev/shm")
"""Where a sync takes no time. The crashes are made of the recorded calls, wherever these went."""
WORDS = re.compile(r"\b(?!left\b|min\b)[^\W\d_]{3}[\w.-]*")
"""What is said, but for numbers, units and the time left, which depend on how long it took."""
FINISHED = "this run is finished"

pytestmark = pytest.mark.skipif(
    shutil.which("strace") is None or sys.platform != "linux", reason="needs strace: apt-get install strace"
)


@dataclass(frozen=True)
class Scenario:
    """One kind of run: what starts it, what it wrote, what it gave, and a process that runs it quickly."""

    kind: str
    root: Path
    given: Path
    environment: Mapping[str, str]
    calls: Sequence[Call]
    oracle: str
    resident: Resident

    def run(self, arguments: Sequence[str], folder: Path, fault: tuple[int, int, int] = CALM) -> Ended:
        return self.resident.run(arguments, folder, self.root / "log", fault)

    def resumed(self, folder: Path) -> str:
        """Bring a folder to its end; returns what is wrong then, or nothing."""
        ended = self.run(scenarios.go_on(self.kind, self.given, folder), folder)
        return self.fault_of(ended, folder)

    def fault_of(self, ended: Ended, folder: Path) -> str:
        """Return what is wrong with how it ended, or nothing: the undisturbed results, said calmly."""
        if ended.code and FINISHED not in ended.said:
            return f"code {ended.code}: {ended.said[-600:]}"
        try:
            same = scenarios.results(self.kind, folder) == self.oracle
        except (AssertionError, OSError) as error:
            return f"{error!r}: {ended.said[-600:]}"
        return "" if same else "other results than the undisturbed run's"


@pytest.fixture(scope="module")
def scenario(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Scenario]]:
    """Give a kind's scenario, recorded once; a process that was started gives the undisturbed results."""
    with ExitStack() as ends:
        fast = MEMORY if os.access(MEMORY, os.W_OK) else tmp_path_factory.mktemp("durability")
        root = Path(ends.enter_context(tempfile.TemporaryDirectory(prefix="fedfmd-", dir=fast)))
        environment = os.environ | {"FEDFMD_CACHE": str(root / "cache"), "OMP_NUM_THREADS": "1"}

        @cache
        def made(kind: str) -> Scenario:
            home = root / kind
            folder = home / "undisturbed"
            folder.mkdir(parents=True)
            given = home / "given.toml"
            scenarios.write_given(kind, given)
            calls = record([*QUICK_COMMAND, *scenarios.start(kind, given, folder)], folder, environment)
            assert whole(folder) == {n: bytes(c) for n, c in contents(calls).items()}
            oracle = scenarios.results(kind, folder)
            failing = {"LD_PRELOAD": str(disk_faults(root)), "DISK_FAULTS_ROOT": str(home / "failing")}
            resident = ends.enter_context(Resident(environment | failing))
            return Scenario(kind, home, given, environment, calls, oracle, resident)

        yield made


@cache
def disk_faults(root: Path) -> Path:
    """Compile what makes the disk fail."""
    library = root / "disk_faults.so"
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    source = str(HERE / "disk_faults.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), source, "-ldl"], check=True)
    return library


def whole(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def contents(calls: Sequence[Call]) -> dict[str, bytearray]:
    folder = state(calls)
    return {name: folder.contents[file] for name, file in folder.names.items()}


def crashes(calls: Sequence[Call]) -> list[tuple[str, list[Call]]]:
    """Return the states that a crash may leave, each with its name, equal ones once."""
    found = {state(made).key(): (name, made) for name, made in [*cuts(calls), *reordered(calls, WAYS, 0)]}
    return sorted(found.values(), key=lambda named: named[0])


def told(tried: Counter[str], wrong: Sequence[str]) -> None:
    print(dict(tried))
    assert not wrong, f"{len(wrong)} of {tried.total()}\n\n" + "\n\n".join(wrong[:5])


@pytest.mark.parametrize(
    ("kind", "every"),
    [(QUICK_KIND, QUICK)] + [pytest.param(kind, 1, marks=pytest.mark.slow) for kind in KINDS],
)
def test_resumed_from_any_crash_it_ends_the_same(
    kind: str, every: int, scenario: Callable[[str], Scenario]
) -> None:
    this = scenario(kind)
    states = crashes(this.calls)
    chosen = random.Random(every).sample(states, len(states) // every)
    tried, wrong = Counter[str](), list[str]()
    for number, (name, calls) in enumerate(chosen):
        folder = this.root / f"state-{number}"
        folder.mkdir()
        state(calls).write_to(folder)
        fault = this.resumed(folder)
        shutil.rmtree(folder)
        tried[name.split()[0]] += 1
        wrong += [f"{name}: {fault}"] if fault else []
    told(tried, wrong)


@pytest.mark.parametrize(
    "kind", [QUICK_KIND, *(pytest.param(k, marks=pytest.mark.slow) for k in KINDS if k != QUICK_KIND)]
)
def test_a_process_that_was_started_does_as_a_forked_one(
    kind: str, scenario: Callable[[str], Scenario]
) -> None:
    """What all the others stand on: the same words, exit code and results, and files but for figures."""
    this = scenario(kind)
    half = this.calls[: len(this.calls) // 2]
    ends = []
    for way in ("started", "forked"):
        folder = this.root / "half"
        folder.mkdir()
        state(half).write_to(folder)
        arguments = scenarios.go_on(kind, this.given, folder)
        if way == "started":
            done = subprocess.run(
                [*COMMAND, *arguments], cwd=folder, env=this.environment, check=False,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, stdin=subprocess.DEVNULL,
            )  # fmt: skip
            ended = Ended(done.returncode, done.stdout)
        else:
            ended = this.run(arguments, folder)
        assert not this.fault_of(ended, folder)
        files = [name for name in sorted(whole(folder)) if "figures/" not in name]
        ends.append((ended.code, WORDS.findall(ended.said), files))
        shutil.rmtree(folder)
    started, forked = ends
    assert list(unified_diff(started[1], forked[1], lineterm="")) == []  # which words differ, of many
    assert started == forked


@pytest.mark.parametrize(
    ("kind", "step"),
    [(QUICK_KIND, 2 * QUICK + 1)]
    + [pytest.param(kind, 1, marks=pytest.mark.slow) for kind in KINDS[:3]]
    + [pytest.param("study", 3, marks=pytest.mark.slow)],  # a second or more each
)
def test_a_failing_disk_stops_it_clearly_and_it_goes_on_the_same(
    kind: str, step: int, scenario: Callable[[str], Scenario]
) -> None:
    """At each call the disk fails with both codes, once and for ever; ``step`` is odd, to meet all four."""
    this = scenario(kind)
    folder = this.root / "failing"
    folder.mkdir()
    arguments = scenarios.start(kind, this.given, folder)
    counted = this.run(arguments, folder, (FOREVER, FOREVER, errno.EROFS))
    assert not this.fault_of(counted, folder)
    points = [(call, *failure) for call in range(counted.calls) for failure in FAILURES]
    tried, wrong = Counter[str](), list[str]()
    for call, lasts, code in points[step // 2 :: step]:
        shutil.rmtree(folder)
        folder.mkdir()
        ended = this.run(arguments, folder, (call, FOREVER if lasts else call, code))
        said = ended.said + "".join(log.read_text() for log in folder.rglob("logs/*.txt"))
        fault = "" if clear(ended.code, said) else "not a clear refusal"
        fault = fault or this.resumed(folder)
        name = f"{errno.errorcode[code]}{'' if lasts else ' once'}"
        tried[name] += 1
        wrong += [f"{name}, call {call} of {counted.calls}: {said[-900:]} {fault}"] if fault else []
    shutil.rmtree(folder)
    told(tried, wrong)
    assert {name.split()[0] for name in tried} == {"ENOSPC", "EROFS"}


def clear(code: int, said: str) -> bool:
    """Whether a command ended well, or with a line that says why not."""
    spoken = code == 0 or re.search("^(stopped|error): ", said, re.MULTILINE)
    return code in (0, 1, 2) and bool(spoken) and "Traceback" not in said
