"""Processor seconds of reports: many clients, many rounds, a study of many runs.

    python benchmarks/reports.py                     into benchmarks/figures/reports.json

The ledgers are made up (`tests/pages/synthetic_run.py`). Each case runs in a fresh process: reading, the
page with its tables, then the print figures (PDF, SVG and PNG), in seconds of processor time, and as ratios
to that of `import torch` measured in the same run.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
FIGURES = Path(__file__).parent / "figures" / "reports.json"
SEEDS = 50
STUDY = f"""name = "reports"
seeds = {list(range(SEEDS))}
arms = [{{ name = "a" }}, {{ name = "b" }}, {{ name = "c" }}, {{ name = "d" }}]
[experiment]
"""
Parts = dict[str, float]


def timed(part: Callable[[], object]) -> float:
    started = time.process_time()
    part()
    return time.process_time() - started


def one_run(clients: int, cohort: int, rounds: int, folder: Path) -> Parts:
    from synthetic_run import Made, write_run

    from fedfmd.pages.run.figures import write_figures
    from fedfmd.pages.run.page import render_page
    from fedfmd.pages.run.tables import write_tables
    from fedfmd.results.runs import load_run

    write_run(folder / "run", Made(clients=clients, cohort=cohort, rounds=rounds))
    reading = timed(lambda: load_run(folder / "run"))
    runs = [load_run(folder / "run")]
    page = timed(lambda: (render_page(runs), write_tables(runs, folder / "tables")))
    return {
        "reading": reading,
        "page": page,
        "figures": timed(lambda: write_figures(runs, folder / "figures")),
    }


def many_runs(folder: Path) -> Parts:
    from synthetic_run import Made, write_run

    from fedfmd.api import StudyResult
    from fedfmd.pages.study.output import write_study
    from fedfmd.studies.plan import load_study
    from fedfmd.studies.runner import RunOutcome

    (folder / "study.toml").write_text(STUDY)
    study = load_study(folder / "study.toml")
    for run in study.runs:
        made = Made(name=run.folder, clients=20, cohort=5, rounds=20, seed=run.seed, ceiling=0.8)
        write_run(folder / "runs" / run.folder, made)
    outcomes = tuple(RunOutcome(run.arm, run.seed, run.folder, "kept") for run in study.runs)
    report = timed(lambda: write_study(study, folder, outcomes))
    return {"report": report, "table": timed(lambda: StudyResult(folder, outcomes).table)}


CASES: dict[str, Callable[[Path], Parts]] = {
    "1000 clients, 10 rounds": lambda folder: one_run(1000, 1000, 10, folder),
    "100 clients, 1000 rounds": lambda folder: one_run(100, 100, 1000, folder),
    "100,000 clients, 5 rounds of 1000": lambda folder: one_run(100_000, 1000, 5, folder),
    "study of 200 runs": many_runs,
}


def measure(name: str) -> None:
    """Print the parts of one case as JSON."""
    sys.path.insert(0, str(ROOT / "tests" / "pages"))
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(CASES[name](Path(folder))))


def fresh(*arguments: str) -> Parts:
    """Measure in a process of its own."""
    command = [sys.executable, str(Path(__file__)), *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: Parts = json.loads(done.stdout)
    return found


def main() -> None:
    unit = fresh("import torch")["import torch"]
    results = []
    for name in CASES:
        parts = fresh(name)
        results.append({"what": name, "seconds": parts, "of_torch": {k: v / unit for k, v in parts.items()}})
        print(f"{name:36}", *(f"{part} {seconds:.2f} s," for part, seconds in parts.items()), flush=True)
    from fedfmd.machine.environment import describe_environment

    document = {
        "environment": describe_environment(),
        "load": os.getloadavg(),
        "import_torch_seconds": unit,
        "results": results,
    }
    FIGURES.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:] == ["import torch"]:
        print(json.dumps({"import torch": timed(lambda: __import__("torch"))}))
    elif sys.argv[1:]:
        measure(sys.argv[1])
    else:
        main()
