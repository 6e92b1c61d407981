"""What dynamic convolutions do under federation.

The mean of the clients' kernels, mixed by the mean of their attentions, is not the mean of what the clients
mixed: averaging is harmless only as far as the clients use the kernels alike and move them alike. So a run
can record, for each dynamic layer and round,

- the attention's entropy: log K when all kernels are used alike, 0 when each sample picks one;
- the kernels' usage: the mean attention that each kernel got;
- the agreement of the clients' kernel updates: their pairwise cosines' mean, weighted by their norms.

The last needs no client's update: sum_{i != j} <u_i, u_j> = ||sum_i u_i||^2 - sum_i ||u_i||^2, and the server
has the sum.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from math import fsum, log
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from fedfmd.aggregation import CHUNK, ExactSum
from fedfmd.nn import DynamicConv2d, Temperatures, dynamic_layers
from fedfmd.nn.vector import Layout
from fedfmd.records.rows import ClientRow
from fedfmd.records.schema import Amount, Figure, Json, Number, Record, SchemaError, Text, Weight

KERNEL_DIMENSIONS = 5
"""Only a dynamic convolution's kernels have as many: (K, Co, Ci, kh, kw)."""


@dataclass
class _Seen:
    """Sums over the samples that a layer saw; they stay on the layer's device."""

    attention: Tensor
    """(K,)"""
    entropy: Tensor
    """() in nats"""
    samples: int = 0


