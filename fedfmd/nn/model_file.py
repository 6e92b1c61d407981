"""Model files: a network's weights with everything that classifying an image with them needs.

The file is safetensors. Its metadata has one entry, `fedfmd`, a JSON document of `ModelCard`: a dynamic
convolution's output depends on temperatures, which are no part of its state, so a file of weights alone is
another model than the one that was measured. Equal training gives equal bytes: nothing in the file depends on
when, where or by how many processes it was made.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from fedfmd.errors import UserError
from fedfmd.files import regular_file, write_atomic
from fedfmd.nn.dynamic import set_temperature
from fedfmd.nn.networks import build_model, unweighted
from fedfmd.nn.temperature import Temperatures
from fedfmd.nn.vector import carried
from fedfmd.registry import beside

MODEL_FILE = "model.safetensors"
ENTRY, SEAL = "fedfmd", "sha256"
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Width = Annotated[float, Field(gt=0, le=1024)]
CellRatio = Annotated[float, Field(ge=1 / 64, le=64)]
Count = Annotated[int, Field(ge=1, le=1 << 20)]


@dataclass(frozen=True, kw_only=True)
class Network:
    """The arguments of `build_model`."""

    name: str
    conv: str
    num_classes: Count
    in_channels: Count
    image_size: Count = 32
    """Side of the input in pixels, for networks that have to know it."""
    width: Width
    kernels: Annotated[int, Field(ge=1, le=1024)]
    norm: str
    attention_norm: str
    cell_num_ratio: CellRatio = 1.0
    cell_inplane_ratio: CellRatio = 1.0
    cell_outplane_ratio: CellRatio = 1.0
    stem: str
    exits: bool = False
    stages: Count | None = None

    def build(self) -> nn.Module:
        """Return the network with weights from torch's global generator."""
        return build_model(**asdict(self))

    def outline(self) -> nn.Module:
        """Return the network for its structure: without weights, on ``meta``, if all its parts are ours."""
        with unweighted(name=self.name, conv=self.conv, norm=self.norm):
            return self.build()


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What inference needs beside the weights."""

    network: Network
    temperatures: Temperatures
    """Those of the round or epoch in which the model was measured."""
    input_shape: tuple[Count, Count, Count]
    """C, H, W of the network's input."""
    mean: tuple[float, ...]
    """Per stored channel, of pixels in 0..1; images are normalised as (pixel - mean) / std."""
    std: tuple[Positive, ...]
    """Per stored channel, of pixels in 0..1."""
    resized_crop: bool
    """Whether the input is the central 224/256 of an image, resized, and not the padded image."""
    classes: tuple[str, ...]
    """Names of the classes, in the order of the logits, which may be more."""
    config_sha256: str
    """Hash of the config's keys that can change a bit of the weights."""
    format: Literal[1] = 1
    """Version of this document."""

    def __post_init__(self) -> None:
        if not 0 < len(self.classes) <= self.network.num_classes:
            raise ValueError(f"{len(self.classes)} classes for {self.network.num_classes} outputs")
        if len(self.mean) != len(self.std):
            raise ValueError(f"means of {len(self.mean)} channels, deviations of {len(self.std)}")
        if self.input_shape[0] != self.network.in_channels:
            raise ValueError(
                f"input of {self.input_shape[0]} channels, network of {self.network.in_channels}"
            )


_CARD: TypeAdapter[ModelCard] = TypeAdapter(ModelCard)


