"""The training samples, spread over the clients: by a scheme of `fedfmd.data.schemes` or one's own.

With ``validation`` a seeded share of the samples stays at the server, to choose by; it is taken first, and
the scheme spreads what is left. No client ever holds one of them. With ``holdout`` a seeded share of every
client's samples, stratified over its labels, is kept for testing and never trained on; where two clients may
hold the same sample, it is drawn from the set before that is dealt, so that nobody trains on what another is
tested on.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fedfmd.config.sections.data import PartitionConfig
from fedfmd.contracts import blamed, make
from fedfmd.data.arrays import IntArray
from fedfmd.data.holdout import holdout_split, validation_split
from fedfmd.data.partition import ListedPartition, Partition, SampledPartition
from fedfmd.errors import UserError, first_few
from fedfmd.registry import chosen, fact, find
from fedfmd.seeds import numpy_rng


def make_partition(
    labels: IntArray,
    *,
    scheme: str,
    clients: int,
    seed: int,
    validation: float = 0.0,
    holdout: float = 0.0,
    owners: IntArray | None = None,
    **parameters: Any,
) -> Partition:
    """Spread the samples with these labels, int64 (N,), over ``clients`` clients.

    The share ``validation`` of them, at least one if it is above 0, is kept from the clients; the share
    ``holdout`` of each client's samples, likewise, is kept for testing. ``owners`` says whose each sample is,
    int64 (N,), where they come with clients of their own.
    ``parameters`` are the scheme's, by default those of a config; what it does not use is not recorded.
    Raises ``UserError`` for values that are impossible, or that a draw cannot meet.
    """
    try:
        part = find("partition", scheme)
    except UserError as error:
        raise UserError(f"partition.scheme = {scheme!r}: {error}") from None
    used = chosen(part, PartitionConfig().parameters | parameters)
    targets = np.asarray(labels)
    kept, left = validation_split(len(targets), validation, seed)
    about = {"scheme": scheme, "seed": seed, "clients": clients, "samples": len(left), **used}
    if holdout:
        about["holdout_share"] = holdout
    virtual = fact("partition", scheme, "virtual", False)
    _check_values(about, used, repeats=virtual)
    if virtual:
        return _make_sampled(targets, left, about, kept)
    drawn = {"clients": clients, "seed": seed, "rng": numpy_rng(seed, f"partition-{scheme}")}
    whose = None if owners is None else np.asarray(owners)
    drawn["owners"] = None if whose is None else whose[left]
    if whose is not None and len(gone := np.setdiff1d(whose, whose[left])):
        raise UserError(
            f"partition.validation = {validation:g}: takes all images of client {first_few(gone.tolist())}; "
            "set a smaller share, or another seed"
        )
    dealt = _checked(make("partition", scheme, targets[left], **drawn, **used), about)
    parts = [left[one] for one in dealt]
    held_by = np.bincount(np.concatenate([np.unique(part) for part in parts]), minlength=len(targets))
    about["unassigned"] = len(left) - int((held_by > 0).sum())
    if shared := int((held_by > 1).sum()):
        about["shared"] = shared
    return _make_listed(targets, parts, about, kept)


def _make_sampled(
    labels: IntArray, left: IntArray, about: dict[str, Any], kept: IntArray
) -> SampledPartition:
    """Make virtual clients of the samples ``left``."""
    share, classes = about.get("holdout_share", 0.0), int(labels[left].max()) + 1
    tested, trained = holdout_split(labels[left], share, about["seed"])
    pool, starts = _pool(labels, left[trained], classes)
    made = SampledPartition(about=about, validation=kept, pool=pool, starts=starts)
    if not share:
        return made
    held_pool, held_starts = _pool(labels, left[tested], classes)
    if about["samples_per_client"] < 2:
        raise UserError("partition.samples_per_client = 1: at least 2 with partition.holdout, one to test on")
    if not ((np.diff(starts) > 0) & (np.diff(held_starts) > 0)).any():
        raise UserError(f"partition.holdout = {share:g}: no label has images to train on and to test on")
    return replace(made, held_pool=held_pool, held_starts=held_starts)


def _make_listed(
    labels: IntArray, parts: Sequence[IntArray], about: dict[str, Any], kept: IntArray
) -> ListedPartition:
    """Make clients of their samples ``parts``, each split into what it trains and what it is tested on.

    What several clients have is for training with all of them, or for testing with all of them.
    """
    share = about.get("holdout_share", 0.0)
    if not share:
        flat, offsets = _listed(parts)
        return ListedPartition(about=about, validation=kept, flat=flat, offsets=offsets)
    if single := sum(len(part) < 2 for part in parts):
        raise UserError(
            f"partition.holdout = {share:g}: {single} of {len(parts)} clients have fewer than two images, "
            "one to train on and one to test on: take fewer partition.clients, or a larger min_size"
        )
    dealt = np.concatenate(parts)
    if len(dealt) > len(np.unique(dealt)):
        split = _split_alike(labels, parts, about)
    else:
        split = [holdout_split(labels[part], share, about["seed"], c) for c, part in enumerate(parts)]
    flat, offsets = _listed([part[trained] for part, (_, trained) in zip(parts, split, strict=True)])
    held, held_offsets = _listed([part[tested] for part, (tested, _) in zip(parts, split, strict=True)])
    return ListedPartition(
        about=about, validation=kept, flat=flat, offsets=offsets, held=held, held_offsets=held_offsets
    )


def _split_alike(
    labels: IntArray, parts: Sequence[IntArray], about: Mapping[str, Any]
) -> list[tuple[IntArray, IntArray]]:
    """Return the places of each client's samples that are for testing, and all others, by one draw for all.

    Raises ``UserError`` where the draw leaves a client nothing of the one or of the other.
    """
    dealt = np.unique(np.concatenate(parts))
    tested = dealt[holdout_split(labels[dealt], about["holdout_share"], about["seed"])[0]]
    kept = [np.isin(part, tested) for part in parts]
    if poor := sum(bool(own.all() or not own.any()) for own in kept):
        raise UserError(
            f"partition.holdout = {about['holdout_share']:g}: clients share images, so one draw decides for "
            f"all of them which are for testing. It leaves {poor} of {len(parts)} clients none to train on, "
            "or none to test on: let them have more images, or set another holdout or seed"
        )
    return [(np.flatnonzero(own), np.flatnonzero(~own)) for own in kept]


def _check_values(about: Mapping[str, Any], used: Mapping[str, Any], *, repeats: bool) -> None:
    """Raise ``UserError`` for what no draw can meet; ``repeats``: clients may share samples."""
    clients, samples = about["clients"], about["samples"]
    for key in ("min_size", "shards_per_client", "labels_per_client", "samples_per_client"):
        if used.get(key, 1) < 1:
            raise UserError(f"partition.{key} = {used[key]}: must be at least 1")
    if not 0 < used.get("alpha", 1) < float("inf"):
        raise UserError(f"partition.alpha = {used['alpha']}: must be a number above 0")
    if clients < 1:
        raise UserError(f"partition.clients = {clients}: must be at least 1")
    if samples < 1:
        raise UserError("partition: the training set is empty")
    if repeats:
        return
    if clients > samples:
        raise UserError(
            f"partition.clients = {clients}: at most the {samples} training images"
            ' (partition.scheme = "sampled" allows more)'
        )
    for key in ("min_size", "shards_per_client"):
        if clients * used.get(key, 1) > samples:
            raise UserError(
                f"partition.{key} = {used[key]}: at most {samples // clients} with {clients} clients"
                f" and {samples} training images"
            )


def _checked(parts: Iterable[Any], about: Mapping[str, Any]) -> list[IntArray]:
    """Return what a scheme gave as arrays; raises ``UserError`` for what is no spread over the clients."""
    what, clients, samples = f"partition.scheme = {about['scheme']!r}", about["clients"], about["samples"]
    with blamed(f"{what}: fails while it gives clients their images"):
        dealt = list(parts)
    try:
        arrays = [np.asarray(part) for part in dealt]
    except (ValueError, TypeError, RuntimeError):
        raise UserError(f"{what}: each client must get a list of one or more indices") from None
    if len(arrays) != clients:
        raise UserError(f"{what}: gives {len(arrays)} clients their images, of partition.clients = {clients}")
    for client, array in enumerate(arrays):
        if array.ndim != 1 or not len(array) or array.dtype.kind not in "iu":
            raise UserError(f"{what}: client {client} must get a list of one or more indices")
        if not 0 <= array.min() <= array.max() < samples:
            raise UserError(f"{what}: client {client} gets indices beyond the {samples} training images")
    return [array.astype(np.int64) for array in arrays]


def _listed(parts: Sequence[IntArray]) -> tuple[IntArray, IntArray]:
    """Put clients' samples one after the other; gives them, and where each client's begin and end."""
    return np.concatenate(list(parts)), np.cumsum([0, *map(len, parts)])


def _pool(labels: IntArray, samples: IntArray, classes: int) -> tuple[IntArray, IntArray]:
    """Sort samples by label; gives them, and where each of the ``classes`` labels begins and ends."""
    targets = labels[samples]
    starts = np.cumsum([0, *np.bincount(targets, minlength=classes)])
    return samples[np.argsort(targets, kind="stable")], starts
