"""DP-FedAvg's own figures; that its runs are private is measured elsewhere."""

import pytest
import torch

from fedfmd.algorithms import Collected
from fedfmd.algorithms.dp_fedavg import DPFedAvg
from fedfmd.config.experiment import parse_config
from fedfmd.nn.vector import Layout
from fedfmd.records.rows import ClientRow

ROW = ClientRow(round=1, client=0, status="completed", plan={}, macs_planned=0)


def told_share(planned: int, answered: int, clipped: int) -> float:
    """Return the share of clipped updates in the row of a round, by the counts that clients have sent."""
    config = parse_config(
        {
            "data": {"train_samples": 400},
            "partition": {"clients": 50},
            "server": {"cohort": planned, "weighting": "uniform"},
            "selection": {"kind": "poisson"},
            "model": {"norm": "gn"},
            "privacy": {"dp": "central", "noise_multiplier": 0.0},
        }
    )
    algorithm, nothing = DPFedAvg(config), torch.zeros(1)
    unit = algorithm.clip(nothing).unit
    mean = torch.tensor([0.5 * unit * (answered - 2 * clipped)], dtype=torch.float64) * (1 / planned)
    collected = Collected(
        rows=[ROW] * answered,
        weights=[1] * answered,
        population=50,
        learning_rates=[0.1] * answered,
        layout=Layout((), (), 0),
        held=torch.ones(1, dtype=torch.float64),
    )
    algorithm.server_step(nothing, mean, collected)
    share: float = algorithm.figures()["clipped"]
    return share


@pytest.mark.parametrize("planned", [3, 7, 10, 26, 49])
def test_a_share_of_clipped_updates_can_stand_in_a_row(planned: int) -> None:
    """Rounding has it a little below 0, or above 1, where clients come by chance: no row can hold that."""
    for answered in range(1, 50):
        for clipped in (0, answered // 2, answered):
            share = told_share(planned, answered, clipped)
            assert 0 <= share <= 1
            assert share == pytest.approx(clipped / answered, abs=1e-12)
