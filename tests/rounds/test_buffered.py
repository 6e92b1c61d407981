"""FedBuff against an event simulation of its own, its weights against numpy, its bits against kills."""

import heapq
import random
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from fedfmd.aggregation import ExactSum
from fedfmd.config.experiment import parse_config
from fedfmd.errors import RunError
from fedfmd.experiment import Experiment
from fedfmd.planning.bill import costing_in, energy_columns, plan_in, planned_row
from fedfmd.planning.demand import demand, work_of
from fedfmd.planning.policy import Planner
from fedfmd.records.checkpoint import Checkpoint
from fedfmd.records.rows import ClientRow
from fedfmd.records.rundir import RunDirectory
from fedfmd.records.schema import Json
from fedfmd.rounds.asynchronous import BufferedDispatcher
from fedfmd.rounds.collection import Attempt
from fedfmd.rounds.inline import InlineExecutor
from fedfmd.rounds.knowledge import Knowledge
from fedfmd.rounds.lifecycle import execute, open_experiment, start_run
from fedfmd.wire.packages import Reply, WorkOrder, WorkResult


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDFMD_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def prepare(out: Path, clients: int, cohort: int, buffer: int, **changes: dict[str, Any]) -> RunDirectory:
    document: dict[str, dict[str, Any]] = {
        "data": {"train_samples": 240, "test_samples": 40},
        "partition": {"scheme": "quantity", "clients": clients, "alpha": 1.0, "min_size": 2},
        "model": {"name": "resnet8", "width": 0.25, "conv": "static"},
        "client": {"batch_size": 10, "augment": False},
        "server": {"rounds": 3, "cohort": cohort, "mode": "buffered", "buffer": buffer},
        "devices": {"kind": "lognormal"},
        "backend": {"kind": "inline", "threads": 1},
    }
    for section, values in changes.items():
        document[section] = document.get(section, {}) | values
    return start_run(parse_config(document), out)


def done_row(experiment: Experiment, order: WorkOrder, client: int) -> ClientRow:
    """The row of a client that has done what its plan asks for."""
    plan, participant = plan_in(order, client, experiment.config), experiment.participant(client)
    used = demand(experiment, plan, participant)
    return replace(
        planned_row(costing_in(experiment, order, client), order, client),
        status="completed",
        steps=work_of(experiment, plan, participant.examples).steps,
        macs=used.macs,
        uplink_bytes=used.uplink_bytes,
        memory_bytes=used.memory_bytes,
        device_seconds=used.device_seconds,
        **energy_columns(participant.device, used.joules),
    )


class Sender:
    """Sends the update of its choice for every client, in an order of its choice."""

    workers = 3

    def __init__(self, experiment: Experiment, updates: Tensor, shuffle: int):
        self.experiment, self.updates, self.shuffle = experiment, updates, random.Random(shuffle)

    def train(self, orders: Sequence[WorkOrder], vector: Tensor) -> Iterator[Reply]:
        orders = list(orders)
        self.shuffle.shuffle(orders)
        for order in orders:
            total, rows = ExactSum.zero(len(vector), order.scale), []
            for client in order.clients:
                row = done_row(self.experiment, order, client)
                weight = self.experiment.algorithms.weight(row.examples, order.staleness)
                total.add(self.updates[client], weight)
                rows.append(row)
            yield Reply(order=order, result=WorkResult(total=total, rows=tuple(rows)))


def attempts(experiment: Experiment, rounds: int, shuffle: int = 0) -> list[tuple[Attempt, int]]:
    """Let the server step ``rounds`` times; gives what came, and how many are at work after each."""
    elements = experiment.network.cost.state_elements
    rng = torch.Generator().manual_seed(1)
    updates = torch.randn(experiment.partition.num_clients, elements, generator=rng) / 10
    knowledge = Knowledge()
    dispatcher = BufferedDispatcher(experiment, cast(Any, Sender(experiment, updates, shuffle)), knowledge)
    vector = torch.zeros(elements)
    return [
        (dispatcher.attempt(round, 0, vector), len(knowledge.buffered.at_work))
        for round in range(1, rounds + 1)
    ]


