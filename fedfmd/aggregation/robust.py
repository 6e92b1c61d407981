"""One update made of a round's: their mean, or what a minority of wrong or hostile ones cannot move far.

All but the mean need every update by itself, so the server keeps a round's updates at once: 8 bytes per
element and client of the cohort. All updates count alike, whatever their examples.

An aggregation is a part of the kind ``aggregation``: a function of the updates, float64 (elements,) each, in
the order of the clients' numbers, that returns one of the same shape. By name it gets what it takes of
``clients``, their numbers; ``examples``, how many each trains on; the keys of ``[server]``; and its options.

- ``trimmed-mean`` and ``median`` (Yin et al. 2018, "Byzantine-Robust Distributed Learning"), by element.
- ``krum`` (Blanchard et al. 2017, "Machine Learning with Adversaries"): the update whose n - f - 2 nearest
  others are nearest, for f hostile clients; with ``krum_keep`` > 1 the mean of the best ones (Multi-Krum).
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from fedfmd.aggregation.exact_sum import CHUNK
from fedfmd.contracts import blamed
from fedfmd.errors import RunError
from fedfmd.registry import chosen, find, register
from fedfmd.tensors import described


@register("aggregation", "mean")
def mean(updates: Sequence[Tensor]) -> Tensor:
    """Return the mean of updates that count alike, float64 (elements,).

    In its place a run has the exact sum, of weighted updates, which keeps none of them.
    """
    return torch.stack(list(updates)).mean(0)


@register("aggregation", "trimmed-mean")
def trimmed_mean(updates: Sequence[Tensor], trim: float) -> Tensor:
    """Return the mean by element, float64 (elements,), without the share ``trim`` of values at either end."""
    cut = int(trim * len(updates) + 1e-9)
    kept = slice(cut, len(updates) - cut)
    return _by_element(updates, lambda values: values.sort(dim=0).values[kept].mean(0))


@register("aggregation", "median")
def median(updates: Sequence[Tensor]) -> Tensor:
    """Return the median by element, float64 (elements,); of an even number the mean of the middle two."""
    low, high = (len(updates) - 1) // 2, len(updates) // 2
    return _by_element(updates, lambda values: values.sort(dim=0).values[[low, high]].mean(0))


@register("aggregation", "krum")
def krum(updates: Sequence[Tensor], hostile: int, krum_keep: int = 1) -> Tensor:
    """Return the mean of the ``krum_keep`` updates of least score, the first of equals, float64 (elements,).

    A score is the sum of the squared distances to the n - ``hostile`` - 2 nearest others, at least one.
    """
    n = len(updates)
    distances = sum((_distances(part) for part in _chunks(updates)), torch.zeros(n, n, dtype=torch.float64))
    neighbours = max(1, n - hostile - 2)
    scores = distances.sort(dim=1).values[:, 1 : 1 + neighbours].sum(1)
    best = scores.argsort(stable=True)[:krum_keep].tolist()
    return torch.stack([updates[place] for place in best]).mean(0)


def aggregated(name: str, updates: Sequence[Tensor], **given: object) -> Tensor:
    """Return what the aggregation ``name`` makes of ``updates``, float64 (elements,).

    Raises ``RunError`` when it fails, or gives anything else.
    """
    part, what = find("aggregation", name), f"server.aggregation = {name!r}"
    shape = tuple(updates[0].shape)
    with blamed(f"{what}: fails", RunError):
        made = part(list(updates), **chosen(part, given))  # a list of its own, which it may empty
    if not isinstance(made, Tensor) or made.is_complex() or tuple(made.shape) != shape:
        raise RunError(f"{what}: gives {described(made)}, where an update has the shape {shape}")
    return made.double()


def _distances(values: Tensor) -> Tensor:
    """Return the squared distances between the rows of (n, elements), (n, n), 0 for a row to itself."""
    return torch.stack([(values - row).square().sum(1) for row in values])


def _by_element(updates: Sequence[Tensor], reduce: Callable[[Tensor], Tensor]) -> Tensor:
    return torch.cat([reduce(values) for values in _chunks(updates)])


def _chunks(updates: Sequence[Tensor]) -> Iterator[Tensor]:
    """Yield the updates some elements at a time, each (n, at most CHUNK)."""
    return (torch.stack(parts) for parts in zip(*(u.split(CHUNK) for u in updates), strict=True))
