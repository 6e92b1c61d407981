"""Keep what a run or a study leaves, small enough for a repository.

Of a run: `summary.json`, `rounds.jsonl`, and compressed, clients and what they measured; of a study: its
file, its tables and its runs. Models, checkpoints, partitions and pages stay where they are: config and seed
make them again.

    python benchmarks/keep.py studies/clients docs/results/data/study-clients
"""

import argparse
import gzip
import shutil
from pathlib import Path

LARGEST_BYTES = 300_000
"""Of a compressed file: tens of thousands of client rows say little that the rounds do not."""


def keep_run(folder: Path, kept: Path) -> None:
    """Copy summary and rounds of a run directory, and its clients' rows compressed."""
    kept.mkdir(parents=True, exist_ok=True)
    shutil.copy(folder / "summary.json", kept)
    shutil.copy(folder / "rounds.jsonl", kept)
    _compress(folder / "clients.jsonl", kept)
    _compress(folder / "evaluations.jsonl", kept)


def keep_study(folder: Path, kept: Path) -> None:
    """Copy a study's file and tables, and of each finished run the summary and, compressed, the rows."""
    kept.mkdir(parents=True, exist_ok=True)
    shutil.copy(folder / "study.toml", kept)
    for table in sorted((folder / "tables").glob("*.csv")):
        shutil.copy(table, kept)
    for summary in sorted((folder / "runs").glob("*/summary.json")):
        place = kept / summary.parent.name
        place.mkdir(exist_ok=True)
        shutil.copy(summary, place)
        for rows in ("rounds", "clients", "evaluations"):
            _compress(summary.with_name(f"{rows}.jsonl"), place)


def _compress(file: Path, place: Path) -> None:
    """Write FILE.gz, the same bytes for the same content; nothing for what is empty or stays too large."""
    content = gzip.compress(file.read_bytes(), mtime=0) if file.stat().st_size else b""
    if 0 < len(content) <= LARGEST_BYTES:
        (place / f"{file.name}.gz").write_bytes(content)


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="run directory, or folder of a study")
    parser.add_argument("kept", type=Path, help="folder to write")
    arguments = parser.parse_args()
    keep = keep_study if (arguments.folder / "study.toml").is_file() else keep_run
    keep(arguments.folder, arguments.kept)


if __name__ == "__main__":
    main()
