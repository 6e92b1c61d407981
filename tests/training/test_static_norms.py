"""Static BatchNorm: the global model's statistics are those of the cohort's images, and are billed."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fedfmd.config.experiment import make_config, parse_config
from fedfmd.nn.submodel import WHOLE
from fedfmd.records.rundir import RunDirectory
from fedfmd.rounds.inline import InlineExecutor
from fedfmd.rounds.lifecycle import execute, open_experiment, start_run

CLIENTS = 3


class Wide(InlineExecutor):
    """One client an order."""

    workers = CLIENTS


def run(
    out: Path, executor: type[InlineExecutor] = InlineExecutor, *, static: bool | None = True
) -> RunDirectory:
    document = {
        "data": {"train_samples": 90, "test_samples": 40},
        "partition": {"scheme": "quantity", "clients": CLIENTS, "min_size": 5},
        "model": {"width": 0.25, "conv": "static", "norm": "bn"},
        "client": {"batch_size": 10},
        "server": {"rounds": 2, "cohort": CLIENTS, "weighting": "uniform"},
        "evaluation": {} if static is None else {"static_norms": static},
        "policy": {"kind": "width", "widths": [1.0, 0.5], "rates": "drawn"},
        "backend": {"kind": "inline", "threads": 1},
    }
    directory = start_run(parse_config(document), out)
    execute(directory, executor)
    return directory


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDFMD_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def test_statistics_are_those_of_the_cohorts_images(tmp_path: Path) -> None:
    """The first layer's input does not depend on batches: its moments are those of all images together."""
    directory, wide = run(tmp_path / "run"), run(tmp_path / "wide", Wide)
    experiment, checkpoint = open_experiment(directory), directory.load_checkpoint()
    assert checkpoint is not None
    other = wide.load_checkpoint()
    assert other is not None
    assert torch.equal(checkpoint.state, other.state)
    model = experiment.network.build()
    layout = experiment.network.part(WHOLE).layout
    state = {name: view.clone() for name, view in layout.views(checkpoint.state[: layout.elements]).items()}
    model.load_state_dict(state)
    held = [experiment.partition.indices(client) for client in range(CLIENTS)]
    images = torch.from_numpy(experiment.dataset.train_images[np.concatenate(held)])
    x = model.get_submodule("conv1")(experiment.augment.eval_batch(images)).double()
    torch.testing.assert_close(state["norm1.running_mean"].double(), x.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    variance = x.var((0, 2, 3), correction=0)
    torch.testing.assert_close(state["norm1.running_var"].double(), variance, rtol=1e-3, atol=1e-5)


def test_looking_is_billed_as_evaluation_and_changes_no_weight_of_the_first_round(tmp_path: Path) -> None:
    static, averaged = run(tmp_path / "static"), run(tmp_path / "averaged", static=False)
    rows = static.rounds()
    experiment = open_experiment(static)
    examples = sum(experiment.partition.size(client) for client in range(CLIENTS))
    assert rows[1]["evaluation_macs"] == experiment.network.cost.forward_macs * examples
    assert rows[1]["evaluation_uplink_bytes"] > 0
    assert averaged.rounds()[1]["evaluation_macs"] == 0
    assert rows[1]["macs"] == averaged.rounds()[1]["macs"]
    assert rows[1]["test_loss"] != averaged.rounds()[1]["test_loss"]


def test_they_are_the_default_of_narrower_networks(tmp_path: Path) -> None:
    unset, asked = (run(tmp_path / str(static), static=static).load_checkpoint() for static in (None, True))
    assert unset is not None
    assert asked is not None
    assert torch.equal(unset.state, asked.state)


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"policy.kind": "width"}, True),
        ({"policy.kind": "auto"}, True),
        ({"policy.kind": "smallest"}, True),
        ({"policy.kind": "width", "policy.width_mode": "ordered"}, False),
        ({"policy.kind": "width", "evaluation.static_norms": False}, False),
        ({"policy.kind": "width", "model.norm": "gn"}, False),
        ({"policy.kind": "partial"}, False),
        ({"evaluation.static_norms": True}, True),
    ],
)
def test_when_they_are_asked_for(document: dict[str, object], expected: bool) -> None:
    assert make_config({"model": {"norm": "bn"}}, document).restates_norms is expected