def event_simulation(
    seconds: Sequence[float], buffer: int, steps: int
) -> list[tuple[float, list[tuple[int, int]]]]:
    """Everybody works all the time: give for each step its moment, and the clients and stalenesses."""
    now, version = 0.0, 0
    events = [(needed, client, 0) for client, needed in enumerate(seconds)]
    heapq.heapify(events)
    result: list[tuple[float, list[tuple[int, int]]]] = []
    buffered: list[tuple[int, int]] = []
    while len(result) < steps:
        now, client, started = heapq.heappop(events)
        buffered.append((client, version - started))
        if len(buffered) == buffer:
            result.append((now, sorted(buffered)))
            version, buffered = version + 1, []
        heapq.heappush(events, (now + seconds[client], client, version))
    return result


@pytest.mark.parametrize(
    ("concurrency", "buffer"), [(1, 1), (2, 1), (3, 3), (8, 3), (13, 8), (20, 1), (20, 7), (20, 20)]
)
def test_an_independent_event_simulation_agrees(tmp_path: Path, concurrency: int, buffer: int) -> None:
    experiment = open_experiment(prepare(tmp_path / "run", concurrency, concurrency, buffer))
    plan = Planner(experiment).full
    seconds = [
        demand(experiment, plan, experiment.participant(c)).device_seconds or 0.0 for c in range(concurrency)
    ]
    assert all(seconds)
    expected = event_simulation(seconds, buffer, steps=12)
    now = 0.0
    for (tried, _), (moment, arrivals) in zip(attempts(experiment, 12), expected, strict=True):
        now += tried.device_clock_seconds or 0.0
        assert now == pytest.approx(moment, rel=1e-9)
        assert sorted((row.client, row.staleness) for row in tried.rows) == arrivals


@pytest.mark.parametrize(("cohort", "buffer"), [(1, 1), (8, 8), (8, 3)])
def test_all_places_are_taken_whatever_the_population(tmp_path: Path, cohort: int, buffer: int) -> None:
    """After a step one place is free, that of the last to arrive; nobody is at work twice."""
    experiment = open_experiment(prepare(tmp_path / "run", 40, cohort, buffer))
    for tried, at_work in attempts(experiment, 6):
        assert at_work == cohort - 1
        assert len(tried.rows) == buffer


def test_those_over_budget_take_no_place(tmp_path: Path) -> None:
    half = {"kind": "tiers", "tiers": [{"name": "able"}, {"name": "weak", "budget": {"macs": 1}}]}
    made = prepare(tmp_path / "run", 40, 6, 4, devices=half, policy={"kind": "drop"})
    refused = 0
    for tried, at_work in attempts(open_experiment(made), 4):
        assert (at_work, tried.completed) == (5, 4)
        refused += sum(not row.used for row in tried.rows)
    assert refused


def test_weights_are_the_float64_values_in_any_order(tmp_path: Path) -> None:
    experiment = open_experiment(prepare(tmp_path / "run", 20, 20, 6))
    elements = experiment.network.cost.state_elements
    updates = torch.randn(20, elements, generator=torch.Generator().manual_seed(1)) / 10
    stale: set[int | None] = set()
    for (one, _), (other, _) in zip(attempts(experiment, 8, 1), attempts(experiment, 8, 2), strict=True):
        assert torch.equal(one.total.quanta, other.total.quanta)
        assert one.total.weights == other.total.weights
        rows = one.rows
        stale |= {row.staleness for row in rows}
        weights = np.array([row.examples / np.sqrt(1 + (row.staleness or 0)) for row in rows])
        stacked = np.stack([updates[row.client].numpy().astype(np.float64) for row in rows])
        expected = weights @ stacked / weights.sum()
        assert np.abs(one.total.mean().numpy() - expected).max() < 1e-9
    assert len(stale) > 2


def test_fednova_leaves_an_update_alone_as_it_is_however_stale(tmp_path: Path) -> None:
    """It divides by effective steps, and multiplies by their mean: both by the rate that it trained with."""
    models = []
    for normalisation in ("none", "fednova"):
        run = prepare(
            tmp_path / normalisation,
            4,
            4,
            1,
            client={"learning_rate": 0.05, "learning_rate_decay": 0.5, "proximal_mu": 5.0},
            server={"rounds": 6, "normalisation": normalisation},
        )
        execute(run, InlineExecutor)
        assert {row.staleness for number in range(1, 7) for row in run.client_rows(number)} > {0, 1, 2}
        models.append(load_file(run.path / "model.safetensors"))
    plain, normalised = models
    assert all(torch.allclose(normalised[name], plain[name], rtol=0, atol=1e-5) for name in plain)


