"""Search: the same tuning allowance for every arm, spent by synchronous successive halving.

A fixed, seeded list of candidates is tried for a part of a run, the better part of them for longer, and so on
(Jamieson and Talwalkar 2016). A rung is an amount of training MACs, the same for every arm, so that an arm
whose rounds are dearer gets fewer of them. All rungs are prefixes of one horizon: schedules are those of the
whole run, and a candidate goes on by more rounds. It is judged by validation images alone.

- A rung is done when all its candidates are, so that neither workers nor kills change who goes on.
- The better of two has the higher validation top-1, then the lower validation loss, then the earlier place.
- A candidate that diverged or failed comes last, and is never chosen.
"""

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fedfmd.config.conditions import applied
from fedfmd.config.documents import Keys
from fedfmd.config.experiment import ExperimentConfig, changed
from fedfmd.config.study import SearchConfig
from fedfmd.errors import UserError
from fedfmd.files import write_atomic
from fedfmd.records import filenames
from fedfmd.records.documents import RunSummary
from fedfmd.records.jsonfiles import read_document, write_document
from fedfmd.records.rows import RoundRow
from fedfmd.records.schema import Number
from fedfmd.results.runs import number as finite
from fedfmd.results.runs import salvaged_document, salvaged_rows
from fedfmd.results.summary import spent
from fedfmd.rounds.forecast import forecast, opened
from fedfmd.seeds import numpy_rng
from fedfmd.studies.arms import Arm
from fedfmd.studies.plan import PlannedRun, Study
from fedfmd.studies.runner import RunOutcome, check_runs, results_keys, run_folder

Runner = Callable[[Study], Sequence[RunOutcome]]
"""Brings the runs of a study to their end."""


@dataclass(frozen=True)
class Tried:
    """One candidate of one arm on one rung."""

    arm: str
    candidate: int
    keys: Keys
    rung: int
    rounds: int
    validation_top1: Number
    """Absent for a candidate that diverged or failed."""
    validation_loss: Number
    macs: Number
    """Training compute of the candidate up to here."""
    folder: str


@dataclass(frozen=True)
class Tuning:
    """What the search found for an arm."""

    arm: str
    chosen: Keys | None
    """Null where every candidate diverged or failed."""
    tried: tuple[Tried, ...]
    macs: float
    """What the search cost, all candidates together."""
    edges: tuple[str, ...]
    """Keys whose chosen value is the least or the largest of its list: the best may lie beyond."""
    judged_rounds: int
    """After which the last candidates were compared."""
    run_rounds: int
    """Of a run that has what was chosen."""


@dataclass(frozen=True)
class SearchPlan:
    """What a search will do."""

    arms: Mapping[str, Sequence[str]]
    """Those that are searched for, each with those that take over what it finds."""
    sizes: tuple[int, ...]
    """Candidates of an arm on each rung."""
    rounds: Mapping[str, tuple[int, ...]]
    """By arm, those of the candidates on each rung."""
    macs: float
    """Training compute of all candidates."""


EARLY = 1 / 2
"""Of a run's rounds, below which what a search finds is called early."""


@dataclass(frozen=True)
class Ladder:
    """How many candidates a rung has, and its share of the last one's MACs."""

    sizes: tuple[int, ...]
    shares: tuple[float, ...]

    @property
    def cost(self) -> float:
        """What all rungs take, in units of the last one's MACs for one candidate."""
        steps = zip(self.sizes, itertools.pairwise((0.0, *self.shares)), strict=True)
        return sum(size * (now - before) for size, (before, now) in steps)


