"""From a run to ONNX files that were tried: against PyTorch, on test images, and by the clock."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from fedfmd.costs.macs import ModelCost
from fedfmd.errors import UserError
from fedfmd.export.graph import check_installed, graph_macs, onnx_bytes, run, session
from fedfmd.export.source import ExportSource, FederatedSource, whole_network
from fedfmd.files import check_file, write_atomic
from fedfmd.nn import DynamicConv2d, Macs, SqueezeExcitation, dynamic_layers
from fedfmd.records.schema import Json

BATCHES = (1, 7)
"""Sizes of the first batches that are compared; the others are of ``REST``."""
REST = 100
DRAWN_IMAGES = 32
"""Compared where a file comes without images."""
TOLERANCE = 1e-3
"""Largest difference between the logits of PyTorch and of the file, as part of the largest logit."""
TIMED, WARM_UP = 30, 3
Tell = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is to be exported: the whole network where nothing is said."""

    width: float | None = None
    kernels: int | None = None
    depth: int | None = None
    client: int | None = None
    tiers: bool = False

    @property
    def part(self) -> bool:
        """Whether anything but the whole network is asked for."""
        return self.tiers or any(v is not None for v in (self.width, self.kernels, self.depth, self.client))


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A file that was written, and what was found when it was tried."""

    file: Path
    tiers: tuple[tuple[str, int], ...]
    """Kinds of devices that get this part, each with how many of its clients do."""
    width: float
    """Share of the channels."""
    kernels: int
    dynamic: bool
    """Whether there are layers that mix so many kernels."""
    depth: int
    """Stages; 0 for all."""
    file_bytes: int
    parameters: int
    graph_macs: int
    """Of the graph's convolutions and matrix products, for one image."""
    counted_macs: int
    """The same by the cost rules; see ``product_macs``."""
    latency_seconds: float
    """Median for one image, by ONNX Runtime."""
    torch_seconds: float
    """The same by PyTorch."""
    threads: int
    images: int
    """On which it was compared with PyTorch."""
    largest_difference: float
    """Of the logits."""
    top1: float | None
    """Of the file, on test images; null where there are none."""
    torch_top1: float | None

    def to_json(self) -> Json:
        """Return the fields as plain data."""
        return {**vars(self), "file": str(self.file), "tiers": dict(self.tiers)}


def export_models(
    path: Path, out: Path, wanted: Wanted, *, images: int | None = None, threads: int = 1, tell: Tell
) -> list[Exported]:
    """Write what is ``wanted`` of a run, or model file, to ``out``; the parts of tiers beside it.

    At most ``images`` test images are tried, all where it is null. Raises ``UserError`` for bad input before
    any work, and for a network that cannot be written; a file that does not compute what PyTorch computes is
    not written.
    """
    check_installed()
    if not out.name.endswith(".onnx"):
        raise UserError(f"--out {out}: must end in .onnx")
    check_file("--out", out)
    torch.set_num_threads(threads)
    written = []
    for source in _sources(path, wanted):
        tell(source.label or "the whole network")
        file = out.with_stem(f"{out.stem}-{source.label}") if wanted.tiers and source.label else out
        written.append(_export(source, file, images, threads))
    return written


def _sources(path: Path, wanted: Wanted) -> Iterator[ExportSource]:
    if not wanted.part:
        yield whole_network(path)
        return
    run = FederatedSource(path)
    if wanted.tiers:
        yield from run.tiers()
    else:
        yield run.part(run.chosen(wanted.width, wanted.kernels, wanted.depth), wanted.client)


