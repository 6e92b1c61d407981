"""Workers and client state: FedBN, SCAFFOLD and FixBN by their laws, whatever the packing."""

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fedfmd.algorithms.scaffold import next_control
from fedfmd.config.experiment import parse_config
from fedfmd.errors import RunError
from fedfmd.nn import local_state_names
from fedfmd.nn.submodel import Share
from fedfmd.records.checkpoint import Checkpoint
from fedfmd.records.rundir import RunDirectory
from fedfmd.records.store import ClientStore, LostStateError
from fedfmd.rounds.engine import FederatedRun
from fedfmd.rounds.inline import InlineExecutor
from fedfmd.rounds.lifecycle import execute, open_experiment, start_run

CLIENTS = 4


class Wide(InlineExecutor):
    """One client an order."""

    workers = CLIENTS


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDFMD_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


SCAFFOLD: dict[str, Any] = {
    "client": {"scaffold": True, "momentum": 0.0, "weight_decay": 0.0, "batch_size": 10}
}
FEDBN = {"model": {"norm": "fedbn"}}
PARTS: dict[str, Any] = {
    "policy": {"kind": "width", "widths": [1.0, 0.5], "classifier_rows": "holders"},
    "devices": {
        "kind": "tiers",
        "tiers": [
            {"name": "strong", "share": 0.25},
            {"name": "weak", "share": 0.75, "budget": {"macs_fraction": 0.4}},
        ],
    },
}
NIID_BENCH = {"client": {"scaffold": True, "scaffold_variant": "niid-bench", "batch_size": 10}}
FEDDYN = {"algorithms": {"feddyn": {"alpha": 0.1}}}


def prepare(out: Path, **changes: dict[str, Any]) -> RunDirectory:
    document: dict[str, dict[str, Any]] = {
        "data": {"train_samples": 240, "test_samples": 60},
        "partition": {"scheme": "sampled", "clients": CLIENTS, "samples_per_client": 20},
        "model": {"name": "resnet8", "width": 0.25, "conv": "static"},
        "client": {"batch_size": 10},
        "server": {"rounds": 3, "cohort": 3},
        "backend": {"kind": "inline", "threads": 1},
    }
    for section, values in changes.items():
        document[section] = document.get(section, {}) | values
    return start_run(parse_config(document), out)


def weights(directory: RunDirectory) -> dict[str, torch.Tensor]:
    return load_file(directory.path / "model.safetensors")


def same(one: RunDirectory, other: RunDirectory) -> bool:
    return (one.path / "model.safetensors").read_bytes() == (other.path / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    "method",
    [SCAFFOLD, FEDBN, SCAFFOLD | FEDBN, FEDDYN, SCAFFOLD | PARTS, NIID_BENCH],
    ids=["scaffold", "fedbn", "both", "feddyn", "scaffold of parts", "niid-bench"],
)
def test_kept_state_gives_the_same_bits_packed_or_interrupted(tmp_path: Path, method: dict) -> None:
    whole, wide, torn = (prepare(tmp_path / name, **method) for name in ("whole", "wide", "torn"))
    execute(whole, InlineExecutor)
    execute(wide, Wide)
    assert same(whole, wide)

    def interrupt(row: dict) -> None:
        if row["round"] == 2:
            raise RunError("stopped by the test")

    with pytest.raises(RunError):
        execute(torn, InlineExecutor, interrupt)
    for path in torn.state_folder.iterdir():  # what a round that died half-way may leave
        client = path.name.split("-")[1]
        (torn.state_folder / f"client-{client}-round-3.safetensors").write_bytes(b"torn")
    execute(torn, InlineExecutor)
    assert same(whole, torn)


