"""What ``fedfmd plan`` does once its arguments are read."""

from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fedfmd.config.documents import read_toml
from fedfmd.config.experiment import load_config
from fedfmd.config.study import is_study
from fedfmd.costs.conventions import TRAINING_MACS_PER_FORWARD
from fedfmd.errors import UserError
from fedfmd.experiment import Experiment
from fedfmd.machine.processes import available_cores
from fedfmd.pages.study.looks import Looks
from fedfmd.profiling.measure import measure_seconds
from fedfmd.profiling.variants import Task
from fedfmd.results.question import roles
from fedfmd.rounds.forecast import Forecast, forecast, opened
from fedfmd.studies.plan import PlannedRun, Study, load_study
from fedfmd.studies.search import check_search
from fedfmd.terminal.forecast import policies_table, tiers_table, totals_table, wall_text
from fedfmd.units import percent, quantity

REPEATS = 3
FASTEST, SLOWEST = 0.8, 2.5
"""Of the time that the measured rate says: what a run loses to small parts, loading and other work here."""
START_SECONDS = (3.0, 20.0)
"""Imports, and on Ray its start."""
COSTS = {"macs": "MAC", "bytes": "B", "device_seconds": "s"}


def plan_shown(
    console: Console, file: Path, overrides: Sequence[str], until: str | None, measure: bool
) -> None:
    """Say what an experiment, or each arm of a study, will do and cost; raises ``UserError`` as a run."""
    if is_study(read_toml(file, "config file")):
        if overrides:
            raise UserError(f"--set {overrides[0]}: a study's arms set keys; change {file}")
        study = load_study(file)
        check_search(study)
        _study(console, study, measure)
        return
    cost, limit = _until(until)
    with opened(load_config(file, overrides)) as experiment:
        found = forecast(experiment)
        rate = _macs_per_second(experiment) if measure else None
    for table in (tiers_table(found), policies_table(found)):
        console.print(table)
    console.print(totals_table(found, _wall(found, rate)))
    if cost:
        rounds = found.rounds_within(cost, limit)
        console.print(
            f"{quantity(limit, COSTS[cost])} in all: enough for about {rounds} rounds", highlight=False
        )
    for note in found.notes:
        console.print(f"note: {escape(note)}", highlight=False, soft_wrap=True)


def _until(until: str | None) -> tuple[str, float]:
    if until is None:
        return "", 0.0
    cost, _, text = until.partition("=")
    try:
        limit = float(text.replace("_", ""))
    except ValueError:
        limit = 0.0
    if cost not in COSTS or not limit > 0:
        raise UserError(
            f"--until {until}: must look like COST=NUMBER, with one of {', '.join(COSTS)}: macs=100e9"
        )
    return cost, limit


def _study(console: Console, study: Study, measure: bool) -> None:
    first = {run.arm: run for run in reversed(study.runs)}
    table = Table(title=f"{study.name}: one run of each arm, of {len(study.runs)} runs in all")
    looks = Looks(study.design, roles(study.design, study.config.figure), study.config.figure.labels)
    table.add_column("Arm")
    for name in ("MACs", "Bytes", "Left out per round", "Work of the limited", "Time here"):
        table.add_column(name, justify="right")
    low = high = 0.0
    for arm in study.arms:
        found, wall = _arm(first[arm.name], measure)
        seeds = len(study.config.seeds)
        low, high = low + seeds * (wall or (0, 0))[0], high + seeds * (wall or (0, 0))[1]
        least = min(tier.given[0].macs_share for tier in found.tiers)
        table.add_row(
            escape(looks.arm(arm.name)),
            quantity(found.totals.macs, "MAC"),
            quantity(found.totals.bytes, "B"),
            f"{found.totals.left_out:.1f}",
            percent(least),
            wall_text(wall),
        )
    console.print(table)
    for note in study.notes:
        console.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)
    if measure:
        jobs = min(available_cores(), len(study.runs))
        console.print(f"all runs, {jobs} at a time: {wall_text((low / jobs, high / jobs))}", highlight=False)


def _arm(run: PlannedRun, measure: bool) -> tuple[Forecast, tuple[float, float] | None]:
    with opened(run.config) as experiment:
        found = forecast(experiment, policies=False)
        return found, _wall(found, _macs_per_second(experiment) if measure else None)


def _macs_per_second(experiment: Experiment) -> tuple[float, float]:
    """Measure training and inference of the whole network here, as one worker does them."""
    config, data = experiment.config, experiment.dataset
    torch.set_num_threads(config.backend.threads)
    task = Task(input_shape=data.input_shape, num_classes=data.num_classes)
    size = config.client.batch_size
    (seconds,) = measure_seconds([config.model], task, size, repeats=REPEATS, device=torch.device("cpu"))
    forward = experiment.model_cost.forward_macs * size
    return TRAINING_MACS_PER_FORWARD * forward / seconds.train_step, forward / seconds.inference


def _wall(found: Forecast, rate: tuple[float, float] | None) -> tuple[float, float] | None:
    if rate is None:
        return None
    workers = found.config.backend.workers or 1
    work = found.totals.macs / rate[0] / workers + found.totals.evaluation_macs / rate[1]
    return START_SECONDS[0] + FASTEST * work, START_SECONDS[1] + SLOWEST * work
