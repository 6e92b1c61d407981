"""Robust means: what a minority of wrong or hostile updates cannot move far.

They need every update by itself, so the server keeps a round's updates at once: 8 bytes per element and
client of the cohort. All updates count alike, whatever their examples.

- ``trimmed-mean`` and ``median`` (Yin et al. 2018, "Byzantine-Robust Distributed Learning"), by element.
- ``krum`` (Blanchard et al. 2017, "Machine Learning with Adversaries"): the update whose n - f - 2 nearest
  others are nearest, for f hostile clients; with ``keep`` > 1 the mean of so many best ones (Multi-Krum).
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from fedfmd.aggregation.exact_sum import CHUNK


def trimmed_mean(updates: Sequence[Tensor], fraction: float) -> Tensor:
    """Return the mean by element without the ``fraction`` of largest and of smallest values, float64."""
    cut = int(fraction * len(updates) + 1e-9)
    kept = slice(cut, len(updates) - cut)
    return _by_element(updates, lambda values: values.sort(dim=0).values[kept].mean(0))


def median(updates: Sequence[Tensor]) -> Tensor:
    """Return the median by element, float64 (elements,); of an even number the mean of the middle two."""
    low, high = (len(updates) - 1) // 2, len(updates) // 2
    return _by_element(updates, lambda values: values.sort(dim=0).values[[low, high]].mean(0))


def krum(updates: Sequence[Tensor], hostile: int, keep: int = 1) -> Tensor:
    """Return the mean of the ``keep`` updates of least score, the first of equals, float64 (elements,).

    A score is the sum of the squared distances to the n - ``hostile`` - 2 nearest others, at least one.
    """
    n = len(updates)
    distances = sum((_distances(part) for part in _chunks(updates)), torch.zeros(n, n, dtype=torch.float64))
    neighbours = max(1, n - hostile - 2)
    scores = distances.sort(dim=1).values[:, 1 : 1 + neighbours].sum(1)
    best = scores.argsort(stable=True)[:keep].tolist()
    return torch.stack([updates[place] for place in best]).mean(0)


def _distances(values: Tensor) -> Tensor:
    """Return the squared distances between the rows of (n, elements), (n, n), 0 for a row to itself."""
    return torch.stack([(values - row).square().sum(1) for row in values])


def _by_element(updates: Sequence[Tensor], reduce: Callable[[Tensor], Tensor]) -> Tensor:
    return torch.cat([reduce(values) for values in _chunks(updates)])


def _chunks(updates: Sequence[Tensor]) -> Iterator[Tensor]:
    """Yield the updates some elements at a time, each (n, at most CHUNK)."""
    return (torch.stack(parts) for parts in zip(*(u.split(CHUNK) for u in updates), strict=True))
