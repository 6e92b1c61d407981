"""Local training on a GPU: a step reads its batch from tables there, is captured once and then replayed.

A step of a small network is hundreds of kernels that a GPU ends sooner than Python can ask for the next one.
So all that steps differ in lies in memory of the GPU before the first of them: the client's images, and for
each step its images and how they are moved. A step then begins with a counter, takes its line of the tables
and ends by adding one; captured as a CUDA graph, it is one call. The batches are drawn on the CPU, in the
order in which `LocalTrainer` draws them: both train on the same images.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from fedfmd.data import Augment
from fedfmd.data.augment import Moves
from fedfmd.training.graphs import TrainStep, steps_on

FIELDS = 6
"""Of an image in a line of the table: its place, and its moves."""
UNLABELLED = -100
"""Label of what fills a batch up: PyTorch's cross entropy leaves it out of the mean."""
DRAWN_AHEAD = 256
"""Lines that a table begins with: it grows by doubling."""


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
        self.images = torch.empty(0, 0, 0, 0, dtype=torch.uint8, device=device)
        self.labels = torch.empty(0, dtype=torch.int64, device=device)
        self.lines = torch.empty(0, FIELDS, 0, dtype=torch.int64, device=device)
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
        ``batch_size`` images.
        """
        lines = [self._line(batch, images, generator) for batch in batches]
        if not lines:
            return torch.empty(0), []
        sizes = [line.shape[1] for line in lines]
        with self.graphs.beside():
            self._fill(images, labels, lines, batch_size)
            for size in sizes:
                self.graphs.run(batch_size if self.fills else size, self._step)
            return self.losses[: len(sizes)].cpu(), sizes

    def _step(self, width: int) -> None:
        """Do the next step of the tables, on ``width`` images, without a look at any value."""
        line = self.lines.index_select(0, self.position)[0, :, :width]
        places, (top, left, height, across, mirror) = line[0].clamp(min=0), line[1:, :, None]
        moves = Moves(top, left, height, across, mirror.bool())
        inputs = self.augment.moved(self.images.index_select(0, places), moves)
        labels = self.labels.index_select(0, places).masked_fill(line[0] < 0, UNLABELLED)
        self.losses.index_copy_(0, self.position, self.step(inputs, labels).view(1))
        self.position += 1

    def _line(self, batch: Tensor, images: Tensor, generator: torch.Generator) -> Tensor:
        """Draw how the images of a batch are moved; gives its line of the table, int64 (FIELDS, B)."""
        moves = self.augment.draw(len(batch), images.shape[2:], generator)
        return torch.cat([batch[:, None], *moves], dim=1).T

    def _fill(self, images: Tensor, labels: Tensor, lines: Sequence[Tensor], batch_size: int) -> None:
        """Put a client's images and its table where the steps read them; what is no image is at place -1."""
        steps, width = len(lines), max(batch_size, *(line.shape[1] for line in lines))
        table = torch.zeros(steps, FIELDS, width, dtype=torch.int64)
        table[:, 0] = -1
        for row, line in zip(table, lines, strict=True):
            row[:, : line.shape[1]] = line
        if images.shape[1:] != self.images.shape[1:] or len(images) > len(self.images):
            self.forget()
            self.images = images.new_empty(_room(len(images)), *images.shape[1:], device=self.device)
            self.labels = labels.new_empty(len(self.images), device=self.device)
        if steps > self.lines.shape[0] or width > self.lines.shape[2]:
            self.forget()
            rows, _, columns = self.lines.shape
            rows, columns = _room(max(steps, rows, DRAWN_AHEAD)), max(width, columns)
            self.lines = table.new_zeros(rows, FIELDS, columns, device=self.device)
            self.losses = torch.zeros(rows, device=self.device)
        self.images[: len(images)].copy_(images)
        self.labels[: len(labels)].copy_(labels)
        self.lines[:steps, :, :width].copy_(table)
        self.position.zero_()


def _room(count: int) -> int:
    """Return the next power of two."""
    return 1 << max(count - 1, 0).bit_length()
