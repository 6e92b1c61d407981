"""Time a whole SGD step and inference of every convolution beside the static network, in one process.

    python benchmarks/step.py --model resnet18 --batch 32 --threads 2 --json benchmarks/figures/step-32

A column "x" is the ratio to the static network: the median of the ratios of every turn, beside their middle
half, because a shared machine is not equally fast all the time.  "plain" is the same dynamic network in
PyTorch operations, "fused" lets the kernels take their steps within the backward pass.  Memory is the peak
of a process of its own that trains only that network.
"""

import argparse
import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from common import Row, interleaved, milliseconds, ratio, report
from torch import nn

from fedfmd.machine.process import keep_memory
from fedfmd.machine.processes import own_bytes
from fedfmd.nn.functional import forced_formulation
from fedfmd.nn.networks import build_model
from fedfmd.nn.stepping import stepping

CONVOLUTIONS = ["static", "condconv", "dyconv", "odconv", "fmdconv"]


class Trainee:
    """A network in the papers' form, its optimiser and one batch; `name` may end in ":plain" or ":fused"."""

    def __init__(self, name: str, args: argparse.Namespace) -> None:
        conv, _, variant = name.partition(":")
        self.formulation = "plain" if variant == "plain" else "auto"
        torch.manual_seed(0)
        norms = {"norm": "bn", "attention_norm": "bn"}
        self.model: nn.Module = build_model(
            args.model, conv=conv, num_classes=10, kernels=args.kernels, width=args.width, **norms
        )
        parameters = list(self.model.parameters())
        rates = {"momentum": 0.9, "weight_decay": 1e-4}
        self.optimizer = torch.optim.SGD(parameters, lr=1e-3, **rates, fused=True)
        velocities = [torch.zeros_like(p) for p in parameters]
        for parameter, velocity in zip(parameters, velocities, strict=True):
            self.optimizer.state[parameter]["momentum_buffer"] = velocity
        stepped = parameters if variant == "fused" else []
        self.stepping = partial(stepping, stepped, velocities, learning_rate=1e-3, nesterov=False, **rates)
        self.x = torch.randn(args.batch, 3, args.size, args.size)
        self.labels = torch.randint(0, 10, (args.batch,))

    def step(self) -> None:
        """One training step."""
        self.model.train()
        with forced_formulation(self.formulation):
            self.optimizer.zero_grad()
            loss = F.cross_entropy(self.model(self.x), self.labels)
            with self.stepping():
                loss.backward()
            self.optimizer.step()

    def infer(self) -> None:
        """One forward pass in evaluation mode."""
        self.model.eval()
        with forced_formulation(self.formulation), torch.inference_mode():
            self.model(self.x)


def peak_megabytes(name: str) -> Row:
    """Peak memory of a new process that imports everything and takes three steps, and without the imports."""
    command = [sys.executable, *sys.argv, "--peak-of", name]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout))


def print_peak(name: str, args: argparse.Namespace) -> None:
    """What the new process does."""

    def peak() -> int:
        # Not ru_maxrss: a new process inherits its parent's.
        return (own_bytes("VmHWM") or 0) >> 20

    imported = peak()
    trainee = Trainee(name, args)
    for _ in range(3):
        trainee.step()
    print(json.dumps({"peak MB": peak(), "of it training": peak() - imported}))


def table(args: argparse.Namespace) -> list[Row]:
    """A row for each network: step, inference, memory, and the ratios to the first."""
    trainees = {name: Trainee(name, args) for name in args.networks.split(",")}

    steps = interleaved({name: trainee.step for name, trainee in trainees.items()}, repeats=args.repeats)
    inference = interleaved({name: trainee.infer for name, trainee in trainees.items()}, repeats=args.repeats)
    memory = {name: peak_megabytes(name) for name in trainees} if args.memory else {}
    base = next(iter(trainees))
    rows = []
    for name in trainees:
        row: Row = {"network": name}
        for title, seconds in (("step", steps), ("inference", inference)):
            row[f"{title} ms"] = milliseconds(seconds[name])["median"]
            row |= {f"{title} {key}": value for key, value in ratio(seconds[name], seconds[base]).items()}
        for key, value in memory.get(name, {}).items():
            row |= {key: value, f"{key} x": round(value / memory[base][key], 2)}
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--networks", default=",".join([*CONVOLUTIONS, "fmdconv:fused", "fmdconv:plain"]))
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", type=int, default=32, help="height and width of the image")
    parser.add_argument("--kernels", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--memory", action="store_true", help="measure peak memory too")
    parser.add_argument("--json", type=Path, help="write PATH.json and PATH.txt")
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    args = parser.parse_args()
    keep_memory()
    torch.set_num_threads(args.threads)
    if args.peak_of:
        print_peak(args.peak_of, args)
    else:
        title = f"{args.model}, width {args.width}, {args.size} px, batch {args.batch}, K = {args.kernels}"
        report(title, table(args), args.json)


if __name__ == "__main__":
    main()
