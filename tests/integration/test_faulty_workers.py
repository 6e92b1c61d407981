"""Under Ray: its own processes, clients that kill or hang theirs, a backend that cannot start, a machine
that dies."""

import json
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file
from tiny_runs import assert_same_run, kill, launch, run_inline, tiny_config
from waiting import wait_until

from fedfmd.config.sections.machine import BackendConfig
from fedfmd.flower import cluster as ray_start
from fedfmd.flower import pool
from fedfmd.flower.cluster import ray_cluster
from fedfmd.machine import liveness
from fedfmd.records.rundir import RunDirectory
from fedfmd.records.schema import Json
from fedfmd.rounds.lifecycle import start_run

Started = Callable[[str], list[int]]


def client_rows(directory: RunDirectory) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory.path / "clients.jsonl").read_text().splitlines()]


def silent(row: Json) -> None:
    """Listen to nobody."""


@pytest.mark.slow
def test_clients_that_kill_or_hang_their_process_fail_alone(tmp_path: Path, started: Started) -> None:
    places = [(1, 2, "kill"), (2, 5, "hang")]
    faults = {"at": [{"round": r, "client": c, "kind": k} for r, c, k in places]}
    everyone = {"rounds": 3, "cohort": 8}
    directory = start_run(
        tiny_config(faults=faults, server=everyone, backend={"workers": 2}, client={"deadline_seconds": 3.0}),
        tmp_path / "run",
    )
    launch(directory, silent)
    bad = [
        (r["round"], r["client"], r["status"]) for r in client_rows(directory) if r["status"] != "completed"
    ]
    assert bad == [(1, 2, "failed"), (2, 5, "failed")]
    assert [row["completed"] for row in directory.rounds()] == [0, 7, 7, 8]
    # The same clients fail by an error that harms no process: the model must come out the same.
    harmless = {"at": [{"round": r, "client": c, "kind": "raise"} for r, c, _ in places]}
    oracle = run_inline(tmp_path / "oracle", faults=harmless, server=everyone)
    expected, found = (load_file(one.path / "model.safetensors") for one in (oracle, directory))
    assert expected.keys() == found.keys()
    assert all(expected[key].tobytes() == found[key].tobytes() for key in expected)


def test_ray_starts_what_a_run_needs_and_no_more(started: Started) -> None:
    with ray_cluster(BackendConfig(workers=1)) as cluster:
        cluster.check()
        assert cluster.room(1, 0) == 1
        assert all(len(started(needed)) == 1 for needed in ("gcs_server", "raylet/raylet"))
        assert not started("monitor.py")  # neither autoscaler nor reader of logs, log_monitor.py
        assert not started("dashboard.py")
        node = import_module(ray_start.NODE).Node  # as whole as before, for others who start Ray
        assert all(getattr(node, name).__name__ == name for name in ray_start.UNASKED)


@pytest.mark.slow
def test_a_ray_that_names_its_parts_otherwise_starts_all_of_them(
    started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_start, "NODE", "ray._private.a_module_of_another_version")
    with ray_cluster(BackendConfig(workers=1)) as cluster:
        cluster.check()
        assert started("monitor.py")


@pytest.fixture
def cluster(quiet_environment: str) -> Iterator[Any]:
    """Two real Ray nodes on this machine, each with its own raylet and one core."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    yield cluster
    cluster.shutdown()


@pytest.mark.slow
def test_a_run_on_a_cluster_survives_the_death_of_a_machine(
    started: Started, cluster: Any, tmp_path: Path
) -> None:
    rounds = {"rounds": 8}
    backend = {"workers": 2, "ray_address": cluster.address}
    directory = start_run(tiny_config(server=rounds, backend=backend), tmp_path / "run")
    assert len(started("raylet/raylet")) == 2
    raylet = [pid for pid in started("raylet/raylet") if pid not in head_processes(cluster)]

    def pull_the_plug(row: Json) -> None:
        if row["round"] == 3:
            kill(raylet)

    launch(directory, pull_the_plug)
    assert len(started("raylet/raylet")) == 1
    assert_same_run(run_inline(tmp_path / "oracle", server=rounds), directory)


def test_a_default_run_starts_its_own_ray_beside_another(
    started: Started, cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever leads to the other: the environment, and the file that Ray's tools look for."""
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text(cluster.address)
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    directory = start_run(tiny_config(server={"rounds": 1}, backend={"workers": 2}), tmp_path / "run")
    launch(directory, silent)
    assert len(started("raylet/raylet")) == 2, "the other cluster lives on"
    assert_same_run(run_inline(tmp_path / "oracle", server={"rounds": 1}), directory)


@pytest.mark.slow
def test_a_long_training_is_not_taken_for_a_frozen_process(
    tmp_path: Path, started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One step lasts several times as long as a worker may be silent."""
    monkeypatch.setattr(liveness, "SILENCE_SECONDS", 4.0)
    monkeypatch.setattr(pool, "PULSE_SECONDS", 0.1)
    config = tiny_config(
        faults={"at": [{"round": 2, "client": c, "kind": "hang"} for c in range(8)], "hang_seconds": 12.0},
        server={"rounds": 2, "cohort": 2},
        backend={"workers": 2},
    )
    workers: list[list[int]] = []

    def look(row: Json) -> None:
        assert wait_until(lambda: len(started("ray::ClientAppActor")) == 2)
        workers.append(sorted(started("ray::ClientAppActor")))

    launch(start_run(config, tmp_path / "run"), look)
    assert workers[1] == workers[2]


def head_processes(cluster: Any) -> set[int]:
    """List the processes of the cluster's head node."""
    groups = cluster.head_node.all_processes.values()
    return {info.process.pid for group in groups for info in group}
