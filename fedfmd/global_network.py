"""The global network and its parts: how each is built, what it costs, and where it lies in what is sent."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor, nn

from fedfmd.algorithms import Algorithms
from fedfmd.building import initial_network, network
from fedfmd.config.experiment import ExperimentConfig
from fedfmd.costs.macs import ModelCost, model_cost
from fedfmd.data.dataset import Dataset
from fedfmd.nn import kernel_state_names
from fedfmd.nn.networks import unweighted
from fedfmd.nn.norm import needs_pairs
from fedfmd.nn.part_norm import keep_groups
from fedfmd.nn.submodel import WHOLE, Share, share_index
from fedfmd.nn.vector import Layout
from fedfmd.secure import Blocks, blocks_of

CACHED_INDICES = 8
"""Index vectors kept by a process: as long as the parts they describe, and of 8 bytes an element."""


@dataclass(frozen=True)
class Part:
    """A part of the global network: what it costs for one image, and what its state looks like."""

    cost: ModelCost
    layout: Layout
    needs_pairs: bool
    """Whether a single last sample joins the batch before it: BatchNorm makes nothing of one."""


@dataclass(frozen=True)
class GlobalNetwork:
    """The network that a config describes for the images of a dataset, as its algorithms have it."""

    config: ExperimentConfig
    dataset: Dataset
    algorithms: Algorithms

    def build(self) -> nn.Module:
        """Build the whole of it with the initial weights of the experiment's seed."""
        model = initial_network(self.config, self.dataset)
        self.algorithms.structure(model, WHOLE, self)
        return model

    def build_part(self, share: Share) -> nn.Module:
        """Build the network of a share, with weights from torch's global generator."""
        part = self.bare_part(share)
        self.algorithms.structure(part, share, self)
        return part

    def bare_part(self, share: Share) -> nn.Module:
        """Build the network of a share, before algorithms changed its structure."""
        data = self.dataset
        part = network(
            self.config.model, num_classes=data.num_classes, input_shape=data.input_shape, share=share
        )
        if share.width < 1:
            keep_groups(part, self._whole)
        return part

    def outline(self, share: Share) -> nn.Module:
        """Build the structure of the network of a share, without weights where its parts are built in."""
        with self._unweighted():
            return self.build_part(share)

    def bare_outline(self, share: Share) -> nn.Module:
        """Build the structure of the network of a share, before algorithms changed it."""
        with self._unweighted():
            return self.bare_part(share)

    def _unweighted(self) -> AbstractContextManager[object]:
        model = self.config.model
        return unweighted(name=model.name, conv=model.layer, norm=model.norm)

    @property
    def cost(self) -> ModelCost:
        """Analytic cost of the whole network for one image."""
        return self.part(WHOLE).cost

    def part(self, share: Share) -> Part:
        """Describe a part; computed once for each shape."""
        if share.shape not in self._parts:
            model = self.outline(share)
            stated = self.config.model.norm_needs_pairs or self.config.model.attention_needs_pairs
            cost, layout = model_cost(model, self.dataset.input_shape), Layout.of(model)
            self._parts[share.shape] = Part(cost, layout, stated or needs_pairs(model))
        return self._parts[share.shape]

    def index(self, share: Share) -> Tensor | None:
        """Return the places of a part's elements, and then of what goes along with them, int64.

        They are places in the vector that the server sends; null for the whole of it.
        """
        return None if share.whole else self._kept_index(share)

    def places(self, part: str) -> Tensor | None:
        """Return what ``index`` does of the share with that key."""
        return self.index(Share.from_key(part))

    def local_places(self, share: Share) -> Tensor:
        """Return the places of a share's state that stay on the client, int64."""
        if not self.algorithms.leaves_some:
            return torch.empty(0, dtype=torch.int64)
        if share.shape not in self._local_places:
            self._local_places[share.shape] = self.algorithms.local_places(self.outline(share))
        return self._local_places[share.shape]

    def blocks(self, parts: Mapping[int, str]) -> Blocks:
        """Return the blocks of what is exchanged, for clients that hold these ``parts``."""
        return self._kept_blocks(tuple(parts.items()))

    @cached_property
    def _parts(self) -> dict[tuple[float, int, int], Part]:
        return {}

    @cached_property
    def _kept_index(self) -> Callable[[Share], Tensor]:
        """Makes the index of a part, or has it from before."""

        def index(share: Share) -> Tensor:
            whole, part = self.part(WHOLE).layout, self.part(share).layout
            places = share_index(whole, part, share, self._kernel_entries)
            return self.algorithms.places(places, part, whole)

        return lru_cache(maxsize=CACHED_INDICES)(index)

    @cached_property
    def _local_places(self) -> dict[tuple[float, int, int], Tensor]:
        return {}

    @cached_property
    def _kept_blocks(self) -> Callable[[tuple[tuple[int, str], ...]], Blocks]:
        """Makes the blocks of a round, or has them from the client before."""

        def blocks(parts: tuple[tuple[int, str], ...]) -> Blocks:
            whole = self.part(WHOLE).layout
            elements = whole.elements + self.algorithms.extra_elements(whole)
            return blocks_of(dict(parts), elements, self.places, self.config.privacy.min_holders)

        return lru_cache(maxsize=1)(blocks)

    @cached_property
    def _kernel_entries(self) -> frozenset[str]:
        return kernel_state_names(self._whole)

    @cached_property
    def _whole(self) -> nn.Module:
        """The structure of the whole network, before algorithms changed it."""
        return self.bare_outline(WHOLE)
