"""Go on with a run otherwise than it was started: for more rounds, or with changes that are accepted."""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from fedfmd.algorithms import check_algorithms
from fedfmd.config.experiment import ExperimentConfig, Overrides, load_config
from fedfmd.config.parts import origins
from fedfmd.data.configured import open_data
from fedfmd.errors import UserError, pasted
from fedfmd.experiment import Experiment
from fedfmd.nn.submodel import WHOLE
from fedfmd.records import filenames
from fedfmd.records.rundir import RunDirectory
from fedfmd.records.settings import FREE, MORE_ROUNDS, told_changes
from fedfmd.rounds.lifecycle import open_experiment
from fedfmd.rounds.limits import check_machine

FIXED = (
    "seed",
    "control",
    "data.",
    "partition.",
    "model.",
    "algorithms",
    "options.",
    "client.scaffold",
    "server.strategy",
    "server.mode",
    "privacy.dp",
    "train.momentum",
    "train.ema",
)
"""Keys, or sections, that a checkpoint and a partition are made of: no run goes on without them."""


def open_interrupted(path: Path, overrides: Overrides, *, accept: bool) -> RunDirectory:
    """Open a federated run, to go on with it as ``take_changes`` says; raises ``UserError`` for any other."""
    directory = RunDirectory.open(path)
    if filenames.holds_central_run(path):
        raise UserError(
            f"{path}: is a run of fedfmd train; continue it with: fedfmd train --resume {pasted(path)}"
        )
    take_changes(directory, overrides, accept=accept)
    return directory


def take_changes(directory: RunDirectory, overrides: Overrides, *, accept: bool) -> None:
    """Make the run's edited ``config.toml`` and ``overrides`` its config from here on.

    ``server.rounds`` may grow, and the run may move to other workers and its images to another folder. Any
    other change, that of a part of one's own included, needs ``accept``, and is noted.
    Raises ``UserError`` for what cannot be taken; nothing is changed then.
    """
    if accept:
        _accept_parts(directory)
    now = load_config(directory.path / filenames.CONFIG, overrides, run=directory.path)
    changes = directory.settings.changes(now)
    if not changes and now == directory.config:
        return
    directory.settings.check(changes, accept=accept)
    accepted = {key: values for key, values in changes.items() if key not in FREE}
    also = () if now.privacy.dp == "none" else ("selection.kind",)  # which decides what epsilon compares
    fixed = [key for key in accepted if key.startswith((*FIXED, *also))]
    if fixed:
        raise UserError(
            f"{directory.path}: {', '.join(fixed)}: its rounds so far stand on the old value; "
            "undo the change, or start another run"
        )
    if "data.root" in changes:
        directory.foundations.check_images(open_data(now).fingerprint, now.data)
    if any(key.startswith("backend.") for key in changes):
        check_machine(now)
    if accepted:
        check_algorithms(now, source=f"{directory.path}: ")
        _check_length(directory, now, accepted)
    done = directory.rounds_done()
    if MORE_ROUNDS in changes and now.server.rounds < done:
        raise UserError(f"server.rounds = {now.server.rounds}: {directory.path} has {done} rounds already")
    directory.lock()
    try:
        if accepted:
            directory.note("config", done, f"config changed: {told_changes(accepted)}")
        if MORE_ROUNDS in changes:
            _repeat_last_round(directory, now)
        directory.settings.write(now)
        if any(key.startswith("privacy.") for key in changes):
            directory.summary_file.take_back()  # which a budget may have ended
    finally:
        directory.unlock()


def _accept_parts(directory: RunDirectory) -> None:
    """Take parts and files that have changed from here on, and note it.

    Raises ``UserError`` for a part that is missing.
    """
    foundations = directory.foundations
    changes = foundations.changes()
    if not changes:
        return
    directory.lock()
    try:
        told = ", ".join(f"{words} {before} -> {now}" for words, before, now in changes)
        directory.note("parts", directory.rounds_done(), f"parts changed: {told}")
        foundations.keep_parts(origins(directory.config))
        foundations.keep_files(map(Path, foundations.read().files))
    finally:
        directory.unlock()


def _check_length(directory: RunDirectory, now: ExperimentConfig, accepted: Collection[str]) -> None:
    """Raise ``UserError`` where the server would send another vector than the checkpoint holds."""
    if not directory.partition_file.is_file():
        return  # of centralised training, whose network is a fixed key
    experiment = open_experiment(directory, now)
    before = _sent_elements(replace(experiment, config=directory.settings.started))
    if before != (after := _sent_elements(experiment)):
        raise UserError(
            f"{directory.path}: {', '.join(accepted)}: its checkpoint holds {before} elements, where "
            f"{after} would be needed; undo the change, or start another run"
        )


def _sent_elements(experiment: Experiment) -> int:
    layout = experiment.network.part(WHOLE).layout
    return layout.elements + experiment.algorithms.extra_elements(layout)


def _repeat_last_round(directory: RunDirectory, now: ExperimentConfig) -> None:
    """Go back a checkpoint if the last round measured more for being the last, as it is no more."""
    last = directory.settings.started.server.rounds
    alike = last % now.evaluation.every == 0 and not now.trains_alone_at_the_end
    if directory.checkpoints.last_round() != last or alike:
        return
    if not directory.checkpoints.step_back():
        directory.note("rounds", last, f"round {last} keeps the evaluation that it got as the last round")
