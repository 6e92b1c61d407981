"""What a run knows of Ray without starting it: room for workers, and whether somebody listens."""

import socket

import pytest

from fedfmd.config.sections.machine import BackendConfig
from fedfmd.errors import RunError
from fedfmd.flower.cluster import Cluster, ray_cluster

MACHINES = ({"CPU": 4.0, "GPU": 1.0}, {"CPU": 3.0}, {"memory": 1e9})


@pytest.mark.parametrize(
    ("cpus", "gpus", "workers"),
    [(1, 0.0, 7), (2, 0.0, 3), (4, 0.0, 1), (5, 0.0, 0), (1, 0.25, 4), (1, 2.0, 0)],
)
def test_a_worker_is_on_one_machine_with_all_that_it_needs(cpus: int, gpus: float, workers: int) -> None:
    assert Cluster({}, MACHINES).room(cpus, gpus) == workers


def test_a_service_that_does_not_listen_any_more_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        cluster = Cluster({"The service": address}, ())
        cluster.check()
    with pytest.raises(RunError, match=f"The service at 127.0.0.1:{address[1]} has died"):
        cluster.check()


def test_a_cluster_that_is_not_there_is_told_at_once() -> None:
    backend = BackendConfig(workers=1, ray_address="127.0.0.1:9")
    with (
        pytest.raises(RunError, match=r"backend.ray_address = '127.0.0.1:9': Ray cannot join: Connection"),
        ray_cluster(backend),
    ):
        pass
