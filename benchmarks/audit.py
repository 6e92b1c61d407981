"""Is a private run as private as it says? Canaries in real runs, and how many of them are told apart.

    python benchmarks/audit.py [--canaries 1000] [--out benchmarks/figures/audit]

Beside 50 clients that train there are canaries: clients whose update is a direction of their own, far beyond
the clip. Each is put in or left out by a fair coin. The attacker sees the model before and after the run,
looks along each direction, and guesses which were in (Steinke, Nasr and Jagielski 2023). The epsilon that
its guesses disprove has to be below the one in the run's ledger; without the noise, the same attack on the
same run has to disprove it.
"""

import argparse
import math
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from common import Row, report
from torch import Tensor

from fedfmd.config.experiment import parse_config
from fedfmd.experiment import Experiment
from fedfmd.nn.vector import bind
from fedfmd.planning.demand import Costing
from fedfmd.privacy.audit import guess
from fedfmd.records.checkpoint import Checkpoint
from fedfmd.records.rundir import RunDirectory
from fedfmd.rounds.inline import InlineExecutor
from fedfmd.rounds.lifecycle import execute, open_experiment, start_run
from fedfmd.training.contribution import LocalUpdate
from fedfmd.training.worker import Own, Worker
from fedfmd.wire.packages import WorkOrder
from fedfmd.wire.plan import ClientPlan, Progress

TRAINING, DELTA = 50, 1e-5
SETTINGS: tuple[tuple[float, int, float], ...] = ((1.5, 1, 1.0), (1.0, 1, 1.0), (3.0, 4, 1.0), (0.7, 8, 0.2))
"""Noise multiplier, rounds, and the chance of a client to take part in one."""
GUESSED = 0.4
"""Share of the canaries that the attacker guesses."""


class Canaries:
    """Directions of clients, by number, and which of them are there."""

    def __init__(self, count: int, seed: int = 0):
        self.there = np.random.default_rng(seed).random(count) < 0.5

    def direction(self, client: int, elements: int) -> Tensor:
        """Return a random direction of norm 1, float32 (elements,)."""
        rng = torch.Generator().manual_seed(client)
        return torch.randn(elements, generator=rng) / math.sqrt(elements)


class CanaryWorker(Worker):
    """A worker some of whose clients send what they are told."""

    def __init__(self, experiment: Experiment, canaries: Canaries):
        super().__init__(experiment)
        self.canaries = canaries

    def _local_update(
        self, own: Own, order: WorkOrder, plan: ClientPlan, vector: Tensor, progress: Progress
    ) -> LocalUpdate:
        if own.client >= len(self.canaries.there):
            return super()._local_update(own, order, plan, vector, progress)
        network = self.networks.of(plan.share, order.round, order.temperatures)
        side = self.experiment.algorithms.client(self._visit(own, order, plan.share, network, vector))
        size = 100.0 * float(self.canaries.there[own.client])
        done = side.finish(size * self.canaries.direction(own.client, network.layout.elements), 1)
        self._pretend(own.client, plan, progress)
        return LocalUpdate(update=done.update, extra=done.extra)

    def _pretend(self, client: int, plan: ClientPlan, progress: Progress) -> None:
        """Count the work of the plan as done: the server takes no update of a client that says otherwise."""
        work = Costing.of(self.experiment, plan, client).work
        samples = [work.samples - work.steps + 1] + [1] * (work.steps - 1)
        forward = self.experiment.network.part(plan.share).cost.macs_by_kind
        progress.count_all(torch.zeros(work.steps), samples, forward)


class CanaryExecutor(InlineExecutor):
    """The plain loop, with canaries."""

    def __init__(self, experiment: Experiment, canaries: Canaries):
        super().__init__(experiment)
        self.worker = CanaryWorker(experiment, canaries)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--canaries", type=int, default=1000)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = [audited(*setting, arguments.canaries) for setting in SETTINGS]
    report(f"Audit by {arguments.canaries} canaries, delta {DELTA:g}, confidence 95%", rows, arguments.out)


def audited(noise: float, rounds: int, chance: float, count: int) -> Row:
    canaries = Canaries(count)
    stated, right, measured = attacked(noise, rounds, chance, canaries)
    _, bare_right, bare = attacked(0.0, rounds, chance, canaries)
    return {
        "rounds": rounds,
        "chance": chance,
        "noise": noise,
        "stated epsilon": round(stated or math.inf, 2),
        "right": right,
        "measured epsilon": round(measured, 2),
        "right without noise": bare_right,
        "measured without": round(bare, 2),
    }


def attacked(noise: float, rounds: int, chance: float, canaries: Canaries) -> tuple[float | None, str, float]:
    """Return what the ledger of a run states, how many guesses were right, and the epsilon they disprove."""
    with TemporaryDirectory() as folder:
        directory = start_run(
            parse_config(document(noise, rounds, chance, len(canaries.there))), Path(folder) / "run"
        )
        summary = execute(directory, lambda experiment: CanaryExecutor(experiment, canaries))
        found = guess(scores(directory, canaries), canaries.there, int(GUESSED * len(canaries.there)))
    return summary["privacy"]["epsilon"], f"{found.right} of {found.guesses}", found.epsilon(DELTA)


def scores(directory: RunDirectory, canaries: Canaries) -> np.ndarray[Any, np.dtype[np.float64]]:
    began = bind(open_experiment(directory).network.build())
    moved = Checkpoint.load(directory.checkpoints.last).state[: len(began)] - began
    return np.array([float(canaries.direction(c, len(moved)) @ moved) for c in range(len(canaries.there))])


def document(noise: float, rounds: int, chance: float, canaries: int) -> dict[str, Any]:
    clients = canaries + TRAINING
    return {
        "data": {"train_samples": 500, "test_samples": 50},
        "partition": {"scheme": "sampled", "clients": clients, "samples_per_client": 10},
        "model": {"name": "resnet8", "width": 0.25, "conv": "static"},
        "client": {"batch_size": 10},
        "server": {"rounds": rounds, "cohort": round(chance * clients), "weighting": "uniform"},
        "selection": {"kind": "poisson"},
        "privacy": {"dp": "central", "noise_multiplier": noise, "delta": DELTA},
        "evaluation": {"every": 1000},
        "backend": {"kind": "inline"},
    }


if __name__ == "__main__":
    main()
