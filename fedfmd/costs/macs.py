"""What a model costs, counted from its layers and the shapes they meet: MACs, parameters, elements, bytes.

The unit of compute is the multiply-accumulate (MAC; 2 FLOPs).  Convolutions, the aggregation of kernels, the
attention (its layers and the scaling of input and output) and linear layers count; norms, activations,
pooling and additions do not, as in the literature's tables.  The count is the algorithm's, not the execution
plan's: a faster formulation of the same layer costs the same.

Each layer's shapes are learnt from one forward pass in which the layers only say how large their output is;
everything else is arithmetic.  (A pass on `meta` would say the same, and load PyTorch's compiler to do so.)
Hooks cannot count the work itself: they miss the functional convolution of a dynamic layer, and PyTorch's
FLOP counter ignores groups in a batch-grouped convolution's weight gradient.

A layer says itself what it costs by a method ``macs(inputs, outputs, pixels)``, as dynamic convolutions do;
for PyTorch's convolutions, linear layers and norms the rule is here. Any other module that has parameters is
counted by the generic rule: half the floating-point operations that PyTorch's FLOP counter finds in its
forward pass on one sample, which are those of convolutions (kind ``conv``), matrix products and attention
(kind ``linear``). ``ModelCost.generic`` names these modules.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d
from torch.nn.modules.batchnorm import _BatchNorm

from fedfmd.costs.conventions import FLOAT32_BYTES
from fedfmd.nn.macs import Macs as Macs

_NORMS = (_BatchNorm, nn.GroupNorm, nn.LayerNorm)
_RULED = (nn.Conv2d, nn.Linear, *_NORMS)


@dataclass(frozen=True, kw_only=True)
class LayerCost:
    """Cost of one layer; MACs and activations are those of one sample's forward pass."""

    name: str
    operator: str
    """The layer's class."""
    parameters: int
    state_elements: int
    """Parameters and buffers: what crosses the wire."""
    forward_macs: Macs
    input_elements: int
    """Elements of the layer's input."""
    activation_elements: int
    """Elements of the layer's output."""
    kernel_elements: int
    """Elements of a sample's own kernel, which a formulation may store beside activations; 0 if static."""
    stores_kernel: bool = False
    """Whether every formulation stores that kernel."""
    generic: bool = False
    """Whether its MACs are counted by the generic rule."""


@dataclass(frozen=True, kw_only=True)
class ModelCost:
    """Cost of a model for one input shape: the sums over its layers, each made once."""

    input_shape: tuple[int, ...]
    """One sample's shape, without the batch."""
    layers: tuple[LayerCost, ...]

    @cached_property
    def parameters(self) -> int:
        """Elements that learn."""
        return sum(layer.parameters for layer in self.layers)

    @cached_property
    def state_elements(self) -> int:
        """Elements that cross the wire: parameters and buffers."""
        return sum(layer.state_elements for layer in self.layers)

    @cached_property
    def macs_by_kind(self) -> Macs:
        """MACs of one sample's forward pass by kind."""
        return sum((layer.forward_macs for layer in self.layers), Macs())

    @cached_property
    def forward_macs(self) -> int:
        """MACs of one sample's forward pass."""
        return self.macs_by_kind.total

    @cached_property
    def activation_elements(self) -> int:
        """Elements that one sample's forward pass puts out, layer by layer."""
        return sum(layer.activation_elements for layer in self.layers)

    @cached_property
    def kernel_elements(self) -> int:
        """Elements of all kernels of one sample's own."""
        return sum(layer.kernel_elements for layer in self.layers)

    @property
    def generic(self) -> tuple[str, ...]:
        """Names of the modules whose MACs are counted by the generic rule."""
        return tuple(layer.name or layer.operator for layer in self.layers if layer.generic)

    def payload_bytes(self, *, element_bytes: int = FLOAT32_BYTES) -> int:
        """Bytes of the whole state, one way, without the message around it."""
        return self.state_elements * element_bytes


def model_cost(model: nn.Module, input_shape: tuple[int, ...]) -> ModelCost:
    """Count a model for samples of `input_shape` (C, H, W); the model may be on `meta` and is not changed.

    A layer that the forward pass does not reach counts its parameters and no work.
    """
    layers = dict(_counted_layers(model))
    seen = _observed(model, layers, input_shape)
    costs = tuple(_layer_cost(name, layer, seen.get(name)) for name, layer in layers.items())
    return ModelCost(input_shape=input_shape, layers=costs)


@dataclass(frozen=True)
class _Observed:
    """What one sample's forward pass makes of a layer."""

    input_elements: int
    output_elements: int
    macs: Macs


def _layer_cost(name: str, layer: nn.Module, seen: _Observed | None) -> LayerCost:
    return LayerCost(
        name=name,
        operator=type(layer).__name__,
        parameters=sum(p.numel() for p in layer.parameters()),
        state_elements=sum(value.numel() for value in layer.state_dict().values()),
        forward_macs=seen.macs if seen else Macs(),
        input_elements=seen.input_elements if seen else 0,
        activation_elements=seen.output_elements if seen else 0,
        kernel_elements=getattr(layer, "kernel_elements", 0),
        stores_kernel=getattr(layer, "stores_kernel", False),
        generic=not _has_rule(layer),
    )


