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
for PyTorch's convolutions, linear layers and norms the rule is here. All else that a pass computes is counted
by the generic rule: half the floating-point operations that PyTorch's FLOP counter finds outside the layers
with a rule, which are those of convolutions (kind ``conv``), matrix products and attention (kind ``linear``).
They belong to the innermost module with parameters or buffers of its own, or else to the network; a layer
that is run several times counts each time. ``ModelCost.generic`` names what was counted so. A network whose
modules are all PyTorch's or this package's computes nothing elsewhere, and is not run to find out.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Size, Tensor, nn
from torch.nn.functional import conv2d
from torch.nn.modules.batchnorm import _NormBase

from fedfmd.costs.conventions import FLOAT32_BYTES
from fedfmd.nn.macs import Macs as Macs
from fedfmd.nn.vector import carried
from fedfmd.registry import is_ours

_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
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
    kernel_elements: int = 0
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
    runs = any(_has_to_run(layer) for layer in layers.values()) or any(map(_foreign, _containers(model)))
    if runs and any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
        model = _with_values(model)
        layers = dict(_counted_layers(model))
    elsewhere = _Observed()
    with _evaluating(model), _Pass(layers, counts=runs) as observed, torch.no_grad():
        model(torch.zeros(1, *input_shape))
        elsewhere = _Observed(macs=observed.elsewhere())
    seen, known = observed.seen, set[int]()
    costs = [_layer_cost(name, layer, seen.get(name, _Observed()), known) for name, layer in layers.items()]
    if elsewhere.macs.total:
        costs.append(LayerCost(**_facts("", model, elsewhere), parameters=0, state_elements=0, generic=True))
    return ModelCost(input_shape=input_shape, layers=tuple(costs))


@dataclass(frozen=True)
class _Observed:
    """What one sample's forward pass makes of a layer, in all its runs."""

    input_elements: int = 0
    """Of its largest input."""
    output_elements: int = 0
    macs: Macs = field(default_factory=Macs)

    def __add__(self, other: "_Observed") -> "_Observed":
        return _Observed(
            max(self.input_elements, other.input_elements),
            self.output_elements + other.output_elements,
            self.macs + other.macs,
        )


def _layer_cost(name: str, layer: nn.Module, seen: _Observed, known: set[int]) -> LayerCost:
    """Return the cost of a layer, whose tensors count unless they are ``known`` of another; then they are."""
    own = {n: t for n, t in carried(layer).items() if _has_rule(layer) or "." not in n}
    new = [tensor for tensor in own.values() if id(tensor) not in known]
    known.update(map(id, new))
    return LayerCost(
        **_facts(name, layer, seen),
        parameters=sum(t.numel() for t in new if isinstance(t, nn.Parameter)),
        state_elements=sum(t.numel() for t in new),
        kernel_elements=getattr(layer, "kernel_elements", 0),
        stores_kernel=getattr(layer, "stores_kernel", False),
        generic=not _has_rule(layer),
    )


def _facts(name: str, layer: nn.Module, seen: _Observed) -> dict[str, Any]:
    return {
        "name": name,
        "operator": type(layer).__name__,
        "forward_macs": seen.macs,
        "input_elements": seen.input_elements,
        "activation_elements": seen.output_elements,
    }


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


def _has_to_run(layer: nn.Module) -> bool:
    """Return whether nothing but running a layer tells how large its output is, or what it costs."""
    return not _has_rule(layer) or not (isinstance(layer, (nn.Linear, *_NORMS)) or _has_geometry(layer))


def _has_geometry(layer: nn.Module) -> bool:
    return all(
        hasattr(layer, key) for key in ("kernel_size", "stride", "padding", "dilation", "out_channels")
    )


def _foreign(module: nn.Module) -> bool:
    """Return whether a module may compute what no layer with a rule does."""
    home = type(module).__module__
    return not home.startswith("torch.nn.") and not is_ours(home)


