"""Seconds and memory until there is something to see: commands, and the first round of the quickstart.

    python benchmarks/start.py                       into benchmarks/figures/start.json

Every command runs in a fresh process, all of them in turn, `--repeats` times; figures are medians, and
ratios are to `import torch` of the same run, so that a busy or slower machine changes them less. A first
round counts from the start of the command until its row is in the ledger. Memory until then is the sum of
the proportional set sizes (PSS) of all processes of the command, at its peak.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from engine import MARKER, PeakMemory

ROOT = Path(__file__).parents[1]
FIGURES = Path(__file__).parent / "figures" / "start.json"
QUICKSTART = str(ROOT / "configs" / "quickstart.toml")
UNIT = "import torch"
PYTHON = [sys.executable, "-P"]
COMMANDS = {
    UNIT: [*PYTHON, "-c", "import torch"],
    "import fedfmd": [*PYTHON, "-c", "import fedfmd"],
    "fedfmd --help": [*PYTHON, "-m", "fedfmd", "--help"],
    "fedfmd data inspect": [*PYTHON, "-m", "fedfmd", "data", "inspect", QUICKSTART],
}
FIRST_ROUNDS = {
    "first round, inline": ["--backend", "inline"],
    "first round, inline, 2 workers": ["--backend", "inline", "--workers", "2"],
    "first round, Ray, 2 workers": ["--backend", "ray", "--workers", "2"],
}


def measure(name: str, folder: Path) -> dict[str, Any]:
    """Run one command in an empty folder; gives its seconds and peak memory."""
    if name in COMMANDS:
        return _timed(COMMANDS[name], folder, None)
    command = [*PYTHON, "-m", "fedfmd", "simulate", QUICKSTART, "--rounds", "1", "--out", "run"]
    return _timed([*command, *FIRST_ROUNDS[name]], folder, folder / "run" / "rounds.jsonl")


def _timed(command: list[str], folder: Path, ledger: Path | None) -> dict[str, Any]:
    marker = uuid.uuid4().hex
    environment = {
        **os.environ,
        MARKER: marker,
        "FEDFMD_CACHE": str(folder.parent / "cache"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    memory = PeakMemory(marker)
    memory.start()
    started = time.perf_counter()
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None and not (ledger and _rounds(ledger) >= 2):
            time.sleep(0.005)
        seconds = time.perf_counter() - started
        memory.done.set()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}")
    return {"seconds": seconds, "peak_memory_bytes": memory.peak_bytes}


def _rounds(ledger: Path) -> int:
    return ledger.read_bytes().count(b"\n") if ledger.exists() else 0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    names = [*COMMANDS, *FIRST_ROUNDS]
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as root:
        for turn in range(repeats + 1):  # the first one fills caches
            for name in names:
                folder = Path(root) / "work"
                folder.mkdir()
                result = measure(name, folder)
                shutil.rmtree(folder)
                found[name] += [result] if turn else []
    unit = statistics.median(one["seconds"] for one in found[UNIT])
    results = []
    for name, turns in found.items():
        seconds = statistics.median(one["seconds"] for one in turns)
        peak = statistics.median(one["peak_memory_bytes"] for one in turns)
        fastest = min(one["seconds"] for one in turns)
        results.append(
            {
                "what": name,
                "seconds": seconds,
                "fastest": fastest,
                "of_torch": seconds / unit,
                "peak_memory_bytes": peak,
            }
        )
        print(
            f"{name:34}{seconds:8.2f} s {fastest:8.2f} s{seconds / unit:8.2f}{peak / 1e9:8.2f} GB", flush=True
        )
    from fedfmd.machine.environment import describe_environment

    document = {"environment": describe_environment(), "load": os.getloadavg(), "results": results}
    FIGURES.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
