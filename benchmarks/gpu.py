"""Measure one GPU: layers, whole steps, small networks, central epochs, federated rounds and many clients.

    python benchmarks/gpu.py                              every section in under three minutes
    python benchmarks/gpu.py --sections steps,layers --seconds 300 --out figures
    python benchmarks/gpu.py --device cpu --tiny          try the benchmark without a GPU

Times are medians after a warm-up, by CUDA events; `captured` ones replay a CUDA graph and leave out what
Python takes. Float32 is TF32 for convolutions and products alike. Results are written after every row, and a
section that fails says so in the file and costs no other. Nothing here needs Flower or Ray.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("FEDFMD_KERNELS", "0")  # the processor's own kernels: minutes of compiling, for nothing

import torch
import torch.nn.functional as F
from common import Row, machine
from gpu_timing import Clock, Work
from layers import LAYERS
from torch import Tensor, nn

from fedfmd.machine.process import prepare_process
from fedfmd.nn.columns import Window
from fedfmd.nn.functional import choose, dynamic_conv2d, forced_formulation
from fedfmd.nn.gpu_costs import LayerShape, cost
from fedfmd.nn.networks import build_model

if TYPE_CHECKING:
    from fedfmd.central.images import Pictures

FORMULATIONS = ("unfold", "kfold", "plain", "implicit")
PRECISIONS = ("tf32", "bf16")
"""Float32 with TF32 and the channels first; autocast to bfloat16 with the channels last."""
KERNELS = 4


@dataclass(frozen=True)
class Bench:
    """What a section measures with."""

    clock: Clock
    tiny: bool
    """Whether sizes are those of a trial."""

    @property
    def device(self) -> torch.device:
        return self.clock.device

    @property
    def batch(self) -> int:
        return 2 if self.tiny else 128

    @property
    def formulations(self) -> tuple[str, ...]:
        """Those that run here: the last one needs a GPU."""
        return FORMULATIONS if self.clock.cuda else FORMULATIONS[:-1]

    def precision(self, name: str) -> AbstractContextManager[object]:
        return torch.autocast(self.device.type, torch.bfloat16) if name == "bf16" else nullcontext()

    def time(self, row: Row, key: str, make: Callable[[], Work], way: str = "captured") -> float | None:
        """Put the milliseconds of the work that ``make`` returns into a row, or why there are none."""
        try:
            row[f"{key} ms"] = getattr(self.clock, way)(make())
        except Exception as error:
            row[f"{key} ms"], row[f"{key} error"] = None, f"{type(error).__name__}: {error}"[:300]
        ms: float | None = row[f"{key} ms"]
        return ms


def ceilings(bench: Bench) -> Iterator[Row]:
    """The device's own two: bytes a second of a large copy, operations a second of large products."""
    elements = 2**16 if bench.tiny else 2**30
    source = torch.randn(elements, device=bench.device)
    target = torch.empty_like(source)
    ms = bench.clock.eager(partial(target.copy_, source))
    yield {"what": "copy", "ms": ms, "bytes_per_second": 8e3 * elements / ms}
    side = 64 if bench.tiny else 8192
    for name, dtype in (("tf32", torch.float32), ("bf16", torch.bfloat16)):
        a, b = (torch.randn(side, side, device=bench.device, dtype=dtype) for _ in range(2))
        ms = bench.clock.eager(partial(torch.matmul, a, b))
        yield {"what": f"product {name}", "ms": ms, "operations_per_second": 2e3 * side**3 / ms}


def steps(bench: Bench) -> Iterator[Row]:
    """A whole step of ResNet-18: forward, backward, SGD with momentum."""
    networks = ["static", "fmdconv", "odconv", *(f"fmdconv:{name}" for name in bench.formulations)]
    for precision in PRECISIONS:
        base: Row = {}
        for name in networks:
            row: Row = {"network": f"resnet18 {name}", "batch": bench.batch, "precision": precision}
            for way in ("captured", "eager"):
                make = partial(training_step, bench, "resnet18", name, bench.batch, precision)
                bench.time(row, way, make, way)
            base = base or row
            yield row | _ratios(row, base, ("captured", "eager")) | {"peak_bytes": _peak_bytes(bench)}


