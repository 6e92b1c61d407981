"""PLACEHOLDER by the lead; the devices helper replaces this file."""

from typing import Any


def sync_round(finish: Any, cohort: int, deadline: Any) -> Any:
    return list(finish), [], max(finish.values())
