"""From a study file to its runs: every arm with every seed, each a complete, checked experiment."""

import copy
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import tomli_w
from pydantic import ValidationError

from fedfmd.algorithms import check_algorithms
from fedfmd.config.conditions import Unmet
from fedfmd.config.documents import Keys, flat_keys, has_key, read_toml, set_key, shown
from fedfmd.config.experiment import (
    ExperimentConfig,
    Overrides,
    check_kind,
    drop_idle,
    idle_keys,
    kept,
    parse_config,
    switched_off,
)
from fedfmd.config.study import StudyConfig, study_config_in
from fedfmd.costs.scores import Chance, target_fault
from fedfmd.errors import UserError, did_you_mean, first_few
from fedfmd.modules import trust
from fedfmd.planning.controls import POLICIES
from fedfmd.planning.remarks import remarks
from fedfmd.registry import beside
from fedfmd.results.design import Design
from fedfmd.results.metrics import metrics
from fedfmd.rounds.limits import check_machine
from fedfmd.studies.arms import POLICY, Arm, arms_of, distinct, skips

FIXED = ("name", "seed", "backend.kind")
"""Keys that the study itself sets in every run."""
MOST_NAMED = 3
"""Arms that a note names."""


@dataclass(frozen=True)
class PlannedRun:
    """One run directory to be: an arm with a seed."""

    arm: str
    seed: int
    folder: str
    config: ExperimentConfig

    @property
    def label(self) -> str:
        """What messages call the run."""
        return f"{self.arm}, seed {self.seed}"


@dataclass(frozen=True)
class Study:
    """A checked study: nothing in it can fail for its config any more."""

    config: StudyConfig
    experiment: Keys
    arms: tuple[Arm, ...]
    runs: tuple[PlannedRun, ...]
    standing: tuple[tuple[str, str], ...] = ()
    """Controls that are no arms of their own, each with the arm that it is."""

    @property
    def notes(self) -> list[str]:
        """What to say of the arms: controls that are none of their own, and what may not be meant."""
        told = [f"The control {control!r} is the arm {arm!r}, run once." for control, arm in self.standing]
        told_of: dict[str, list[str]] = {}
        for run in self.runs[: len(self.arms)]:
            for said in remarks(run.config):
                told_of.setdefault(said, []).append(run.arm)
        return told + [f"{some_arms(arms, len(self.arms))}: {said}" for said, arms in told_of.items()]

    @property
    def name(self) -> str:
        """Name of the study."""
        return self.config.name

    @cached_property
    def design(self) -> Design:
        """The factors, their levels in the order of the file's `[figure]`, and the levels of each arm."""
        return Design.of({arm.name: arm.levels for arm in self.arms}).ordered(self.config.figure.order)

    @property
    def baseline(self) -> str:
        """The arm that differences refer to."""
        return self.config.compare.baseline or self.arms[0].name

    def dump(self) -> str:
        """Return the study as one TOML file that needs no other: the base is written out in it."""
        document = self.config.model_dump(exclude_defaults=True, exclude={"base", "experiment"})
        return tomli_w.dumps(document | {"seeds": self.config.seeds, "experiment": self.experiment})


def some_arms(arms: Sequence[str], whole: int) -> str:
    """Name arms of a study that has ``whole`` of them, a few of many."""
    if len(arms) == whole > 1:
        return "All arms"
    return first_few(arms, MOST_NAMED, between="; ")


def load_study(path: Path, overrides: Overrides = (), *, folder: Path | None = None) -> Study:
    """Read a study file and every experiment in it; raises ``UserError`` before any work.

    ``overrides`` change keys of the file; a key of the experiment is set in every arm. Modules that the file
    of a study's ``folder`` names have to be approved, see ``fedfmd.approvals``.
    """
    return study_in(path, read_toml(path, "study file"), overrides, folder=folder)


def study_in(path: Path, document: Keys, overrides: Overrides = (), *, folder: Path | None = None) -> Study:
    """Do what ``load_study`` does with what ``path`` held: a pipe is read once."""
    overrides = kept(overrides)
    trust(str(overrides))
    with ExitStack() as reading:
        reading.enter_context(beside(path, run=folder))
        config = study_config_in(path, document, overrides)
        if config.base is None:
            return _study(path, config, config.experiment or {})
        base = _base_file(path, config.base)
        reading.enter_context(beside(base))
        return _study(path, config, _base(path, config.base, base))


