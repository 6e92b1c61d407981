"""Keep what a run or a study leaves, small enough for a repository.

Of a run: `summary.json`, its rounds or epochs, and compressed, clients and what they measured; of a study:
its file, its tables and its runs. Models, checkpoints, partitions and pages stay where they are: config and
seed make them again.

    python benchmarks/keep.py studies/clients docs/results/data/study-clients
"""

import argparse
import gzip
import shutil
from pathlib import Path

from fedfmd.config.experiment import ExperimentConfig, changed_keys
from fedfmd.config.fingerprint import config_sha256

LARGEST_BYTES = 300_000
"""Of a compressed file of a study: tens of thousands of client rows say little that the rounds do not."""


def other_keys(made: ExperimentConfig, asked: ExperimentConfig) -> str:
    """Return in words the keys in which a run is not the one asked for; names and workers aside."""
    asked = asked.model_copy(update={"name": made.name, "backend": made.backend})
    changes = changed_keys(asked, made).items() if config_sha256(made) != config_sha256(asked) else ()
    return ", ".join(f"{key} = {now}" for key, (_, now) in changes)


def keep_run(folder: Path, kept: Path) -> None:
    """Copy summary and rounds, or epochs, of a run directory, and its clients' rows compressed."""
    kept.mkdir(parents=True, exist_ok=True)
    for name in ("summary.json", "rounds.jsonl", "epochs.jsonl"):
        if (folder / name).is_file():
            shutil.copy(folder / name, kept)
    for name in ("clients.jsonl", "evaluations.jsonl"):
        if (folder / name).is_file():
            _write(kept / f"{name}.gz", _compressed(folder / name))


def keep_study(folder: Path, kept: Path) -> None:
    """Copy a study's file and tables, and of each finished run the summary and, compressed, the rows."""
    kept.mkdir(parents=True, exist_ok=True)
    for file in (folder / "study.toml", *sorted((folder / "tables").glob("*.csv"))):
        shutil.copy(file, kept)
    for summary in sorted((folder / "runs").glob("*/summary.json")):
        place = kept / summary.parent.name
        place.mkdir(exist_ok=True)
        shutil.copy(summary, place)
        for name in ("rounds.jsonl", "clients.jsonl", "evaluations.jsonl"):
            content = _compressed(summary.with_name(name))
            if len(content) > LARGEST_BYTES:
                print(f"left out: {summary.with_name(name)}, {len(content):,} bytes when compressed")
            else:
                _write(place / f"{name}.gz", content)


def _compressed(file: Path) -> bytes:
    """Compress a file, the same bytes for the same content; nothing where it is empty."""
    content = file.read_bytes()
    return gzip.compress(content, mtime=0) if content else b""


def _write(file: Path, content: bytes) -> None:
    if content:
        file.write_bytes(content)


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