def _ratios(row: Row, base: Row, keys: Iterable[str], of: str | None = None, unit: str = "ms") -> Row:
    """Return how many times the base's, or its time ``of``, each time is; null where one is not known."""
    pairs = {key: (row[f"{key} {unit}"], base[of or f"{key} {unit}"]) for key in keys}
    return {f"{key} x": ms / known if ms and known else None for key, (ms, known) in pairs.items()}


def training_step(bench: Bench, model_name: str, name: str, batch: int, precision: str) -> Work:
    """Return a step of a network on one batch; ``name`` is a convolution, and may end in ":FORMULATION"."""
    conv, _, formulation = name.partition(":")
    width = 0.125 if bench.tiny else 1.0
    norms = {"norm": "bn", "attention_norm": "bn"}
    with bench.device:
        torch.manual_seed(0)
        model = build_model(model_name, conv=conv, num_classes=10, kernels=KERNELS, width=width, **norms)
        x, labels = torch.randn(batch, 3, 32, 32), torch.randint(0, 10, (batch,))
    if precision == "bf16":
        x = x.contiguous(memory_format=torch.channels_last)
        _put_channels_last(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4, fused=True)
    model.train()
    if bench.clock.cuda:
        torch.cuda.reset_peak_memory_stats(bench.device)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with forced_formulation(formulation or "auto"), bench.precision(precision):
            scores = model(x)
        F.cross_entropy(scores.float(), labels).backward()
        optimizer.step()

    return step


def _put_channels_last(model: nn.Module) -> None:
    for parameter in model.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


def _peak_bytes(bench: Bench) -> int | None:
    return torch.cuda.max_memory_allocated(bench.device) if bench.clock.cuda else None


def layers(bench: Bench) -> Iterator[Row]:
    """Each dynamic convolution of ResNet-18, forward and backward, captured, in every formulation."""
    narrower = 16 if bench.tiny else 1
    for precision in PRECISIONS:
        for inputs, outputs, size, kernel, stride in LAYERS["resnet18"]:
            inputs, outputs = inputs // narrower, outputs // narrower
            x = torch.randn(bench.batch, inputs, size, size, device=bench.device)
            weight = torch.randn(KERNELS, outputs, inputs, kernel, kernel, device=bench.device)
            if precision == "bf16":
                x = x.to(torch.bfloat16, memory_format=torch.channels_last)
            row: Row = {"layer": f"{inputs}>{outputs}@{size} s{stride}", "precision": precision}
            yield row | _layer_times(bench, x, weight, stride, precision)


