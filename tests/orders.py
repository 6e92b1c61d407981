"""A work order as a server may send it, for tests that change a part of it."""

from typing import Any

from fedfmd.aggregation import Scale
from fedfmd.nn import Temperatures
from fedfmd.wire.packages import WorkOrder


def order_for(*clients: int, **changes: Any) -> WorkOrder:
    """Give the first attempt at the first round, for these clients."""
    order: dict[str, Any] = {
        "round": 1,
        "attempt": 0,
        "learning_rate": 0.1,
        "temperatures": Temperatures(),
        "scale": Scale(7, 6),
    }
    return WorkOrder(clients=clients, **order | changes)
