"""Time one dynamic convolution in every formulation beside a static one of the same shape, in one process.

    python benchmarks/layers.py --batch 32 --threads 2 --json benchmarks/figures/layers

A column "x" is the ratio to the static convolution's median forward plus backward pass.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from common import Row, interleaved, milliseconds, report
from torch import Tensor

from fedfmd.machine.process import keep_memory
from fedfmd.nn import kernels
from fedfmd.nn.functional import choose, dynamic_conv2d

# input channels, output channels, map height, kernel size, stride
Layer = tuple[int, int, int, int, int]
LAYERS: dict[str, list[Layer]] = {
    "resnet18": [
        (64, 64, 32, 3, 1),
        (64, 128, 32, 3, 2),
        (128, 128, 16, 3, 1),
        (128, 256, 16, 3, 2),
        (256, 256, 8, 3, 1),
        (256, 512, 8, 3, 2),
        (512, 512, 4, 3, 1),
    ],
    "resnet50": [
        (64, 256, 32, 1, 1),
        (256, 64, 32, 1, 1),
        (128, 512, 16, 1, 1),
        (512, 128, 16, 1, 1),
        (256, 1024, 8, 1, 1),
        (1024, 256, 8, 1, 1),
        (512, 2048, 4, 1, 1),
        (2048, 512, 4, 1, 1),
    ],
    "resnet8": [(16, 16, 32, 3, 1), (32, 32, 16, 3, 1), (64, 64, 8, 3, 1)],
}


def passes(layer: Layer, batch: int, kernel_count: int) -> dict[str, Callable[[], object]]:
    """One forward and backward pass, all scales present, by formulation."""
    inputs, outputs, size, window, stride = layer
    x = torch.randn(batch, inputs, size, size, requires_grad=True)
    static = torch.randn(outputs, inputs, window, window, requires_grad=True)
    weight = torch.randn(kernel_count, outputs, inputs, window, window, requires_grad=True)
    attention = torch.rand(batch, kernel_count, requires_grad=True)
    scales = [torch.rand(batch, channels, requires_grad=True) for channels in (inputs, outputs)]
    grad = torch.randn_like(F.conv2d(x, static, stride=stride, padding=window // 2))

    def run(formulation: str) -> None:
        y: Tensor
        if formulation == "static":
            leaves = [x, static]
            y = F.conv2d(x, static, stride=stride, padding=window // 2)
        else:
            leaves = [x, weight, attention, *scales]
            named = {"input_scale": scales[0], "output_scale": scales[1], "formulation": formulation}
            y = dynamic_conv2d(x, weight, attention, stride=stride, padding=window // 2, **named)
        torch.autograd.grad(y, leaves, grad)

    names = ["static", "plain", "unfold", "kfold", *(["compiled"] if kernels.available() else [])]
    return {name: lambda name=name: run(name) for name in names}


def measure(network: str, layer: Layer, *, batch: int, kernel_count: int, repeats: int) -> Row:
    """One row: milliseconds and ratios to static of each formulation."""
    inputs, outputs, size, window, stride = layer
    seconds = interleaved(passes(layer, batch, kernel_count), repeats=repeats)
    times = {name: milliseconds(values) for name, values in seconds.items()}
    example = torch.empty(1, inputs, size, size), torch.empty(1, outputs, inputs, window, window)
    row: Row = {"network": network, "layer": f"{inputs}>{outputs}@{size} k{window} s{stride}"}
    row |= {"static ms": times["static"]["median"], "static least": times["static"]["least"]}
    for name in [name for name in times if name != "static"]:
        row[f"{name} ms"] = times[name]["median"]
        row[f"{name} x"] = round(times[name]["median"] / times["static"]["median"], 2)
        row[f"{name} least x"] = round(times[name]["least"] / times["static"]["least"], 2)
    return row | {"auto": choose(*example)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", default="resnet18,resnet50,resnet8", help="whose layers")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--kernels", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", type=Path, help="write PATH.json and PATH.txt")
    args = parser.parse_args()
    keep_memory()
    torch.set_num_threads(args.threads)
    options = {"batch": args.batch, "kernel_count": args.kernels, "repeats": args.repeats}
    rows = [measure(name, layer, **options) for name in args.networks.split(",") for layer in LAYERS[name]]
    report(f"One layer, forward and backward, batch {args.batch}, K = {args.kernels}", rows, args.json)


if __name__ == "__main__":
    main()
