"""What a real client sends is what its row is billed for, and the run has the bits of the simulated one."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from nodes import Nodes, as_one_task
from orders import order_for
from pictures import write_pictures
from safetensors.torch import save

from fedfmd.aggregation import ExactSum, RejectedUpdateError, Scale
from fedfmd.config.experiment import ExperimentConfig, parse_config
from fedfmd.config.sections.compression import CompressionConfig
from fedfmd.data.prepared import open_prepared
from fedfmd.deployment.client import OwnWorker
from fedfmd.deployment.layout import PICTURES
from fedfmd.deployment.run import open_deployed_experiment, start_deployed_run
from fedfmd.experiment import Experiment
from fedfmd.flower.attendance import Attendance
from fedfmd.flower.real_clients import ClientExecutor
from fedfmd.nn.submodel import WHOLE
from fedfmd.nn.vector import bind
from fedfmd.planning.policy import Planner
from fedfmd.records.rundir import RunDirectory
from fedfmd.rounds.inline import InlineExecutor
from fedfmd.rounds.lifecycle import execute, open_experiment, resolve, start_run
from fedfmd.seeds import generator
from fedfmd.wire.compression import Uncompressed, compressor
from fedfmd.wire.plan import ClientPlan
from fedfmd.wire.upload import Expected, Upload

CLIENTS = 3
CONFIG: dict[str, Any] = {
    "data": {"train_samples": 60, "test_samples": 10},
    "partition": {"scheme": "iid", "clients": CLIENTS},
    "model": {"name": "resnet8", "width": 0.25, "conv": "static"},
    "client": {"batch_size": 10},
    "server": {"cohort": CLIENTS, "rounds": 2},
    "logging": {"tensorboard": False},
    "backend": {"kind": "inline", "threads": 1},
}
PARTS: dict[str, Any] = {
    "policy": {"kind": "width", "widths": [1.0, 0.5], "classifier_rows": "holders"},
    "devices": {
        "kind": "tiers",
        "tiers": [{"name": "strong"}, {"name": "weak", "share": 4, "budget": {"macs_fraction": 0.4}}],
    },
}
OWN_NORMS = {"model": {**CONFIG["model"], "norm": "fedbn"}, "evaluation": {"clients": 2}}
KINDS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "float16": {"compression": {"uplink": "float16"}},
    "int8": {"compression": {"uplink": "int8"}},
    "topk of parts": {"compression": {"uplink": "topk", "topk_fraction": 0.02}} | PARTS,
    "rows of labels beside": {
        "compression": {"uplink": "int8"},
        **PARTS,
        "policy": {**PARTS["policy"], "classifier_rows": "labels"},
    },
    "controls beside": {"client": {**CONFIG["client"], "scaffold": True, "momentum": 0.0}} | PARTS,
    "own norms": OWN_NORMS,
    "own norms, topk": OWN_NORMS | {"compression": {"uplink": "topk", "topk_fraction": 0.02}},
    "static norms": {"model": {**CONFIG["model"], "norm": "bn"}, "evaluation": {"static_norms": True}},
}


@pytest.fixture(autouse=True)
def task(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with as_one_task(tmp_path_factory.getbasetemp() / "uploads-cache"):
        yield


def deployed(folder: Path, config: ExperimentConfig) -> RunDirectory:
    """Run a config on real clients, through the messages that Flower would carry."""
    write_pictures(folder / "data", config)
    data = folder / "data" / "server" / PICTURES
    grid: Any = Nodes(folder, CLIENTS)
    executor = ClientExecutor(grid, config, "run", CLIENTS, open_prepared(data))
    executor.gather()
    roll = Attendance(executor, 0)
    directory = start_deployed_run(config, folder / "run", data, roll)

    def opened(run: RunDirectory) -> Experiment:
        return open_deployed_experiment(run, data, roll)

    execute(directory, lambda _: executor, open_directory=opened)
    return directory


def rows(directory: RunDirectory) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory.path / "clients.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("kind", KINDS)
def test_real_clients_send_what_is_billed_and_change_no_bit(tmp_path: Path, kind: str) -> None:
    config = resolve(parse_config(CONFIG | KINDS[kind]))
    (tmp_path / "real").mkdir()
    real = deployed(tmp_path / "real", config)
    simulated = start_run(config, tmp_path / "simulated")
    execute(simulated, InlineExecutor)
    model = "model.safetensors"
    assert (real.path / model).read_bytes() == (simulated.path / model).read_bytes()
    for ours, theirs in zip(rows(real), rows(simulated), strict=True):
        assert ours["status"] == theirs["status"] == "completed"
        assert ours["uplink_bytes"] == theirs["uplink_bytes"] < ours["uplink_wire_bytes"]
        assert abs(ours["uplink_wire_bytes"] - theirs["uplink_wire_bytes"]) < 1000


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_billed_is_what_the_tensors_take(tmp_path: Path, kind: str) -> None:
    config = resolve(parse_config(CONFIG | KINDS[kind]))
    experiment = open_experiment(start_run(config, tmp_path / "run"))
    whole = experiment.network.part(WHOLE).layout
    vector = torch.zeros(whole.elements + experiment.algorithms.extra_elements(whole))
    vector[: whole.elements] = bind(experiment.network.build())
    widths = set()
    for client in range(CLIENTS):
        plan = Planner(experiment).plan(client, 1, {})
        assert isinstance(plan, ClientPlan)
        widths.add(plan.share.width)
        result = OwnWorker(experiment).train(order_for(client, plans=(plan,), state_rounds=(0,)), vector)
        (row,), total = result.rows, result.total
        assert row.status == "completed", row.reason
        assert isinstance(total, Upload)
        assert row.uplink_bytes == sum(t.numel() * t.element_size() for t in total.tensors.values())
        document = json.dumps(replace(row, uplink_wire_bytes=0).to_json(), separators=(",", ":"))
        assert row.uplink_wire_bytes == len(document) + len(save(total.tensors))
    assert ("policy" in KINDS[kind]) == (widths != {1.0})


def update(elements: int = 1000) -> torch.Tensor:
    return torch.linspace(-1, 1, elements)


def expected(**changes: Any) -> Expected:
    return Expected(
        **{"scale": Scale(7, 6), "part": "", "index": None, "method": Uncompressed(), "extra": 0, **changes}
    )


def test_the_sum_of_an_upload_is_the_clients_own() -> None:
    """A part with elements beside it, compressed: what the server makes is what a worker would have added."""
    index, scale = torch.arange(0, 1000, 2), Scale(7, 6)
    method = compressor(CompressionConfig(uplink="int8"))
    sent = method.compress(update(490), generator(0, "compression"))
    whole = torch.cat([method.restore(sent, 490), update(10)])
    oracle, upload = ExactSum.zero(1000, scale), Upload(scale, 1000)
    oracle.add(whole, 20, "half", index)
    upload.add(whole, 20, "half", index, sent, 10)
    total = upload.summed(expected(part="half", index=index, method=method, extra=10))
    assert torch.equal(total.quanta, oracle.quanta)
    assert total.weights == oracle.weights == {"half": 20}


def test_what_stays_on_the_client_is_not_sent_and_changes_nothing() -> None:
    local, whole = torch.tensor([0, 7, 999]), update()
    whole[local] = 0
    oracle, upload = ExactSum.zero(1000, Scale(7, 6)), Upload(Scale(7, 6), 1000)
    oracle.add(whole, 20)
    upload.add(whole, 20, local=local)
    assert upload.tensors["values"].shape == (997,)
    assert torch.equal(upload.summed(expected(local=local)).quanta, oracle.quanta)


def test_an_update_that_cannot_be_summed_travels_and_counts_for_nothing() -> None:
    upload, bad = Upload(Scale(7, 6), 1000), update()
    bad[3] = torch.nan
    with pytest.raises(RejectedUpdateError, match="NaN"):
        upload.add(bad, 20)
    assert len(upload.tensors["values"]) == 1000
    assert not upload.summed(expected()).quanta.any()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scale": Scale(8, 6)}, "another order"),
        ({"part": "half"}, "its part"),
        ({"index": torch.arange(500)}, r"needs values: torch.float32 \(500,\)"),
        ({"extra": 5}, "beside the update"),
        ({"local": torch.arange(10)}, r"needs values: torch.float32 \(990,\)"),
        ({"method": compressor(CompressionConfig(uplink="float16"))}, "needs values: torch.float16"),
    ],
)
def test_another_update_than_expected_is_refused(changes: dict[str, Any], words: str) -> None:
    upload = Upload(Scale(7, 6), 1000)
    upload.add(update(), 20)
    with pytest.raises(ValueError, match=words):
        upload.summed(expected(**changes))
