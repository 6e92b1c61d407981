# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""The three products of `fedfmd.nn.implicit` in Triton: a program makes a tile of one sample's result.

Shapes: x and input_grad (B, height, width, inputs); y and grad (B, out_height, out_width, outputs), of so
many pixels; kernels and kernel_grad (B, outputs, rows, columns, inputs); all contiguous.
"""

import triton
import triton.language as tl

SIZES = ["height", "width", "out_width", "above", "before", "row_step", "column_step"]
"""Numbers that a kernel is not compiled anew for; channels are others: they say how wide loads can be."""


@triton.jit(do_not_specialize=["pixels", *SIZES])
def output(
    x, kernels, y, pixels, height, width, out_width, inputs, outputs,
    down: tl.constexpr, across: tl.constexpr, above, before, row_step, column_step,
    rows: tl.constexpr, columns: tl.constexpr,
    tile_pixels: tl.constexpr, tile_outputs: tl.constexpr, tile_inputs: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    """Sum a tile of pixels and output channels over taps and input channels."""
    sample = tl.program_id(1).to(tl.int64)
    across_tiles = tl.cdiv(outputs, tile_outputs)
    pixel = tl.program_id(0) // across_tiles * tile_pixels + tl.arange(0, tile_pixels)
    output = tl.program_id(0) % across_tiles * tile_outputs + tl.arange(0, tile_outputs)
    top = pixel // out_width * down - above
    left = pixel % out_width * across - before
    length = rows * columns * inputs
    x += sample * height * width * inputs
    kernels += sample * outputs * length
    blocks = tl.cdiv(inputs, tile_inputs)
    total = tl.zeros((tile_pixels, tile_outputs), tl.float32)
    for step in range(rows * columns * blocks):
        tap = step // blocks
        channel = step % blocks * tile_inputs + tl.arange(0, tile_inputs)
        row, column = top + tap // columns * row_step, left + tap % columns * column_step
        inside = (pixel < pixels) & (row >= 0) & (row < height) & (column >= 0) & (column < width)
        seen = tl.load(
            x + (row * width + column)[:, None] * inputs + channel[None, :],
            mask=inside[:, None] & (channel < inputs)[None, :],
            other=0.0,
        )
        kernel = tl.load(
            kernels + output[None, :] * length + tap * inputs + channel[:, None],
            mask=(channel < inputs)[:, None] & (output < outputs)[None, :],
            other=0.0,
        )
        total = tl.dot(seen, kernel, total, input_precision=precision)
    tl.store(
        y + sample * pixels * outputs + pixel[:, None] * outputs + output[None, :],
        total.to(y.dtype.element_ty),
        mask=(pixel < pixels)[:, None] & (output < outputs)[None, :],
    )


@triton.jit(do_not_specialize=["out_height", *SIZES])
def input_gradient(
    grad, kernels, input_grad, out_height, height, width, out_width, inputs, outputs,
    down: tl.constexpr, across: tl.constexpr, above, before, row_step, column_step,
    rows: tl.constexpr, columns: tl.constexpr,
    tile_pixels: tl.constexpr, tile_inputs: tl.constexpr, tile_outputs: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    """Sum a tile of input pixels and input channels over taps and output channels."""
    sample = tl.program_id(1).to(tl.int64)
    across_tiles = tl.cdiv(inputs, tile_inputs)
    pixel = tl.program_id(0) // across_tiles * tile_pixels + tl.arange(0, tile_pixels)
    channel = tl.program_id(0) % across_tiles * tile_inputs + tl.arange(0, tile_inputs)
    length = rows * columns * inputs
    grad += sample * out_height * out_width * outputs
    kernels += sample * outputs * length
    blocks = tl.cdiv(outputs, tile_outputs)
    total = tl.zeros((tile_pixels, tile_inputs), tl.float32)
    for step in range(rows * columns * blocks):
        tap = step // blocks
        output = step % blocks * tile_outputs + tl.arange(0, tile_outputs)
        # The output pixel that saw this one through the tap, if there is one.
        fine_row = pixel // width + above - tap // columns * row_step
        fine_column = pixel % width + before - tap % columns * column_step
        row, column = fine_row // down, fine_column // across
        seen = (pixel < height * width) & (fine_row >= 0) & (fine_column >= 0)
        seen &= (
            (fine_row % down == 0) & (fine_column % across == 0) & (row < out_height) & (column < out_width)
        )
        above_it = tl.load(
            grad + (row * out_width + column)[:, None] * outputs + output[None, :],
            mask=seen[:, None] & (output < outputs)[None, :],
            other=0.0,
        )
        kernel = tl.load(
            kernels + output[:, None] * length + tap * inputs + channel[None, :],
            mask=(output < outputs)[:, None] & (channel < inputs)[None, :],
            other=0.0,
        )
        total = tl.dot(above_it, kernel, total, input_precision=precision)
    tl.store(
        input_grad + sample * height * width * inputs + pixel[:, None] * inputs + channel[None, :],
        total.to(input_grad.dtype.element_ty),
        mask=(pixel < height * width)[:, None] & (channel < inputs)[None, :],
    )


@triton.jit(do_not_specialize=["pixels", *SIZES])
def kernel_gradient(
    x, grad, kernel_grad, pixels, height, width, out_width, inputs, outputs,
    down: tl.constexpr, across: tl.constexpr, above, before, row_step, column_step,
    rows: tl.constexpr, columns: tl.constexpr,
    tile_outputs: tl.constexpr, tile_inputs: tl.constexpr, tile_pixels: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    """Sum a tile of output and input channels of one tap over the output pixels."""
    sample = tl.program_id(1).to(tl.int64)
    input_tiles = tl.cdiv(inputs, tile_inputs)
    tap = tl.program_id(0) % (rows * columns)
    tile = tl.program_id(0) // (rows * columns)
    output = tile // input_tiles * tile_outputs + tl.arange(0, tile_outputs)
    channel = tile % input_tiles * tile_inputs + tl.arange(0, tile_inputs)
    length = rows * columns * inputs
    x += sample * height * width * inputs
    grad += sample * pixels * outputs
    total = tl.zeros((tile_outputs, tile_inputs), tl.float32)
    for step in range(tl.cdiv(pixels, tile_pixels)):
        pixel = step * tile_pixels + tl.arange(0, tile_pixels)
        row = pixel // out_width * down - above + tap // columns * row_step
        column = pixel % out_width * across - before + tap % columns * column_step
        inside = (pixel < pixels) & (row >= 0) & (row < height) & (column >= 0) & (column < width)
        above_it = tl.load(
            grad + pixel[None, :] * outputs + output[:, None],
            mask=(output < outputs)[:, None] & (pixel < pixels)[None, :],
            other=0.0,
        )
        seen = tl.load(
            x + (row * width + column)[:, None] * inputs + channel[None, :],
            mask=inside[:, None] & (channel < inputs)[None, :],
            other=0.0,
        )
        total = tl.dot(above_it, seen, total, input_precision=precision)
    tl.store(
        kernel_grad + sample * outputs * length + output[:, None] * length + tap * inputs + channel[None, :],
        total.to(kernel_grad.dtype.element_ty),
        mask=(output < outputs)[:, None] & (channel < inputs)[None, :],
    )
