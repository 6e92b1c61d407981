"""Trials with made-up figures: runs that nobody ran, for tests of what is made of runs."""

from collections.abc import Sequence
from pathlib import Path

from fedfmd.config.study import CompareConfig, FigureConfig, StudyConfig
from fedfmd.costs.scores import Chance
from fedfmd.pages.study.looks import Looks
from fedfmd.pages.study.tables import Tables
from fedfmd.records.documents import Environment, Manifest, RunSummary
from fedfmd.records.rows import RoundRow
from fedfmd.results.design import Design
from fedfmd.results.findings import find
from fedfmd.results.question import roles
from fedfmd.results.runs import Run
from fedfmd.results.trials import Trial

CONFIG = {
    "name": "made-up",
    "data": {"name": "embedded"},
    "model": {"name": "resnet8", "conv": "fmdconv", "width": 0.5, "kernels": 4},
    "partition": {"clients": 40},
    "server": {"cohort": 10, "strategy": "fedavg"},
}


def made_up(arm: str, seed: int, accuracies: Sequence[float], cost: float = 1.0, samples: int = 100) -> Trial:
    """A run with one accuracy a round, for test and validation, round 0 first.

    A round costs ``cost`` MACs and ten times the bytes.
    """
    rounds = tuple(
        RoundRow(
            round=i, top1=top1, validation_top1=top1, cumulative={"macs": i * cost, "bytes": 10 * i * cost}
        )
        for i, top1 in enumerate(accuracies)
    )
    run = Run(
        folder=Path(f"{arm}-seed-{seed}"),
        name=f"{arm}-seed-{seed}",
        finished=True,
        config=CONFIG,
        config_text="",
        environment=Environment(fedfmd="0.1.0"),
        partition=Manifest(),
        chance=Chance(num_classes=10, samples=samples),
        summary=RunSummary(parameters=1000, forward_macs=2000),
        rounds=rounds,
        clients=(),
    )
    return Trial(arm, seed, run)


def two_arms() -> list[Trial]:
    """A cheap arm and one that costs twice as much a round and learns more, three seeds each."""
    cheap = [made_up("cheap", seed, [0.1, 0.2 + 0.1 * seed, 0.3 + 0.1 * seed]) for seed in range(3)]
    dear = [made_up("dear", seed, [0.1, 0.4 + 0.1 * seed, 0.6 + 0.1 * seed], 2.0) for seed in range(3)]
    return cheap + dear


def looks_of(arms: Sequence[str], **labels: str) -> Looks:
    """Names and looks of arms that differ in nothing but their name."""
    design = Design.of({arm: {"arm": arm} for arm in arms})
    return Looks(design, roles(design, FigureConfig()), labels)


def tables_of(trials: Sequence[Trial], compare: CompareConfig, arms: Sequence[str]) -> Tables:
    """The tables of made-up arms, the first of which is the baseline."""
    looks = looks_of(arms)
    config = StudyConfig(name="made-up", experiment={}, compare=compare)
    return Tables("made-up", find(looks.design, config, arms[0], trials), looks)
