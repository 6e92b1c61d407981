"""The dynamic convolution: every sample is convolved with its own mixture of K shared kernels.

`dynamic_conv2d` is one function with several formulations that compute the same thing and differ only in
speed and memory:

- `plain`: mix every sample's kernel, then one convolution with a group for each sample.  A transcription of
  the definition in PyTorch operations, for every device and type; the oracle of the others.
- `compiled`: a CPU kernel that mixes a block of the kernels in the cache, uses it at once and forgets it
  (`fedfmd.nn.kernels`); float32.
- `unfold`: mixed kernels times the input's columns, as one batched matrix product.
- `kfold`: all K shared kernels times the columns, as one matrix product for the whole batch, and the mixture
  of its K results.  K times the MACs, and no sample's kernel is ever in memory.
- `implicit`: mixed kernels times columns that are gathered where they are used, in Triton
  (`fedfmd.nn.implicit`); on CUDA devices, for one group.

On a GPU `implicit` and `unfold` are for large maps and `kfold` for small ones: `fedfmd.nn.gpu_costs` counts
them.  `choose` says which formulation "auto" takes; `forced_formulation` overrules it for a whole model.

float32 on a GPU: PyTorch lets its convolutions use TF32 and its matrix products not.  The products here are
convolutions, but obey the switch of the products, `torch.backends.cuda.matmul.allow_tf32`; whatever trains in
fedfmd sets both alike (`fedfmd.machine.process`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from fedfmd.nn import kernels
from fedfmd.nn.columns import PIXEL_BY_PIXEL, Pair, Window, columns, pair, pixels_first, rows
from fedfmd.nn.gpu_costs import CANDIDATES, LayerShape, fastest

Formulation = Literal["auto", "plain", "compiled", "unfold", "kfold", "implicit"]
FORMULATIONS = ", ".join(get_args(Formulation))
MEASURED_CAPABILITY = (9, 0)
"""Of the GPUs on which `implicit` was measured: H100 and its kin."""

_forced: Formulation = "auto"


def dynamic_conv2d(
    x: Tensor,
    weight: Tensor,
    attention: Tensor,
    bias: Tensor | None = None,
    *,
    input_scale: Tensor | None = None,
    output_scale: Tensor | None = None,
    spatial_scale: Tensor | None = None,
    stride: int | Pair = 1,
    padding: int | Pair = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
    formulation: Formulation = "auto",
) -> Tensor:
    """Convolve sample b with `spatial_scale[b] * sum_k attention[b, k] * weight[k]`.

    y[b] = output_scale[b] * (conv(x[b] * input_scale[b], kernel[b]) + sum_k attention[b, k] * bias[k]), which
    is FMDConv (arXiv 2503.17530) with input, output and kernel attention, ODConv with all four, and DyConv or
    CondConv with kernel attention alone.

    Shapes: x (B, Ci, H, W); weight (K, Co, Ci/groups, kh, kw); attention (B, K); bias (K, Co); input_scale
    (B, Ci); output_scale (B, Co); spatial_scale (B, kh * kw); result (B, Co, Ho, Wo), with its channels last
    in memory where x has them so, and after `kfold` and `implicit`.  Absent scales are 1.
    Raises ValueError if `formulation` is unknown or cannot run here.
    """
    window = Window(pair(stride), pair(padding), pair(dilation), groups)
    if formulation == "auto":
        formulation = choose(x, weight, window)
    mixed_bias = None if bias is None else attention @ bias
    if formulation == "compiled":
        mix = _mix(attention, spatial_scale)
        return _compiled(x, weight, mix, mixed_bias, input_scale, output_scale, window)
    if input_scale is not None:
        x = x * input_scale[:, :, None, None]
    if formulation == "plain":
        mixed = mix_kernels(weight, _mix(attention, spatial_scale))
        y = _plain(x, mixed.unflatten(2, weight.shape[2:]), window)
    elif formulation == "unfold":
        y = _unfold(x, weight, _mix(attention, spatial_scale), window)
    elif formulation == "kfold":
        y = _kfold(x, weight, attention, spatial_scale, window)
    elif formulation == "implicit":
        mixed = mix_kernels(weight, _mix(attention, spatial_scale), by_pixel=True)
        y = _implicit(x, mixed, weight.shape[3:], window)
    else:
        raise ValueError(f"formulation must be one of {FORMULATIONS}, not {formulation!r}")
    if mixed_bias is not None:
        y = y + mixed_bias[:, :, None, None]
    return y if output_scale is None else y * output_scale[:, :, None, None]


def convolve_each(
    x: Tensor,
    kernels: Tensor,
    *,
    stride: int | Pair = 1,
    padding: int | Pair = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
    formulation: Formulation = "auto",
) -> Tensor:
    """Convolve sample b with `kernels[b]`, however it was made.

    Shapes: x (B, Ci, H, W); kernels (B, Co, Ci/groups, kh, kw); result (B, Co, Ho, Wo). The formulations are
    those of `dynamic_conv2d`, and `kfold`, for which there are no shared kernels, is `unfold`. Raises
    ValueError if `formulation` is unknown or cannot run here.
    """
    window = Window(pair(stride), pair(padding), pair(dilation), groups)
    if formulation == "auto":
        formulation = choose(x, kernels, window, shared=False)
    if formulation == "plain":
        return _plain(x, kernels, window)
    if formulation == "compiled":
        return _side_by_side(x, kernels, window)
    if formulation in ("unfold", "kfold"):
        return _product(x, rows(kernels, by_pixel=pixels_first(x)), kernels.shape[3:], window)
    if formulation == "implicit":
        return _implicit(x, rows(kernels, by_pixel=True), kernels.shape[3:], window)
    raise ValueError(f"formulation must be one of {FORMULATIONS}, not {formulation!r}")


def choose(x: Tensor, weight: Tensor, window: Window = PIXEL_BY_PIXEL, *, shared: bool = True) -> Formulation:
    """Return the formulation "auto" takes: never by batch size, so that splitting a batch changes nothing.

    | device | takes                            | unless                                                     |
    |--------|----------------------------------|------------------------------------------------------------|
    | CPU    | `compiled`                       | it could not be built; not float32 or autocast; depth-wise |
    | CUDA   | `implicit`, `unfold` or `kfold`, | depth-wise                                                 |
    |        | by counted bytes and operations  |                                                            |
    | other  | `plain`                          |                                                            |

    One channel in a group, as in a depth-wise convolution, leaves vectors and matrices nearly empty: `plain`.
    Where `weight` is every sample's own and not ``shared``, there is no `kfold`.
    """
    if _forced != "auto":
        return _forced
    device, dense = x.device.type, weight.shape[2] > 1
    if device == "cuda" and dense:
        able = [
            name
            for name in CANDIDATES
            if (shared or name != "kfold") and (name != "implicit" or implicit_runs(x.device))
        ]
        return fastest(_shape(x, weight, window), _product_type(x), able)
    return "compiled" if dense and _single(x, weight) and kernels.available() else "plain"


def compiles(x: Tensor, weight: Tensor) -> bool:
    """Whether what stands around the convolution takes compiled operations: where "auto" does on the CPU.

    ``x`` is what such an operation reads, ``weight`` its weights; their types and device decide, not their
    shapes. Not under `torch.compile`, which makes its own operations.
    """
    chosen = _forced in ("auto", "compiled") and not torch.compiler.is_compiling()
    return chosen and _single(x, weight) and kernels.available()


def _single(x: Tensor, weight: Tensor) -> bool:
    """Whether the compiled kernels know the types and the device."""
    single = x.dtype == weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return single and x.device.type == "cpu"


@cache
def implicit_runs(device: torch.device) -> bool:
    """Whether `implicit` may be chosen on a CUDA device: of the measured kind, and with Triton at work.

    Triton needs a C compiler and Python's headers when it starts; without them the rest of the choice stands.
    """
    if torch.cuda.get_device_capability(device) != MEASURED_CAPABILITY:
        return False
    try:
        from triton.runtime import driver

        return driver.active is not None  # which is built here
    except Exception:  # whatever a compiler or a loader says
        return False


def _shape(x: Tensor, weight: Tensor, window: Window) -> LayerShape:
    pixels = window.output_size(x.shape[2:], weight.shape[3:])
    return LayerShape(
        kernels=weight.shape[0],
        outputs=weight.shape[1],
        inputs=x.shape[1],
        taps=weight.shape[3] * weight.shape[4],
        groups=window.groups,
        input_pixels=x.shape[2] * x.shape[3],
        pixels=pixels[0] * pixels[1],
        copies=not window.moves_pixel_by_pixel(weight.shape[3:]),
    )


def _product_type(x: Tensor) -> torch.dtype:
    """Return the type that a matrix product of x is computed in."""
    return torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else x.dtype


@contextmanager
def forced_formulation(formulation: Formulation) -> Iterator[None]:
    """Let "auto" mean `formulation` in this process for a while, to compare or to differentiate twice."""
    global _forced
    before, _forced = _forced, formulation
    try:
        yield
    finally:
        _forced = before


def _mix(attention: Tensor, spatial_scale: Tensor | None) -> Tensor:
    """Return the shares of the kernels in each sample's: (B, 1 or kh * kw, K)."""
    mix = attention[:, None, :]
    return mix if spatial_scale is None else mix * spatial_scale[:, :, None]


