"""A run with real clients, from the server: what it is told, how it begins, and what clients agree on first.

Clients come and go. A run begins once enough have come; before every round those that have come since, or
come back, are asked who they are, and the cohort is drawn from those who are there.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from flwr.app import Message

from fedfmd.config.experiment import ExperimentConfig, name_from
from fedfmd.data.dataset import Dataset
from fedfmd.data.prepared import open_prepared
from fedfmd.deployment.introduction import ImageSums, together
from fedfmd.deployment.layout import ROUND_SECONDS
from fedfmd.deployment.run import (
    check_deployable,
    normalisation_in,
    open_deployed_experiment,
    start_deployed_run,
)
from fedfmd.errors import UserError
from fedfmd.files import write_atomic
from fedfmd.flower.attendance import Attendance
from fedfmd.flower.grid import Post
from fedfmd.flower.inquiry import Inquiry, answer_in
from fedfmd.flower.real_clients import ClientExecutor
from fedfmd.records import filenames
from fedfmd.records.rundir import RunDirectory
from fedfmd.rounds.lifecycle import execute

BYTES_PER_CLASS = 16
"""Of a client's sums, as text."""


@dataclass(frozen=True)
class Deployment:
    """What a deployed run is told by its run config."""

    clients: int
    """That the run has room for."""
    data: Path
    """The server's own images: a test set, perhaps an empty one."""
    min_clients: int = 0
    """Clients that have to be there for the run to begin; 0 for all."""
    statistics: Path | None = None
    """What the clients have agreed on, where they have."""
    names: Mapping[int, str] = field(default_factory=dict)
    """What the operator calls the clients."""
    round_seconds: float = ROUND_SECONDS
    """How long a round waits for its clients."""

    @property
    def needed(self) -> int:
        """Clients that have to be there for the run to begin."""
        return self.min_clients or self.clients


def run_deployed(grid: Post, config: ExperimentConfig, out: Path, deployment: Deployment) -> None:
    """Run an experiment on real clients, from its start or, where ``out`` exists, from its checkpoint.

    Raises ``UserError`` for a run that is finished, for an experiment that goes with no real clients, and
    where these have agreed on no normalisation.
    """
    resumed = filenames.holds_run(out)
    directory = RunDirectory.open(out) if resumed else None
    settings = directory.config if directory else config
    if directory and directory.finished():
        raise UserError(f"{out}: this run is finished; choose another out")
    statistics = out / filenames.STATISTICS if directory else deployment.statistics
    if directory is None:
        check_deployable(settings)  # before anybody is waited for
    data = _seen(deployment.data, settings.data.resized_crop, statistics)
    room = settings.partition.clients
    executor = ClientExecutor(grid, settings, name_from(out), room, data, deployment.round_seconds)
    executor.gather(min(deployment.needed, room))
    roll = Attendance(executor, len(data.train_labels), deployment.names)
    if directory is None:
        agreed = json.loads(statistics.read_text()) if statistics and statistics.is_file() else None
        directory = start_deployed_run(settings, out, deployment.data, roll, agreed)
    roll.watched_in(directory)
    executor.config = directory.config
    execute(
        directory,
        lambda _: executor,
        print_round,
        lambda run: open_deployed_experiment(run, deployment.data, roll),
    )


def agree(grid: Post, config: ExperimentConfig, out: Path, deployment: Deployment) -> None:
    """Let the clients agree on a normalisation, by sums over their images, and write it to ``out``.

    Raises ``RunError`` when fewer than needed answer.
    """
    data = _seen(deployment.data, config.data.resized_crop, None, agreed=False)
    executor = ClientExecutor(grid, config, "statistics", deployment.clients, data)

    def accept(message: Message) -> ImageSums:
        totals = answer_in(ImageSums, message, "statistics", data.num_classes * BYTES_PER_CLASS)
        if reason := totals.misfit(data):
            raise ValueError(reason)
        return totals

    asked = {"statistics": True}
    inquiry = Inquiry(executor, lambda: executor.question(asked), accept, deployment.clients)
    inquiry.gather(deployment.needed)
    counted = [inquiry.said[client] for client in sorted(inquiry.nodes)]
    write_atomic(out, json.dumps(together(counted, data.classes), indent=1) + "\n")


def _seen(file: Path, resized_crop: int | None, statistics: Path | None, *, agreed: bool = True) -> Dataset:
    """Open the server's images as clients shall see theirs; raises ``UserError`` if that is not agreed."""
    data = open_prepared(file).seen_at(resized_crop)
    found = normalisation_in(statistics) if statistics else None
    if found is None and not data.mean and agreed:
        raise UserError("the clients have agreed on no normalisation yet: run fedfmd deploy statistics first")
    return replace(data, mean=found.mean, std=found.std) if found else data


def print_round(row: dict[str, object]) -> None:
    """Say how a round went."""
    from fedfmd.terminal.rounds import figures

    print(f"round {row['round']}: {figures(row)}", flush=True)
