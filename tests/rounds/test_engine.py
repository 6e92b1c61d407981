"""Laws of the round loop's parts: cohorts, packing, the bill of a round."""

import tracemalloc
from collections import Counter
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfmd.config.experiment import ExperimentConfig, parse_config
from fedfmd.records.cost import Cost
from fedfmd.records.rows import ClientRow
from fedfmd.rounds.packing import pack_clients
from fedfmd.rounds.summary import Scored, efficiency, mean_train_loss
from fedfmd.selection.cohort import Selector


def config(clients: int, cohort: int, seed: int = 0) -> ExperimentConfig:
    sizes = {"partition": {"clients": clients}, "server": {"cohort": cohort}}
    return parse_config({"seed": seed, **sizes})


@given(
    costs=st.dictionaries(st.integers(0, 10**6), st.integers(1, 1000), min_size=1, max_size=40),
    workers=st.integers(1, 8),
)
def test_packing_covers_everyone_once_with_no_empty_group(costs: dict[int, float], workers: int) -> None:
    groups = pack_clients(costs, workers)
    packed = [client for group in groups for client in group]
    assert sorted(packed) == sorted(costs)
    assert 1 <= len(groups) <= workers
    assert all(groups)


@settings(max_examples=60)
@given(costs=st.lists(st.integers(1, 30), min_size=1, max_size=7), workers=st.integers(1, 3))
def test_packing_is_within_a_third_of_the_best(costs: list[int], workers: int) -> None:
    """Graham 1969: longest first takes at most 4/3 - 1/(3 workers) times the shortest possible time."""
    groups = pack_clients(dict(enumerate(costs)), workers)
    longest = max(sum(costs[c] for c in group) for group in groups)
    best = min(
        max(sum(c for c, w in zip(costs, places, strict=True) if w == worker) for worker in range(workers))
        for places in product(range(workers), repeat=len(costs))
    )
    assert best <= longest <= best * (4 / 3 - 1 / (3 * workers)) + 1e-9


def test_packing_does_not_depend_on_the_order_of_asking() -> None:
    costs = {5: 3.0, 1: 3.0, 9: 7.0, 4: 1.0}
    assert pack_clients(costs, 2) == pack_clients(dict(sorted(costs.items())), 2)


@given(seed=st.integers(0, 2**31 - 1), round=st.integers(1, 10**6), clients=st.integers(1, 200))
def test_a_cohort_is_drawn_without_replacement(seed: int, round: int, clients: int) -> None:
    settings = config(clients, max(1, clients // 2), seed)
    cohort = Selector(settings).draw(round).chosen
    assert len(set(cohort)) == len(cohort) == settings.server.cohort
    assert set(cohort) <= set(range(clients))
    assert cohort == sorted(cohort) == Selector(settings).draw(round).chosen


def test_everybody_is_drawn_equally_often() -> None:
    """Chi-squared with 19 degrees of freedom: 43.8 is passed by chance once in a thousand."""
    rounds, clients, cohort = 2000, 20, 5
    counts = Counter(c for r in range(rounds) for c in Selector(config(clients, cohort)).draw(r).chosen)
    expected = rounds * cohort / clients
    variance = expected * (1 - cohort / clients) * clients / (clients - 1)
    assert sum((counts[c] - expected) ** 2 for c in range(clients)) / variance < 43.8


def test_rounds_attempts_and_seeds_draw_differently() -> None:
    settings = config(1000, 10)
    cohorts = [
        Selector(settings).draw(1).chosen,
        Selector(settings).draw(2).chosen,
        Selector(settings).draw(1, attempt=1).chosen,
    ]
    cohorts.append(Selector(config(1000, 10, seed=1)).draw(1).chosen)
    assert len({tuple(cohort) for cohort in cohorts}) == 4


def test_a_cohort_of_a_million_is_drawn_at_once() -> None:
    selector = Selector(config(1_000_000, 10))
    selector.draw(1)
    tracemalloc.start()
    assert len(selector.draw(2).chosen) == 10
    assert tracemalloc.get_traced_memory()[1] < 1_000_000  # bytes: nothing lists the population
    tracemalloc.stop()


def row(client: int, examples: int, loss: float | None, **changes) -> ClientRow:
    return ClientRow(
        **{
            "round": 1,
            "client": client,
            "status": "completed",
            "examples": examples,
            "train_loss": loss,
            **changes,
        }
    )


def test_the_training_loss_is_weighted_by_examples_of_those_used() -> None:
    rows = [row(0, 10, 1.0), row(1, 30, 2.0), row(2, 1000, 9.0, status="failed"), row(3, 5, None)]
    assert mean_train_loss(rows) == pytest.approx((10 * 1.0 + 30 * 2.0) / 40)
    assert mean_train_loss([]) is None
    assert mean_train_loss([row(0, 10, 3.0, status="dropped")]) is None


def test_efficiency_of_a_round_that_was_not_evaluated_is_null() -> None:
    cost = Cost(macs=100, uplink_bytes=3, downlink_bytes=5)
    assert set(efficiency(None, cost)["ies"].values()) == {None}
    scores = efficiency(Scored(top1=0.5, examples=50, on="test set"), cost)
    assert scores["ies"]["macs"] == pytest.approx(200)
    assert scores["rcs"]["bytes"] == pytest.approx(25 / 8)