def _export(source: ExportSource, file: Path, images: int | None, threads: int) -> Exported:
    shape = source.card.input_shape
    content = onnx_bytes(source.model, shape, source.metadata())
    opened = session(content, threads)
    tried = _tried(source, opened, images)
    if not tried.largest_difference <= TOLERANCE * max(1.0, tried.largest_logit):
        raise UserError(
            f"{file}: not written: its logits differ from PyTorch's by up to {tried.largest_difference:.2g}"
        )
    one = torch.zeros(1, *shape)
    share = source.share
    exported = Exported(
        file=file,
        tiers=source.tiers,
        width=share.width,
        kernels=len(share.kernels) or source.card.network.kernels,
        dynamic=any(True for _ in dynamic_layers(source.model)),
        depth=share.depth,
        file_bytes=len(content),
        parameters=source.cost.parameters,
        graph_macs=graph_macs(content, shape),
        counted_macs=product_macs(source.model, source.cost),
        latency_seconds=_seconds(lambda: run(opened, one)),
        torch_seconds=_seconds(lambda: _logits(source.model, one)),
        threads=threads,
        images=tried.images,
        largest_difference=tried.largest_difference,
        top1=tried.share(tried.correct),
        torch_top1=tried.share(tried.torch_correct),
    )
    try:
        write_atomic(file, content)
    except OSError as error:
        raise UserError(f"--out {file}: cannot be written: {error.strerror}") from None
    return exported


@dataclass(frozen=True)
class _Tried:
    """A file beside PyTorch on some images."""

    images: int
    largest_difference: float
    largest_logit: float
    correct: int | None
    torch_correct: int | None

    def share(self, correct: int | None) -> float | None:
        return None if correct is None else correct / self.images


@torch.inference_mode()
def _tried(source: ExportSource, opened: Any, most: int | None) -> _Tried:
    """Compare a file with PyTorch on test images, or on random ones where there are none."""
    images, labels = source.images[:most], source.labels[:most]
    labelled = len(images) > 0
    if not labelled:
        generator = torch.Generator().manual_seed(0)
        shape = (DRAWN_IMAGES, *source.card.input_shape)
        images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    difference, largest, correct, torch_correct = 0.0, 0.0, 0, 0
    for places in torch.arange(len(images)).split(_sizes(len(images))):
        batch = source.augment.eval_batch(images[places])
        expected, found = _logits(source.model, batch), run(opened, batch)
        difference = max(difference, float((found - expected).abs().max().nan_to_num(float("inf"))))
        largest = max(largest, float(expected.abs().max()))
        if labelled:
            correct += int((found.argmax(1) == labels[places]).sum())
            torch_correct += int((expected.argmax(1) == labels[places]).sum())
    counts = (correct, torch_correct) if labelled else (None, None)
    return _Tried(len(images), difference, largest, *counts)


def _sizes(images: int) -> list[int]:
    """Return sizes of batches that sum to ``images``: 1, 7, then larger ones."""
    sizes, left = list[int](), images
    while left:
        sizes.append(min(left, BATCHES[len(sizes)] if len(sizes) < len(BATCHES) else REST))
        left -= sizes[-1]
    return sizes


def product_macs(model: nn.Module, cost: ModelCost) -> int:
    """Count what the cost rules count for convolutions and matrix products: all but scaling by attentions.

    Scaling is a product by element in the graph, and that of kernels is done on the shares they are mixed by.
    """
    return sum(_products(model.get_submodule(layer.name), layer.forward_macs) for layer in cost.layers)


def _products(layer: nn.Module, counted: Macs) -> int:
    if isinstance(layer, SqueezeExcitation):
        return layer.macs(0, 0, 0).total
    if not isinstance(layer, DynamicConv2d):
        return counted.total
    pixels = counted.conv // layer.kernel_elements
    return DynamicConv2d.macs(layer, 0, 0, pixels).total


def _logits(model: nn.Module, batch: Tensor) -> Tensor:
    with torch.inference_mode():
        logits: Tensor = model(batch)
    return logits


def _seconds(work: Callable[[], Any]) -> float:
    """Return the median time of some turns after a warm-up."""
    times: list[float] = []
    for _ in range(WARM_UP + TIMED):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return median(times[WARM_UP:])
