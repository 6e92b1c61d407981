"""Kill runs at random moments, resume them, and compare them with the undisturbed run.

    python benchmarks/kills.py --kind inline --count 100

Each kill is a line of ``benchmarks/figures/kills.jsonl``: called again, the script goes on behind the last.
Kinds: ``inline`` and ``scaffold`` (kill -9 at any moment), ``checkpoint`` (while one is being written),
``train``, ``study``, and on Ray ``ray-driver``, ``ray-actor``, ``ray-raylet``, ``ray-gcs``. A run is killed
once and resumed, again where a machine is too busy for Ray to start; ``same`` says whether it ended with the
undisturbed run's tensors and rows.
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
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

FIGURES = Path(__file__).parent / "figures" / "kills.jsonl"
RAY = {"ray-driver": "", "ray-actor": "ray::", "ray-raylet": "raylet/raylet", "ray-gcs": "gcs_server"}
KINDS = ("inline", "scaffold", "checkpoint", "train", "study", *RAY)
MARKER = "FEDFMD_KILLS"
STARTS, NO_RAY = 5, "Ray cannot start"
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
    with tempfile.TemporaryDirectory() as scratch:
        trial = Trial(options.kind, Path(scratch))
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

    def __init__(self, kind: str, scratch: Path):
        self.kind, self.scratch = kind, scratch
        self.folder = scratch / "it"
        self.config = scratch / "config.toml"
        self.config.write_text(self._text())
        for _ in range(2):  # the first prepares the data, too
            self._clear()
            started = time.monotonic()
            self._wait(self._start(resume=False))
            self.seconds = time.monotonic() - started
        self.undisturbed = self._results()
        self._clear()

    def kill(self, seed: int) -> dict:
        """Kill a run at a moment that the seed draws, resume it, and say how it ended."""
        rng = random.Random(f"{self.kind} {seed}")
        run = self._start(resume=False)
        delay = self._await_moment(rng)
        victims = self._victims(run)
        for victim in victims:
            os.kill(victim, signal.SIGKILL)
        self._wait(run, any_code=True)
        done = self._rounds()
        for _ in range(STARTS):
            if self._results() == self.undisturbed:
                break
            (self.scratch / "log").write_bytes(b"")
            self._wait(self._start(resume=self._exists()), any_code=True)
            if NO_RAY not in (self.scratch / "log").read_text():
                break
        same = self._results() == self.undisturbed and not list(self.folder.rglob("*.tmp"))
        self._clear()
        return {"kind": self.kind, "seed": seed, "after_seconds": delay, "rounds_done": done, "same": same}

    def _text(self) -> str:
        text = TINY
        if self.kind in PARTS:
            text = (
                text.replace("augment = false\n", "augment = false\n" + PARTS["scaffold"])
                if self.kind == "scaffold"
                else text + PARTS["train"]
            )
        backend = "ray" if self.kind in RAY else "inline"
        rest = f"[server]\nrounds = 12\ncohort = 2\n[backend]\nkind = '{backend}'\nthreads = 1\n"
        rest += "workers = 2\n" if self.kind in RAY else ""
        if self.kind != "study":
            return text + rest
        whole = (text + rest).replace('name = "it"\n', "", 1)
        tables = whole.replace("[", "[experiment.").replace("experiment.experiment.", "experiment.")
        return 'name = "it"\nseeds = [0, 1]\narms = [{ name = "a" }]\n' + tables

    def _command(self, *, resume: bool) -> list[str]:
        name = self.kind if self.kind in ("train", "study") else "simulate"
        where = ["--resume", str(self.folder)] if resume else [str(self.config), "--out", str(self.folder)]
        return ["fedfmd", name, *where]

    def _start(self, *, resume: bool) -> "subprocess.Popen[bytes] | int":
        """Start the command: the plain loops as a fork of this process, which has the libraries loaded."""
        command = self._command(resume=resume)
        environment = {
            **os.environ, MARKER: str(self.scratch), "FEDFMD_CACHE": str(self.scratch / "cache"),
            "OMP_NUM_THREADS": "1", "FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0",
        }  # fmt: skip
        if self.kind not in RAY and self.kind != "study":
            return _forked(self.kind, self.config, self.folder, self.scratch / "log", environment)
        code = "import sys; from fedfmd.cli.app import main; main()"
        with (self.scratch / "log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-c", code, *command[1:]], env=environment, stdout=log, stderr=log
            )

    def _await_moment(self, rng: random.Random) -> float:
        """Wait until the moment that is drawn: any, or one at which a checkpoint is half written."""
        started, limit = time.monotonic(), rng.uniform(0, self.seconds)
        if self.kind == "checkpoint":
            wanted = rng.randrange(1, 9)
            folder = self.folder / "checkpoint"
            _until(lambda: self._rounds() >= wanted and any(folder.glob(".*.tmp")), self.seconds)
        elif self.kind in RAY:
            _until(lambda: self._rounds() >= 2, 120)
            time.sleep(rng.uniform(0, 1))
        else:
            time.sleep(limit)
        return round(time.monotonic() - started, 3)

    def _victims(self, run: "subprocess.Popen[bytes] | int") -> list[int]:
        own = run if isinstance(run, int) else run.pid
        wanted = RAY.get(self.kind)
        return [own] if not wanted else _marked(str(self.scratch), wanted)[:1]

    def _wait(self, run: "subprocess.Popen[bytes] | int", *, any_code: bool = False) -> None:
        code = os.waitstatus_to_exitcode(os.waitpid(run, 0)[1]) if isinstance(run, int) else run.wait()
        assert any_code or code == 0, (self.scratch / "log").read_text()[-2000:]
        _until(lambda: not _marked(str(self.scratch), ""), 60)

    def _runs(self) -> list[Path]:
        return sorted((self.folder / "runs").glob("[!.]*")) if self.kind == "study" else [self.folder]

    def _exists(self) -> bool:
        name = "study.toml" if self.kind == "study" else "config.toml"
        return (self.folder / name).exists()

    def _rounds(self) -> int:
        ledgers = self.folder.rglob("epochs.jsonl" if self.kind == "train" else "rounds.jsonl")
        return sum(ledger.read_bytes().count(b"\n") for ledger in ledgers)

    def _results(self) -> str:
        """Hash the tensors and rows of a finished run; a text for one that is not."""
        digest = hashlib.sha256()
        try:
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


def _forked(kind: str, config: Path, folder: Path, log: Path, environment: dict[str, str]) -> int:
    """Run or resume in a fork of this process, which has the libraries loaded; returns its process id."""
    from fedfmd.central import World, open_training, start_training, train
    from fedfmd.config.experiment import load_config
    from fedfmd.records.rundir import RunDirectory
    from fedfmd.rounds.inline import InlineExecutor
    from fedfmd.rounds.lifecycle import execute, start_run

    process = os.fork()
    if process:
        return process
    code = 1
    try:
        os.environ.update(environment)
        with log.open("ab") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        there = folder.exists()
        if kind == "train":
            training = (
                open_training(folder) if there else start_training(load_config(config), folder, World())
            )
            train(training, World(), lambda *_: None, lambda *_: None)
        else:
            execute(
                RunDirectory.open(folder) if there else start_run(load_config(config), folder), InlineExecutor
            )
        code = 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


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


def _until(condition: Callable[[], object], seconds: float) -> None:
    limit = time.monotonic() + seconds
    while not condition() and time.monotonic() < limit:
        time.sleep(0.002)


if __name__ == "__main__":
    main()
