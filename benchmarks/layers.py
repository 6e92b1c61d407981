"""Time one dynamic convolution in every formulation beside a static one of the same shape, in one process.

    python benchmarks/layers.py --batch 32 --threads 2 --json benchmarks/figures/layers

A column "x" is the ratio to the static convolution's median forward plus backward pass. "floor" is the least
time that this machine's ceilings allow (benchmarks/floors.py), and "floor x" that of a convolution that mixes
its kernels to that of the static one. The last row of a network is the sum over its layers of these shapes.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from common import Row, interleaved, milliseconds, report
from floors import Ceilings, floor_seconds, measure_ceilings
from torch import Tensor

from fedfmd.machine.process import keep_memory
from fedfmd.nn import kernels
from fedfmd.nn.functional import choose, dynamic_conv2d


class Layer(NamedTuple):
    """One shape of a network's convolutions, and how many it has."""

    inputs: int
    outputs: int
    size: int
    window: int
    stride: int
    times: int


LAYERS: dict[str, list[Layer]] = {
    "resnet18": [
        Layer(64, 64, 32, 3, 1, 4),
        Layer(64, 128, 32, 3, 2, 1),
        Layer(128, 128, 16, 3, 1, 3),
        Layer(128, 256, 16, 3, 2, 1),
        Layer(256, 256, 8, 3, 1, 3),
        Layer(256, 512, 8, 3, 2, 1),
        Layer(512, 512, 4, 3, 1, 3),
    ],
    "resnet50": [  # without its 3x3 layers
        Layer(64, 256, 32, 1, 1, 3),
        Layer(256, 64, 32, 1, 1, 2),
        Layer(128, 512, 16, 1, 1, 4),
        Layer(512, 128, 16, 1, 1, 3),
        Layer(256, 1024, 8, 1, 1, 6),
        Layer(1024, 256, 8, 1, 1, 5),
        Layer(512, 2048, 4, 1, 1, 3),
        Layer(2048, 512, 4, 1, 1, 2),
    ],
    "resnet20": [
        Layer(16, 16, 32, 3, 1, 6),
        Layer(16, 32, 32, 3, 2, 1),
        Layer(32, 32, 16, 3, 1, 5),
        Layer(32, 64, 16, 3, 2, 1),
        Layer(64, 64, 8, 3, 1, 5),
    ],
}


def passes(layer: Layer, batch: int, kernel_count: int) -> dict[str, Callable[[], object]]:
    """One forward and backward pass, all scales present, by formulation."""
    inputs, outputs, size, window, stride, _ = layer
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


def measure(
    network: str, layer: Layer, ceilings: Ceilings, *, batch: int, kernel_count: int, repeats: int
) -> Row:
    """Milliseconds of each formulation, and the least by the ceilings, static and with mixed kernels."""
    inputs, outputs, size, window, stride, times = layer
    found = interleaved(passes(layer, batch, kernel_count), repeats=repeats)
    row: Row = {"network": network, "layer": f"{inputs}>{outputs}@{size} k{window} s{stride}", "times": times}
    row |= {f"{name} ms": milliseconds(seconds)["median"] for name, seconds in found.items()}
    for name, kernels_mixed in (("static floor ms", 0), ("floor ms", kernel_count)):
        row[name] = round(1e3 * floor_seconds(ceilings, layer[:5], batch=batch, kernels=kernels_mixed), 3)
    example = torch.empty(1, inputs, size, size), torch.empty(1, outputs, inputs, window, window)
    return row | {"auto": choose(*example)}


def total(rows: Sequence[Row]) -> Row:
    """The sum of a network's rows, each as often as the network has that layer."""
    timed = [key for key in rows[0] if key.endswith(" ms")]
    sums = {key: round(sum(row["times"] * row[key] for row in rows), 3) for key in timed}
    times = sum(row["times"] for row in rows)
    return {"network": rows[0]["network"], "layer": "all", "times": times, **sums, "auto": ""}


def shown(row: Row) -> Row:
    """The row with ratios to the static convolution in the place of milliseconds."""
    static, floor = row["static ms"], row["static floor ms"]
    ratios = {
        f"{key.removesuffix(' ms')} x": round(row[key] / (floor if key == "floor ms" else static), 2)
        for key in row
        if key.endswith(" ms") and not key.startswith("static")
    }
    told = {key: row[key] for key in ("network", "layer", "times", "static ms", "static floor ms")}
    return told | ratios | {"auto": row["auto"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", default="resnet18,resnet50,resnet20", help="whose layers")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--kernels", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", type=Path, help="write PATH.json and PATH.txt")
    args = parser.parse_args()
    keep_memory()
    torch.set_num_threads(args.threads)
    ceilings = measure_ceilings()
    options = {"batch": args.batch, "kernel_count": args.kernels, "repeats": args.repeats}
    rows: list[Row] = []
    for name in args.networks.split(","):
        layers = [measure(name, layer, ceilings, **options) for layer in LAYERS[name]]
        rows += [shown(row) for row in [*layers, total(layers)]]
    title = f"One layer, forward and backward, batch {args.batch}, K = {args.kernels}; ceilings {ceilings}"
    report(title, rows, args.json)


if __name__ == "__main__":
    main()
