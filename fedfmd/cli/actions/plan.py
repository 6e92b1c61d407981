"""What ``fedfmd plan`` does once its arguments are read."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.table import Table

from fedfmd.config.documents import read_toml
from fedfmd.config.experiment import CENTRAL_ALONE, check_asked, config_in, is_study
from fedfmd.config.values import LARGEST
from fedfmd.costs.conventions import TRAINING_MACS_PER_FORWARD
from fedfmd.errors import UserError
from fedfmd.experiment import Experiment
from fedfmd.pages.study.looks import Looks
from fedfmd.profiling.measure import measure_seconds
from fedfmd.profiling.variants import Task
from fedfmd.results.question import roles
from fedfmd.rounds.forecast import Forecast, forecast, opened
from fedfmd.studies.plan import PlannedRun, Study, study_in
from fedfmd.studies.runner import places
from fedfmd.studies.search import SearchPlan, check_search, early_words, plan_search
from fedfmd.terminal.consoles import PlainConsole
from fedfmd.terminal.forecast import policies_table, tiers_table, totals_table, wall_text
from fedfmd.terminal.whole import print_words
from fedfmd.units import counted, percent, quantity

REPEATS = 3
FASTEST, SLOWEST = 0.8, 2.5
"""Of the time that the measured rate says: what a run loses to small parts, loading and other work here."""
START_SECONDS = (3.0, 20.0)
"""Imports, and on Ray its start."""
MOST_FORECASTS = 100
"""Runs of a study that are forecast: every arm, with its first seeds."""
COSTS = {"macs": "MAC", "bytes": "B", "device_seconds": "s", "energy_joules": "J"}

UNKNOWN = {
    "device_seconds": "give it [devices]",
    "energy_joules": "give it [devices], each with a power: compute_watts, or a profile's",
}
"""What a run lacks whose cost is not known, by cost."""


def plan_shown(
    console: PlainConsole, file: Path, overrides: Sequence[str], until: str | None, measure: bool
) -> None:
    """Say what an experiment, or each arm of a study, will do and cost; raises ``UserError`` as a run."""
    cost, limit = _until(until)
    document = read_toml(file, "config file")
    if is_study(document):
        if cost:
            raise UserError(f"--until {until}: is of one experiment, and {file} is a study")
        study = study_in(file, document, overrides)
        check_search(study)
        _study(console, study, measure)
        return
    check_asked(overrides, CENTRAL_ALONE, "fedfmd train")
    with opened(config_in(file, document, overrides)) as experiment:
        found = forecast(experiment)
        if cost and getattr(found.totals, cost) is None:
            raise UserError(f"--until {until}: {cost} of this run are not known; {UNKNOWN[cost]}")
        rate = _macs_per_second(experiment) if measure else None
    print_words(console, tiers_table(found), policies_table(found), totals_table(found, _wall(found, rate)))
    if cost:
        rounds = found.rounds_within(cost, limit)
        console.say(f"{quantity(limit, COSTS[cost])} in all: enough for about {counted(rounds, 'round')}")
    if found.dead_end:
        console.say(f"warning: {found.dead_end}")
    for note in found.notes:
        console.say(f"note: {note}")


def _until(until: str | None) -> tuple[str, float]:
    if until is None:
        return "", 0.0
    cost, _, text = until.partition("=")
    try:
        limit = float(text.replace("_", ""))
    except ValueError:
        limit = 0.0
    if cost not in COSTS or not 0 < limit <= LARGEST:
        raise UserError(
            f"--until {until}: must look like COST=NUMBER, with one of {', '.join(COSTS)}: macs=100e9"
        )
    return cost, limit


@dataclass(frozen=True)
class _Foreseen:
    """What is known of a run before it runs."""

    run: PlannedRun
    forecast: Forecast
    wall: tuple[float, float] | None


def _study(console: PlainConsole, study: Study, measure: bool) -> None:
    seeds = study.config.seeds[: max(1, MOST_FORECASTS // len(study.arms))]
    found = _foresee([run for run in study.runs if run.seed in seeds], measure)
    looks = Looks(study.design, roles(study.design, study.config.figure), study.config.figure.labels)
    print_words(console, _arms_table(study, seeds, found, looks))
    search = plan_search(study, {arm: runs[0].forecast.totals.macs for arm, runs in found.items()})
    for line in (
        *(f"note: {note}" for note in study.notes),
        *_dead_ends(found, looks),
        *(_search_words(search, study) if search else ()),
        *(_wall_words(study, seeds, found, search) if measure else ()),
    ):
        console.say(line)


def _arms_table(
    study: Study, seeds: Sequence[int], found: Mapping[str, Sequence[_Foreseen]], looks: Looks
) -> Table:
    """Lay out what a run of each arm costs."""
    by = f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
    title = f"{study.name}: a run of each arm, by {by}, of {counted(len(study.runs), 'run')} in all"
    spans = "A to B: from seed to seed; the time is an estimate." if len(seeds) > 1 else None
    table = Table(title=title, caption=spans)
    table.add_column("Arm")
    for name in ("MACs", "Bytes", "Left out per round", "Work of the limited", "Time here"):
        table.add_column(name, justify="right")
    for arm, runs in found.items():
        totals = [one.forecast.totals for one in runs]
        walls = [one.wall for one in runs if one.wall]
        table.add_row(
            looks.arm(arm),
            _span([total.macs for total in totals], lambda value: quantity(value, "MAC")),
            _span([total.bytes for total in totals], lambda value: quantity(value, "B")),
            _span([total.left_out for total in totals], "{:.1f}".format),
            _span([min(t.policies[0].macs_share for t in one.forecast.tiers) for one in runs], percent),
            wall_text((min(w[0] for w in walls), max(w[1] for w in walls)) if walls else None),
        )
    return table


def _dead_ends(found: Mapping[str, Sequence[_Foreseen]], looks: Looks) -> Iterator[str]:
    """Warn of arms some of whose runs cannot come through their first round."""
    for arm, runs in found.items():
        if dead := [one for one in runs if one.forecast.dead_end]:
            seeds = ", ".join(f"seed {one.run.seed}" for one in dead)
            yield f"warning: {looks.arm(arm)}, {seeds}: {dead[0].forecast.dead_end}"


def _wall_words(
    study: Study, seeds: Sequence[int], found: Mapping[str, Sequence[_Foreseen]], search: SearchPlan | None
) -> Iterator[str]:
    """Say how long all runs take here, and the search before them, by those of some of the seeds."""
    (jobs, _), each = places(study, None), len(study.config.seeds) / len(seeds)
    known = [(one, one.wall) for runs in found.values() for one in runs if one.wall]
    low, high = (each * sum(wall[end] for _, wall in known) / jobs for end in (0, 1))
    yield f"all runs, {jobs} at a time: {wall_text((low, high))}"
    macs = each * sum(one.forecast.totals.macs for one, _ in known)
    if search and macs:
        share = search.macs / macs
        yield f"the search before them: {wall_text((share * low, share * high))}"


def _search_words(search: SearchPlan, study: Study) -> list[str]:
    """Say what a search will do and cost."""
    rungs = [
        f"{size} candidates for {_span(rounds, str)} rounds"
        for size, rounds in zip(search.sizes, zip(*search.rounds.values(), strict=True), strict=True)
    ]
    arms = counted(len(search.arms), "arm")
    cost = quantity(search.macs, "MAC")
    whole = {run.arm: run.config.server.rounds for run in study.runs}
    lengths = ((rounds[-1], whole[arm]) for arm, rounds in search.rounds.items())
    return [f"search: {arms}, each with {', then '.join(rungs)}; {cost} in all", *early_words(lengths)]


def _foresee(runs: Sequence[PlannedRun], measure: bool) -> dict[str, list[_Foreseen]]:
    """Forecast runs, by arm; an arm's speed here is measured once."""
    found: dict[str, list[_Foreseen]] = {}
    rates: dict[str, tuple[float, float]] = {}
    for run in runs:
        with opened(run.config) as experiment:
            if measure and run.arm not in rates:
                rates[run.arm] = _macs_per_second(experiment)
            known = forecast(experiment, policies=False)
        found.setdefault(run.arm, []).append(_Foreseen(run, known, _wall(known, rates.get(run.arm))))
    return found


def _span(values: Sequence[float], words: Callable[[float], str]) -> str:
    """Write the least and the largest of some values; one where they read alike."""
    return " to ".join(dict.fromkeys((words(min(values)), words(max(values)))))


def _macs_per_second(experiment: Experiment) -> tuple[float, float]:
    """Measure training and inference of the whole network here, as one worker does them."""
    config, data = experiment.config, experiment.dataset
    torch.set_num_threads(config.backend.threads)
    task = Task(input_shape=data.input_shape, num_classes=data.num_classes)
    size = config.client.batch_size
    (seconds,) = measure_seconds([config.model], task, size, repeats=REPEATS, device=torch.device("cpu"))
    forward = experiment.network.cost.forward_macs * size
    return TRAINING_MACS_PER_FORWARD * forward / seconds.train_step, forward / seconds.inference


def _wall(found: Forecast, rate: tuple[float, float] | None) -> tuple[float, float] | None:
    if rate is None:
        return None
    workers = found.config.backend.workers or 1
    work = found.totals.macs / rate[0] / workers + found.totals.evaluation_macs / rate[1]
    return START_SECONDS[0] + FASTEST * work, START_SECONDS[1] + SLOWEST * work