def _study(path: Path, config: StudyConfig, experiment: Keys) -> Study:
    arms = tuple(arms_of(config))
    _check_names(path, config, arms)
    _check_figure(path, config, arms)
    left_out = _left_out(path, config, experiment, arms)

    def planned(arm: Arm, seed: int) -> PlannedRun:
        return _planned(path, config, experiment, arm, seed, left_out[arm.name])

    arms, standing = distinct(path, config, [(arm, planned(arm, config.seeds[0]).config) for arm in arms])
    # Seeds vary slowest: every arm has a run early.
    runs = [planned(arm, seed) for seed in config.seeds for arm in arms]
    _check_devices(path, config, runs)
    _check_targets(path, config, runs)
    for run in runs[: len(arms)]:
        check_machine(run.config)
    return Study(config, experiment, arms, tuple(runs), standing)


def _base_file(path: Path, base: str) -> Path:
    """Return the file of the experiment that a study begins from; modules that it names may lie beside it."""
    candidates = (path.parent / base, Path(base))
    found = next((candidate for candidate in candidates if candidate.is_file()), None)
    if found is None:
        raise UserError(f"{path}: base = {base!r}: no such file beside the study file or here")
    return found


def _base(path: Path, base: str, found: Path) -> Keys:
    document = read_toml(found)
    try:
        check_kind(document, str(found))
    except UserError as error:
        raise UserError(f"{path}: base = {base!r}: {error}") from None
    return document


def _check_names(path: Path, config: StudyConfig, arms: Sequence[Arm]) -> None:
    slugs = Counter(arm.slug for arm in arms)
    for arm in arms:
        if slugs[arm.slug] > 1:
            raise UserError(f"{path}: arm {arm.name!r}: its name is too like another arm's; rename one")
    baseline = config.compare.baseline
    if baseline is not None and baseline not in {arm.name for arm in arms}:
        names = ", ".join(arm.name for arm in arms)
        raise UserError(f"{path}: compare.baseline = {baseline!r}: is no arm (arms: {names})")


def _check_figure(path: Path, config: StudyConfig, arms: Sequence[Arm]) -> None:
    """Refuse factors, levels and figures that [figure] and skip name and the study has not."""
    if not arms:
        raise UserError(f"{path}: skip: leaves no arm")
    factors, figure = list(arms[0].levels), config.figure
    told = {"x": figure.x, "colour": figure.colour, "line": figure.line}
    named = [(f"figure.{role}", key) for role, key in told.items() if key]
    named += [("figure.panel", key) for key in figure.panels]
    named += [("skip", key) for rule in config.skip for key in rule]
    for place, key in named:
        if key not in factors:
            raise UserError(
                f"{path}: {place} = {key!r}: is no factor (factors: {', '.join(factors) or 'none'})"
            )
    every = list(arms_of(config.model_copy(update={"skip": []})))
    for rule in config.skip:
        if not any(skips(rule, arm.levels) for arm in every):
            there = (
                dict.fromkeys(str(arm.levels[key]) for arm in every if key in arm.levels) for key in rule
            )
            known = "; ".join(f"{key}: {', '.join(some)}" for key, some in zip(rule, there, strict=True))
            raise UserError(f"{path}: skip = {shown(rule)}: leaves out no arm (levels: {known})")
    used = [key for place, key in named if place != "skip"]
    if twice := next((key for key in used if used.count(key) > 1), None):
        raise UserError(f"{path}: figure: {twice!r} is told twice; name it once")
    levels = [(key, value) for arm in arms for key, value in arm.levels.items()]
    called = {*factors, *metrics(), *(arm.name for arm in arms), *(str(value) for _, value in levels)}
    called |= {f"{key}={value}" for key, value in levels}
    if wrong := next((name for name in figure.labels if name not in called), None):
        hint = did_you_mean(wrong, called)
        raise UserError(
            f"{path}: figure.labels: {wrong!r} is no factor, level, arm or figure of this study{hint}"
        )
    if wrong := next((level for level in figure.order if level not in [value for _, value in levels]), None):
        known = ", ".join(dict.fromkeys(str(value) for _, value in levels))
        raise UserError(f"{path}: figure.order = {wrong!r}: is no level of a factor (levels: {known})")
    if figure.y not in metrics():
        hint = did_you_mean(figure.y, metrics())
        raise UserError(
            f"{path}: figure.y = {figure.y!r}: is no figure of a run{hint} ({', '.join(metrics())})"
        )


