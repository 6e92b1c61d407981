"""The study file: which experiments to run, with which seeds, and how to compare them.

A study is a base experiment, changed by ``arms`` (named sets of keys) and by ``axes`` (keys with several
values, whose product is taken), each run with every seed.
"""

import re
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator

from fedfmd.config.documents import Keys, explained, flat_keys, set_key, shown
from fedfmd.config.experiment import Control, Overrides, override_keys
from fedfmd.config.values import NAME_PATTERN, Rate, Repeats, Section, Title, Whole
from fedfmd.errors import UserError, pasted

CostAxis = Literal["macs", "bytes", "client_train_seconds", "device_seconds", "energy_joules"]
StudyName = Annotated[str, Field(pattern=NAME_PATTERN, max_length=80)]
Seed = Annotated[Whole, Field(ge=0, lt=2**31)]
TargetAccuracy = Annotated[float, Field(gt=0, lt=1)]
MEASURES = (
    r"^(final|final_iqm|best|cost|ies|rcs|bis|(at_budget|to_target)_[1-9]\d*|"
    r"clients_(mean|worst10|gain)(_at_budget)?)$"
)
"""What a comparison may measure; a test holds it against the analysis."""
MEASURES_IN_WORDS = (
    "final, final_iqm, best, cost, ies, rcs, bis, at_budget_N, to_target_N, or clients_mean, clients_worst10 "
    "or clients_gain, these also with _at_budget"
)


def _measure(name: str) -> str:
    if not re.match(MEASURES, name):
        raise ValueError(f"is no measure; allowed: {MEASURES_IN_WORDS}")
    return name


MOST_RUNS, MOST_CANDIDATES = 10_000, 100_000
"""Arms times axes times seeds, and combinations in the space of a search: each is planned before any work."""


class ArmConfig(Section):
    """One thing to compare: the base with some keys changed."""

    name: Annotated[Title, Field(max_length=60)]
    """What tables and figures call it."""
    set: Keys = Field(default_factory=dict)
    """Dotted keys of the experiment and their values, as `{ "model.conv" = "static" }`."""


class CompareConfig(Section):
    """How the arms are held against each other."""

    axis: CostAxis = "macs"
    """The cost that comes first; all others that were spent are compared as well."""
    budgets: list[Rate] = Field(default_factory=list)
    """Cumulative costs on `axis`; when absent, a quarter, half and all of what the cheapest run spent."""
    targets: list[TargetAccuracy] = Field(default_factory=list)
    """Validation accuracies to reach; when absent, what the weakest arm reaches, in whole percent."""
    baseline: str | None = None
    """The arm that differences refer to; the first one when absent."""
    confidence: Annotated[float, Field(ge=0.5, lt=1)] = 0.95
    """Level of the intervals over seeds."""
    test: Literal["t", "wilcoxon"] = "t"
    """Paired test against the baseline: Student's t, or Wilcoxon's signed ranks."""
    resamples: Repeats = 4000
    """Bootstrap samples of the interquartile mean, which an arm of ten runs or more has."""
    chance_corrected: bool = False
    """IES and RCS from an accuracy on which guessing counts 0."""


class SearchConfig(Section):
    """Tuning of every arm with the same allowance, before the study's own runs: synchronous successive
    halving over a fixed list, judged by validation images. See `fedfmd.studies.search`."""

    space: Annotated[dict[str, Annotated[list[Any], Field(min_length=1)]], Field(min_length=1)]
    """Dotted keys with the values to try, as `"client.learning_rate" = [0.001, 0.003, 0.01]`."""
    candidates: Annotated[Whole, Field(ge=2, le=1000)] = 8
    """Combinations to try: all, if there are no more, else so many of them, drawn by `seed`."""
    halving: Annotated[Whole, Field(ge=2, le=100)] = 3
    """On each rung one of so many goes on, for so many times the MACs."""
    macs: Rate | None = None
    """Training MACs for an arm's search, all candidates together; when absent, the last rung's candidates
    have as many as the whole run of the arm whose run takes fewest."""
    seed: Seed = 1000
    """Of the candidates' runs: better none of the study's own."""
    by: list[str] = Field(default_factory=list)
    """Factors: arms alike in them share what the first of them finds; when absent, every arm has its own."""


