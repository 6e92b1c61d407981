"""Runs that answer published figures: list them, make one, or print the table of those that were made.

    python benchmarks/reproduce.py                                    what there is, its time and needs
    python benchmarks/reproduce.py t1-cifar10-iid-fedavg --seed 0 --set data.root=cifar10 --backend inline
    python benchmarks/reproduce.py --table                            Markdown, from docs/results/data

Runs stand in benchmarks/reproductions.toml. What follows a name and ``--seed`` goes to ``fedfmd simulate``;
the run directory is runs/NAME-seedN, and a run that was stopped goes on when it is asked for again. What a
finished one leaves, summary, rounds and clients, is kept in docs/results/data, unless other keys have
changed it.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keep import keep_run, other_keys

from fedfmd.config.experiment import load_config
from fedfmd.rounds.lifecycle import resolve

HERE = Path(__file__).resolve().parent.parent
CONFIGS = HERE / "configs/reproduce"
KEPT = HERE / "docs/results/data"


@dataclass(frozen=True)
class Run:
    """A run of one or several seeds and the top-1 in percent that was published."""

    name: str
    table: str
    config: str
    published: float
    seeds: list[int]
    set: dict[str, Any] = field(default_factory=dict)
    hours: float | None = None
    """Of one core, for one seed; None where a GPU is needed."""

    def kept(self, seed: int) -> Path:
        """Return where what is left of a finished run stands."""
        return KEPT / f"{self.name}-seed{seed}"

    def top1(self) -> list[float]:
        """Return the final top-1, in percent, of every seed that was run to its end."""
        summaries = [self.kept(seed) / "summary.json" for seed in self.seeds]
        return [100 * json.loads(file.read_text())["final_top1"] for file in summaries if file.is_file()]


def read_runs() -> tuple[dict[str, dict[str, str]], list[Run]]:
    """Return the tables by name, each with its source and needs, and their runs."""
    document = tomllib.loads((HERE / "benchmarks/reproductions.toml").read_text())
    return document["tables"], [Run(**entry) for entry in document["runs"]]


def listing() -> str:
    """Return what there is to run: name, seeds, hours, what was made; by table with its source and needs."""
    tables, runs = read_runs()
    lines = []
    for table, about in tables.items():
        lines += [f"\n{about['source']}", f"needs {about['needs']}", ""]
        for run in (run for run in runs if run.table == table):
            time = "a GPU" if run.hours is None else f"{run.hours} h a seed"
            made = f"{len(run.top1())} of {len(run.seeds)} seeds made"
            lines.append(f"  {run.name:36}{run.published:5.1f} %  {time:13}{made}")
    return "\n".join(lines)


def table() -> str:
    """Return a Markdown table of all runs that were made, beside what was published."""
    lines = ["| run | seeds | top-1 (%) | published | difference |", "| --- | ---: | ---: | ---: | ---: |"]
    for run in read_runs()[1]:
        if top1 := run.top1():
            mean = statistics.fmean(top1)
            spread = f" ± {statistics.stdev(top1):.2f}" if len(top1) > 1 else ""
            lines.append(
                f"| {run.name} | {len(top1)} | {mean:.2f}{spread} | {run.published:.1f} "
                f"| {round(mean - run.published, 1) + 0.0:+.1f} |"
            )
    return "\n".join(lines)


def make(run: Run, seed: int, options: list[str]) -> None:
    """Make or continue a run, and keep what it leaves; raise ``CalledProcessError`` if it fails."""
    folder = Path("runs") / f"{run.name}-seed{seed}"
    if folder.is_dir():
        arguments = ["--resume", str(folder)]
    else:
        keys = {**run.set, "seed": seed, "name": folder.name, "server.checkpoint_every": 1}
        sets = [word for key, value in keys.items() for word in ("--set", f"{key}={json.dumps(value)}")]
        arguments = [str(CONFIGS / run.config), *sets, "--out", str(folder), *options]
    if not (folder / "summary.json").is_file():
        subprocess.run([sys.executable, "-m", "fedfmd", "simulate", *arguments], check=True)
    if differing := not_as_published(run, seed, folder):
        print(f"{folder} is not kept: it is a run with {differing}, of which nothing was published")
    else:
        keep_run(folder, run.kept(seed))


def not_as_published(run: Run, seed: int, folder: Path) -> str:
    """Return the keys in which a run directory is not the run, but for where its images are."""
    made = load_config(folder / "config.toml")
    own = {"seed": seed, "data.name": made.data.name, "data.root": made.data.root}
    asked = resolve(load_config(CONFIGS / run.config, {**run.set, **own}))
    return other_keys(made, asked)


def main() -> None:
    """Do what the command line says."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    runs = {run.name: run for run in read_runs()[1]}
    arguments.add_argument("name", nargs="?", choices=runs, metavar="NAME")
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--table", action="store_true", help="print the table of what was made")
    chosen, options = arguments.parse_known_args()
    if chosen.name:
        try:
            make(runs[chosen.name], chosen.seed, options)
        except subprocess.CalledProcessError as error:
            sys.exit(error.returncode)
    print(table() if chosen.table or chosen.name else listing())


if __name__ == "__main__":
    main()
