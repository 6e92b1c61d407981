"""The grid executor over a grid that answers late, twice, with an error, or never.

The grid is a few lists; what answers is the real client app.
"""

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Context, Error, Message, MessageType, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from orders import order_for

from fedfmd.aggregation import ExactSum
from fedfmd.config.experiment import parse_config
from fedfmd.errors import RunError
from fedfmd.experiment import Experiment
from fedfmd.flower import grid as grid_module
from fedfmd.flower.client import app
from fedfmd.flower.grid import GridExecutor
from fedfmd.flower.messages import from_record
from fedfmd.rounds.inline import InlineExecutor
from fedfmd.rounds.lifecycle import open_experiment, start_run
from fedfmd.training import watchdog
from fedfmd.wire.packages import Reply, WorkOrder
from fedfmd.workers import exchange

Answer = Callable[[Message], list[Message]]


class ListGrid:
    """Nodes 1 and 2; every pulled message is answered by ``answer``, which may give any number of replies."""

    def __init__(self, answer: Answer):
        self.answer = answer
        self.replies: list[Message] = []
        self.nodes: list[int] = []

    def get_node_ids(self) -> Iterable[int]:
        return [2, 1]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        identifiers = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = f"m{len(self.nodes)}"
            self.nodes.append(message.metadata.dst_node_id)
            identifiers.append(message.metadata.message_id)
            self.replies += self.answer(message)
        return identifiers

    def pull_messages(self, identifiers: Iterable[str]) -> list[Message]:
        wanted = set(identifiers)
        found = [r for r in self.replies if r.metadata.reply_to_message_id in wanted]
        self.replies = [r for r in self.replies if r not in found]
        return found


def work(message: Message) -> Message:
    """Let the real client app answer."""
    context = Context(run_id=0, node_id=1, node_config={}, state=RecordDict(), run_config={})
    return app(message, context)


def error(message: Message, code: int, reason: str) -> Message:
    return Message(Error(code=code, reason=reason), reply_to=message)