def test_looking_at_updates_does_not_change_the_sum(tmp_path: Path) -> None:
    """Diagnostics need every update by itself; else where a client ended and began goes into the sum."""
    dynamic = {"conv": "fmdconv", "kernels": 2}
    looking = prepare(tmp_path / "looking", model=dynamic, diagnostics={"enabled": True})
    summing = prepare(tmp_path / "summing", model=dynamic)
    for directory, looks in ((looking, True), (summing, False)):
        assert open_experiment(directory).config.measures_attention == looks
        execute(directory, InlineExecutor)
    assert same(looking, summing)


def test_only_the_states_in_use_are_kept_on_disk(tmp_path: Path) -> None:
    directory = prepare(tmp_path / "run", **FEDBN)
    execute(directory, InlineExecutor)
    checkpoint = directory.load_checkpoint()
    assert checkpoint is not None
    earlier = Checkpoint.load(directory.checkpoints.previous)
    kept = [*checkpoint.state_rounds.items(), *earlier.state_rounds.items()]
    expected = {f"client-{c}-round-{r}.safetensors" for c, r in kept}
    assert {path.name for path in directory.state_folder.iterdir()} == expected
    assert len(expected) >= 3


def test_fedbn_leaves_the_global_norms_alone_and_sends_fewer_bytes(tmp_path: Path) -> None:
    local, shared = prepare(tmp_path / "fedbn", **FEDBN), prepare(tmp_path / "bn", model={"norm": "bn"})
    for directory in (local, shared):
        execute(directory, InlineExecutor)
    experiment = open_experiment(local)
    fresh = experiment.network.build().state_dict()
    names = local_state_names(experiment.network.build())
    after = weights(local)
    assert names
    for name, tensor in after.items():
        assert torch.equal(tensor, fresh[name]) == (name in names), name
    norms = sum(fresh[name].numel() for name in names)
    fewer = shared.rounds()[1]["uplink_bytes"] - local.rounds()[1]["uplink_bytes"]
    assert fewer == 4 * norms * 3
    kept = [load_file(path)["norms"] for path in sorted(local.state_folder.iterdir())]
    assert all(len(state) == norms for state in kept)
    assert not torch.equal(kept[0], kept[1])


def test_next_control_is_the_mean_gradient_the_client_saw() -> None:
    """With plain SGD, (x - y)/(K lr) = mean gradient + c - c_i, so option II gives the mean gradient."""
    rng = torch.Generator().manual_seed(0)
    own, control, gradients = (torch.randn(n, 7, generator=rng) for n in (1, 1, 4))
    moved = -0.1 * (gradients + control - own).sum(0)
    new = next_control(own[0], control[0], moved, steps=4, learning_rate=0.1)
    assert torch.allclose(new, gradients.mean(0), atol=1e-6)


def test_scaffold_first_round_is_fedavg_with_equal_weights(tmp_path: Path) -> None:
    """All controls start at zero; clients have equal sizes here, so the first models agree."""
    plain = {"client": {**SCAFFOLD["client"], "scaffold": False}}
    runs = [prepare(tmp_path / n, **m, server={"rounds": 1, "cohort": 3}) for n, m in
            (("scaffold", SCAFFOLD), ("plain", plain))]  # fmt: skip
    for directory in runs:
        execute(directory, InlineExecutor)
    one, other = (weights(directory) for directory in runs)
    assert all(torch.allclose(one[name], other[name], atol=1e-7) for name in one)


@pytest.mark.parametrize("parts", [{}, PARTS], ids=["whole", "parts"])
def test_scaffold_server_control_is_the_mean_of_all_clients_controls(tmp_path: Path, parts: dict) -> None:
    """Invariant of algorithm 1: c = (1/N) sum c_i, clients never drawn counting as zero, and so elements
    that a client has never held."""
    directory = prepare(tmp_path / "run", **SCAFFOLD, **parts, server={"rounds": 4, "cohort": 2})
    execute(directory, InlineExecutor)
    experiment, checkpoint = open_experiment(directory), directory.load_checkpoint()
    assert checkpoint is not None
    elements = experiment.network.cost.state_elements
    control = checkpoint.state[elements:]
    states = [experiment.store.load(c, r)["control"] for c, r in checkpoint.state_rounds.items()]
    mean = torch.stack(states).double().sum(0) / CLIENTS
    assert len(control) == len(mean)
    assert float(control.norm()) > 0
    assert torch.allclose(control.double(), mean, atol=1e-6 * float(mean.abs().max() + 1))


