"""What a model costs, counted from its layers and the shapes they meet: MACs, parameters, elements, bytes.

The unit of compute is the multiply-accumulate (MAC; 2 FLOPs).  Convolutions, the aggregation of kernels, the
attention (its layers and the scaling of input and output) and linear layers count; norms, activations,
pooling and additions do not, as in the literature's tables.  The count is the algorithm's, not the execution
plan's: a faster formulation of the same layer costs the same.

Each layer's shapes are learnt from one forward pass in which the layers only say how large their output is;
everything else is arithmetic.  (A pass on `meta` would say the same, and load PyTorch's compiler to do so.)
Hooks cannot count the work itself: they miss the functional convolution of a dynamic layer, and PyTorch's
FLOP counter ignores groups in a batch-grouped convolution's weight gradient.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d
from torch.nn.modules.batchnorm import _BatchNorm

from fedfmd.nn.dynamic_conv import DynamicConv2d, FMDConv2d, ODConv2d

TRAINING_MACS_PER_FORWARD = 3
"""A training step costs this many forward passes: forward, gradient by input, gradient by weight."""

FLOAT32_BYTES = 4
_COUNTED = (DynamicConv2d, nn.Conv2d, nn.Linear, _BatchNorm, nn.GroupNorm, nn.LayerNorm)


@dataclass(frozen=True, kw_only=True)
class Macs:
    """Multiply-accumulates by kind."""

    conv: int = 0
    aggregation: int = 0
    """Mixing K kernels, K biases, and the spatial attention of ODConv, into one of each."""
    attention: int = 0
    """The attention branches, and scaling input and output by what they give."""
    linear: int = 0

    @property
    def total(self) -> int:
        """All kinds together."""
        return self.conv + self.aggregation + self.attention + self.linear

    def __mul__(self, times: int) -> "Macs":
        return Macs(
            conv=self.conv * times,
            aggregation=self.aggregation * times,
            attention=self.attention * times,
            linear=self.linear * times,
        )

    def __add__(self, other: "Macs") -> "Macs":
        return Macs(
            conv=self.conv + other.conv,
            aggregation=self.aggregation + other.aggregation,
            attention=self.attention + other.attention,
            linear=self.linear + other.linear,
        )


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


@dataclass(frozen=True, kw_only=True)
class ModelCost:
    """Cost of a model for one input shape: the sums over its layers."""

    input_shape: tuple[int, ...]
    """One sample's shape, without the batch."""
    layers: tuple[LayerCost, ...]

    @property
    def parameters(self) -> int:
        """Elements that learn."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def state_elements(self) -> int:
        """Elements that cross the wire: parameters and buffers."""
        return sum(layer.state_elements for layer in self.layers)

    @property
    def macs_by_kind(self) -> Macs:
        """MACs of one sample's forward pass by kind."""
        return sum((layer.forward_macs for layer in self.layers), Macs())

    @property
    def forward_macs(self) -> int:
        """MACs of one sample's forward pass."""
        return self.macs_by_kind.total

    @property
    def activation_elements(self) -> int:
        """Elements that one sample's forward pass puts out, layer by layer."""
        return sum(layer.activation_elements for layer in self.layers)

    @property
    def kernel_elements(self) -> int:
        """Elements of all kernels of one sample's own."""
        return sum(layer.kernel_elements for layer in self.layers)

    def payload_bytes(self, *, element_bytes: int = FLOAT32_BYTES) -> int:
        """Bytes of the whole state, one way, without the message around it."""
        return self.state_elements * element_bytes


def model_cost(model: nn.Module, input_shape: tuple[int, ...]) -> ModelCost:
    """Count a model for samples of `input_shape` (C, H, W); the model may be on `meta` and is not changed.

    A layer that the forward pass does not reach counts its parameters and no work.  Raises TypeError if a
    module of an unknown kind has parameters, since its work would silently be missing.
    """
    layers = dict(_counted_layers(model))
    shapes = _shapes(model, layers, input_shape)
    costs = tuple(_layer_cost(name, layer, shapes.get(name)) for name, layer in layers.items())
    return ModelCost(input_shape=input_shape, layers=costs)