def ladder(candidates: int, halving: int) -> Ladder:
    """Return the rungs from all candidates to the last two or more, each ``halving`` times as long."""
    sizes = [candidates]
    while (smaller := -(-sizes[-1] // halving)) > 1 and smaller < sizes[-1]:
        sizes.append(smaller)
    return Ladder(tuple(sizes), tuple(float(halving) ** (i + 1 - len(sizes)) for i in range(len(sizes))))


def candidates(search: SearchConfig) -> list[Keys]:
    """Return the candidates: all combinations of the values, or ``search.candidates`` of them, seeded."""
    every = [
        dict(zip(search.space, values, strict=True)) for values in itertools.product(*search.space.values())
    ]
    if len(every) <= search.candidates:
        return every
    drawn = numpy_rng(search.seed, "search").choice(len(every), search.candidates, replace=False)
    return [every[i] for i in sorted(drawn.tolist())]


def check_search(study: Study) -> None:
    """Raise ``UserError`` for candidates that no arm can have, and for a study without validation images."""
    search = study.config.search
    if search is None:
        return
    _representatives(study, search)
    for run in _first_runs(study).values():
        if not run.config.partition.validation:
            raise UserError(f"search: arm {run.arm!r}: needs partition.validation above 0, which chooses")
        for keys in candidates(search):
            _config(run, search, keys, 1)


def plan_search(study: Study, run_macs: Mapping[str, float] | None = None) -> SearchPlan | None:
    """Return what the search will do; null for a study without one.

    ``run_macs`` is the training compute of each arm's first run, where it is known already. A rung has the
    rounds that its MACs pay for, in whole evaluations of them.
    """
    search = study.config.search
    if search is None:
        return None
    steps = ladder(len(candidates(search)), search.halving)
    firsts = _first_runs(study)
    arms = _representatives(study, search)
    wholes = {arm: run_macs[arm] if run_macs else _run_macs(firsts[arm]) for arm in arms}
    costs = {arm: whole / firsts[arm].config.server.rounds for arm, whole in wholes.items()}
    last = search.macs / steps.cost if search.macs is not None else min(wholes.values())
    rounds = {arm: tuple(_rounds(firsts[arm].config, last, costs[arm], steps)) for arm in arms}
    macs = sum(
        costs[arm] * size * (now - before)
        for arm in arms
        for size, (before, now) in zip(steps.sizes, itertools.pairwise((0, *rounds[arm])), strict=True)
    )
    return SearchPlan(arms, steps.sizes, rounds, macs)


def _run_macs(run: PlannedRun) -> float:
    with opened(run.config) as experiment:
        return forecast(experiment, policies=False).totals.macs


def _kept_macs(study: Study, folder: Path) -> dict[str, float]:
    """Return the training compute of the run of each arm that is searched for.

    A forecast opens the images, so it is kept: a study that is finished is looked at where they are not.
    """
    search, firsts, file = study.config.search, _first_runs(study), folder / filenames.FORECASTS
    kept: dict[str, float] = {}
    with suppress(UserError):
        kept = {
            name: macs for name, value in read_document(file).items() if (macs := finite(value)) is not None
        }
    configs = {
        arm: _digest(firsts[arm].config) for arm in (_representatives(study, search) if search else ())
    }
    new = {name: _run_macs(firsts[arm]) for arm, name in configs.items() if name not in kept}
    if new:
        write_document(file, kept | new)
    return {arm: (kept | new)[name] for arm, name in configs.items()}


def _digest(config: ExperimentConfig) -> str:
    return hashlib.sha256(json.dumps(results_keys(config), sort_keys=True).encode()).hexdigest()


def find_best(study: Study, folder: Path, run_all: Runner) -> list[Tuning]:
    """Search for every arm and write ``search.json``; ``run_all`` runs a rung's candidates in ``folder``.

    Repeated when all of them are done, it only reads.
    """
    search, plan = study.config.search, plan_search(study, _kept_macs(study, folder))
    assert search is not None
    assert plan is not None
    arms, rungs, sizes = plan.arms, plan.rounds, plan.sizes
    tried: dict[str, list[Tried]] = {arm: [] for arm in arms}
    left = {arm: dict(enumerate(candidates(search))) for arm in arms}
    firsts = _first_runs(study)
    for rung in range(len(sizes)):
        planned = {
            (arm, number): _planned(firsts[arm], search, keys, number, rungs[arm][rung])
            for arm in arms
            for number, keys in left[arm].items()
        }
        run_all(replace(study, runs=tuple(planned.values())))
        for (arm, number), run in planned.items():
            tried[arm].append(_tried(arm, number, left[arm][number], rung, run, folder))
        for arm in arms:
            best = _ranked([one for one in tried[arm] if one.rung == rung])
            keep = sizes[rung + 1] if rung + 1 < len(sizes) else 1
            left[arm] = {one.candidate: one.keys for one in best[:keep]}
    found = {arm: _tuning(firsts[arm], tried[arm], search) for arm in arms}
    tunings = [replace(found[first], arm=arm) for first, members in arms.items() for arm in members]
    write_atomic(
        folder / filenames.TUNINGS, json.dumps([asdict(tuning) for tuning in tunings], indent=1) + "\n"
    )
    return tunings


def search_arms(
    study: Study, folder: Path, run_all: Callable[[Study, Path], list[RunOutcome]]
) -> tuple[Study, list[Tuning]]:
    """Search for every arm of a study in its ``folder``; returns the study with what was found.

    A study without a section ``search`` comes back as it is.
    """
    if study.config.search is None:
        return study, []
    place = folder / filenames.SEARCH

    def run_rung(rung: Study) -> list[RunOutcome]:
        check_runs(rung, place, but=("server.rounds",))
        return run_all(rung, place)

    place.mkdir(parents=True, exist_ok=True)
    tunings = find_best(study, place, run_rung)
    return tuned(study, tunings), tunings


def tuned(study: Study, tunings: Sequence[Tuning]) -> Study:
    """Return the study whose runs have what the search chose for their arms."""
    chosen = {tuning.arm: tuning.chosen or {} for tuning in tunings}
    runs = (replace(run, config=changed(applied(run.config), chosen[run.arm])) for run in study.runs)
    return replace(study, runs=tuple(runs))


def searches(tunings: Sequence[Tuning]) -> list[list[Tuning]]:
    """Group what was found for the arms by the search that found it, which arms alike may share."""
    shared: dict[tuple[str, ...], list[Tuning]] = {}
    for tuning in tunings:
        shared.setdefault(tuple(one.folder for one in tuning.tried), []).append(tuning)
    return list(shared.values())


def early_words(lengths: Iterable[tuple[int, int]]) -> list[str]:
    """Say that candidates are compared long before a run's end, where they are.

    ``lengths`` are rounds of the last candidates of an arm, and of its runs.
    """
    judged, rounds = min(lengths, key=lambda pair: pair[0] / pair[1], default=(1, 1))
    if judged >= EARLY * rounds:
        return []
    return [
        f"Candidates are compared after {judged} of {rounds} rounds: "
        "what is best by then need not be best at the end."
    ]


def _representatives(study: Study, search: SearchConfig) -> Mapping[str, list[str]]:
    """Return the arms that are searched for, each with those that take over what it finds."""
    if not search.by:
        return {arm.name: [arm.name] for arm in study.arms}
    groups: dict[tuple[Any, ...], list[str]] = {}
    for arm in study.arms:
        groups.setdefault(tuple(_level(arm, key) for key in search.by), []).append(arm.name)
    return {members[0]: members for members in groups.values()}


def _level(arm: Arm, key: str) -> Any:
    if key not in arm.levels:
        raise UserError(f"search.by = {key!r}: is no factor (factors: {', '.join(arm.levels)})")
    return arm.levels[key]


def _first_runs(study: Study) -> dict[str, PlannedRun]:
    return {run.arm: run for run in reversed(study.runs)}


def _rounds(config: ExperimentConfig, macs: float, a_round: float, steps: Ladder) -> Iterator[int]:
    every, rounds = config.evaluation.every, config.server.rounds
    for share in steps.shares:
        paid = int(share * macs / a_round + 1e-9) if a_round else rounds
        yield min(rounds, max(every, paid // every * every))


def _config(run: PlannedRun, search: SearchConfig, keys: Keys, rounds: int) -> ExperimentConfig:
    horizon = run.config.server.horizon_rounds
    fixed = {"seed": search.seed, "server.rounds": rounds, "server.horizon": horizon}
    return changed(applied(run.config), keys | fixed, source=f"search: arm {run.arm!r}")


def _planned(run: PlannedRun, search: SearchConfig, keys: Keys, number: int, rounds: int) -> PlannedRun:
    folder = f"{run.folder.rpartition('-seed-')[0]}-candidate-{number}"
    label = f"{run.arm}, candidate {number}"
    return PlannedRun(label, search.seed, folder, _config(run, search, keys, rounds))


def _tried(arm: str, number: int, keys: Keys, rung: int, run: PlannedRun, folder: Path) -> Tried:
    """Read a candidate at the end of a rung; it may have gone on since, in a search that was begun before."""
    path = run_folder(folder, run)
    rows = _rows_until(path, run.config.server.rounds)
    row = rows[-1] if rows and rows[-1].round == run.config.server.rounds else None
    known = row is not None and row.validation_top1 is not None and row.validation_loss is not None
    return Tried(
        arm=arm,
        candidate=number,
        keys=keys,
        rung=rung,
        rounds=run.config.server.rounds,
        validation_top1=row.validation_top1 if row and known else None,
        validation_loss=row.validation_loss if row and known else None,
        macs=_spent_macs(path, rows, whole=row is not None),
        folder=run.folder,
    )


def _rows_until(path: Path, number: int) -> list[RoundRow]:
    rounds = salvaged_rows(path / filenames.ROUNDS, RoundRow, [])
    return [row for row in rounds if row.round <= number]


def _spent_macs(path: Path, rows: Sequence[RoundRow], *, whole: bool) -> Number:
    """Return what a candidate cost up to the last of ``rows``, with what it tried in vain if it ended."""
    last = rows[-1] if rows else None
    summary = RunSummary() if whole else salvaged_document(path / filenames.SUMMARY, RunSummary, [])
    return spent(summary, last).get("macs")


def _ranked(tried: Sequence[Tried]) -> list[Tried]:
    """Return the candidates that learnt, the best first."""
    good = [one for one in tried if one.validation_top1 is not None]
    return sorted(
        good, key=lambda one: (-(one.validation_top1 or 0), one.validation_loss or 0, one.candidate)
    )


def _tuning(run: PlannedRun, tried: Sequence[Tried], search: SearchConfig) -> Tuning:
    last = max(one.rung for one in tried)
    best = next((found[0] for rung in range(last, -1, -1) if (found := _ranked(_of(tried, rung)))), None)
    spent: dict[int, float] = {}
    for one in tried:
        spent[one.candidate] = max(spent.get(one.candidate, 0.0), one.macs or 0.0)
    chosen = best.keys if best else None
    edges = tuple(key for key, value in (chosen or {}).items() if _at_edge(value, search.space[key]))
    return Tuning(
        arm=run.arm,
        chosen=chosen,
        tried=tuple(tried),
        macs=sum(spent.values()),
        edges=edges,
        judged_rounds=max(one.rounds for one in tried),
        run_rounds=run.config.server.rounds,
    )


def _of(tried: Sequence[Tried], rung: int) -> list[Tried]:
    return [one for one in tried if one.rung == rung]


def _at_edge(value: Any, values: Sequence[Any]) -> bool:
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    return numbers and len(values) > 1 and value in (min(values), max(values))
