"""Whether the algorithms that a config asks for go with one another, and with the rest of it."""

from collections.abc import Iterable
from typing import Any

from fedfmd.algorithms.base import Algorithm
from fedfmd.algorithms.composition import Algorithms
from fedfmd.algorithms.hooks import hooks_of, kind_of, overrides
from fedfmd.algorithms.table import named
from fedfmd.config.experiment import ExperimentConfig
from fedfmd.contracts import blamed
from fedfmd.errors import UserError


def check_algorithms(config: ExperimentConfig, *, source: str = "") -> None:
    """Raise ``UserError``, a line for each problem, for algorithms that do not go together.

    Each line begins with ``source``.
    """
    try:
        _check(config)
    except UserError as error:
        raise UserError("\n".join(source + line for line in str(error).splitlines())) from None


def _check(config: ExperimentConfig) -> None:
    idle = [kind for kind in named(config) if not kind.active(config)]
    reasons = [f"algorithms.{a.name}: is switched on by {a.switch or 'other keys'}, not here" for a in idle]
    algorithms = Algorithms(config)
    reasons += [line for a in algorithms.active for line in (_objections(a) or _idle(a))]
    if config.server.aggregation != "mean":
        robust = f"server.aggregation = {config.server.aggregation!r}: needs 'mean', which it is about"
        reasons += [f"algorithms.{a.name}: {robust}" for a in algorithms.active if a.needs_mean]
    if config.privacy.dp != "none":
        told = "its clients send, or its server makes, more than privacy.dp covers"
        reasons += [f"algorithms.{a.name}: {told}" for a in algorithms.active if not a.private]
    kept = [name for a in algorithms.active for name in a.keeps]
    if len(kept) != len(set(kept)):
        reasons.append(f"algorithms: two of them keep something under one name: {', '.join(sorted(kept))}")
    if reasons:
        raise UserError("\n".join(reasons))


def _objections(algorithm: Algorithm) -> list[str]:
    """Return what an algorithm has against the rest of the config, in lines that name the key."""
    try:
        return [f"algorithms.{algorithm.name}: {reason}" for reason in _reasons(algorithm)]
    except UserError as error:  # whose text names the key
        return str(error).splitlines()


def _reasons(algorithm: Algorithm) -> list[str]:
    """Return what ``allows`` yields."""
    with blamed(f"algorithms.{algorithm.name}: allows fails"):
        given: Any = algorithm.allows()
        if isinstance(given, str) or not isinstance(given, Iterable):
            raise UserError(
                f"algorithms.{algorithm.name}: allows gives {kind_of(given)}, where it yields reasons"
            )
        return [str(reason) for reason in given]


def _idle(algorithm: Algorithm) -> list[str]:
    """Say of an algorithm that it does nothing, in a line; none where it does."""
    if overrides(type(algorithm), Algorithm):
        return []
    return [f"algorithms.{algorithm.name}: changes nothing: {hooks_of(type(algorithm), Algorithm)}"]