def _layer_cost(name: str, layer: nn.Module, shapes: tuple[torch.Size, torch.Size] | None) -> LayerCost:
    inputs, outputs = (0, 0) if shapes is None else (shapes[0].numel(), shapes[1].numel())
    pixels = 0 if shapes is None else shapes[1][1:].numel()
    return LayerCost(
        name=name,
        operator=type(layer).__name__,
        parameters=sum(p.numel() for p in layer.parameters()),
        state_elements=sum(value.numel() for value in layer.state_dict().values()),
        forward_macs=Macs() if shapes is None else _macs(layer, inputs, outputs, pixels),
        input_elements=inputs,
        activation_elements=outputs,
        kernel_elements=_kernel_elements(layer) if isinstance(layer, DynamicConv2d) else 0,
    )


def _macs(layer: nn.Module, inputs: int, outputs: int, pixels: int) -> Macs:
    """Count one sample's MACs from its input and output elements and the output pixels of a channel."""
    if isinstance(layer, DynamicConv2d):
        return Macs(
            conv=_kernel_elements(layer) * pixels,
            aggregation=_aggregation_macs(layer),
            attention=_attention_macs(layer, inputs, outputs),
        )
    if isinstance(layer, nn.Conv2d):
        return Macs(conv=layer.weight.numel() * pixels)
    if isinstance(layer, nn.Linear):
        return Macs(linear=outputs * layer.in_features)
    return Macs()


def _aggregation_macs(layer: DynamicConv2d) -> int:
    biases = 0 if layer.bias is None else layer.bias.numel()
    has_spatial = isinstance(layer, ODConv2d) and layer.attention.spatial_fc is not None
    return layer.weight.numel() * (2 if has_spatial else 1) + biases


def _attention_macs(layer: DynamicConv2d, inputs: int, outputs: int) -> int:
    macs = sum(m.weight.numel() for m in layer.modules() if isinstance(m, nn.Linear))
    if isinstance(layer, FMDConv2d | ODConv2d):
        macs += inputs + (0 if layer.attention.filter_fc is None else outputs)
    return macs


def _kernel_elements(layer: DynamicConv2d) -> int:
    return layer.weight.numel() // layer.kernels


def _counted_layers(module: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Give the layers that hold the parameters, a dynamic convolution as one of them."""
    if isinstance(module, _COUNTED):
        yield name, module
        return
    if any(True for _ in module.parameters(recurse=False)):
        raise TypeError(
            f"cannot count {name or 'the model'}: {type(module).__name__} has parameters of its own"
        )
    for child_name, child in module.named_children():
        yield from _counted_layers(child, f"{name}.{child_name}" if name else child_name)


def _shapes(
    model: nn.Module, layers: dict[str, nn.Module], input_shape: tuple[int, ...]
) -> dict[str, tuple[torch.Size, torch.Size]]:
    """Run the model once: every reached layer's input and output shape, without the batch."""
    shapes: dict[str, tuple[torch.Size, torch.Size]] = {}

    def stand_in(name: str, layer: nn.Module) -> Callable[[Tensor], Tensor]:
        def forward(x: Tensor) -> Tensor:
            output = x.new_zeros(_output_shape(layer, x))
            shapes[name] = (x.shape[1:], output.shape[1:])
            return output

        return forward

    own = {name: layer.__dict__.get("forward") for name, layer in layers.items()}
    try:
        for name, layer in layers.items():
            layer.forward = stand_in(name, layer)
        with torch.no_grad():
            model(torch.zeros(1, *input_shape))
    finally:
        for name, layer in layers.items():
            if (kept := own[name]) is None:
                del layer.forward
            else:
                layer.forward = kept
    return shapes


def _output_shape(layer: nn.Module, x: Tensor) -> torch.Size:
    if isinstance(layer, nn.Linear):
        return torch.Size((*x.shape[:-1], layer.out_features))
    if not isinstance(layer, DynamicConv2d | nn.Conv2d):
        return x.shape
    one_channel, kernel = x.new_zeros(1, 1, *x.shape[-2:]), x.new_zeros(1, 1, *layer.kernel_size)
    map = conv2d(one_channel, kernel, None, layer.stride, layer.padding, layer.dilation)
    return torch.Size((len(x), layer.out_channels, *map.shape[-2:]))
