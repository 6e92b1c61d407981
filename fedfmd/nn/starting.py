"""A network begins from weights in a file: of ours, or of the authors' training code.

What fits, by name and shape, is taken; the rest of the network keeps its initial weights.
"""

from pathlib import Path

from torch import Tensor, nn

from fedfmd.errors import UserError, first_few
from fedfmd.files import regular_file
from fedfmd.nn.checkpoints import differing_entries, read_authors_state
from fedfmd.nn.model_file import read_state
from fedfmd.nn.vector import carried

AUTHORS_SUFFIXES = (".pth", ".pt", ".tar", ".ckpt", ".bin")
SHOWN = 4


def load_initial(model: nn.Module, path: Path) -> str:
    """Put into a model what fits of a file, and say what did not; empty where all of both did.

    ``path`` is a run directory or model file of ours, or a checkpoint of the authors (``.pth``, ``.pt``,
    ``.tar``). Raises ``UserError`` for a file that cannot be read, and for one of which nothing fits.
    """
    own, key = carried(model), f"model.init = {str(path)!r}"
    try:
        state = read_authors_state(path, own) if path.suffix in AUTHORS_SUFFIXES else read_state(path)
    except UserError as error:
        raise UserError(f"{key}: {error}") from None
    fitting = {n: tensor for n, tensor in state.items() if n in own and own[n].shape == tensor.shape}
    if not fitting:
        raise UserError(f"{key}: nothing in it fits the network; {_told(own, state)}")
    model.load_state_dict(fitting, strict=False)
    told = _told(own, state)
    return f"{key}: {told}" if told else ""


def check_initial_file(named: str | None) -> None:
    """Raise ``UserError`` where nothing can be read at what ``model.init`` names: before any image is."""
    path = Path(named or "")
    try:
        if not path.is_dir():
            regular_file(path)
    except OSError as error:
        raise UserError(
            f"model.init = {str(path)!r}: cannot be read: {error.strerror}; name a model file or finished "
            "run of fedfmd, or a checkpoint of the authors' code"
        ) from None


def _told(own: dict[str, Tensor], state: dict[str, Tensor]) -> str:
    missing, unexpected, reshaped = differing_entries(state, own)
    kinds = {"not in it": missing, "of another shape": reshaped, "left out": unexpected}
    return "; ".join(f"{kind}: {first_few(names, SHOWN)}" for kind, names in kinds.items() if names)
