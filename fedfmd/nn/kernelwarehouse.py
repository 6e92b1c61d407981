"""KernelWarehouse (Li and Yao 2024, arXiv 2406.07879): layers assemble their kernels from shared cells.

The layers of a neighbourhood share a warehouse of n cells e_j (Co_cell, Ci_cell). A kernel (Co, Ci, kh, kw)
has m = kh kw (Co / Co_cell) (Ci / Ci_cell) places, and place i of a sample's own kernel is the mixture

    sum_j alpha_ij e_j,  alpha_ij = (1 - tau) z_ij / (sum_p |z_ip| + 0.001) + tau beta_ij,
    z = fc2(ReLU(norm(fc1(GAP x)))),

over the cells and one cell of zeros. beta assigns a cell to each place for good, tau is the server's: it
falls from 1 to 0 (`fedfmd.nn.temperature`).

- Cells: the greatest common divisors of the layers' channels, times `cell_outplane_ratio` and
  `cell_inplane_ratio`. A warehouse has n = `cell_num_ratio` sum(m) of them: the paper's 1x is 1, 1, 1, its 2x
  2, 1, 1, and its 1/2x 1/2, 1/2, 1/2 (number, input, output).
- beta: layers take cells one after another. With a ratio r of 1 or more place i takes cell first + i r; with
  1/q the places with i mod q = (i div q) mod q take the next cell each, the others that of zeros.
- Neighbourhoods are the network's: see `fedfmd.nn.resnet`.
- Drawn: cells from N(0, 2 / (c Co_cell)) for a layer that takes c of them; attention by Kaiming's normal
  distribution by fan-out, bias zero.

Deviations from the authors' code: `fc1` has a bias under another norm than BatchNorm, as LayerNorm is the
federated default; their recipe's dropout and DropPath (0.1 at 1x) are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import gcd
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fedfmd.errors import UserError
from fedfmd.nn.attention import (
    MIN_ATTENTION_CHANNELS,
    AttentionNorm,
    Head,
    attended,
    attention_linear,
    with_averages,
)
from fedfmd.nn.functional import convolve_each
from fedfmd.nn.initial import normal_
from fedfmd.nn.macs import Macs
from fedfmd.nn.norm import ATTENTION_NORMS
from fedfmd.nn.temperature import Tempered
from fedfmd.registry import register

REDUCTION = 1 / 16
EPSILON = 1e-3
"""Keeps the sum of a place's shares from 0."""


@dataclass(frozen=True)
class CellRatios:
    """How many cells there are, and how large; each a whole number or one over it."""

    number: float = 1.0
    """Cells to places that are assembled of them."""
    inplane: float = 1.0
    outplane: float = 1.0

    @property
    def apart(self) -> int:
        """Cells from one place's own to the next."""
        return max(1, round(self.number))

    @property
    def sharing(self) -> int:
        """Places of which one has a cell of its own."""
        return max(1, round(1 / self.number))


class Warehouse(nn.Module):
    """The cells (n, Co_cell, Ci_cell) that some layers share; making it gives each of them its attention."""

    def __init__(self, layers: Sequence[KernelWarehouse2d]) -> None:
        super().__init__()
        ratios = layers[0].ratios
        self.cell = (
            _cell_size("outplane", [layer.out_channels for layer in layers], ratios.outplane),
            _cell_size("inplane", [layer.in_channels for layer in layers], ratios.inplane),
        )
        places = sum(layer.places(self.cell) for layer in layers)
        self.cells = nn.Parameter(torch.zeros(max(1, int(places * ratios.number)), *self.cell))
        taken = 0
        for layer in layers:
            count = layer.enter(self, taken)
            if own := len(drawn := self.cells.detach()[taken : taken + count]):
                normal_(drawn, std=(2 / (own * self.cell[0])) ** 0.5)
            taken += count

    def macs(self, inputs: int, outputs: int, pixels: int) -> Macs:
        """Return no MACs: the layers' mixing is theirs."""
        del inputs, outputs, pixels
        return Macs()


def warehouses(neighbourhoods: Sequence[Sequence[nn.Module]]) -> nn.ModuleList:
    """Return a warehouse for each neighbourhood that has layers to share one, in the order of the layers."""
    groups = [[m for m in modules if isinstance(m, KernelWarehouse2d)] for modules in neighbourhoods]
    return nn.ModuleList(Warehouse(group) for group in groups if group)


class PlaceAttention(nn.Module):
    """(B, Ci) -> max(floor(Ci / 16), 16) -> norm -> ReLU -> what each place takes of each cell, (B, m, n)."""

    def __init__(self, in_channels: int, places: int, cells: int, norm: AttentionNorm) -> None:
        super().__init__()
        hidden = max(int(in_channels * REDUCTION), MIN_ATTENTION_CHANNELS)
        self.shape = (places, cells + 1)
        self.fc1 = attention_linear(in_channels, hidden, bias=norm != "bn")
        self.norm = ATTENTION_NORMS[norm](hidden)
        self.fc2 = attention_linear(hidden, places * (cells + 1))

    def forward(self, pooled: Tensor) -> Tensor:
        """Return the shares of the cells, (B, m, n); that of the cell of zeros only counts in their sum."""
        (places,) = attended(pooled, self.fc1, [Head(self.fc2, "logits")], self.norm)
        z = places.unflatten(1, self.shape)
        shares: Tensor = z[:, :, :-1] / (z.abs().sum(2, keepdim=True) + EPSILON)
        return shares