class FigureConfig(Section):
    """The figure that answers the study's question, and the names in all figures and tables.

    Factors are named by their key in `[axes]`, and the arms of the file together as `arm`.
    """

    x: str | None = None
    """Factor on x; when absent, a budget before another number, else the factor with most levels."""
    y: str = "top1"
    """Any figure of a round or a run: `top1`, `best_top1`, `macs`, `bytes`, `budget_met`, `wasted_share`, or
    another column of `rounds.jsonl`; costs are of the whole run."""
    colour: str | None = None
    """Factor told by colour, mark and dash; when absent, the first that is not x."""
    line: str | None = None
    """Factor told by the dash of the lines alone."""
    panel: str | list[str] | None = None
    """Factors told by small panels; those left over are, too."""
    width: Literal["column", "page"] = "column"
    """Of the printed figures: one column (3.5 inches) or both (7.16)."""
    log_x: bool | None = None
    """Logarithmic x; when absent, where the levels of x span a factor of 8."""
    costs: list[Literal["round", CostAxis]] = Field(default_factory=list)
    """Costs of which curves, the Pareto figure and the differences are drawn for print; when absent, that of
    the comparison. The page has all."""
    order: list[Any] = Field(default_factory=list)
    """Levels of factors, arms that the file names among them, in the order in which they are drawn; others
    follow in the file's order."""
    labels: dict[str, Title] = Field(default_factory=dict)
    """What figures and tables call a level, an arm, a factor or `y`, as `{ fmdconv = "FMDConv" }`."""
    columns: list[Annotated[str, AfterValidator(_measure)]] = Field(default_factory=list)
    """Columns of the LaTeX comparisons, in their order, as `comparison.csv` names measures: `final`, `best`,
    `at_budget_1`, `cost`, `to_target_1`, `ies`, `rcs`, `bis`, `clients_mean`, ...; what was not measured is
    left out. When absent: the largest budget, `final` and `cost`."""

    @property
    def panels(self) -> list[str]:
        """The factors that ``panel`` names."""
        return [self.panel] if isinstance(self.panel, str) else self.panel or []


