"""The global model is tested by workers to the bit as by the server, whatever they leave out."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fedfmd.config.experiment import parse_config
from fedfmd.experiment import Experiment
from fedfmd.nn import set_temperature
from fedfmd.nn.vector import bind
from fedfmd.records.schema import SchemaError
from fedfmd.rounds.inline import InlineExecutor
from fedfmd.rounds.lifecycle import open_experiment, start_run
from fedfmd.rounds.testing import GlobalTest
from fedfmd.training.evaluation import ModelEvaluation, evaluate
from fedfmd.wire.testing import Batch, BatchCounts, Evaluation, ServerTestOrder, ServerTestResult

Answer = tuple[ServerTestOrder, ServerTestResult | None]
Change = Callable[[int, ServerTestResult], ServerTestResult | None]


class Workers(InlineExecutor):
    """Three workers in this process, whose answers ``change`` by their number."""

    tests = True

    def __init__(self, experiment: Experiment, change: Change):
        super().__init__(experiment)
        self.workers = 3
        self.change = change
        self.asked: list[ServerTestOrder] = []

    def test(self, orders: Sequence[ServerTestOrder], vector: Tensor) -> Iterator[Answer]:
        answers = list(super().test(orders, vector))
        self.asked += orders
        for number, (order, result) in reversed(list(enumerate(answers))):  # in any order
            assert result is not None
            yield order, self.change(number, result)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    folder: Path = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDFMD_CACHE", str(folder / "cache"))
        document = {
            "data": {"train_samples": 300, "test_samples": 101},
            "partition": {"scheme": "iid", "clients": 4, "validation": 0.25},
            "model": {"width": 0.25, "kernels": 2, "norm": "bn"},
            "evaluation": {"batch_size": 8},
            "server": {"rounds": 3},
        }
        return open_experiment(start_run(parse_config(document), folder / "run"))


def unchanged(number: int, result: ServerTestResult) -> ServerTestResult:
    return result


def measured(
    experiment: Experiment, change: Change = unchanged, *, first: int = 0, tests: bool = True
) -> tuple[ModelEvaluation, Workers]:
    """Measure a moved model after round 2; the ``first`` that is measured is that of another round."""
    model, executor = experiment.network.build(), Workers(experiment, change)
    executor.tests = tests
    buffer = bind(model)
    moved = buffer + 0.1 * torch.randn(len(buffer), generator=torch.Generator().manual_seed(1)).abs()
    tested = GlobalTest(experiment, executor, model, buffer)
    tested.measure(first, buffer.clone())
    assert not executor.asked
    return tested.measure(2, moved), executor


@pytest.fixture(scope="module")
def alone(experiment: Experiment) -> ModelEvaluation:
    """What the server finds by itself."""
    found, executor = measured(experiment, tests=False)
    assert not executor.asked
    return found


def too_many(number: int, result: ServerTestResult) -> ServerTestResult:
    wrong = Evaluation(7, 7, 7, 0.0)
    return replace(result, tested=tuple(replace(t, found=wrong) for t in result.tested))


def another_s(number: int, result: ServerTestResult) -> ServerTestResult:
    (first, *others) = result.tested
    elsewhere = BatchCounts(batch=replace(first.batch, number=first.batch.number + 1), found=first.found)
    return replace(result, tested=(elsewhere, *others))


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(unchanged, id="all"),
        pytest.param(lambda number, result: result if number % 2 else None, id="half-of-the-workers-lost"),
        pytest.param(lambda _, result: replace(result, tested=result.tested[1:]), id="batches-left-out"),
        pytest.param(too_many, id="impossible-counts"),
        pytest.param(another_s, id="batches-of-others"),
    ],
)
def test_workers_find_what_the_server_finds(
    experiment: Experiment, alone: ModelEvaluation, change: Change
) -> None:
    found, executor = measured(experiment, change)
    assert found == alone
    asked = [batch for order in executor.asked for batch in order.batches]
    assert len(set(asked)) == len(asked) == 13 + 10  # of 8 images: the last ones have 5 and 3
    assert len(executor.asked) == 12


@pytest.mark.parametrize("wrong", [{"loss_sum": -1.0}, {"correct": -1}, {"examples": 7.5}], ids=str)
def test_counts_that_cannot_be_are_not_read(wrong: dict[str, float]) -> None:
    tested = BatchCounts(batch=Batch(images="test", number=0), found=Evaluation(8, 2, 5, 9.5))
    reply = ServerTestResult(tested=(tested,)).to_json()
    assert ServerTestResult.exactly(reply).tested == (tested,)
    reply["tested"][0]["found"].update(wrong)
    with pytest.raises(SchemaError):
        ServerTestResult.exactly(reply)


@pytest.mark.parametrize("first", [0, 1], ids=["begun", "resumed"])
def test_workers_are_asked_once_the_server_knows_how_long_it_takes(
    experiment: Experiment, first: int
) -> None:
    """The first model that a process measures does not wait for workers, and tells how long they may take."""
    _, executor = measured(experiment, first=first)
    for order in executor.asked:
        assert 0 < order.seconds < 600
        assert order.allowed_seconds(None) == order.seconds


def test_the_server_finds_what_one_pass_over_the_images_finds(
    experiment: Experiment, alone: ModelEvaluation
) -> None:
    assert alone.test is not None
    assert alone.validation is not None
    assert (alone.test.examples, alone.validation.examples) == (101, 75)
    model = experiment.network.build()
    vector = bind(model)
    vector += 0.1 * torch.randn(len(vector), generator=torch.Generator().manual_seed(1)).abs()
    set_temperature(model, experiment.temperatures(2))
    assert alone.test == evaluate(model, *experiment.test, experiment.augment, 8)