def _macs(layer: nn.Module, inputs: int, outputs: int, pixels: int) -> Macs:
    """Count one sample's MACs from its input and output elements and the output pixels of a channel."""
    rule: Callable[[int, int, int], object] | None = getattr(layer, "macs", None)
    if rule is not None:
        macs = rule(inputs, outputs, pixels)
        if not isinstance(macs, Macs):
            raise TypeError(
                f"{type(layer).__name__}.macs gives {macs!r}, where a fedfmd.nn.Macs is asked for"
            )
        return macs
    if isinstance(layer, nn.Conv2d):
        return Macs(conv=layer.weight.numel() * pixels)
    if isinstance(layer, nn.Linear):
        return Macs(linear=outputs * layer.in_features)
    return Macs()


def _has_rule(layer: nn.Module) -> bool:
    return hasattr(layer, "macs") or isinstance(layer, _RULED)


def _counted_layers(module: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Give the layers that hold the parameters, a dynamic convolution as one of them."""
    if _has_rule(module) or any(True for _ in module.parameters(recurse=False)):
        yield name, module
        return
    for child_name, child in module.named_children():
        yield from _counted_layers(child, f"{name}.{child_name}" if name else child_name)


def _observed(
    model: nn.Module, layers: dict[str, nn.Module], input_shape: tuple[int, ...]
) -> dict[str, _Observed]:
    """Run the model once: what every layer that is reached makes of one sample."""
    seen: dict[str, _Observed] = {}

    def stand_in(name: str, layer: nn.Module) -> Callable[..., Any]:
        look = _look if _has_rule(layer) else _run

        def forward(*inputs: Any, **options: Any) -> Any:
            output, seen[name] = look(layer, inputs, options)
            return output

        return forward

    originals = {name: copy.copy(layer) for name, layer in layers.items()}
    own = {name: layer.__dict__.get("forward") for name, layer in layers.items()}
    try:
        for name, layer in layers.items():
            layer.forward = stand_in(name, originals[name])
        with torch.no_grad():
            model(torch.zeros(1, *input_shape))
    finally:
        for name, layer in layers.items():
            if (kept := own[name]) is None:
                del layer.forward
            else:
                layer.forward = kept
    return seen


def _look(layer: nn.Module, inputs: tuple[Any, ...], _: dict[str, Any]) -> tuple[Tensor, _Observed]:
    """Say how large the output of a layer with a rule is, and count its work by the rule."""
    x = inputs[0]
    output = x.new_zeros(_output_shape(layer, x))
    elements = x[0].numel(), output[0].numel()
    return output, _Observed(*elements, _macs(layer, *elements, output.shape[2:].numel()))


def _run(layer: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]) -> tuple[Any, _Observed]:
    """Run a copy of a layer without a rule, and count its work by PyTorch's FLOP counter."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        output = _runnable(layer)(*inputs, **options)
    macs = {str(op): flops // 2 for op, flops in counter.get_flop_counts().get("Global", {}).items()}
    conv = sum(count for op, count in macs.items() if "conv" in op)
    work = Macs(conv=conv, linear=sum(macs.values()) - conv)
    return output, _Observed(_elements(inputs), _elements(output), work)


def _runnable(layer: nn.Module) -> nn.Module:
    """Return a copy that can be run on the CPU, with any values where the layer is on ``meta``."""
    copied = copy.deepcopy(layer).eval()
    if any(tensor.is_meta for tensor in copied.state_dict().values()):
        copied.to_empty(device="cpu")
        for tensor in copied.state_dict().values():
            tensor.zero_()
    return copied


def _elements(values: Any) -> int:
    """Count the elements of all tensors in a value."""
    if isinstance(values, Tensor):
        return values.numel()
    if isinstance(values, dict):
        return _elements(list(values.values()))
    return sum(map(_elements, values)) if isinstance(values, list | tuple) else 0


def _output_shape(layer: nn.Module, x: Tensor) -> torch.Size:
    if isinstance(layer, nn.Linear):
        return torch.Size((*x.shape[:-1], layer.out_features))
    if isinstance(layer, _NORMS):
        return x.shape
    if not all(
        hasattr(layer, key) for key in ("kernel_size", "stride", "padding", "dilation", "out_channels")
    ):
        return torch.Size(_runnable(layer)(x).shape)
    geometry: Any = layer
    one_channel, kernel = x.new_zeros(1, 1, *x.shape[-2:]), x.new_zeros(1, 1, *geometry.kernel_size)
    map = conv2d(one_channel, kernel, None, geometry.stride, geometry.padding, geometry.dilation)
    return torch.Size((len(x), geometry.out_channels, *map.shape[-2:]))