class StudyConfig(Section):
    """A whole study."""

    name: StudyName
    """Name of the folder under `studies/`."""
    base: str | None = None
    """Experiment file, relative to the study file or else to where the command runs."""
    experiment: Keys | None = None
    """The base experiment itself, instead of `base`."""
    set: Keys = Field(default_factory=dict)
    """Dotted keys changed in every arm."""
    seeds: list[Seed] = Field(default_factory=lambda: [0, 1, 2], min_length=1)
    """Every arm is run with each of these."""
    arms: list[ArmConfig] = Field(default_factory=list)
    """Named variants."""
    axes: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(default_factory=dict)
    """Dotted keys with the values to try, as `"model.kernels" = [1, 2, 4]`; every arm is tried with all but
    those of the keys that it sets itself."""
    skip: list[Keys] = Field(default_factory=list)
    """Combinations that are left out, as `[{ "model.conv" = "static", "policy.kind" = "kernels" }]`."""
    controls: bool | list[Control] = False
    """Add the controls without which a result on budgets means nothing: all of them, or these, each with the
    axes that it leaves open; one that is an arm already is no second one."""
    controls_of: str | None = None
    """The arm that the controls vary; the first one when absent."""
    compare: CompareConfig = CompareConfig()
    search: SearchConfig | None = None
    figure: FigureConfig = FigureConfig()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.base is None) == (self.experiment is None):
            raise ValueError("base: give either base = 'FILE' or a section [experiment], not both or neither")
        names = [arm.name for arm in self.arms]
        if self.search and (both := sorted(self.search.space.keys() & self.axes.keys())):
            raise ValueError(f"search.space: {both[0]}: is an axis as well; name it once")
        chosen = self.controls if isinstance(self.controls, list) else []
        if "none" in chosen:
            raise ValueError("controls = 'none': is no control; leave it out, or give controls = false")
        for label, values in (("seeds", self.seeds), ("arms.name", names), ("controls", chosen)):
            if repeated := [v for i, v in enumerate(values) if v in values[:i]]:
                raise ValueError(f"{label} = {repeated[0]!r}: is given twice")
        if self.controls_of is not None and self.controls_of not in names:
            raise ValueError(f"controls_of = {self.controls_of!r}: is no arm (arms: {', '.join(names)})")
        self._check_size()
        return self

    def _check_size(self) -> None:
        runs = prod(map(len, self.axes.values())) * max(1, len(self.arms)) * len(self.seeds)
        candidates = prod(map(len, self.search.space.values())) if self.search else 0
        if runs > MOST_RUNS:
            raise ValueError(
                f"axes: times arms and seeds are {runs:,} runs, at most {MOST_RUNS:,}; leave values out"
            )
        if candidates > MOST_CANDIDATES:
            raise ValueError(
                f"search.space: has {candidates:,} combinations, at most {MOST_CANDIDATES:,}; "
                "leave values out"
            )


def study_config_in(path: Path, document: Keys, overrides: Overrides = ()) -> StudyConfig:
    """Check what a study file held, after some changes; raises ``UserError`` with a line for each problem."""
    if not {"base", "experiment"} & document.keys() and {"server", "model", "client"} & document.keys():
        raise UserError(f"{path}: is an experiment, not a study; run: fedfmd simulate {pasted(path)}")
    common = _override(document, override_keys(overrides))
    if isinstance(document.get("axes"), dict):  # a bare dotted key arrives as a table in a table
        document["axes"] = flat_keys(document["axes"])
    search = document.get("search")
    if isinstance(search, dict) and isinstance(search.get("space"), dict):
        document["search"] = search | {"space": flat_keys(search["space"])}
    if isinstance(skip := document.get("skip"), list):
        document["skip"] = [flat_keys(keys) if isinstance(keys, dict) else keys for keys in skip]
    try:
        config = StudyConfig.model_validate(document)
    except ValidationError as error:
        raise explained(error, StudyConfig, str(path)) from None
    _check_common(config, common)
    return config


def _override(document: Keys, changes: Keys) -> Keys:
    """Change keys of a study's document; returns those of the experiment, which are set in every arm.

    A table takes the place of the study's, an empty one, too: ``axes={}`` leaves no axes.
    """
    common = {k: v for k, v in changes.items() if k.partition(".")[0] not in StudyConfig.model_fields}
    for key, value in changes.items():
        if key not in common:
            if value == {}:
                document.pop(key, None)
            set_key(document, key, value, f"--set {key}={shown(value)}")
    if common and isinstance(own := document.get("set", {}), dict):
        document["set"] = flat_keys(own) | common
    return common


def _check_common(config: StudyConfig, common: Keys) -> None:
    """Refuse to set a key in every arm that an axis or an arm sets: it would not count there."""
    setters = [(key, f"it is an axis; give axes.{key}=[...]") for key in config.axes]
    setters += [
        (key, f"arm {arm.name!r} sets it; give arms.{arm.name}.set.{key}=...")
        for arm in config.arms
        for key in flat_keys(arm.set)
    ]
    for key, value in common.items():
        for own, cure in setters:
            if f"{own}.".startswith(f"{key}.") or f"{key}.".startswith(f"{own}."):
                raise UserError(f"--set {key}={shown(value)}: does not count in every arm: {cure}")