def mix_kernels(weight: Tensor, mix: Tensor, *, by_pixel: bool = False) -> Tensor:
    """Mix K kernels for every sample: mix (B, 1 or kh * kw, K) to (B, Co, R), R in the order of `columns`."""
    if mix.shape[1] == 1:
        shared = rows(weight, by_pixel=by_pixel)
        return (mix.flatten(1) @ shared.flatten(1)).view(mix.shape[0], *shared.shape[1:])
    return rows(torch.einsum("btk,koit->boit", mix, weight.flatten(3))[..., None], by_pixel=by_pixel)


def _plain(x: Tensor, mixed: Tensor, window: Window) -> Tensor:
    stride, padding, dilation, groups = window
    batch = x.shape[0]
    one = x.reshape(1, -1, *x.shape[2:])
    y = F.conv2d(one, mixed.flatten(0, 1), None, stride, padding, dilation, batch * groups)
    return y.view(batch, mixed.shape[1], *y.shape[2:])


def _side_by_side(x: Tensor, mixed: Tensor, window: Window) -> Tensor:
    """Let the compiled kernel see the samples as groups of one sample, with one kernel each."""
    one, weight = x.reshape(1, -1, *x.shape[2:]), mixed.flatten(0, 1)[None]
    grouped = window._replace(groups=x.shape[0] * window.groups)
    y = _compiled(one, weight, x.new_ones(1, 1, 1), None, None, None, grouped)
    return y.view(x.shape[0], mixed.shape[1], *y.shape[2:])