def _check_devices(path: Path, config: StudyConfig, runs: Sequence[PlannedRun]) -> None:
    """Find out now, not after all runs, that one will have spent nothing on the axis of the comparison."""
    axis = config.compare.axis
    without = [run.arm for run in runs if run.config.devices.kind == "none"]
    if axis in ("device_seconds", "energy_joules") and without:
        raise UserError(f"{path}: compare.axis = {axis!r}: arm {without[0]!r} has devices.kind = 'none'")


def _check_targets(path: Path, config: StudyConfig, runs: Sequence[PlannedRun]) -> None:
    """Refuse now what guessing meets; what the untrained model meets only shows when it is measured."""
    for target in config.compare.targets:
        for run in runs:
            classes = run.config.data.known_classes
            chance = Chance(num_classes=classes, samples=0) if classes else None
            if fault := target_fault(target, chance, None):
                raise UserError(f"{path}: compare.targets = {target:g}: {fault}; give a higher one")


def _left_out(
    path: Path, config: StudyConfig, experiment: Keys, arms: Sequence[Arm]
) -> dict[str, list[Unmet]]:
    """Return by arm the keys that do not count in it and may be left out, since they count in another.

    A study varies switches, so a key of the base, of [set] or of an axis need only count in one of its arms,
    and one of a base in a file of its own only there; a key that an arm sets itself has to count in that arm,
    unless an axis switches it off.
    """
    documents = {arm.name: _document(path, config, experiment, arm, config.seeds[0]) for arm in arms}
    if config.base is not None:
        documents[config.base] = experiment
    idle = {name: _idle(document) for name, document in documents.items()}

    def counts_somewhere(one: Unmet) -> bool:
        return any(
            one.path not in {other.path for other in idle[name]} and has_key(document, one.path)
            for name, document in documents.items()
        )

    def may_go(arm: Arm, one: Unmet) -> bool:
        if switched_off(one, FIXED):
            return True
        own = [key for key in arm.keys if key not in config.axes]
        if any(one.key == key or one.key.startswith(f"{key}.") for key in own):
            return switched_off(
                one, [*config.axes, *([POLICY] if arm.keys.get("control") in POLICIES else [])]
            )
        return counts_somewhere(one)

    return {arm.name: [one for one in idle[arm.name] if may_go(arm, one)] for arm in arms}


def _idle(document: Keys) -> list[Unmet]:
    try:
        return idle_keys(document)
    except ValidationError:
        return []  # which the run's own validation words


def _planned(
    path: Path, config: StudyConfig, experiment: Keys, arm: Arm, seed: int, left_out: Sequence[Unmet]
) -> PlannedRun:
    document = _document(path, config, experiment, arm, seed)
    drop_idle(document, left_out, _idle(document))
    source = f"{path}: arm {arm.name!r}"
    run = parse_config(document, source=source)
    check_algorithms(run, source=f"{source}: ")
    return PlannedRun(arm.name, seed, _folder(arm, seed), run)


def _folder(arm: Arm, seed: int) -> str:
    return f"{arm.slug}-seed-{seed}"


def _document(path: Path, config: StudyConfig, experiment: Keys, arm: Arm, seed: int) -> Keys:
    document = copy.deepcopy(experiment)
    # A run is a plain loop in one process; the study runs several of them at a time.
    fixed = dict(zip(FIXED, (_folder(arm, seed)[:100], seed, "inline"), strict=True))
    chosen = flat_keys(config.set) | arm.keys
    if own := sorted(fixed.keys() & chosen.keys()):
        raise UserError(f"{path}: arm {arm.name!r}: {own[0]}: the study itself sets this key")
    for key, value in (chosen | fixed).items():
        set_key(document, key, value, str(path))
    return document
