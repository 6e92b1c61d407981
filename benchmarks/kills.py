"""Kill runs at random moments, resume them, and compare them with the undisturbed run.

    python benchmarks/kills.py --kind inline --count 100

Each kill is a line of ``benchmarks/figures/kills.jsonl``: called again, the script goes on behind the last.
Kinds: ``inline`` and ``scaffold`` (kill -9 at any moment), ``checkpoint`` (while one is being written),
``train``, ``study``, and on Ray ``ray-driver``, ``ray-actor``, ``ray-raylet``, ``ray-gcs``. A run is killed
once and resumed, again where a machine is too busy for Ray to start; ``same`` says whether it ended with the
undisturbed run's tensors and rows, of the plain loop where it is on Ray. All but Ray's are forked from a
process that has the libraries imported, see ``tests/durability/resident.py``.
"""

import argparse
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "durability"))
from resident import Resident, Running

FIGURES = Path(__file__).parent / "figures" / "kills.jsonl"
RAY = {"ray-driver": "", "ray-actor": "ray::", "ray-raylet": "raylet/raylet", "ray-gcs": "gcs_server"}
KINDS = ("inline", "scaffold", "checkpoint", "train", "study", *RAY)
MARKER = "FEDFMD_KILLS"
STARTS, START_SECONDS, NO_RAY = 5, 900, "Ray cannot start"
TINY = """name = "it"
[data]
train_samples = 60
test_samples = 20
[partition]
scheme = "sampled"
clients = 4
samples_per_client = 8
[model]
name = "resnet8"
width = 0.25
conv = "static"
stem = "imagenet"
[client]
batch_size = 8
augment = false
[logging]
tensorboard = false
"""
PARTS = {
    "train": "[train]\nepochs = 12\nbatch_size = 16\ndevice = 'cpu'\nthreads = 1\ntensorboard = false\n",
    "scaffold": "scaffold = true\nmomentum = 0.0\n",
}
MEASURED = re.compile(
    r'"(\w*seconds\w*|uplink_wire_bytes|samples_per_second)":[-+.e0-9]+,?|"(ies|rcs)\w*":(\{[^}]*\}|null),?'
)


