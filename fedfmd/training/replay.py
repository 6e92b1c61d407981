"""Local training on a GPU: steps read their batches from tables there, are captured once and then replayed.

A step of a small network is hundreds of kernels that a GPU ends sooner than Python can ask for the next one.
So all that steps differ in lies in memory of the GPU before the first of them: the inputs and labels of the
next few dozen steps, made there at once from the client's images. A step begins with a counter, takes its
batch and ends by adding one; captured as a CUDA graph, it is one call. The batches are drawn on the CPU, in
the order in which `LocalTrainer` draws them, while the GPU is at the steps before: both train on the same
images.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import torch
from torch import Tensor

from fedfmd.data.augment import Augment, Moves
from fedfmd.training.graphs import TrainStep, steps_on

FIELDS = 6
"""Of an image in a line of the table: its place, and its moves."""
UNLABELLED = -100
"""Label of what fills a batch up: PyTorch's cross entropy leaves it out of the mean."""
AHEAD_BYTES = 1 << 26
AHEAD_STEPS = 64
"""How many bytes of inputs, and of how many steps, are made at once."""


class ReplayedSteps:
    """Steps over tables on the device of ``step``; the same buffers serve one client after another.

    A graph holds the addresses of what it was captured with, so all graphs go when a buffer must grow. With
    ``fills``, a batch that is not full is filled up with images without a label, which the loss leaves out,
    so that one graph is enough; that is no option where a norm looks at the whole batch.
    """

    def __init__(self, step: TrainStep, augment: Augment, device: torch.device, *, fills: bool):
        self.step = step
        self.augment = augment
        self.device = device
        self.fills = fills
        self.graphs = steps_on(device)
        self.position = torch.zeros(1, dtype=torch.int64, device=device)
        self.inputs = torch.empty(0, 0, *augment.input_shape, device=device)
        """Of the steps that are made ready: float32 (steps, B, C, H, W)."""
        self.labels = torch.empty(0, 0, dtype=torch.int64, device=device)
        self.losses = torch.empty(0, device=device)

    def forget(self) -> None:
        """Drop the graphs: what a step does has changed."""
        self.graphs.clear()

    def run(
        self,
        images: Tensor,
        labels: Tensor,
        batches: Iterable[Tensor],
        batch_size: int,
        generator: torch.Generator,
    ) -> tuple[Tensor, list[int]]:
        """Do a step on each of ``batches``, int64 (B,), places in ``images`` uint8 (N, C, H, W).

        Returns the steps' losses, float32 (steps,), on the CPU, and how many images each saw, once all are
        done. ``batches`` may draw from ``generator``, as the steps before them have left it; a full one has
        ``batch_size`` images, and may have one more where none is filled up.
        """
        losses, sizes = list[Tensor](), list[int]()
        with self.graphs.beside():
            images, labels = images.to(self.device), labels.to(self.device)
            self._make_room(batch_size if self.fills else batch_size + 1)
            lines = self._lines(batches, images, generator)
            while some := tuple(islice(lines, len(self.inputs))):
                self._fill(images, labels, some)
                widths = [line.shape[1] for line in some]
                for width in widths:
                    self.graphs.run(batch_size if self.fills else width, self._step)
                losses.append(self.losses[: len(some)].clone())
                sizes += widths
            return torch.cat(losses).cpu() if losses else torch.empty(0), sizes

    def _step(self, width: int) -> None:
        """Do the next step of the tables, on ``width`` images, without a look at any value."""
        inputs = self.inputs.index_select(0, self.position)[0, :width]
        labels = self.labels.index_select(0, self.position)[0, :width]
        self.losses.index_copy_(0, self.position, self.step(inputs, labels).view(1))
        self.position += 1

    def _lines(
        self, batches: Iterable[Tensor], images: Tensor, generator: torch.Generator
    ) -> Iterator[Tensor]:
        """Draw how the images of each batch are moved; gives its line of the table, int64 (FIELDS, B)."""
        for batch in batches:
            moves = self.augment.draw(len(batch), images.shape[2:], generator)
            yield torch.cat([batch[:, None], *moves], dim=1).T

    def _make_room(self, width: int) -> None:
        """Have tables for batches of so many images."""
        if width <= self.inputs.shape[1]:
            return
        self.forget()
        channels, height, across = self.augment.input_shape
        fit = AHEAD_BYTES // (4 * width * channels * height * across)
        steps = min(AHEAD_STEPS, max(1, fit))
        self.inputs = self.inputs.new_zeros(steps, width, channels, height, across)
        self.labels = self.labels.new_zeros(steps, width)
        self.losses = self.losses.new_zeros(steps)

    def _fill(self, images: Tensor, labels: Tensor, lines: Sequence[Tensor]) -> None:
        """Make the inputs and labels of the next steps, which read them; what is no image has no label."""
        width = self.inputs.shape[1]
        table = torch.zeros(FIELDS, len(lines), width, dtype=torch.int64, pin_memory=images.is_cuda)
        table[0] = -1
        for column, line in enumerate(lines):
            table[:, column, : line.shape[1]] = line
        there = table.to(self.device, non_blocking=True).view(FIELDS, -1)
        places, (top, left, height, across, mirror) = there[0].clamp(min=0), there[1:, :, None]
        moves = Moves(top, left, height, across, mirror.bool())
        inputs = self.augment.moved(images.index_select(0, places), moves)
        own = labels.index_select(0, places).masked_fill(there[0] < 0, UNLABELLED)
        self.inputs[: len(lines)].copy_(inputs.view(len(lines), width, *inputs.shape[1:]))
        self.labels[: len(lines)].copy_(own.view(len(lines), width))
        self.position.zero_()