def _unfold(x: Tensor, weight: Tensor, mix: Tensor, window: Window) -> Tensor:
    mixed = mix_kernels(weight, mix, by_pixel=pixels_first(x))
    return _product(x, mixed, weight.shape[3:], window)


def _product(x: Tensor, mixed: Tensor, kernel: tuple[int, ...], window: Window) -> Tensor:
    """Multiply every sample's columns by its mixed kernel (B, Co, R), in the order that x suggests."""
    by_pixel, size = pixels_first(x), window.output_size(x.shape[2:], kernel)
    seen = columns(x, kernel, window, by_pixel=by_pixel)
    by_group = mixed.unflatten(1, (window.groups, -1))
    if by_pixel:
        return _from_pixels(seen @ by_group.mT, size)
    y: Tensor = by_group @ seen
    return y.reshape(x.shape[0], mixed.shape[1], *size)


def _kfold(
    x: Tensor, weight: Tensor, attention: Tensor, spatial_scale: Tensor | None, window: Window
) -> Tensor:
    kernel, size = weight.shape[3:], window.output_size(x.shape[2:], weight.shape[3:])
    # Products of the whole batch want its pixels one after another, which is how channels-last memory is.
    seen = columns(x.contiguous(memory_format=torch.channels_last), kernel, window, by_pixel=True)
    if spatial_scale is not None:
        taps = seen.unflatten(3, (spatial_scale.shape[1], -1))
        seen = (taps * spatial_scale[:, None, None, :, None]).flatten(3)
    shared = rows(weight, by_pixel=True).unflatten(1, (window.groups, -1))  # (K, G, Co/G, R)
    stacked = shared.transpose(0, 1).flatten(1, 2)  # (G, K * Co/G, R)
    products = seen.transpose(0, 1).flatten(1, 2) @ stacked.mT  # (G, B * P, K * Co/G)
    folds = products.unflatten(1, (x.shape[0], -1)).unflatten(3, (weight.shape[0], -1))
    # Autocast would sum in float32, and hand that on, unless told the type.
    y = (folds * attention.to(folds.dtype)[:, None, :, None]).sum(3, dtype=folds.dtype)
    return _from_pixels(y.transpose(0, 1), size)


def _implicit(x: Tensor, mixed: Tensor, kernel: tuple[int, ...], window: Window) -> Tensor:
    """Multiply every sample's columns by its mixed kernel (B, Co, R), R in the order of the channels last."""
    try:
        from fedfmd.nn.implicit import sample_convolution
    except ImportError as error:
        raise ValueError(f"formulation 'implicit' is not available: {error}") from None
    return sample_convolution(x, mixed.to(_product_type(x)), kernel, window)


def _from_pixels(y: Tensor, size: Pair) -> Tensor:
    """Return (B, Co, Ho, Wo) of (B, G, P, Co/G): for one group a view, with the channels last in memory."""
    pixels: Tensor = y.unflatten(2, size).permute(0, 1, 4, 2, 3)
    return pixels.flatten(1, 2)


def _compiled(
    x: Tensor,
    weight: Tensor,
    mix: Tensor,
    bias: Tensor | None,
    input_scale: Tensor | None,
    output_scale: Tensor | None,
    window: Window,
) -> Tensor:
    if not kernels.available():
        raise ValueError(
            "formulation 'compiled' is not available: run python -m fedfmd.nn.kernels to see why"
        )
    if x.device.type != "cpu" or not x.dtype == weight.dtype == torch.float32:
        raise ValueError(f"formulation 'compiled' needs float32 on the CPU, not {x.dtype} on {x.device}")
    y: Tensor = torch.ops.fedfmd.mixed_conv2d(x, weight, mix, bias, input_scale, output_scale, *window)
    return y