def main() -> None:
    """Kill as many runs as asked for, and add what became of them to the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=KINDS, required=True)
    parser.add_argument("--count", type=int, default=10)
    options = parser.parse_args()
    FIGURES.parent.mkdir(exist_ok=True)
    first = sum(line["kind"] == options.kind for line in lines())
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as ends:
        trial = Trial(options.kind, Path(scratch), ends)
        for seed in range(first, first + options.count):
            row = trial.kill(seed)
            with FIGURES.open("a") as file:
                file.write(json.dumps(row) + "\n")
    counted = Counter((line["kind"], line["same"]) for line in lines())
    for kind, same in sorted(counted):
        print(f"{kind}: {counted[kind, same]} {'the same' if same else 'NOT THE SAME'}")


def lines() -> list[dict]:
    """Read the figures so far."""
    return [json.loads(line) for line in FIGURES.read_text().splitlines()] if FIGURES.exists() else []


class Trial:
    """One kind of run, undisturbed once, then killed and resumed again and again."""

    def __init__(self, kind: str, scratch: Path, ends: ExitStack):
        self.kind, self.scratch = kind, scratch
        self.folder, self.log = scratch / "it", scratch / "log"
        self.config = scratch / "config.toml"
        self.environment = {
            **os.environ, "FEDFMD_CACHE": str(scratch / "cache"),
            "OMP_NUM_THREADS": "1", "FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0",
        }  # fmt: skip
        self.resident = ends.enter_context(Resident(self.environment))
        self.config.write_text(self._text("inline"))
        for _ in range(2):  # the first prepares the data, too
            self._clear()
            started = time.monotonic()
            ended = self._forked().wait()
            assert ended.code == 0, ended.said[-2000:]
            self.seconds = time.monotonic() - started
        self.undisturbed = self._results()
        self.config.write_text(self._text("ray" if kind in RAY else "inline"))

    def kill(self, seed: int) -> dict:
        """Kill a run at a moment that the seed draws, resume it, and say how it ended."""
        rng = random.Random(f"{self.kind} {seed}")
        delay = None
        while delay is None:
            self._clear()
            delay = self._killed(rng)
        done = self._rounds()
        if self._results() != self.undisturbed:
            self._go_on()
        same = self._results() == self.undisturbed and not list(self.folder.rglob("*.tmp"))
        self._clear()
        return {"kind": self.kind, "seed": seed, "after_seconds": delay, "rounds_done": done, "same": same}

    def _killed(self, rng: random.Random) -> float | None:
        """Start a run and kill it; returns after how many seconds, or null if it had ended before."""
        run = self._start()
        delay = self._await_moment(rng, run)
        killed = 0
        for victim in self._victims(run):
            with suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
                killed += 1
        self._wait(run)
        return delay if killed else None

    def _go_on(self) -> None:
        """Bring what is there to its end, again where Ray cannot start."""
        for _ in range(STARTS):
            self._wait(self._start())
            if NO_RAY not in self.log.read_text():
                break

    def _text(self, backend: str) -> str:
        text = TINY
        if self.kind in PARTS:
            text = (
                text.replace("augment = false\n", "augment = false\n" + PARTS["scaffold"])
                if self.kind == "scaffold"
                else text + PARTS["train"]
            )
        rest = f"[server]\nrounds = 12\ncohort = 2\n[backend]\nkind = '{backend}'\nthreads = 1\n"
        rest += "workers = 2\n" if backend == "ray" else ""
        if self.kind != "study":
            return text + rest
        whole = (text + rest).replace('name = "it"\n', "", 1)
        tables = whole.replace("[", "[experiment.").replace("experiment.experiment.", "experiment.")
        return 'name = "it"\nseeds = [0, 1]\narms = [{ name = "a" }]\n' + tables

    def _command(self) -> list[str]:
        """Return what begins or resumes the run."""
        name = self.kind if self.kind in ("train", "study") else "simulate"
        if self._exists():
            return [name, "--resume", str(self.folder)]
        return [name, str(self.config), "--out", str(self.folder)]

    def _forked(self) -> Running:
        return self.resident.start(self._command(), self.scratch, self.log)

    def _start(self) -> "subprocess.Popen[bytes] | Running":
        if self.kind not in RAY:
            return self._forked()
        environment = self.environment | {MARKER: str(self.scratch)}
        with self.log.open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "fedfmd", *self._command()], env=environment, stdout=log, stderr=log
            )

    def _await_moment(self, rng: random.Random, run: "subprocess.Popen[bytes] | Running") -> float:
        """Wait until the moment that is drawn: any, or one at which a checkpoint is half written."""
        started, limit = time.monotonic(), rng.uniform(0, self.seconds)
        if self.kind == "checkpoint":
            wanted = rng.randrange(1, 9)
            folder = self.folder / "checkpoint"
            _until(lambda: self._rounds() >= wanted and any(folder.glob(".*.tmp")), self.seconds)
        elif isinstance(run, subprocess.Popen):
            _until(lambda: self._rounds() >= 2 or run.poll() is not None, START_SECONDS, pause=0.05)
            time.sleep(rng.uniform(0, 1))
        else:
            time.sleep(limit)
        return round(time.monotonic() - started, 3)

    def _victims(self, run: "subprocess.Popen[bytes] | Running") -> list[int]:
        if isinstance(run, Running):
            return [run.pid]
        if run.poll() is not None:
            return []
        return _marked(str(self.scratch), RAY[self.kind])[:1] if RAY[self.kind] else [run.pid]

    def _wait(self, run: "subprocess.Popen[bytes] | Running") -> None:
        """Wait until nothing lives any more of what was started."""
        run.wait()
        if isinstance(run, subprocess.Popen):
            _until(lambda: not _marked(str(self.scratch), ""), 60)

    def _runs(self) -> list[Path]:
        return sorted((self.folder / "runs").glob("[!.]*")) if self.kind == "study" else [self.folder]

    def _exists(self) -> bool:
        return (self.folder / ("study.toml" if self.kind == "study" else "config.toml")).exists()

    def _rounds(self) -> int:
        ledgers = self.folder.rglob("epochs.jsonl" if self.kind == "train" else "rounds.jsonl")
        return sum(ledger.read_bytes().count(b"\n") for ledger in ledgers)

    def _results(self) -> str:
        """Hash the tensors and rows of a finished run; a text for one that is not."""
        digest = hashlib.sha256()
        try:
            if self.kind != "train":
                digest.update(str((self.folder / "report.html").is_file()).encode())
            for run in self._runs():
                digest.update((run / "model.safetensors").read_bytes())
                for ledger in sorted(run.glob("*s.jsonl")):
                    if ledger.name != "notes.jsonl":
                        digest.update(MEASURED.sub("", ledger.read_text()).encode())
                if json.loads((run / "summary.json").read_text())["status"] != "finished":
                    return "not finished"
        except OSError as error:
            return str(error)
        return digest.hexdigest()

    def _clear(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def _marked(marker: str, command: str) -> list[int]:
    """List the living processes that this script started, whose command holds a text."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                marked = f"{MARKER}={marker}".encode() in (folder / "environ").read_bytes()
                text = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if marked and command in text:
                found.append(int(folder.name))
    return found


def _until(condition: Callable[[], object], seconds: float, pause: float = 0.002) -> None:
    limit = time.monotonic() + seconds
    while not condition() and time.monotonic() < limit:
        time.sleep(pause)


if __name__ == "__main__":
    main()
