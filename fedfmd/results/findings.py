"""All that is computed from a study's runs: its answer, its factors' effects, the arms at equal cost."""

from collections.abc import Sequence
from dataclasses import dataclass

from fedfmd.config.study import StudyConfig
from fedfmd.results.analysis import Comparison, compare_axes
from fedfmd.results.design import Design
from fedfmd.results.effects import Effects, effects
from fedfmd.results.metrics import metrics
from fedfmd.results.question import Answer, answer, roles
from fedfmd.results.trials import Trial


@dataclass(frozen=True)
class Findings:
    """What figures, tables and the page of a study show."""

    design: Design
    answer: Answer
    effects: Effects
    comparisons: tuple[Comparison, ...]
    """On each cost, that of the study first."""

    @property
    def first(self) -> Comparison:
        """The comparison on the study's own cost axis."""
        return self.comparisons[0]


def find(design: Design, config: StudyConfig, baseline: str, trials: Sequence[Trial]) -> Findings:
    """Compute everything; ``design`` is of all arms, ``trials`` are of those that have finished runs."""
    compare, metric = config.compare, metrics()[config.figure.y]
    told = roles(design, config.figure)
    return Findings(
        design,
        answer(design, told, metric, trials, compare.confidence),
        effects(design, metric, trials, baseline, compare.confidence, compare.test),
        tuple(compare_axes(trials, compare, baseline)),
    )
