"""What an algorithm's own methods return, held against the contract: anybody may have written them."""

from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any, TypeVar

import torch
from torch import Tensor

from fedfmd.algorithms.base import Algorithm, Finished
from fedfmd.contracts import own_names
from fedfmd.errors import RunError, did_you_mean

Value = TypeVar("Value")


def overrides(kind: type, base: type) -> bool:
    """Return whether a class does anything else than its base, whose every method may be written anew."""
    return any(getattr(kind, name) is not getattr(base, name) for name in _methods(base))


def hooks_of(kind: type, base: type) -> str:
    """Say which methods a class may have, and which it has instead."""
    allowed = _methods(base)
    own = [name for name in own_names(kind, base) if not name.startswith("_") and name not in vars(base)]
    has = f"it has {', '.join(own)}" if own else "it has none"
    hint = next((found for name in own if (found := did_you_mean(name, allowed))), "")
    return has + (hint or f"; {base.__name__} knows {', '.join(allowed)}")


def _methods(base: type) -> list[str]:
    """Name the methods and properties of a contract that have an effect."""
    said = {"active", "allows", "alike", "acts", "ends"}
    effects = (FunctionType, property)
    return [n for n, v in vars(base).items() if isinstance(v, effects) and n[0] != "_" and n not in said]


def of_kind(algorithm: Algorithm, hook: str, value: Any, kind: type[Value]) -> Value:
    """Return what a hook returned; raises ``RunError`` for what is not of the ``kind`` that it returns."""
    if not isinstance(value, kind):
        raise RunError(f"algorithms.{algorithm.name}: {hook} gives {kind_of(value)}, not a {kind.__name__}")
    return value


def call_in_place(algorithm: Algorithm, hook: Callable[..., object], *places: Any) -> None:
    """Call a hook; raises ``RunError`` where it returns something, which nobody would look at."""
    if (value := hook(*places)) is not None:
        raise RunError(
            f"algorithms.{algorithm.name}: {hook.__name__} gives {kind_of(value)}; it changes what it is "
            "given in place, and returns None"
        )


def of_size(algorithm: Algorithm, hook: str, value: Any, size: int) -> Tensor:
    """Return the vector that a hook returned; raises ``RunError`` for anything else."""
    if fault := _no_vector(value, size):
        raise RunError(f"algorithms.{algorithm.name}: {hook} gives {fault}")
    vector: Tensor = value
    return vector


def _no_vector(found: Any, size: int) -> str:
    """Say what there is in place of a vector float32 (size,); nothing where it is one."""
    if isinstance(found, Tensor) and found.shape == (size,) and found.dtype == torch.float32:
        return ""
    shape = f" {tuple(found.shape)} of {found.dtype}" if isinstance(found, Tensor) else ""
    return f"{kind_of(found)}{shape}, not a Tensor ({size},) of torch.float32"


def finish_fault(done: Any, update: Tensor, elements: int, keeps: Sequence[str]) -> str:
    """Say what is wrong with what ``finish`` has returned; nothing where it can be summed and kept."""
    if not isinstance(done, Finished):
        return f"{kind_of(done)}, not a Finished"
    for name, found, size in (("update", done.update, len(update)), ("extra", done.extra, elements)):
        if found is None and name == "extra":
            continue
        if fault := _no_vector(found, size):
            return f"as {name} {fault}"
    if other := sorted(set(done.kept) - set(keeps)):
        return f"to keep {', '.join(other)}, which its keeps = {tuple(keeps)} does not name"
    return ""


def kind_of(value: Any) -> str:
    """Return what messages call a value of the wrong kind: ``None``, or ``a`` and its class."""
    return "None" if value is None else f"a {type(value).__name__}"
