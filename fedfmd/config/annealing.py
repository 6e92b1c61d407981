"""Whether the temperatures of a run come to the end that its config names."""

from collections.abc import Mapping
from typing import Any


def unfinished(
    document: Mapping[str, Any], kernel: float, channel: float, tau: float, *, unit: str = "round"
) -> str:
    """Say that the last temperatures of a run are not the end of its schedule; empty where they are.

    ``unit`` is what the run is counted in.

    ``document`` holds the keys that count, as a run's ``config.toml``: one without ``temperature.end`` has
    nothing to divide, and at most tau to bring to 0.
    """
    given = document.get("temperature")
    if not isinstance(given, Mapping) or given.get("mode") == "fixed":
        return ""
    by_kernel = given.get("mode") != "sigmoid_only"
    key, last, end = "temperature.end", kernel if by_kernel else channel, given.get("end")
    if end is None:
        key, last, end = "tau", tau, 0.0
    if not isinstance(end, int | float) or last <= end:
        return ""
    return (
        f"The schedule of temperatures is cut off: the last {unit} has {last:.3g}, the schedule ends at "
        f"{key} = {end:g}. More {unit}s, or temperature.anneal_fraction = 1.0, let it end."
    )
