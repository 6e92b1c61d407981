"""Costs are a commutative monoid; a client's row survives the wire; nonsense does not."""

import json
from dataclasses import asdict, fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfmd.accounting import ClientRow, Cost, client_row

counts = st.integers(0, 2**60)
seconds = st.integers(0, 2**20).map(lambda n: n / 16)  # sums of these are exact
costs = st.builds(
    Cost,
    **{
        field.name: counts if field.type == "int" or field.type is int else st.none() | seconds
        for field in fields(Cost)
        if field.name not in ("client_train_seconds", "host_seconds")
    },
    client_train_seconds=seconds,
    host_seconds=seconds,
)


@given(a=costs, b=costs, c=costs)
def test_costs_are_a_commutative_monoid(a: Cost, b: Cost, c: Cost) -> None:
    assert a + b == b + a
    assert (a + b) + c == a + (b + c)
    assert a + Cost() == a == Cost() + a
    assert Cost.total([a, b, c]) == a + b + c
    assert Cost.total([]) == Cost()


@given(a=costs, b=costs)
def test_sums_are_sums(a: Cost, b: Cost) -> None:
    """No mean, no weights: two uplinks of 1,000 and 3,000 bytes are 4,000 bytes."""
    assert (a + b).bytes == a.bytes + b.bytes
    assert (a + b).macs == a.macs + b.macs


def test_null_means_no_device_model_and_adds_nothing() -> None:
    assert (Cost() + Cost()).device_seconds is None
    assert (Cost(device_seconds=2.0) + Cost()).device_seconds == 2.0


def example(**changes) -> ClientRow:
    return ClientRow(
        **{
            "round": 3,
            "client": 7,
            "status": "completed",
            "examples": 12,
            "steps": 4,
            "plan": {"width": 0.5},
            "macs": 900,
            "downlink_bytes": 400,
            "uplink_bytes": 300,
            "train_seconds": 0.25,
            "train_loss": 1.5,
            **changes,
        }
    )


def test_a_row_comes_back_from_json_as_it_was() -> None:
    row = example()
    assert client_row(json.loads(json.dumps(row.to_json()))) == row


@pytest.mark.parametrize("status", ["completed", "partial", "dropped", "failed"])
def test_what_is_not_used_is_wasted(status: str) -> None:
    cost = Cost.of(example(status=status))
    assert (cost.macs, cost.bytes) == (900, 700)
    wasted = (cost.wasted_macs, cost.wasted_bytes)
    assert wasted == ((0, 0) if status in ("completed", "partial") else (900, 700))


def test_a_rejected_row_keeps_its_cost() -> None:
    rejected = example().rejected("failed", "NaN")
    assert {**asdict(rejected), "status": "completed", "reason": None} == asdict(example())
    assert not rejected.used


@pytest.mark.parametrize(
    "change",
    [
        {"client": -1},
        {"examples": 1.5},
        {"examples": True},
        {"macs": "9"},
        {"uplink_bytes": -3},
        {"train_seconds": float("nan")},
        {"train_seconds": float("inf")},
        {"train_seconds": -1.0},
    ],
)
def test_nonsense_is_no_row(change: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        client_row(example().to_json() | change)


def test_unknown_and_missing_fields_are_no_row() -> None:
    with pytest.raises(TypeError):
        client_row(example().to_json() | {"surprise": 1})
    with pytest.raises(TypeError):
        client_row({"round": 1})