def _containers(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the modules without a rule."""
    if not _has_rule(module):
        yield module
        for child in module.children():
            yield from _containers(child)


def _counted_layers(module: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield the layers that hold the state, a dynamic convolution as one of them."""
    ruled = _has_rule(module)
    if ruled or any("." not in entry for entry in module.state_dict()):
        yield name, module
    if not ruled:
        for child_name, child in module.named_children():
            yield from _counted_layers(child, f"{name}.{child_name}" if name else child_name)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Let a model be in evaluation mode inside, and its modules in their own again."""
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


class _Pass:
    """One forward pass: layers with a rule only say what they cost, and PyTorch counts all other work.

    Without ``counts`` there is none.
    """

    def __init__(self, layers: dict[str, nn.Module], *, counts: bool):
        self.layers, self.counts = layers, counts
        self.seen: dict[str, _Observed] = {}
        self._claimed = Macs()
        """What PyTorch has counted, and a layer has said or got."""
        self._open = ExitStack()

    def __enter__(self) -> "_Pass":
        self._counter = self._open.enter_context(_counting()) if self.counts else None
        for name, layer in self.layers.items():
            own = layer.__dict__.get("forward")
            self._open.callback(_put_back, layer, own)
            layer.forward = self._stand_in(name, layer, layer.forward)
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def elsewhere(self) -> Macs:
        """Return what was counted and belongs to no layer so far."""
        return _minus(self._counted(), self._claimed)

    def _counted(self) -> Macs:
        if self._counter is None:
            return Macs()
        found = self._counter.get_flop_counts().get("Global", {})
        macs = {str(op): flops // 2 for op, flops in found.items()}
        conv = sum(count for op, count in macs.items() if "conv" in op)
        return Macs(conv=conv, linear=sum(macs.values()) - conv)

    def _stand_in(self, name: str, layer: nn.Module, run: Callable[..., Any]) -> Callable[..., Any]:
        ruled = _has_rule(layer)

        def forward(*inputs: Any, **options: Any) -> Any:
            before = self.elsewhere()
            output = _stated(layer, inputs[0], run) if ruled else run(*inputs, **options)
            here = _minus(self.elsewhere(), before)
            self._claimed += here
            elements = _elements((inputs, options)), _elements(output)
            work = _macs(layer, *elements, _pixels(output)) if ruled else here
            self.seen[name] = self.seen.get(name, _Observed()) + _Observed(*elements, work)
            return output

        return forward


@contextmanager
def _counting() -> Iterator[Any]:
    """Let PyTorch count, and compute by operations that it knows: its fused ones count for nothing.

    Those are attention's and, by oneDNN, recurrent layers'.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode  # brings the compiler

    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    fused, *_ = torch.backends.mkldnn.set_flags(_enabled=False, _fp32_precision=None)
    try:
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False, custom_mapping=_FLOPS) as counter:
            yield counter
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        torch.backends.mkldnn.set_flags(_enabled=fused, _fp32_precision=None)


def _of_bilinear(x: Size, weight: Size, *_: Any, **__: Any) -> int:
    """Count floating-point operations: the weights with one input, and what comes of it with the other."""
    return 2 * x[0] * weight[0] * weight[1] * (weight[2] + 1)


_FLOPS: dict[Any, Callable[..., int]] = {
    torch.ops.aten.mv: lambda a, *_, **__: 2 * a.numel(),
    torch.ops.aten.addmv: lambda _, a, *__, **___: 2 * a.numel(),
    torch.ops.aten.dot: lambda a, *_, **__: 2 * a.numel(),
    torch.ops.aten.addbmm: lambda _, a, b, **__: 2 * a.numel() * b[-1],
    torch.ops.aten._trilinear: _of_bilinear,
}
"""Floating-point operations of products that PyTorch's counter does not know, by their operands' shapes."""


def _put_back(layer: nn.Module, forward: Any) -> None:
    if forward is None:
        del layer.forward
    else:
        layer.forward = forward


def _minus(all: Macs, some: Macs) -> Macs:
    return all + some * -1


def _with_values(model: nn.Module) -> nn.Module:
    """Return a copy of a model on ``meta`` that can be run on the CPU, with zeros for values."""
    copied = copy.deepcopy(model).to_empty(device="cpu")
    for tensor in (*copied.parameters(), *copied.buffers()):
        tensor.detach().zero_()
    return copied


def _elements(values: Any) -> int:
    """Count the elements of all tensors in a value."""
    if isinstance(values, Tensor):
        return values.numel()
    if isinstance(values, dict):
        return _elements(list(values.values()))
    return sum(map(_elements, values)) if isinstance(values, list | tuple) else 0


def _pixels(output: Tensor) -> int:
    """Count the places of one channel in all images of an output (N, C, ...)."""
    return len(output) * output.shape[2:].numel()


def _stated(layer: nn.Module, x: Tensor, run: Callable[..., Any]) -> Tensor:
    """Return an output of the size that a layer with a rule has; without its work, if that can be told."""
    if isinstance(layer, nn.Linear):
        return x.new_zeros(*x.shape[:-1], layer.out_features)
    if isinstance(layer, _NORMS):
        return x.new_zeros(x.shape)
    if not _has_geometry(layer):
        output: Tensor = run(x)
        return output
    geometry: Any = layer
    one_channel, kernel = x.new_zeros(1, 1, *x.shape[-2:]), x.new_zeros(1, 1, *geometry.kernel_size)
    map = conv2d(one_channel, kernel, None, geometry.stride, geometry.padding, geometry.dilation)
    return x.new_zeros(len(x), geometry.out_channels, *map.shape[-2:])