@register("conv", "kernelwarehouse")
class KernelWarehouse2d(nn.Module, Tempered):
    """A convolution that assembles each sample's kernel from the cells of the warehouse that it has entered.

    Input (B, Ci, H, W), output (B, Co, Ho, Wo); it has no bias. Clients hold it whole: a part of cells that
    several layers share is undefined.
    """

    follows: ClassVar[Mapping[str, str]] = {"tau": "tau"}
    tempered = True
    assigns = True
    """Its attention begins with a fixed assignment, of which tau is the share."""
    stores_kernel = True
    """Every formulation stores each sample's kernel."""
    share = staticmethod(warehouses)
    warehouse: Warehouse
    """Whose cells it is made of; they are the network's state, not this layer's."""
    attention: PlaceAttention

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        *,
        attention_norm: AttentionNorm = "ln",
        cell_num_ratio: float = 1.0,
        cell_inplane_ratio: float = 1.0,
        cell_outplane_ratio: float = 1.0,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size, self.stride = (kernel_size, kernel_size), (stride, stride)
        self.padding, self.dilation = (padding, padding), (1, 1)
        self.attention_norm: AttentionNorm = attention_norm
        self.ratios = CellRatios(cell_num_ratio, cell_inplane_ratio, cell_outplane_ratio)
        self.tau: float | Tensor = 0.0
        self.first_cell = 0

    def places(self, cell: tuple[int, int]) -> int:
        """Return how many cells a kernel is assembled of."""
        height, width = self.kernel_size
        return height * width * (self.out_channels // cell[0]) * (self.in_channels // cell[1])

    def enter(self, warehouse: Warehouse, first_cell: int) -> int:
        """Share a warehouse, whose cells before ``first_cell`` others take; return how many are taken."""
        object.__setattr__(self, "warehouse", warehouse)  # not as a part: the cells would be in every state
        self.first_cell = first_cell
        places = self.places(warehouse.cell)
        self.attention = PlaceAttention(self.in_channels, places, len(warehouse.cells), self.attention_norm)
        owners: int = sum(_owns(place, self.ratios.sharing) for place in range(places))
        return owners * self.ratios.apart

    def forward(self, x: Tensor) -> Tensor:
        """Convolve each sample with its own kernel: (B, Ci, H, W) to (B, Co, Ho, Wo)."""
        x, averages = with_averages(x)
        shares = self.attention(averages)
        if isinstance(self.tau, Tensor) or self.tau:  # a number on a GPU is not looked at
            shares = (1 - self.tau) * shares + self.tau * self.assignment(shares)
        return convolve_each(x, self._assembled(shares), stride=self.stride, padding=self.padding)

    def assignment(self, like: Tensor) -> Tensor:
        """Return beta (m, n) with the type and device of ``like``: 1 where a place takes a cell for good."""
        places, cells = like.shape[-2:]
        place = torch.arange(places, device=like.device)
        owns: Tensor = _owns(place, self.ratios.sharing)
        cell = (self.first_cell + (owns.cumsum(0) - 1) * self.ratios.apart) % cells
        taken = owns[:, None] & (cell[:, None] == torch.arange(cells, device=like.device))
        return taken.to(like.dtype)

    def _assembled(self, shares: Tensor) -> Tensor:
        """Mix the cells by (B, m, n) and put them in their places: kernels (B, Co, Ci, kh, kw)."""
        cell = rows, columns = self.warehouse.cell
        blocks = self.out_channels // rows, self.in_channels // columns
        mixed = shares @ self.warehouse.cells.flatten(1)
        placed: Tensor = mixed.unflatten(2, cell).unflatten(1, (*self.kernel_size, *blocks))
        return placed.permute(0, 3, 5, 4, 6, 1, 2).flatten(3, 4).flatten(1, 2)

    @classmethod
    def smallest_batch(cls, *, attention_norm: str = "none") -> int:
        """Return the fewest samples that one step of training can have."""
        return 2 if attention_norm == "bn" else 1

    @property
    def kernel_elements(self) -> int:
        """Elements of a sample's own kernel."""
        height, width = self.kernel_size
        return self.out_channels * self.in_channels * height * width

    def macs(self, inputs: int, outputs: int, pixels: int) -> Macs:
        """Return one sample's MACs: every place of the kernel mixes all cells."""
        del inputs, outputs
        return Macs(
            conv=self.kernel_elements * pixels,
            aggregation=len(self.warehouse.cells) * self.kernel_elements,
            attention=self.attention.fc1.weight.numel() + self.attention.fc2.weight.numel(),
        )

    def extra_repr(self) -> str:
        """Describe the layer as `nn.Conv2d` does, with its cells."""
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, ratios={self.ratios}"
        )


def _owns(place: Any, sharing: int) -> Any:
    """Return whether a place (an int, or int64 (m,)) has a cell of its own, where so many share one."""
    return place % sharing == place // sharing % sharing


def _cell_size(side: str, channels: Sequence[int], ratio: float) -> int:
    """Return the channels of a cell; raises ``UserError`` where the ratio leaves no whole number of them."""
    common = gcd(*channels)
    size = common * ratio
    if size != int(size) or common % int(size):
        raise UserError(
            f"cell_{side}_ratio = {ratio:g}: does not divide the {common} channels that layers have in common"
        )
    return int(size)
