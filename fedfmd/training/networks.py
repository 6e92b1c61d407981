"""The networks of a worker's process, one for each shape of share, reused by every client."""

from collections.abc import Mapping

from torch import Tensor

from fedfmd.algorithms import Trained
from fedfmd.experiment import Experiment
from fedfmd.nn import Temperatures, freeze_statistics, set_temperature
from fedfmd.nn.part_norm import take_window
from fedfmd.nn.submodel import Share
from fedfmd.nn.vector import Layout, bind
from fedfmd.records.store import LostStateError
from fedfmd.training.local import LocalTrainer, PlainForward

KEPT_NETWORKS = 12
"""Shapes of sub-models that a worker keeps ready."""


class LocalNetwork:
    """A network for one shape of share, reused by every client that trains one; its state is one vector."""

    def __init__(self, experiment: Experiment, share: Share):
        config = experiment.config
        model = experiment.network.build_part(share).to(config.backend.device)
        self.layout = Layout.of(model)
        self.vector = bind(model)
        self.bare = model
        """As the server tests it; ``model`` is what algorithms make of it."""
        part = experiment.network.part(share)
        forward = PlainForward(model, part.cost.macs_by_kind)
        self.trained = experiment.algorithms.network(Trained(model, forward), share, experiment.network)
        self.model = self.trained.model
        self.trainer = LocalTrainer(
            self.model,
            config.client,
            experiment.augment,
            self.trained.forward,
            looks_at_losses=config.selection.looks_at_losses,
            merges=part.needs_pairs,
            options=config.own("optimizer"),
            replays=False if config.measures_attention else None,  # which looks at values in every step
        )

    def prepare(self, temperatures: Temperatures, *, frozen: bool, rotation: int) -> None:
        """Set what the server decides for a round, of which parts of the model begin at ``rotation``."""
        self.trainer.settings = (frozen, rotation)
        for model in (self.model, *self.trained.variants):
            take_window(model, rotation)
            set_temperature(model, temperatures)
            freeze_statistics(model, frozen=frozen)


class Networks:
    """What a process trains and measures with: nothing is left over from the client before."""

    def __init__(self, experiment: Experiment):
        self.experiment = experiment
        self.ready: dict[tuple[float, int, int], LocalNetwork] = {}

    def of(self, share: Share, round: int, temperatures: Temperatures) -> LocalNetwork:
        """Return the network of a share, as the server has it in a round; its state is anybody's."""
        network = self.ready.pop(share.shape, None) or LocalNetwork(self.experiment, share)
        self.ready[share.shape] = network  # the last used one is the last to go
        if len(self.ready) > KEPT_NETWORKS:
            self.ready.pop(next(iter(self.ready)))
        first_frozen = self.experiment.config.model.freeze_round
        frozen = first_frozen is not None and round >= first_frozen
        network.prepare(temperatures, frozen=frozen, rotation=share.rotation)
        return network

    def places(self, share: Share) -> Tensor | slice:
        """Return the places of a share in the global state, int64 (elements of the part,), or all of them.

        What algorithms send beside it is not among them.
        """
        index = self.experiment.network.index(share)
        return slice(None) if index is None else index[: self.experiment.network.part(share).layout.elements]

    def load(self, network: LocalNetwork, start: Tensor, kept: Mapping[str, Tensor]) -> None:
        """Load the state of a network's part, float32 (elements,), and what a client keeps of it."""
        network.vector.copy_(start)
        self.experiment.algorithms.personalise(network.trained, network.vector, kept)

    def kept_state(self, client: int, round: int) -> tuple[Mapping[str, Tensor], str | None]:
        """Return what a client has kept, and a remark: one whose state is lost begins anew."""
        try:
            return self.experiment.store.load(client, round), None
        except LostStateError as error:
            return {}, f"begins anew, its kept state is lost: {error}"
