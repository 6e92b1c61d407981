"""FjORD: nested widths with statistics of their own, and the widest network as teacher of the drawn one."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fedfmd import load_model
from fedfmd.algorithms.fjord import NestedWidths, Taught
from fedfmd.config.experiment import parse_config
from fedfmd.errors import UserError
from fedfmd.experiment import Experiment
from fedfmd.nn.submodel import WHOLE, Share
from fedfmd.nn.vector import Layout, bind
from fedfmd.records.rundir import RunDirectory
from fedfmd.rounds.inline import InlineExecutor
from fedfmd.rounds.lifecycle import execute, open_experiment, start_run


class Wide(InlineExecutor):
    """One client an order."""

    def __init__(self, experiment: Experiment):
        super().__init__(experiment)
        self.workers = 3


def prepared(out: Path, **client: Any) -> RunDirectory:
    document = {
        "data": {"train_samples": 90, "test_samples": 40},
        "partition": {"scheme": "iid", "clients": 4},
        "model": {"width": 0.25, "conv": "static", "norm": "bn"},
        "client": {"batch_size": 8, "epochs": 2, **client},
        "server": {"rounds": 2, "cohort": 3},
        "policy": {"kind": "width", "widths": [1.0, 0.5, 0.25], "width_mode": "ordered", "rates": "drawn"},
        "backend": {"kind": "inline", "threads": 1},
    }
    return start_run(parse_config(document), out)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDFMD_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def test_each_width_has_its_own_statistics_and_all_share_scale_and_shift(tmp_path: Path) -> None:
    """A nested width computes, and learns of its batches, what the network cut out of the whole does."""
    experiment = open_experiment(prepared(tmp_path / "run"))
    whole, part, share = (
        experiment.network.build().train(),
        experiment.network.build_part(Share(0.5)),
        Share(0.5),
    )
    vector, own = bind(whole), bind(part.train())
    index = experiment.network.index(share)
    assert index is not None
    own.copy_(vector[index])
    before = {name: tensor.clone() for name, tensor in whole.named_buffers()}
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    nested = NestedWidths(whole, {0.5: experiment.network.build_part(share).to("meta")})
    torch.testing.assert_close(nested(0.5, x), part(x))
    torch.testing.assert_close(vector[index], own)
    changed = {n for n, tensor in whole.named_buffers() if not torch.equal(tensor, before[n])}
    assert changed == {name for name in before if name.endswith("_0_5")}
    assert not any("running_mean_1_0" in name for name in Layout.of(part).names)
    assert sum(p.numel() for p in whole.parameters()) == experiment.network.part(WHOLE).cost.parameters


def test_a_drawn_network_learns_from_the_widest(tmp_path: Path) -> None:
    """Cross entropy of the widest with the labels, and of the drawn one with its softmax, held fixed."""
    widest, drawn = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(1)).unbind()
    widest, drawn, labels = widest.requires_grad_(), drawn.requires_grad_(), torch.tensor([0, 1, 2, 0, 1])
    loss = Taught().loss(torch.zeros(()), torch.stack([widest, drawn]), labels)
    odds = widest.detach().softmax(1)
    expected = -widest.log_softmax(1)[range(5), labels].mean() - (odds * drawn.log_softmax(1)).sum(1).mean()
    assert torch.isclose(loss, expected)
    loss.backward()
    assert widest.grad is not None
    assert drawn.grad is not None
    torch.testing.assert_close(widest.grad, (odds - torch.eye(3)[labels]) / 5)
    torch.testing.assert_close(drawn.grad, (drawn.detach().softmax(1) - odds) / 5)
    assert torch.equal(
        Taught().loss(loss, widest[None], labels), -widest.log_softmax(1)[range(5), labels].mean()
    )


def test_a_run_is_packed_billed_and_exported(tmp_path: Path) -> None:
    whole = prepared(tmp_path / "whole", self_distillation=True)
    wide = prepared(tmp_path / "wide", self_distillation=True)
    execute(whole, InlineExecutor)
    execute(wide, Wide)
    files = [load_file(d.path / "model.safetensors") for d in (whole, wide)]
    assert all(torch.equal(tensor, files[1][name]) for name, tensor in files[0].items())
    assert "norm1.running_mean" in files[0]
    rows = [row for round in (1, 2) for row in whole.client_rows(round)]
    assert all(row.used and row.macs <= row.macs_planned for row in rows)
    one_pass = open_experiment(whole).network.part(WHOLE).cost.forward_macs
    full = [row for row in rows if row.plan["width"] == 1.0]
    assert full
    assert all(row.macs > 3 * one_pass * 2 * row.examples for row in full)
    checkpoint, experiment = whole.load_checkpoint(), open_experiment(whole)
    assert checkpoint is not None
    model = experiment.network.build()
    bind(model).copy_(checkpoint.state)
    x = experiment.augment.eval_batch(experiment.test[0][:5])
    torch.testing.assert_close(load_model(whole.path).eval()(x), model.eval()(x))


def test_what_has_no_meaning_is_refused(tmp_path: Path) -> None:
    policy = {"kind": "width", "width_mode": "ordered"}
    document = {"model": {"exits": True}, "policy": policy, "client": {"self_distillation": True}}
    config = parse_config(document)
    with pytest.raises(UserError, match=r"not with model\.exits"):
        start_run(config, tmp_path / "run")
