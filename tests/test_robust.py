"""Robust means against closed forms, and runs in which a client lies."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedfmd.aggregation import krum, median, trimmed_mean
from fedfmd.algorithms import check_algorithms
from fedfmd.config.experiment import ExperimentConfig, parse_config
from fedfmd.errors import UserError
from fedfmd.rounds.inline import InlineExecutor
from fedfmd.rounds.lifecycle import execute, start_run


def updates(n: int, seed: int) -> list[torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return [torch.randn(40_000, generator=rng, dtype=torch.float64) for _ in range(n)]  # more than a chunk


@given(n=st.integers(1, 9), seed=st.integers(0, 99))
def test_trimmed_mean_and_median_by_element(n: int, seed: int) -> None:
    given_, values = updates(n, seed), np.stack([u.numpy() for u in updates(n, seed)])
    np.testing.assert_allclose(median(given_).numpy(), np.median(values, axis=0), rtol=1e-12)
    np.testing.assert_allclose(trimmed_mean(given_, 0.0).numpy(), values.mean(0), rtol=1e-9, atol=1e-12)
    cut = int(0.3 * n)
    expected = np.sort(values, axis=0)[cut : n - cut].mean(0)
    np.testing.assert_allclose(trimmed_mean(given_, 0.3).numpy(), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("hostile", "keep"), [(1, 1), (2, 3)])
def test_krum_takes_the_updates_nearest_to_their_nearest(hostile: int, keep: int) -> None:
    given_ = updates(7, 5)
    given_[2] = given_[2] + 50
    values = np.stack([u.numpy() for u in given_])
    squared = ((values[:, None] - values[None]) ** 2).sum(2)
    scores = [np.sort(np.delete(squared[i], i))[: 7 - hostile - 2].sum() for i in range(7)]
    best = np.argsort(scores, kind="stable")[:keep]
    np.testing.assert_allclose(krum(given_, hostile, keep).numpy(), values[best].mean(0), rtol=1e-12)
    assert 2 not in best


def config_of(**server: Any) -> ExperimentConfig:
    return parse_config(
        {
            "data": {"train_samples": 100, "test_samples": 20},
            "partition": {"scheme": "iid", "clients": 5},
            "model": {"width": 0.25, "conv": "static"},
            "client": {"batch_size": 10},
            "server": {"rounds": 1, "cohort": 5, **server},
            "backend": {"kind": "inline"},
            "faults": {"at": [{"round": 1, "client": 2, "kind": "absurd"}]},
        }
    )


@pytest.mark.parametrize("aggregation", ["trimmed-mean", "median", "krum"])
def test_one_client_that_lies_hardly_moves_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, aggregation: str
) -> None:
    """The law of each, on a run: the model is the robust mean of the updates that clients really sent."""
    monkeypatch.setenv("FEDFMD_CACHE", str(tmp_path / "cache"))
    trim = {"trim": 0.2} if aggregation == "trimmed-mean" else {}
    found = []
    for workers in (1, 3):
        directory = start_run(config_of(aggregation=aggregation, **trim), tmp_path / f"run-{workers}")
        execute(directory, type("Wide", (InlineExecutor,), {"workers": workers}))
        checkpoint = directory.load_checkpoint()
        assert checkpoint is not None
        found.append(checkpoint.state)
    assert torch.equal(*found)
    assert float(found[0].abs().max()) < 5


OWN = """
import torch


def by_root(updates, examples, clients, power=1.0):
    assert clients == sorted(clients)
    weights = torch.tensor(examples, dtype=torch.float64) ** power
    return (weights / weights.sum()) @ torch.stack(list(updates))
"""


def test_an_aggregation_of_ones_own_gets_updates_examples_and_its_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the power 1 it is the mean by examples, which the server sums exactly; with 0 all count alike."""
    monkeypatch.setenv("FEDFMD_CACHE", str(tmp_path / "cache"))
    (tmp_path / "own_aggregation.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)

    def end(name: str, document: dict[str, Any]) -> torch.Tensor:
        sizes = {"partition": {"scheme": "dirichlet", "clients": 5, "alpha": 0.3}, "faults": {}}
        config = config_of().model_dump(exclude_unset=True) | sizes
        config["server"] = {"rounds": 1, "cohort": 5} | document.pop("server", {})
        directory = start_run(parse_config(config | document), tmp_path / name)
        execute(directory, InlineExecutor)
        checkpoint = directory.load_checkpoint()
        assert checkpoint is not None
        return checkpoint.state

    own = {"aggregation": "own_aggregation:by_root"}
    assert torch.allclose(end("own", {"server": own}), end("mean", {}), atol=1e-6)
    alike = end("alike", {"server": own, "options": {"aggregation": {"power": 0.0}}})
    assert torch.allclose(alike, end("uniform", {"server": {"weighting": "uniform"}}), atol=1e-6)
    assert not torch.allclose(alike, end("again", {}), atol=1e-6)


def test_what_needs_the_mean_of_all_is_refused() -> None:
    with pytest.raises(UserError, match=r"server\.cohort at least 2 server\.hostile"):
        config_of(aggregation="krum", hostile=2)
    document = {"client": {"scaffold": True, "momentum": 0.0}, "server": {"aggregation": "median"}}
    with pytest.raises(
        UserError, match=r"algorithms\.scaffold: server\.aggregation = 'median': needs 'mean'"
    ):
        check_algorithms(parse_config(document))
    with pytest.raises(UserError, match="clients that hold the whole model"):
        parse_config({"policy": {"kind": "width"}, "server": {"aggregation": "median"}})