def _layer_times(bench: Bench, x: Tensor, weight: Tensor, stride: int, precision: str) -> Row:
    window = Window((stride, stride), (weight.shape[3] // 2,) * 2)
    with bench.precision(precision):
        row: Row = {"auto": choose(x, weight, window)}
    bench.time(row, "static", partial(_static_pass, bench, x, weight[0], window, precision))
    runs = [(conv, name) for conv in ("fmdconv", "odconv") for name in bench.formulations]
    for conv, name in runs:
        make = partial(_dynamic_pass, bench, x, weight, window, precision, conv, name)
        bench.time(row, f"{conv} {name}", make)
    row |= _ratios(row, row, [f"{conv} {name}" for conv, name in runs], of="static ms")
    return row | _floors(x, weight, window)


def _static_pass(bench: Bench, x: Tensor, weight: Tensor, window: Window, precision: str) -> Work:
    layout = torch.channels_last if precision == "bf16" else torch.contiguous_format
    leaves = [t.detach().clone(memory_format=layout).requires_grad_() for t in (x, weight)]

    def convolve() -> Tensor:
        with bench.precision(precision):
            return F.conv2d(leaves[0], leaves[1], None, *window)

    return _passes(convolve, leaves)


def _dynamic_pass(
    bench: Bench, x: Tensor, weight: Tensor, window: Window, precision: str, conv: str, formulation: Any
) -> Work:
    batch, inputs, outputs = len(x), x.shape[1], weight.shape[1]
    named = {
        "attention": torch.rand(batch, KERNELS, device=bench.device),
        "input_scale": torch.rand(batch, inputs, device=bench.device, dtype=x.dtype),
        "output_scale": torch.rand(batch, outputs, device=bench.device, dtype=x.dtype),
    }
    if conv == "odconv":
        taps = weight.shape[3] * weight.shape[4]
        named["spatial_scale"] = torch.rand(batch, taps, device=bench.device, dtype=x.dtype)
    leaves = {
        key: t.detach().clone().requires_grad_() for key, t in {"x": x, "weight": weight, **named}.items()
    }
    geometry = {"stride": window.stride, "padding": window.padding, "formulation": formulation}

    def convolve() -> Tensor:
        with bench.precision(precision):
            return dynamic_conv2d(**leaves, **geometry)

    return _passes(convolve, list(leaves.values()))


def _passes(convolve: Callable[[], Tensor], leaves: list[Tensor]) -> Work:
    grad = torch.randn_like(convolve().detach())
    return lambda: torch.autograd.grad(convolve(), leaves, grad)


def _floors(x: Tensor, weight: Tensor, window: Window) -> Row:
    """Least milliseconds of each formulation, by counted bytes and operations."""
    height, width = window.output_size(x.shape[2:], weight.shape[3:])
    shape = LayerShape(
        kernels=KERNELS,
        outputs=weight.shape[1],
        inputs=x.shape[1],
        taps=weight.shape[3] * weight.shape[4],
        groups=1,
        input_pixels=x.shape[2] * x.shape[3],
        pixels=height * width,
        copies=True,
    )
    names = ("static", *FORMULATIONS)
    return {f"{name} floor ms": 1e3 * len(x) * cost(shape, name).floor_seconds(x.dtype) for name in names}


def small_networks(bench: Bench) -> Iterator[Row]:
    """A client's step of a small network, batch 64: as LocalTrainer does it, and from tables, captured."""
    batch, steps = (2, 3) if bench.tiny else (64, 80)
    bases = dict[str, Row]()
    for name, conv in (("cnn", "-"), ("resnet8", "static"), ("resnet8", "fmdconv"), ("resnet8", "odconv")):
        row: Row = {"network": f"{name} {conv}", "batch": batch}
        for replays, way in ((False, "eager"), (True, "captured")):
            make = partial(client_visit, bench, name, conv, batch, steps, replays)
            ms = bench.time(row, way, make, "eager")
            row[f"{way} ms"] = ms and ms / steps
        yield row | _ratios(row, bases.setdefault(name, row), ("eager", "captured"))


def client_visit(bench: Bench, name: str, conv: str, batch: int, steps: int, replays: bool) -> Work:
    """Return the training of one client, from images on the processor to its losses there."""
    from fedfmd.config.sections.client import ClientConfig
    from fedfmd.data.augment import Augment
    from fedfmd.nn.vector import bind
    from fedfmd.training.local import LocalTrainer
    from fedfmd.wire.plan import ClientPlan, Progress

    images = torch.randint(0, 256, (steps * batch, 3, 32, 32), dtype=torch.uint8)
    labels = torch.randint(0, 10, (len(images),))
    with bench.device:
        own = {} if conv == "-" else {"conv": conv, "kernels": KERNELS}
        model = build_model(name, num_classes=10, **own)
    bind(model)
    augment = Augment(mean=(0.5,) * 3, std=(0.2,) * 3)
    trainer = LocalTrainer(model, ClientConfig(epochs=1, batch_size=batch), augment, replays=replays)
    return lambda: trainer.train(
        images,
        labels,
        plan=ClientPlan(epochs=1, batch_size=batch),
        learning_rate=0.01,
        generator=torch.Generator().manual_seed(0),
        progress=Progress(),
    )


def central_epochs(bench: Bench) -> Iterator[Row]:
    """An epoch in batches of 64, images on the device, and inference on 10,000: `fedfmd train`'s own loop."""
    short, long = (64, 64) if bench.tiny else (10_000, 50_000)
    convs = ("static", "se", "condconv", "dyconv", "odconv", "fmdconv", "kernelwarehouse")
    runs = [(model, conv, "fp32") for model in ("resnet20", "resnet18") for conv in convs]
    runs += [("resnet18", conv, "bf16") for conv in ("static", "fmdconv")]
    bases = dict[tuple[str, str], Row]()
    for model, conv, precision in runs[:2] if bench.tiny else runs:
        count = long if model == "resnet20" else short
        row: Row = {"network": f"{model} {conv}", "precision": precision, "images": count}
        row |= central_epoch(bench, model, conv, precision, count)
        base = bases.setdefault((model, precision), row)
        yield row | _ratios(row, base, ("epoch", "inference"), unit="seconds")


def central_epoch(bench: Bench, model_name: str, conv: str, precision: str, count: int) -> Row:
    """Train an epoch on so many random images, behind one that warms up; returns its seconds."""
    from fedfmd.central.trainer import CentralTrainer
    from fedfmd.central.world import World
    from fedfmd.config.experiment import parse_config
    from fedfmd.data.dataset import Dataset

    images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8).numpy()
    labels = torch.randint(0, 10, (count,)).numpy()
    dataset = Dataset(
        name="random",
        train_images=images,
        train_labels=labels,
        test_images=images[:10_000],
        test_labels=labels[:10_000],
        classes=tuple("abcdefghij"),
        mean=(0.5,) * 3,
        std=(0.2,) * 3,
        input_shape=(3, 32, 32),
    )
    recipe = {"batch_size": 64, "precision": precision, "channels_last": precision == "bf16"}
    model = {"name": model_name, "conv": conv, "norm": "bn"}
    config = parse_config({"name": "epochs", "model": model, "train": recipe})
    assert config.train is not None
    trainer = CentralTrainer(config, config.train, dataset, bench.device, World())
    # With a last batch of the same size: cuDNN tries its algorithms for each.
    trainer.pictures, whole = _first(trainer.pictures, 20 * 64 + count % 64), trainer.pictures
    trainer.train_epoch(1, lambda *_: None)
    trainer.pictures = whole
    seconds = trainer.train_epoch(2, lambda *_: None).seconds
    inference = statistics.median(trainer.evaluate(2)[1] for _ in range(3))
    return {"epoch seconds": seconds, "inference seconds": inference, "peak_bytes": _peak_bytes(bench)}


def _first(pictures: "Pictures", count: int) -> "Pictures":
    return replace(pictures, images=pictures.images[:count], labels=pictures.labels[:count])


def rounds(bench: Bench) -> Iterator[Row]:
    """Seconds of a federated round in one process: 10 clients of 50 images."""
    for model, conv, workers in (
        ("resnet8", "fmdconv", 1),
        ("resnet18", "static", 1),
        ("resnet18", "fmdconv", 1),
    ):
        yield _federation(bench, model, conv, 50, cohort=10, workers=workers)


def many_clients(bench: Bench) -> Iterator[Row]:
    """Clients a second: 100 a round, 50 images each, ResNet-8, one local epoch in batches of 32."""
    for conv, workers in (("fmdconv", 1), ("fmdconv", 4), ("fmdconv", 8), ("static", 4)):
        yield _federation(bench, "resnet8", conv, 50, cohort=100, workers=workers)


def _federation(bench: Bench, model: str, conv: str, samples: int, *, cohort: int, workers: int) -> Row:
    """Run a few rounds with all that belongs to one: ledgers, checkpoint, clients' rows; no evaluation."""
    from fedfmd.config.experiment import parse_config
    from fedfmd.rounds.lifecycle import execute, start_run
    from fedfmd.workers.start import workers_here

    cohort = min(cohort, 2) if bench.tiny else cohort
    backend: dict[str, Any] = {"kind": "inline", "device": bench.device.type}
    if bench.clock.cuda:
        backend["workers"] = workers
    config = parse_config(
        {
            "name": "benchmark",
            "data": {"train_samples": 200 if bench.tiny else 5000, "test_samples": 100},
            "partition": {"scheme": "sampled", "clients": 100, "samples_per_client": samples},
            "model": {"name": model, "conv": conv, "width": 0.25 if bench.tiny else 1.0},
            "client": {"batch_size": 32},
            "server": {"rounds": 4, "cohort": cohort},
            "evaluation": {"every": 1_000_000},
            "backend": backend,
        }
    )
    times = [time.perf_counter()]
    with tempfile.TemporaryDirectory() as folder, workers_here(config.backend) as make_executor:
        directory = start_run(config, Path(folder) / "run")
        summary = execute(directory, make_executor, lambda _: times.append(time.perf_counter()))
    first, *others = (later - earlier for earlier, later in pairwise(times))
    median = statistics.median(others[:-1])  # the last round is tested, too
    return {
        "network": f"{model} {conv}",
        "clients": cohort,
        "images each": samples,
        "workers": workers,
        "round seconds": median,
        "clients per second": cohort / median,
        "first round seconds": first,
        "status": summary.get("status"),
    }


SECTIONS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "ceilings": ceilings,
    "steps": steps,
    "layers": layers,
    "clients": many_clients,
    "small": small_networks,
    "rounds": rounds,
    "central": central_epochs,
}


