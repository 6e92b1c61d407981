"""Costs are a commutative monoid; a client's row survives the wire; nonsense does not."""

import json
from dataclasses import asdict, fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfmd.planning.budget import Limits
from fedfmd.records.cost import Cost
from fedfmd.records.rows import MEASURED, ClientRow, EpochRow, RoundRow, repeatable
from fedfmd.records.schema import Record, SchemaError, dump, one_line, parse
from fedfmd.watch.follower import _spent

counts = st.integers(0, 2**60)
seconds = st.integers(0, 2**20).map(lambda n: n / 16)  # sums of these are exact
costs = st.builds(
    Cost,
    **{
        field.name: counts if type(field.default) is int else st.none() | seconds
        for field in fields(Cost)
        if field.name not in ("client_train_seconds", "host_seconds", "evaluation_seconds", "secure_seconds")
    },
    client_train_seconds=seconds,
    host_seconds=seconds,
    evaluation_seconds=seconds,
    secure_seconds=seconds,
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


@pytest.mark.parametrize("name", [f.name for f in fields(Cost)])
def test_no_sum_of_rows_that_are_let_in_is_beyond_the_ledger(name: str) -> None:
    """The largest figures of a client, from the most clients in the most rounds, are a round that is read."""
    said = "train_seconds" if name == "client_train_seconds" else name
    kind = float if name.endswith(("seconds", "joules")) else int
    most = max((v for v in (1, 10**12, 10**18, 10**24, 10**30) if allows(said, kind(v))), default=1)
    total = kind(most) * 10**7 * 10**6
    sums: dict[str, Any] = {name: total, "cumulative": {name: total}, "ies": {"bytes": total * 10**3}}
    row = RoundRow(round=1, **sums)
    assert RoundRow.read(dump(row.to_json())) == row


def allows(name: str, value: float) -> bool:
    return name in ClientRow.columns() and not read_with(example(), name, value)[1]


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


@pytest.mark.parametrize("record", [example(), RoundRow(round=2, top1=0.5), EpochRow(epoch=3)])
def test_a_row_comes_back_from_json_as_it_was(record: Record) -> None:
    text = dump(record.to_json())
    assert type(record).read(text) == record
    assert type(record).from_json(parse(text) | {"of_a_later_version": 1}) == record
    assert type(record).from_line(text) == record
    assert type(record).from_line(dump(parse(text) | {"of_a_later_version": 1})) == record


@pytest.mark.parametrize("status", ["completed", "partial", "dropped", "failed"])
def test_what_is_not_used_is_wasted(status: str) -> None:
    cost = example(status=status).cost
    assert (cost.macs, cost.bytes) == (900, 700)
    wasted = (cost.wasted_macs, cost.wasted_bytes)
    assert wasted == ((0, 0) if status in ("completed", "partial") else (900, 700))


def test_every_limit_of_a_plan_is_held_against_what_counts() -> None:
    """What plans are judged by, a secure sum included, is what a row has spent."""
    row = example(
        secure_macs=1, secure_downlink_bytes=2, secure_uplink_bytes=3, memory_bytes=4, energy_joules=5.0
    )
    assert {name: row.spent(name) for name in asdict(Limits())} == {
        "macs": 901,
        "downlink_bytes": 402,
        "uplink_bytes": 303,
        "memory_bytes": 4,
        "device_seconds": None,
        "joules": 5.0,
    }
    assert row.spent("violations") is None
    assert _spent(replace(row, budget={"joules": 20.0, "violations": []})) == 0.25


def test_a_rejected_row_keeps_its_cost() -> None:
    rejected = example().rejected("failed", "NaN")
    assert {**asdict(rejected), "status": "completed", "reason": None} == asdict(example())
    assert not rejected.used


NONSENSE = [float("nan"), float("inf"), -1, "x" * 10**6, True, 10**400, [1], {"a": 1}]


RECORDS = {type(r).__name__: r for r in (example(), RoundRow(round=2), EpochRow(epoch=3))}


@pytest.mark.parametrize("kind", RECORDS)
def test_nonsense_is_no_row(kind: str) -> None:
    """Every field of every ledger with every kind of nonsense: read as it is meant, or refused in a line."""
    record = RECORDS[kind]
    for name in record.columns():
        for value in NONSENSE:
            back, refusal = read_with(record, name, value)
            if refusal:
                assert refusal.startswith(name)
                assert len(refusal) <= 200
            else:
                assert back == value
                assert isinstance(value, bool) == isinstance(back, bool)
        for value in NONSENSE[:2]:
            assert read_with(record, name, value)[1]


def read_with(record: Record, name: str, value: object) -> tuple[object, str]:
    """What a field is read as that holds ``value``, and why it is refused."""
    try:
        return type(record).read(json.dumps(record.to_json() | {name: value})).to_json()[name], ""
    except SchemaError as error:
        return None, str(error)


def test_unknown_and_missing_fields_are_no_row() -> None:
    with pytest.raises(SchemaError, match="surprise"):
        ClientRow.read(json.dumps(example().to_json() | {"surprise": 1}))
    with pytest.raises(SchemaError, match="client"):
        ClientRow.read('{"round": 1}')


@pytest.mark.parametrize(
    "text", ["", "{", "[" * 200_000, "1" * 5000, '{"round": NaN, "client": 1}', "\x00", "[]"]
)
def test_what_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(SchemaError):
        ClientRow.read(text)


def test_figures_that_are_not_finite_are_written_as_null() -> None:
    document = {"loss": float("nan"), "list": [1, float("inf")], "inner": {"a": -float("inf"), "b": 2.5}}
    assert json.loads(dump(document)) == {"loss": None, "list": [1, None], "inner": {"a": None, "b": 2.5}}
    assert parse('{"a": NaN, "b": 1e999, "c": [Infinity]}') == {"a": None, "b": None, "c": [None]}


def test_what_others_wrote_becomes_one_short_line() -> None:
    assert one_line("a\n\tb\x1b[31m\u202ec") == "a b [31m c"
    assert len(one_line("x" * 10**6)) == 200


def test_what_a_repeated_run_has_again_is_all_but_measurements() -> None:
    """A column that is wrongly called measured would be compared by no test."""
    assert {
        "train_seconds",
        "client_train_seconds",
        "host_seconds",
        "evaluation_seconds",
        "test_seconds",
        "samples_per_second",
        "uplink_wire_bytes",
        "cpu_seconds",
        "wall_seconds",
        "peak_memory_bytes",
        "secure_seconds",
        "secure_stage_seconds",
        "train_joules",
        "measured_joules",
        "measured_joules_source",
        "measured_joules_reason",
        "host_joules",
        "host_joules_source",
        "host_joules_reason",
        "idle_watts",
    } == MEASURED
    row = {"macs": 3, "host_seconds": 1.5, "ies": {"macs": 2.0, "client_train_seconds": 7.0}}
    assert repeatable(row) == {"macs": 3, "ies": {"macs": 2.0}}
