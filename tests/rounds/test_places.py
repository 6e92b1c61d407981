"""How many workers a machine holds, by its cores and its memory."""

import pytest

from fedfmd.building import network
from fedfmd.config.experiment import make_config
from fedfmd.config.sections.machine import BackendConfig
from fedfmd.costs.macs import model_cost
from fedfmd.costs.memory import training_bytes
from fedfmd.errors import UserError
from fedfmd.rounds import limits, places
from fedfmd.rounds.limits import check_machine
from fedfmd.rounds.places import SERVER_BYTES, WORKER_BYTES, held_workers, with_workers


@pytest.mark.parametrize(("workers", "each"), [(1, 0), (3, 0), (7, 250_000_000), (64, 1_500_000_000)])
def test_memory_for_so_many_workers_holds_them_and_no_more(workers: int, each: int) -> None:
    needed = SERVER_BYTES + workers * (WORKER_BYTES + each)
    assert held_workers(needed, each) == workers
    assert held_workers(needed - 1, each) == max(1, workers - 1)


@pytest.mark.parametrize(
    ("memory", "workers"), [(None, 8), (64_000_000_000, 8), (2_000_000_000, 2), (500_000_000, 1)]
)
def test_open_workers_are_the_cores_as_far_as_memory_holds_them(
    memory: int | None, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "available_cores", lambda: 8)
    monkeypatch.setattr(places, "memory_bytes", lambda: memory)
    assert with_workers(BackendConfig()).workers == workers
    assert with_workers(BackendConfig(workers=5)).workers == 5
    assert with_workers(BackendConfig(kind="inline")).workers is None


def test_more_training_than_memory_is_refused_with_what_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_config(
        {
            "model": {"name": "resnet18"},
            "client": {"batch_size": 64, "optimizer": "adamw"},
            "backend": {"workers": 4},
        }
    )
    cost = model_cost(network(config.model, num_classes=10, input_shape=(3, 32, 32)), (3, 32, 32))
    each = WORKER_BYTES + training_bytes(cost, 64, optimizer_copies=2)
    monkeypatch.setattr(limits, "memory_bytes", lambda: SERVER_BYTES + 4 * each)
    assert limits.placed(config.backend, config, cost) == config
    monkeypatch.setattr(limits, "memory_bytes", lambda: SERVER_BYTES + 4 * each - 1)
    assert limits.placed(BackendConfig(), config, cost).backend.workers == 3
    with pytest.raises(
        UserError, match=r"backend\.workers = 4: training takes .* set backend\.workers = 3, or"
    ):
        limits.placed(config.backend, config, cost)


@pytest.mark.parametrize(
    ("data", "classes"),
    [
        ({"name": "cifar100"}, 100),
        ({"name": "fashion-mnist"}, 10),
        ({"name": "embedded", "classes": 100}, 100),
        ({"name": "torchvision.datasets:MNIST"}, 10),
        ({"name": "imagefolder", "image_size": 16}, None),
        ({"name": "torchvision.datasets:FakeData"}, None),
    ],
)
def test_classes_are_known_from_the_part_that_makes_the_images(
    data: dict[str, object], classes: int | None
) -> None:
    assert make_config({"data": data}).data.known_classes == classes


def test_outputs_are_held_against_classes_only_where_these_are_known() -> None:
    check_machine(make_config({"data": {"name": "imagefolder", "image_size": 16}, "model": {"outputs": 4}}))
    with pytest.raises(UserError, match=r"model.outputs = 4: at least one for each of the 10 classes"):
        check_machine(make_config({"data": {"name": "cifar10"}, "model": {"outputs": 4}}))