class Wide(InlineExecutor):
    """One client an order."""

    def __init__(self, experiment: Experiment):
        super().__init__(experiment)
        self.workers = 4


@pytest.mark.parametrize("method", [{}, {"compression": {"uplink": "int8"}}], ids=["plain", "residuals"])
def test_packing_and_kills_keep_the_bits(tmp_path: Path, method: dict[str, Any]) -> None:
    """All clients are at work all the time, so a fast one arrives twice in a round."""
    whole, wide, torn = (prepare(tmp_path / n, 4, 4, 4, **method) for n in ("whole", "wide", "torn"))
    execute(whole, InlineExecutor)
    execute(wide, Wide)

    def interrupt(row: dict[str, Any]) -> None:
        if row["round"] == 2:
            raise RunError("stopped by the test")

    with pytest.raises(RunError):
        execute(torn, InlineExecutor, interrupt)
    execute(torn, InlineExecutor)
    models = [(run.path / "model.safetensors").read_bytes() for run in (whole, wide, torn)]
    assert models[0] == models[1] == models[2]
    rows = (whole.path / "clients.jsonl").read_text().splitlines()
    assert len(rows) == 12
    assert any(len({row.client for row in whole.client_rows(r)}) < 4 for r in (1, 2, 3))


def test_a_checkpoint_writes_one_model_however_many_are_in_flight(tmp_path: Path) -> None:
    directory = prepare(tmp_path / "run", 12, cohort=10, buffer=1, server={"rounds": 8})
    written: dict[str, set[int]] = {}

    def look(row: Json) -> None:
        directory.flush()
        kept = list(directory.checkpoints.folder.iterdir())
        for file in kept:
            written.setdefault(file.name, set()).add(file.stat().st_ino)
        model = 4 * len(directory.load_checkpoint().state)
        large = [file.name for file in kept if file.stat().st_size > model]
        assert all(name.startswith("version-") for name in large), large

    execute(directory, InlineExecutor, look)
    versions = {name for name in written if name.startswith("version-")}
    assert versions == {f"version-{round}.safetensors" for round in range(9)}
    assert all(len(written[name]) == 1 for name in versions), "each was written once"
    named = [
        Checkpoint.load(file).versions
        for file in (directory.checkpoints.last, directory.checkpoints.previous)
    ]
    left = {file.name for file in directory.checkpoints.folder.glob("version-*")}
    assert left == {f"version-{round}.safetensors" for versions in named for round in versions}
    assert len(left) > 2, "clients of several versions are at work"


def test_a_version_of_rounds_that_were_given_up_is_forgotten(tmp_path: Path) -> None:
    """A file that no checkpoint names, as a kill may leave it, can be of a run with another config."""
    directory = prepare(tmp_path / "run", 6, cohort=3, buffer=1)
    oracle = prepare(tmp_path / "oracle", 6, cohort=3, buffer=1)
    execute(oracle, InlineExecutor)

    def stop(row: Json) -> None:
        if row["round"] == 1:
            raise RunError("stopped")

    with pytest.raises(RunError):
        execute(directory, InlineExecutor, stop)
    folder = directory.checkpoints.folder
    shutil.copy(folder / "version-0.safetensors", folder / "version-2.safetensors")
    again = RunDirectory.open(directory.path)
    execute(again, InlineExecutor)
    assert (again.path / "model.safetensors").read_bytes() == (oracle.path / "model.safetensors").read_bytes()


def test_damage_to_a_version_is_damage_to_its_checkpoint(tmp_path: Path) -> None:
    directory = prepare(tmp_path / "run", 6, cohort=3, buffer=1)
    execute(directory, InlineExecutor)
    last = directory.checkpoints.folder / "version-3.safetensors"
    last.write_bytes(b"nonsense")
    found = directory.checkpoints.find(directory.path)
    assert found.checkpoint is not None
    assert found.checkpoint.round == 2
    assert "version-3.safetensors" in found.faults[0]
