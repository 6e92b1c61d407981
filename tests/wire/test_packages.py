"""What crosses the wire comes back as it was; anything else is refused."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedfmd.aggregation import ExactSum, Scale
from fedfmd.nn import Temperatures
from fedfmd.records.rows import ClientRow
from fedfmd.wire.packages import (
    BadPackageError,
    Package,
    WorkOrder,
    WorkResult,
    pack,
    serialised_bytes,
    unpack,
)

ORDER = WorkOrder(
    round=4,
    attempt=1,
    clients=(2, 5, 9),
    learning_rate=0.1,
    temperatures=Temperatures(kernel=31.0, channel=30.5),
    scale=Scale(7, 5),
    state_rounds=(0, 3, 1),
)
WEIGHTS = {2: 10, 5: 6, 9: 8}
ELEMENTS = 6


def whole(part: str) -> None:
    """All parts are the whole model."""


STATUSES: dict[int, Any] = {2: "completed", 5: "failed", 9: "completed"}


def summed() -> ExactSum:
    total = ExactSum.zero(ELEMENTS, ORDER.scale)
    for client, status in STATUSES.items():
        if status == "completed":
            total.add(torch.linspace(-1, client, ELEMENTS), WEIGHTS[client])
    return total


def result() -> WorkResult:
    rows = [ClientRow(round=4, client=c, status=s, examples=WEIGHTS[c]) for c, s in STATUSES.items()]
    return WorkResult(total=summed(), rows=tuple(rows))


def test_an_order_comes_back_as_it_was() -> None:
    assert WorkOrder.exactly(json.loads(json.dumps(ORDER.to_json()))) == ORDER


def test_an_order_for_one_of_its_clients_keeps_that_clients_state() -> None:
    alone = ORDER.only(5)
    assert (alone.clients, alone.state_rounds, alone.resend) == ((5,), (3,), 1)
    assert [ORDER.state_round(c) for c in ORDER.clients] == [0, 3, 1]
    assert replace(ORDER, state_rounds=()).state_round(5) == 0


def test_a_result_comes_back_as_it_was() -> None:
    back = WorkResult.unpack(result().pack())
    assert back.rows == result().rows
    assert isinstance(back.total, ExactSum)
    assert torch.equal(back.total.quanta, summed().quanta)
    assert (back.total.weight, back.total.scale) == (18, ORDER.scale)
    back.check(ORDER, ELEMENTS, WEIGHTS, whole)


@given(meta=st.text(max_size=50), tensors=st.binary(max_size=200))
def test_random_bytes_are_no_package(meta: str, tensors: bytes) -> None:
    with pytest.raises(BadPackageError):
        unpack(Package(meta, tensors))


@given(st.data())
def test_a_damaged_package_is_refused_or_still_valid(data: st.DataObject) -> None:
    """Whatever a flipped byte does, it ends in the one error that a round survives, never in another."""
    good = result().pack()
    damaged = bytearray(good.tensors)
    damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        WorkResult.unpack(Package(good.meta, bytes(damaged))).check(ORDER, ELEMENTS, WEIGHTS, whole)
    except BadPackageError:
        return


@pytest.mark.parametrize("missing", ["rows", "scale", "weights"])
def test_a_result_without_a_part_is_refused(missing: str) -> None:
    good = result().pack()
    meta = {key: value for key, value in json.loads(good.meta).items() if key != missing}
    with pytest.raises(BadPackageError, match="malformed"):
        WorkResult.unpack(Package(json.dumps(meta), good.tensors))


def test_a_document_that_is_no_object_is_refused() -> None:
    with pytest.raises(BadPackageError, match="no object"):
        unpack(Package("[1]", pack({}, {}).tensors))


def changed(**changes: Any) -> WorkResult:
    good = result()
    total = replace(good.total, **{k: v for k, v in changes.items() if k in ("quanta", "weights", "scale")})
    return WorkResult(total=total, rows=changes.get("rows", good.rows))


ROWS = result().rows
BAD = {
    "wrong shape": ({"quanta": torch.zeros(5, dtype=torch.float64)}, "shape"),
    "wrong dtype": ({"quanta": torch.zeros(6)}, "float32"),
    "NaN": ({"quanta": torch.full((6,), torch.nan, dtype=torch.float64)}, "NaN"),
    "beyond the weights": ({"quanta": torch.full((6,), 2.0**52, dtype=torch.float64)}, "weigh"),
    "fractions": ({"quanta": torch.full((6,), 0.5, dtype=torch.float64)}, "fractions"),
    "infinity": ({"quanta": torch.full((6,), torch.inf, dtype=torch.float64)}, "NaN or infinity"),
    "other scale": ({"scale": Scale(1, 1)}, "another order"),
    "other round": ({"rows": tuple(replace(r, round=3) for r in ROWS)}, "another order"),
    "absurd weight": ({"weights": {"": 10**15}}, "weight"),
    "no weight": ({"weights": {}}, "weight"),
    "another part": ({"weights": {"x": 18}}, "weight"),
    "a client twice": ({"rows": (*ROWS, ROWS[0])}, "one answer"),
    "a client missing": ({"rows": ROWS[:2]}, "one answer"),
    "another client": ({"rows": (replace(ROWS[0], client=3), *ROWS[1:])}, "one answer"),
    "no rows": ({"rows": ()}, "another order"),
}


@pytest.mark.parametrize(("change", "words"), BAD.values(), ids=BAD.keys())
def test_a_reply_that_does_not_answer_the_order_is_refused(change: dict, words: str) -> None:
    with pytest.raises(BadPackageError, match=words):
        changed(**change).check(ORDER, ELEMENTS, WEIGHTS, whole)


@given(elements=st.integers(1, 5000))
def test_the_size_on_the_wire_is_the_size_of_the_bytes(elements: int) -> None:
    package = pack({}, {"vector": torch.randn(elements)})
    assert serialised_bytes(elements) == len(package.tensors)
    assert package.wire_bytes == len(package.tensors) + len("{}")
    assert 4 * elements < serialised_bytes(elements) <= 4 * elements + 100