class AttentionMeter:
    """Watches the kernel attention of a model's dynamic layers during the forward passes inside ``with``.

    A client's kernels are those that the model has. CondConv's sigmoids are first divided by their sum. Adds
    a few operations on (B, K) a layer, and never waits for a GPU before a figure is asked for.
    """

    def __init__(self, model: nn.Module):
        self.layers = dict(dynamic_layers(model))
        self._seen: dict[str, _Seen] = {}
        self._before: dict[str, bool] = {}
        self._hooks: list[RemovableHandle] = []

    def __enter__(self) -> Self:
        """Begin to watch."""
        for name, layer in self.layers.items():
            self._before[name], layer.record_attention = layer.record_attention, True
            self._hooks.append(layer.register_forward_hook(self._watching(name)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the model as it was; the figures stay."""
        while self._hooks:
            self._hooks.pop().remove()
        for name, layer in self.layers.items():
            layer.record_attention, layer.last_attention = self._before[name], None

    def usage(self) -> dict[str, list[float]]:
        """Return the mean attention of each kernel, [K] that sum to 1, by layer that saw any sample."""
        return {name: (seen.attention / seen.samples).tolist() for name, seen in self._seen.items()}

    def entropy(self) -> dict[str, float]:
        """Return the mean over the samples of -sum_k pi_k log pi_k, in nats, by layer."""
        return {name: float(seen.entropy) / seen.samples for name, seen in self._seen.items()}

    def relative_entropy(self) -> dict[str, float | None]:
        """Return the entropy as a fraction of log K, its largest value; null for a single kernel."""
        kernels = {name: len(seen.attention) for name, seen in self._seen.items()}
        return {n: e / log(kernels[n]) if kernels[n] > 1 else None for n, e in self.entropy().items()}

    def _watching(self, name: str) -> Callable[[DynamicConv2d, Any, Any], None]:
        def add(layer: DynamicConv2d, _: Any, __: Any) -> None:
            if layer.last_attention is not None:
                self._add(name, layer.last_attention.kernel)

        return add

    @torch.no_grad()
    def _add(self, name: str, kernel: Tensor) -> None:
        share = kernel.float()
        share = share / share.sum(1, keepdim=True)
        attention, entropy = share.sum(0), torch.special.entr(share).sum()
        seen = self._seen.setdefault(name, _Seen(torch.zeros_like(attention), torch.zeros_like(entropy)))
        seen.attention += attention
        seen.entropy += entropy
        seen.samples += len(share)


def attention_meter(model: nn.Module, *, enabled: bool) -> AttentionMeter:
    """Return a meter of ``model``, or one that watches nothing."""
    return AttentionMeter(model if enabled else nn.Identity())


def update_norms(update: Tensor, layout: Layout) -> dict[str, float]:
    """Return the L2 norm of each dynamic layer's kernels in ``update`` (layout.elements,), by layer."""
    views = layout.views(update[: layout.elements])
    return {
        name.removesuffix(".weight"): _norm(view.flatten())
        for name, view in views.items()
        if view.dim() == KERNEL_DIMENSIONS
    }


def _norm(vector: Tensor) -> float:
    # In float64: a float32 norm of 44 M elements is off by 0.3%. In chunks, that is five times as fast.
    return float(torch.stack([part.double().norm() for part in vector.split(CHUNK)]).norm())


def weighted_mean_cosine(sum_norm_squared: float, weighted_norms: Iterable[float]) -> float | None:
    """Return the mean cosine between clients' updates, each pair weighted by the product of its norms.

    With u_i = w_i d_i: (||sum u_i||^2 - sum ||u_i||^2) / ((sum ||u_i||)^2 - sum ||u_i||^2). The ||u_i|| are
    ``weighted_norms``; null when fewer than two clients moved.
    """
    norms = [norm for norm in weighted_norms if norm > 0]
    squares = fsum(norm * norm for norm in norms)
    pairs = fsum(norms) ** 2 - squares
    if len(norms) < 2 or pairs <= 0:
        return None
    return min(1.0, max(-1.0, (sum_norm_squared - squares) / pairs))


def client_diagnostics(meter: AttentionMeter, update: Tensor, layout: Layout, weight: int) -> Json:
    """Return what a client measured, for its row.

    ``update`` (layout.elements,) is what it adds to the sum with ``weight``, in the ``layout`` of its own
    network. The mean of `layer_usage`, of the kernels that it holds, is `kernel_usage`, which lacks when the
    meter saw nothing.
    """
    usage = meter.usage()
    norms = update_norms(update, layout)
    figures: Json = {
        "weight": weight,
        "attention_entropy": {n: _short(e) for n, e in meter.entropy().items()},
        "relative_entropy": {n: _short(e) for n, e in meter.relative_entropy().items()},
        "layer_usage": {name: [_short(share) for share in shares] for name, shares in usage.items()},
        # All digits: differences of their squares are taken.
        "weighted_norms": {name: weight * norm for name, norm in norms.items()},
    }
    if usage:
        by_kernel = zip(*usage.values(), strict=True)
        figures["kernel_usage"] = [_short(fsum(shares) / len(usage)) for shares in by_kernel]
    return figures


@dataclass(frozen=True, kw_only=True)
class ClientDiagnostics(Record):
    """What ``client_diagnostics`` gives, as a client sends it."""

    weight: Weight
    attention_entropy: dict[Text, Figure | None]
    relative_entropy: dict[Text, Figure | None]
    layer_usage: dict[Text, list[Figure]]
    weighted_norms: dict[Text, Amount]
    kernel_usage: list[Figure] = field(default_factory=list)


def check_diagnostics(figures: Json, layout: Layout, weight: int) -> None:
    """Raise ``SchemaError`` unless a client with that ``layout`` and ``weight`` can have measured these."""
    found = ClientDiagnostics.exactly(figures)
    kernels = {
        name.removesuffix(".weight"): shape[0]
        for name, shape in zip(layout.names, layout.shapes, strict=True)
        if len(shape) == KERNEL_DIMENSIONS
    }
    named = found.attention_entropy.keys() | found.relative_entropy.keys() | found.weighted_norms.keys()
    if not named | found.layer_usage.keys() <= kernels.keys():
        raise SchemaError("diagnostics of a layer that the client does not have")
    if any(len(shares) != kernels[name] for name, shares in found.layer_usage.items()):
        raise SchemaError("diagnostics of kernels that the client does not have")
    if len(found.kernel_usage) not in (0, *kernels.values()) or found.weight != weight:
        raise SchemaError("diagnostics of another client")


def round_diagnostics(
    rows: Sequence[ClientRow], total: ExactSum, layout: Layout, kernels: int, temperatures: Temperatures
) -> Json:
    """Return a round's figures, by layer, from the rows of its clients and the sum of their updates.

    Entropies and usages are means over the clients, by their weights in the sum; `kernel_usage` has all
    ``kernels`` kernels, of which a client that holds fewer uses the others 0. Where clients train parts of
    the network, the cosine is that of the updates with zeros elsewhere: disjoint parts neither agree nor
    disagree.
    """
    clients = [row for row in rows if row.used and row.diagnostics]
    figures = [row.diagnostics for row in clients]
    spread = [row.diagnostics | {"layer_usage": _spread_usage(row, kernels)} for row in clients]
    unit = total.scale.quantum * 2.0**total.scale.weight_exponent
    sums = {name: (norm * unit) ** 2 for name, norm in update_norms(total.quanta, layout).items()}
    norms = {name: [f["weighted_norms"].get(name, 0.0) for f in figures] for name in sums}
    return {
        "attention_entropy": _layer_means(figures, "attention_entropy"),
        "relative_entropy": _layer_means(figures, "relative_entropy"),
        "kernel_usage": _usage_means(spread, kernels),
        "kernel_update_cosine": {n: _short(weighted_mean_cosine(sums[n], norms[n])) for n in sums},
        "temperature_kernel": temperatures.kernel,
        "temperature_channel": temperatures.channel,
    }


def _spread_usage(row: ClientRow, kernels: int) -> dict[str, list[float]]:
    """Return a client's usage with 0 for the kernels that it does not hold."""
    held = row.plan.get("kernel_set") or range(kernels)
    spread = {}
    for name, shares in row.diagnostics["layer_usage"].items():
        by_kernel = dict(zip(held, shares, strict=True))
        spread[name] = [by_kernel.get(kernel, 0.0) for kernel in range(kernels)]
    return spread


def _layer_means(figures: Sequence[Json], key: str) -> dict[str, Number]:
    return {name: _mean(figures, [f[key].get(name) for f in figures]) for name in _layers(figures, key)}


def _usage_means(figures: Sequence[Json], kernels: int) -> dict[str, list[Number]]:
    lacking = [None] * kernels
    means = {}
    for name in _layers(figures, "layer_usage"):
        by_kernel = zip(*(f["layer_usage"].get(name, lacking) for f in figures), strict=True)
        means[name] = [_mean(figures, shares) for shares in by_kernel]
    return means


def _layers(figures: Sequence[Json], key: str) -> list[str]:
    """Name the layers that any client has, in the network's order."""
    return list(dict.fromkeys(name for f in figures for name in f[key]))


def _mean(figures: Sequence[Json], values: Sequence[Number]) -> Number:
    """Return the mean over the clients that have a figure, by their weights; null without any."""
    known = [(f["weight"], value) for f, value in zip(figures, values, strict=True) if value is not None]
    weight = fsum(w for w, _ in known)
    return _short(fsum(w * value for w, value in known) / weight) if weight else None


def _short(value: Number) -> Number:
    """Round to six significant digits: what float32 sums are good for, and half the bytes of a row."""
    return None if value is None else float(f"{value:.6g}")