@pytest.fixture(autouse=True)
def identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """Say which run this process belongs to, as Flower does before it starts an app."""
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    folder = tmp_path_factory.mktemp("grid")
    document: dict[str, Any] = {
        "data": {"train_samples": 100, "test_samples": 20},
        "partition": {"scheme": "sampled", "clients": 4, "samples_per_client": 10},
        "model": {"width": 0.25, "conv": "static"},
        "client": {"batch_size": 10, "deadline_seconds": 30.0},
        "backend": {"kind": "inline", "threads": 1},
        "server": {"cohort": 4},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDFMD_CACHE", str(folder / "cache"))
        return open_experiment(start_run(parse_config(document), folder / "run"))


def orders() -> list[WorkOrder]:
    return [order_for(0, 1), order_for(2), order_for(3)]


def vector(experiment: Experiment) -> torch.Tensor:
    return torch.full((experiment.network.cost.state_elements,), 0.01)


def quanta(reply: Reply) -> torch.Tensor:
    assert reply.result is not None
    assert isinstance(reply.result.total, ExactSum)
    return reply.result.total.quanta


def replies(experiment: Experiment, answer: Answer) -> list[Any]:
    executor = GridExecutor(ListGrid(answer), experiment, workers=2)  # type: ignore[arg-type]
    return sorted(executor.train(orders(), vector(experiment)), key=lambda reply: reply.order.clients)


def test_it_gives_what_the_plain_loop_gives(experiment: Experiment) -> None:
    plain = InlineExecutor(experiment).train(orders(), vector(experiment))
    for ours, theirs in zip(replies(experiment, lambda m: [work(m)]), plain, strict=True):
        assert torch.equal(quanta(ours), quanta(theirs))
        assert ours.order == theirs.order


def test_through_shared_memory_it_gives_the_same(experiment: Experiment) -> None:
    sent: list[int] = []

    def answer(message: Message) -> list[Message]:
        sent.append(from_record(message.content).wire_bytes)
        return [work(message)]

    executor = GridExecutor(ListGrid(answer), experiment, workers=2, on_this_machine=True)  # type: ignore[arg-type]
    plain = list(InlineExecutor(experiment).train(orders(), vector(experiment)))
    try:
        for start in (vector(experiment), vector(experiment)):
            total = ExactSum.zero(len(start), orders()[0].scale)
            for reply in executor.train(orders(), start):
                expected = next(other for other in plain if other.order == reply.order)
                assert torch.equal(quanta(reply), quanta(expected))
                assert isinstance(reply.result.total, ExactSum)
                total.merge(reply.result.total)
            assert torch.equal(total.quanta, torch.stack([quanta(other) for other in plain]).sum(0))
        assert max(sent) < len(start)
    finally:
        executor.close()


def test_without_shared_memory_vectors_go_with_the_messages(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(exchange, "SHARED_MEMORY", tmp_path / "none")
    executor = GridExecutor(ListGrid(lambda m: [work(m)]), experiment, workers=2, on_this_machine=True)  # type: ignore[arg-type]
    assert all(reply.result is not None for reply in executor.train(orders(), vector(experiment)))


def test_answering_twice_counts_once(experiment: Experiment) -> None:
    found = replies(experiment, lambda m: [work(m), work(m)])
    assert [reply.order.clients for reply in found] == [(0, 1), (2,), (3,)]
    assert all(reply.result is not None for reply in found)


def test_a_late_answer_is_ignored_and_frees_its_worker(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first order's answer comes after it was given up: it is lost, and its node works again."""
    monkeypatch.setattr(watchdog, "hard_seconds", lambda seconds: 0.2)
    monkeypatch.setattr(grid_module, "LATE_SECONDS", 0.0)
    held: list[Message] = []

    def answer(message: Message) -> list[Message]:
        first = message.metadata.message_type == MessageType.TRAIN and not held
        (held if first else []).append(work(message))
        return [] if first else [work(message)]

    grid = ListGrid(answer)
    executor = GridExecutor(grid, experiment, workers=2)  # type: ignore[arg-type]
    found = {reply.order.clients: reply for reply in executor.train(orders(), vector(experiment))}
    assert found[0, 1].result is None
    assert found[0, 1].reason == "the worker did not answer in time"
    assert found[2,].result is not None
    assert found[3,].result is not None
    assert len(executor.idle) == 1
    grid.replies += held
    again = list(executor.train(orders(), vector(experiment)))
    assert all(reply.result is not None for reply in again)
    assert len(executor.idle) == 2


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("Traceback\n  File ...\nValueError: no\n", "ValueError: no"),
        ("<class 'fedfmd.errors.RunError'>:<'the model's conv: no'>", "the model's conv: no"),  # Flower's way
    ],
)
def test_an_error_is_a_lost_order_with_its_last_line(experiment: Experiment, said: str, reason: str) -> None:
    def answer(message: Message) -> list[Message]:
        if message.metadata.message_type == MessageType.TRAIN:
            return [error(message, 2, said)]
        return [work(message)]

    assert {(r.result, r.reason) for r in replies(experiment, answer)} == {(None, reason)}


def test_an_error_without_words_is_a_lost_order_all_the_same(experiment: Experiment) -> None:
    def answer(message: Message) -> list[Message]:
        if message.metadata.message_type == MessageType.TRAIN:
            return [error(message, 2, " \n")]
        return [work(message)]

    assert {(r.result, r.reason) for r in replies(experiment, answer)} == {(None, "no reason given")}


def test_nonsense_is_a_lost_order(experiment: Experiment) -> None:
    def answer(message: Message) -> list[Message]:
        if message.metadata.message_type == MessageType.TRAIN:
            return [Message(RecordDict(), reply_to=message)]
        return [work(message)]

    assert {(r.result, r.reason) for r in replies(experiment, answer)} == {
        (None, "the message holds no package")
    }


def test_a_worker_that_cannot_start_ends_the_run_at_once(experiment: Experiment) -> None:
    started = time.monotonic()
    with pytest.raises(RunError, match="a worker cannot start: ImportError: no module named x"):
        replies(experiment, lambda m: [error(m, 1, "ImportError: no module named x")])
    assert time.monotonic() - started < 5


def test_workers_that_never_answer_end_the_run(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grid_module, "START_TIMEOUT_SECONDS", 0.3)
    with pytest.raises(RunError, match="none of the 2 workers answered"):
        replies(experiment, lambda m: [])


def test_without_nodes_the_run_ends(experiment: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ListGrid, "get_node_ids", lambda self: [])
    with pytest.raises(RunError, match="no Flower node connected"):
        grid_module.wait_for_nodes(ListGrid(lambda m: []), 2, timeout=0.1)  # type: ignore[arg-type]


def test_run_directory_of_the_fixture_is_untouched(experiment: Experiment) -> None:
    """Executors write nothing: only the engine does."""
    ledger = Path(experiment.partition_file).parent / "rounds.jsonl"
    assert ledger.read_bytes() == b""
