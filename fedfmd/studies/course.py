"""The course of a study, from its checks to the end of its last run."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from fedfmd.studies.plan import Study
from fedfmd.studies.runner import (
    Listener,
    RunOutcome,
    check_runs,
    claimed,
    keep_study,
    places,
    run_study,
)
from fedfmd.studies.search import Tuning, check_search, search_arms


class Witness:
    """What is told of a study as it goes; one that shows something overrides these."""

    def on_begin(self, study: Study, folder: Path) -> None:
        """Hear that a study is sound and begins, or goes on."""

    @contextmanager
    def listening(self, part: Study, folder: Path) -> Iterator[Listener]:
        """Give who listens to runs of the study, or to those of a rung of its search, in a folder."""
        del part, folder
        yield Listener()

    def on_tuned(self, tunings: Sequence[Tuning]) -> None:
        """Hear what the search found for each arm."""


@dataclass(frozen=True)
class Ended:
    """A study whose runs have ended, finished or failed."""

    study: Study
    """With what the search chose for its arms."""
    outcomes: list[RunOutcome]
    tunings: list[Tuning]


def bring_to_end(study: Study, folder: Path, jobs: int | None, witness: Witness) -> Ended:
    """Search for every arm if the study asks for it, then bring all of its runs to their end in ``folder``.

    ``jobs`` is how many runs go on at a time, by default as many as have a place. Raises ``UserError`` before
    any work for a search that cannot be, for runs in the folder that another config has made, and where
    another process works there.
    """
    check_search(study)
    at_once, gpus = places(study, jobs)
    with claimed(folder) as claim:  # before anything in it is changed
        if study.config.search is None:
            check_runs(study, folder)
        keep_study(study, folder)
        witness.on_begin(study, folder)

        def run_all(part: Study, where: Path) -> list[RunOutcome]:
            with ExitStack() as held:
                own = claim if where == folder else held.enter_context(claimed(where))
                listener = held.enter_context(witness.listening(part, where))
                return run_study(part, where, own, jobs=at_once, listener=listener, gpus=gpus)

        study, tunings = search_arms(study, folder, run_all)
        if tunings:
            witness.on_tuned(tunings)
        check_runs(study, folder)
        return Ended(study, run_all(study, folder), tunings)