class Results:
    """What was measured so far, on disk after every row."""

    def __init__(self, path: Path, device: torch.device):
        self.path = path
        self.document: dict[str, Any] = {"machine": machine() | _gpu(device), "sections": {}}

    def measure(self, name: str, bench: Bench, until: float) -> None:
        """Run a section as far as time allows; what fails is noted."""
        section: dict[str, Any] = {"about": None, "rows": []}
        self.document["sections"][name] = section
        started = time.perf_counter()
        try:
            section["about"] = SECTIONS[name].__doc__
            for row in SECTIONS[name](bench):
                section["rows"].append({key: _rounded(value) for key, value in row.items()})
                self.write()
                print(name, *(f"{key} {_rounded(value)}," for key, value in row.items()), flush=True)
                if time.monotonic() > until:
                    section["left_out"] = "the rest, for want of time"
                    break
        except Exception:
            section["error"] = traceback.format_exc()
            print(f"{name} failed: {section['error'].splitlines()[-1]}", flush=True)
        section["seconds"] = round(time.perf_counter() - started, 1)
        self.write()
        if bench.clock.cuda:
            torch.cuda.empty_cache()

    def write(self) -> None:
        self.path.write_text(json.dumps(self.document, indent=1) + "\n")

    def table(self) -> str:
        """Return the figures as text, one line a row."""
        lines = [", ".join(f"{key} {value}" for key, value in self.document["machine"].items())]
        for name, section in self.document["sections"].items():
            lines += ["", f"{name} ({section['seconds']} s): {section['about']}"]
            lines += _aligned(section["rows"])
            lines += [section["error"]] if "error" in section else []
            lines += [section["left_out"]] if "left_out" in section else []
        return "\n".join(lines)