def write_model(path: Path, state: Mapping[str, Tensor], card: ModelCard) -> None:
    """Write a network's state and its card to a file, atomically.

    Raises ``OSError`` as the file system does; an older file is then still whole.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    document = asdict(card) | {SEAL: _seal(asdict(card), tensors)}
    write_atomic(path, save(tensors, {ENTRY: json.dumps(document, sort_keys=True, allow_nan=False)}))


def read_card(run_or_file: str | Path) -> ModelCard:
    """Read what a model file says of its network; takes and raises what `load_model` does."""
    return _read(_model_file(Path(run_or_file)))[0]


def read_state(run_or_file: str | Path) -> dict[str, Tensor]:
    """Read the weights of a model file by name; takes and raises what `load_model` does."""
    return _read(_model_file(Path(run_or_file)))[1]


def is_sound(run_or_file: str | Path) -> bool:
    """Return whether there is a model file that is what was written; takes what `load_model` does."""
    try:
        return bool(read_card(run_or_file))
    except UserError:
        return False


def load_model(run_or_file: str | Path) -> nn.Module:
    """Load a run's final network in the very state in which its last evaluation measured it.

    ``run_or_file`` is a run directory, federated or of centralised training, or a ``model.safetensors``. The
    network is in evaluation mode, on the CPU, with its temperatures set. Raises ``UserError``, in one line
    that names the file, when it is missing, damaged, or written by something else.

    Examples:
        >>> fedfmd.load_model("runs/quickstart")(images)
    """
    path = _model_file(Path(run_or_file))
    card, state = _read(path)
    try:
        with beside(path, run=Path(run_or_file)):
            model = card.network.outline()
    except UserError as error:  # a part of its own that is not here: the file is whole
        raise UserError(f"{path}: its network cannot be built here: {error}") from None
    except (ValueError, ArithmeticError, RuntimeError) as error:
        raise _damaged(path, f"describes no network that can be built: {error}") from None
    own = carried(model)
    expected = {name: (tensor.dtype, tensor.shape) for name, tensor in own.items()}
    if {name: (tensor.dtype, tensor.shape) for name, tensor in state.items()} != expected:
        raise _damaged(path, "its tensors are not those of the network that it describes")
    # Not strict: what is there was compared just now, and PyTorch would ask for the counters of BatchNorm.
    model.load_state_dict(state, assign=any(tensor.is_meta for tensor in own.values()), strict=False)
    set_temperature(model, card.temperatures)
    return model.eval()


def state_sha256(state: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of a state's names, types, shapes and values, whatever their order."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _model_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    if not (path / MODEL_FILE).is_file():
        cure = (
            "it is written when a run finishes, and by --resume of a run that has lost it; "
            "name a finished run, or a model file"
        )
        raise UserError(f"{path}: holds no {MODEL_FILE}: {cure}")
    return path / MODEL_FILE


def _read(path: Path) -> tuple[ModelCard, dict[str, Tensor]]:
    try:
        with safe_open(regular_file(path), "pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except FileNotFoundError:
        raise UserError(f"{path}: no such run directory or model file") from None
    except OSError as error:
        raise _damaged(path, f"cannot be read: {error.strerror or error}") from None
    except (SafetensorError, ValueError) as error:
        raise _damaged(path, f"cannot be read: {error}") from None
    if ENTRY not in metadata:
        raise _damaged(
            path, f"its metadata has no entry {ENTRY!r}, so it is not known which network it is of"
        )
    card = _parsed(path, metadata[ENTRY])
    document = json.loads(metadata[ENTRY])
    if document.pop(SEAL, None) != _seal(document, state):
        raise _damaged(path, "its content is not what was written (another checksum)")
    return card, state


def _seal(document: Mapping[str, Any], state: Mapping[str, Tensor]) -> str:
    """Return the checksum of the card and the weights together."""
    text = json.dumps(document, sort_keys=True) + state_sha256(state)
    return hashlib.sha256(text.encode()).hexdigest()


def _parsed(path: Path, document: str) -> ModelCard:
    try:
        return _CARD.validate_json(document, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        problem = f"{key}: {first['msg']}" if key else first["msg"]
        raise _damaged(path, f"its metadata is damaged: {' '.join(problem.split())}") from None


def _damaged(path: Path, problem: str) -> UserError:
    cure = (
        "fedfmd simulate and fedfmd train write such files, and --resume of their run writes this one again "
        "from its checkpoint"
    )
    return UserError(f"{path}: {' '.join(problem.split())}; {cure}")