def test_scaffold_pays_for_its_controls(tmp_path: Path) -> None:
    """Of the part that a client holds, each way."""
    directory = prepare(tmp_path / "run", **SCAFFOLD, **PARTS)
    execute(directory, InlineExecutor)
    experiment = open_experiment(directory)
    rows = [json.loads(line) for line in (directory.path / "clients.jsonl").read_text().splitlines()]
    assert {row["plan"]["width"] for row in rows} == {1.0, 0.5}
    for row in rows:
        cost = experiment.network.part(Share(width=row["plan"]["width"])).cost
        assert row["downlink_bytes"] == row["uplink_bytes"] == 4 * (cost.state_elements + cost.parameters)


def statistics(states: Sequence[dict[str, torch.Tensor]]) -> list[torch.Tensor]:
    return [torch.cat([t for n, t in s.items() if "running" in n]) for s in states]


def test_fixbn_freezes_the_statistics_from_its_round_on(tmp_path: Path) -> None:
    directory = prepare(tmp_path / "run", model={"norm": "fixbn", "freeze_round": 3}, server={"rounds": 4})
    states = []
    experiment = open_experiment(directory)
    run = FederatedRun(experiment, directory, InlineExecutor(experiment))
    run.on_round = lambda row: states.append(
        {name: view.clone() for name, view in run.model.layout.views(run.model.vector).items()}
    )
    run.run()
    moving = statistics(states)
    changed = [not torch.equal(a, b) for a, b in pairwise(moving)]
    assert changed == [True, True, False, False]
    weight = next(name for name in states[0] if name.endswith("conv1.weight"))
    assert not torch.equal(states[3][weight], states[4][weight])


def test_a_store_reads_what_it_wrote_and_misses_nothing_silently(tmp_path: Path) -> None:
    store = ClientStore(tmp_path / "states")
    assert store.load(3, 0) == {}
    store.save(3, 2, {"norms": torch.arange(4.0)})
    store.save(3, 5, {"norms": torch.arange(5.0)})
    assert torch.equal(store.load(3, 2)["norms"], torch.arange(4.0))
    store.prune({3: 5})
    with pytest.raises(LostStateError, match="client-3-round-2"):
        store.load(3, 2)
    assert len(store.load(3, 5)["norms"]) == 5


@pytest.mark.parametrize("secure", ["none", "secagg"])
@pytest.mark.parametrize("parts", [False, True], ids=["whole", "parts"])
def test_clients_whose_running_variances_jump_are_used(tmp_path: Path, parts: bool, secure: str) -> None:
    """Behind a stem of 7x7 weights some large steps take them from 1 to hundreds: that is training."""
    directory = prepare(
        tmp_path / "run",
        model={"norm": "bn", "stem": "imagenet"},
        client={"optimizer": "adamw", "learning_rate": 0.1, "epochs": 8, "augment": False},
        server={"rounds": 1, "cohort": CLIENTS},
        privacy={"secure": secure},
        evaluation={"static_norms": False},
        policy={"kind": "width", "widths": [1.0, 0.5], "rates": "drawn", "classifier_rows": "holders"}
        if parts
        else {},
    )
    execute(directory, InlineExecutor)
    assert [(row["status"], row["reason"]) for row in directory.clients()] == [("completed", None)] * CLIENTS
    largest = max(float(v.max()) for k, v in weights(directory).items() if k.endswith("running_var"))
    assert largest > 256  # 64 times the largest element of the state that the round began with, 2 at most
