"""Checkpoints under the parameter names of the authors' code, both ways.

The names of FMDConv's (arXiv 2503.17530) and ODConv's (arXiv 2209.07947) published networks differ from ours
in four points: norms are called `bn`, the kernel attention of FMDConv `attention2`, attention layers are 1x1
convolutions, so their weights have two more dimensions of size 1, and every BatchNorm has a batch counter.
A static ResNet converts to and from torchvision's names by the same rules.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import cast
from zipfile import is_zipfile

import torch
from torch import Tensor, nn

from fedfmd.errors import UserError, first_few
from fedfmd.files import regular_file
from fedfmd.nn.dynamic import dynamic_layers

_COUNTER = "num_batches_tracked"
_SHOWN = 5


def load_authors_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load a state under the authors' names into the model; the model must have every entry and no other.

    The authors' networks have BatchNorm everywhere: build the model with `norm="bn", attention_norm="bn"`.
    The prefix `module.` of data-parallel training is dropped.  Raises UserError, naming the entries, if some
    are missing, unexpected or of another shape; the model is then unchanged.
    """
    _require_known_names(model)
    expected = model.state_dict()
    ours = _under_our_names(state, expected)
    _require_same_entries(ours, expected)
    model.load_state_dict(ours, strict=True)


def to_authors_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """Return the model's state under the authors' names, as their code loads it strictly.

    Our networks do not count batches, so each BatchNorm's counter is 0.
    """
    _require_known_names(model)
    state: dict[str, Tensor] = {}
    for key, value in model.state_dict().items():
        name = _to_authors_name(key)
        state[name] = value[:, :, None, None] if _is_attention_matrix(key, value) else value
        if name.endswith("running_var"):
            state[name.removesuffix("running_var") + _COUNTER] = torch.tensor(0)
    return state


def load_authors_checkpoint(model: nn.Module, path: Path) -> None:
    """Load a checkpoint file of the authors' training code (or a bare state) into the model.

    Only tensors and plain containers are unpickled.  Raises UserError, naming the file, if it cannot be read.
    """
    state = _unpickled(path)
    try:
        load_authors_state_dict(model, state)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def read_authors_state(path: Path, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Read a checkpoint file of the authors' training code under our names, for a model like ``expected``.

    Only tensors and plain containers are unpickled.  Raises UserError, naming the file, if it cannot be read.
    """
    return _under_our_names(_unpickled(path), expected)


def _under_our_names(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    ours = {_to_our_name(key): value for key, value in state.items() if not key.endswith(_COUNTER)}
    return {key: _without_window(value, expected.get(key)) for key, value in ours.items()}


def _unpickled(path: Path) -> dict[str, Tensor]:
    try:
        mapped = is_zipfile(regular_file(path))  # read where it is used: a checkpoint holds more than weights
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except OSError as error:
        raise UserError(f"{path}: cannot be read as a checkpoint: {error.strerror or error}") from None
    except Exception as error:  # whatever a damaged or foreign file makes torch raise
        raise UserError(f"{path}: cannot be read as a checkpoint ({_first_line(error)})") from error
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(
            f"{path}: holds no state; allowed: a dictionary of tensors, or one under 'state_dict'"
        )
    return cast(dict[str, Tensor], state)


def _to_our_name(key: str) -> str:
    key = re.sub(r"(^|\.)bn(\d*)\.", r"\1norm\2.", key.removeprefix("module."))
    return re.sub(r"(^|\.)attention2\.", r"\1kernel_attention.", key)


def _to_authors_name(key: str) -> str:
    key = re.sub(r"(^|\.)norm(\d*)\.", r"\1bn\2.", key)
    return re.sub(r"(^|\.)kernel_attention\.", r"\1attention2.", key)


def _is_attention_matrix(key: str, value: Tensor) -> bool:
    return "attention." in key and value.dim() == 2


def _without_window(value: Tensor, expected: Tensor | None) -> Tensor:
    """Drop the 1x1 window of an attention layer where the model has a matrix."""
    is_matrix = expected is not None and expected.dim() == 2
    return value[:, :, 0, 0] if is_matrix and value.shape[2:] == (1, 1) else value


def _require_known_names(model: nn.Module) -> None:
    for name, layer in dynamic_layers(model):
        if not layer.published:
            kind = type(layer).__name__
            raise UserError(
                f"layer {name!r} is a {kind}, for which no authors' names are known; "
                "allowed: fmdconv, odconv, static"
            )


def _require_same_entries(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    missing, unexpected, reshaped = differing_entries(state, expected)
    problems = {"missing": missing, "unexpected": unexpected, "of another shape": reshaped}
    if any(problems.values()):
        text = "; ".join(f"{kind}: {_listed(names)}" for kind, names in problems.items() if names)
        raise UserError(f"the checkpoint does not fit the model; {text}")


def differing_entries(
    state: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> tuple[list[str], list[str], list[str]]:
    """Return the entries of ``expected`` that a state lacks, those beyond it, and those of another shape."""
    reshaped = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(value.shape)}"
        for key, value in expected.items()
        if key in state and state[key].shape != value.shape
    ]
    missing, unexpected = (
        [key for key in a if key not in b] for a, b in ((expected, state), (state, expected))
    )
    return missing, unexpected, reshaped


def _listed(names: list[str]) -> str:
    return first_few([_to_authors_name(name) for name in names], _SHOWN)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
