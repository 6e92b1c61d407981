"""What the dynamic convolutions of a run did, from the rounds' ``fedfmd.training.diagnostics``."""

from collections.abc import Iterator, Mapping
from statistics import fmean
from typing import Any

from fedfmd.records.rows import RoundRow
from fedfmd.records.schema import Number
from fedfmd.results.runs import Run, number
from fedfmd.units import quantity

MOST_ROUNDS = 150
"""Rounds drawn; of more, every so many."""
ENTROPY, COSINE, USAGE = "relative_entropy", "kernel_update_cosine", "kernel_usage"


def dynamics_picture(run: Run) -> dict[str, Any] | None:
    """Return the diagnostics to draw, by layer; null without any.

    ``entropy`` and ``cosine`` are [layer][round], ``usage`` is [layer][kernel] of the last round.
    """
    rows = measured_rounds(run)
    if not rows:
        return None
    step = -(-len(rows) // MOST_ROUNDS)
    drawn = rows[::-1][::step][::-1]  # the last one is drawn
    layers = layer_names(run)
    return {
        "rounds": [row.round for row in drawn],
        "layers": layers,
        "entropy": [[layer_figure(row, ENTROPY, layer) for row in drawn] for layer in layers],
        "cosine": [[layer_figure(row, COSINE, layer) for row in drawn] for layer in layers],
        "usage": [_usage(rows[-1], layer) for layer in layers],
        "last": rows[-1].round,
    }


def measured_rounds(run: Run) -> list[RoundRow]:
    """Return the rounds with diagnostics of at least one layer."""
    return [row for row in run.rounds if _by_layer(row, ENTROPY)]


def layer_names(run: Run) -> list[str]:
    """Return the dynamic layers that any round measured, in the network's order."""
    return list(dict.fromkeys(str(name) for row in measured_rounds(run) for name in _by_layer(row, ENTROPY)))


def layer_figure(row: RoundRow, key: str, layer: str) -> Number:
    """Return one layer's figure in one round; ``None`` where it is not known."""
    return number(_by_layer(row, key).get(layer))


def diagnostics_rows(label: str, run: Run) -> Iterator[dict[str, Any]]:
    """Give the rows of a table: one for each round and layer."""
    for row in measured_rounds(run):
        for layer in layer_names(run):
            figures = {key: layer_figure(row, key, layer) for key in ("attention_entropy", ENTROPY, COSINE)}
            usage = {f"usage_{kernel}": share for kernel, share in enumerate(_usage(row, layer))}
            yield {"run": label, "round": row.round, "layer": layer} | figures | usage


def story(run: Run) -> str:
    """Say in a sentence or two what became of the attention and of the agreement."""
    rows = measured_rounds(run)
    if not rows:
        return "This run measured no diagnostics; diagnostics.enabled = true records them."
    first, last = rows[0], rows[-1]
    words = f"Attention entropy, as a share of log K: {_mean(first, ENTROPY)} in round {first.round}"
    words += f", {_mean(last, ENTROPY)} in round {last.round}" if len(rows) > 1 else ""
    if first.temperature_kernel is not None and last.temperature_kernel is not None:
        words += f", while the kernel temperature went from {first.temperature_kernel:g} to "
        words += f"{last.temperature_kernel:g}"
    return f"{words}. Mean cosine between the clients' kernel updates at the end: {_mean(last, COSINE)}."


def _mean(row: RoundRow, key: str) -> str:
    known = [value for v in _by_layer(row, key).values() if (value := number(v)) is not None]
    return quantity(fmean(known)) if known else "unknown"


def _usage(row: RoundRow, layer: str) -> list[Number]:
    shares = _by_layer(row, USAGE).get(layer)
    return [number(share) for share in shares] if isinstance(shares, list) else []


def _by_layer(row: RoundRow, key: str) -> Mapping[str, Any]:
    found = row.diagnostics.get(key)
    return found if isinstance(found, Mapping) else {}