def _aligned(rows: list[Row]) -> list[str]:
    if not rows:
        return []
    heads = list({key: None for row in rows for key in row})
    cells = [heads, *([str(row.get(key, "-")) for key in heads] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(cell.rjust(w) for cell, w in zip(line, widths, strict=True)) for line in cells]


def _rounded(value: object) -> object:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _gpu(device: torch.device) -> Row:
    if device.type != "cuda":
        return {"gpu": None}
    return {
        "gpu": torch.cuda.get_device_name(device),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "tf32": torch.backends.cuda.matmul.allow_tf32,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sections", default=",".join(SECTIONS), help="which, in which order")
    parser.add_argument("--seconds", type=float, default=165, help="begin no further row after that")
    parser.add_argument("--each", type=float, default=0.15, help="seconds that each time is repeated for")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "figures", help="folder")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="sizes to try the benchmark with")
    args = parser.parse_args()
    if args.device != "cpu" and not torch.cuda.is_available():
        parser.error("no CUDA device here; --device cpu --tiny tries the benchmark without one")
    until = time.monotonic() + args.seconds
    prepare_process(torch.get_num_threads())
    torch.backends.cudnn.benchmark = True
    device = torch.device(args.device)
    args.out.mkdir(parents=True, exist_ok=True)
    results = Results(args.out / "gpu.json", device)
    bench = Bench(Clock(device, seconds=args.each), args.tiny)
    for name in args.sections.split(","):
        if time.monotonic() < until:
            results.measure(name, bench, until)
    text = results.table()
    (args.out / "gpu.txt").write_text(text + "\n")
    print(f"\n{text}")


if __name__ == "__main__":
    main()
