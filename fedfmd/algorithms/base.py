"""The contract of an algorithm: what it adds to plain federated averaging, on the server and on clients.

An ``Algorithm`` is made from the config in every process. On a client it hands out one ``ClientSide`` per
client and round, which takes part in every step and in the update; on the server it takes part in the mean
and in the server's step. Every method of both does nothing here, so an algorithm writes those that it needs.

Two channels carry what an algorithm needs beside the model. What the server sends along (``extra_elements``)
travels behind the state in the same vector; what clients send back for it goes through the same exact sum, so
neither packing nor the order of workers can change it. What a client keeps (``keeps``) is a named tensor in
its store: a repeated or resumed round starts from the one before it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from fedfmd.aggregation import ExactSum, Scale
from fedfmd.config.experiment import ExperimentConfig
from fedfmd.config.values import Section
from fedfmd.contracts import check_spelling
from fedfmd.costs.macs import Macs, ModelCost
from fedfmd.nn.submodel import Share
from fedfmd.nn.vector import Layout
from fedfmd.privacy.discrete_gaussian import Words
from fedfmd.records.rows import ClientRow
from fedfmd.records.schema import Json

Forward = Callable[[Tensor, torch.Generator], tuple[Tensor, Macs]]
"""Images (B, C, H, W) and a client's generator to logits, (B, classes) or (exits, B, classes), and the MACs
of one image."""


class SizedPart(Protocol):
    """A part of the global network: its cost for one image, and the layout of its state."""

    @property
    def cost(self) -> ModelCost:
        """MACs and elements."""
        ...

    @property
    def layout(self) -> Layout:
        """Names and shapes of its tensors."""
        ...


class PartSource(Protocol):
    """Where networks of a share come from: the global network."""

    def build_part(self, share: Share) -> nn.Module:
        """Build the network of a share."""
        ...

    def bare_outline(self, share: Share) -> nn.Module:
        """Build the structure of the network of a share, before algorithms changed it."""
        ...

    def part(self, share: Share) -> SizedPart:
        """Describe the network of a share."""
        ...


@dataclass(frozen=True)
class Trained:
    """A network ready to train one shape of share; every client of that shape uses it."""

    model: nn.Module
    forward: Forward
    variants: tuple[nn.Module, ...] = ()
    """Other structures that run on the model's weights, and follow its temperatures."""
    local: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    """Places of the state that stay on the client (``local_names``), int64."""


@dataclass(frozen=True, kw_only=True)
class Visit:
    """One client's work in one round, as an algorithm sees it before the first step."""

    round: int
    network: Trained
    vector: Tensor
    """State of the network, float32 (elements of its part,) on its device; every step changes it in place."""
    layout: Layout
    """Of the part that the client trains."""
    start: Tensor
    """The global state of that part, float32 (elements of the part,), on the CPU."""
    index: Tensor | None
    """Places of the part's elements in the global state, int64; null for the whole model."""
    whole: Layout
    """Of the global state."""
    extra: Tensor
    """What the server sent for this algorithm, float32: its elements at ``extra_places``."""
    kept: Mapping[str, Tensor]
    """What this client kept of its last round, by name; empty before its first."""
    labels: Tensor
    """The client's labels, int64 (N,)."""
    learning_rate: float
    seed: int
    """For what is drawn at random in this visit; the same on whichever worker it takes place."""

    @property
    def parameter_index(self) -> Tensor | None:
        """Places of the part's parameters among the global ones, int64; null for the whole model."""
        return None if self.index is None else self.index[: self.layout.parameters]

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters that are trained, in the order of the layout."""
        return [p for p in self.network.model.parameters() if p.requires_grad]

    def by_parameter(self, vector: Tensor) -> list[Tensor]:
        """Split a vector (parameters of the part,) into tensors shaped like the parameters."""
        parts = vector.to(self.vector.device).split([p.numel() for p in self.parameters])
        return [part.view_as(p) for part, p in zip(parts, self.parameters, strict=True)]


@dataclass(frozen=True, kw_only=True)
class Finished:
    """What an algorithm makes of a client's update."""

    update: Tensor
    """What enters the sum, float32 (elements of the part,)."""
    sent: Mapping[str, Tensor] | None = None
    """What a real client sends for the server to make ``update`` of; null for ``update`` itself."""
    extra: Tensor | None = None
    """What is summed beside it, float32, as long as ``Visit.extra``; zeros when absent."""
    kept: Mapping[str, Tensor] = field(default_factory=dict)
    """What the client keeps until its next round; each name is one of ``keeps``."""


def taken(whole: Tensor, index: Tensor | None) -> Tensor:
    """Return the elements of ``whole`` (n,) at places ``index``, int64 (m,): (m,); all when it is null."""
    return whole if index is None else whole[index]


def put(part: Tensor, whole: Tensor, index: Tensor | None) -> Tensor:
    """Return ``whole`` (n,) with ``part`` (m,) at the places ``index``, int64 (m,), as a new tensor.

    Without an index it is ``part`` itself.
    """
    return part if index is None else whole.index_copy(0, index, part)


STEP_METHODS = ("logits", "loss", "gradient", "direction", "stepped")
END_METHODS = ("trained", "finish")


class ClientSide:
    """An algorithm's part in the work of one client, made anew for each visit; nothing is left over."""

    alike: bool = False
    """Whether it does the same to the same tensors in every step of a visit, without a look at their values,
    so that on a GPU a step can be captured once and replayed."""

    def __init_subclass__(cls, **options: Any) -> None:
        """Raise ``UserError`` for a misspelt method."""
        super().__init_subclass__(**options)
        check_spelling(cls, ClientSide)

    @property
    def acts(self) -> bool:
        """Whether it takes part in steps at all."""
        return self._has_own(STEP_METHODS)

    @property
    def ends(self) -> bool:
        """Whether it takes part where training has ended; an update that nobody looks at is summed faster."""
        return self._has_own(END_METHODS)

    def _has_own(self, methods: Sequence[str]) -> bool:
        return any(getattr(type(self), name) is not getattr(ClientSide, name) for name in methods)

    def logits(self, logits: Tensor) -> Tensor:
        """Return the logits that the loss sees, as they come: (B, classes), or (E, B, classes) of E exits."""
        return logits

    def loss(self, loss: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss to minimise, a scalar, from that so far.

        ``logits`` (B, classes), or (E, B, classes) of E exits, are those for ``labels`` int64 (B,).
        """
        del logits, labels
        return loss

    def gradient(self, parameters: Sequence[Tensor]) -> None:
        """Add a term of the objective to the gradients in place, before they are clipped.

        ``parameters`` are ``Visit.parameters``, here and in the two methods below.
        """

    def direction(self, parameters: Sequence[Tensor]) -> None:
        """Change the clipped gradients in place: the optimiser follows what they are now."""

    def stepped(self, parameters: Sequence[Tensor]) -> None:
        """Change the parameters in place where a step of the optimiser has left them."""

    def trained(self) -> None:
        """Look at the network where the client's training ended; some gradients may be absent."""

    def finish(self, update: Tensor, steps: int) -> Finished:
        """Return what is sent and kept of an ``update`` (elements of the part,), end minus start.

        It may be changed in place; ``steps`` of the optimiser were done.
        """
        del steps
        return Finished(update=update)


@dataclass(frozen=True, kw_only=True)
class Collected:
    """What the server knows of a round whose updates are summed."""

    rows: Sequence[ClientRow]
    """Rows of the clients in the sum."""
    weights: Sequence[int]
    """What each of them weighs."""
    population: int
    """Clients in the whole federation."""
    learning_rates: Sequence[float]
    """Step size that each of them trained with: that of the version it started from."""
    layout: Layout
    """Of the global state."""
    held: Tensor
    """Share of the round's weight that holds each element, float64 as long as what the mean is of; (1,) where
    it is the same for all."""
    lag: Tensor | None = None
    """What the updates started from minus the present global state, float64 (elements of the state,), where
    all started from one older version."""


class Algorithm:
    """One algorithm; the base is federated averaging, and each method says what another may add to it."""

    name: ClassVar[str] = ""
    """Its key below ``algorithms`` in a config: the name that it is registered under."""
    switch: ClassVar[str] = ""
    """The key that switches it on, with the value; empty where its table ``[algorithms.NAME]`` does."""
    Options: ClassVar[type[Section]] = Section
    """What may stand in the config's table ``[algorithms.NAME]``."""
    last: ClassVar[bool] = False
    """Whether ``finish`` comes after those of all other algorithms, as for what changes the wire's format."""
    needs_mean: ClassVar[bool] = False
    """Whether its equations are about the mean of all updates, so that no robust one can take its place."""
    private: ClassVar[bool] = False
    """Whether differential privacy covers it: the server makes nothing but the noised sum of what its clients
    send, and they send nothing but an update, which a clip bounds."""
    same_cost: ClassVar[bool] = False
    """Whether a step costs what the plan says, to the MAC, although ``network`` changes how it is trained."""
    keeps: tuple[str, ...] = ()
    """Names of what a client keeps between rounds."""

    def __init_subclass__(cls, **options: Any) -> None:
        """Raise ``UserError`` for a misspelt method or attribute."""
        super().__init_subclass__(**options)
        check_spelling(cls, Algorithm)

    def __init__(self, config: ExperimentConfig):
        self.config = config
        self.options: Any = self.Options.model_validate((config.algorithms or {}).get(self.name, {}))
        """The config's table ``[algorithms.NAME]``, checked."""
        self.state: dict[str, Tensor] = {}
        """What the server keeps between rounds; checkpoints hold it."""

    @classmethod
    def active(cls, config: ExperimentConfig) -> bool:
        """Return whether a config asks for this algorithm; by default where it has a table of its name."""
        return cls.name in (config.algorithms or {})

    def allows(self) -> Iterator[str]:
        """Yield every reason why the rest of the config does not go with this algorithm."""
        yield from ()

    # What crosses, and what stays.

    def extra_elements(self, layout: Layout) -> int:
        """Count the elements that travel each way beside a state of that ``layout``: the whole, or a part."""
        del layout
        return 0

    def extra_places(self, index: Tensor, part: Layout, whole: Layout) -> Tensor:
        """Return which of the whole's ``extra_elements`` travel with a part, int64 (as many as the part's,).

        ``index`` are the places of the ``part`` in the ``whole`` state, int64 (elements of the part,). Raises
        ``NotImplementedError`` where fewer travel with a part and the algorithm does not say which.
        """
        del index
        if self.extra_elements(part) != self.extra_elements(whole):
            raise NotImplementedError(f"{self.name}: extra_places has to say what travels with a part")
        return torch.arange(self.extra_elements(whole))

    def local_names(self, model: nn.Module) -> frozenset[str]:
        """Name the entries of the model's state that stay on their client."""
        del model
        return frozenset()

    @property
    def untested(self) -> str | None:
        """Why the global model cannot be tested; null where it can."""
        return None

    def share(self, share: Share, round: int) -> Share:
        """Return which part of the model stands for a share of that size in a round."""
        del round
        return share

    def weight(self, weight: int, staleness: int) -> int:
        """Return what an update weighs that weighed ``weight``, and is ``staleness`` versions old."""
        del staleness
        return weight

    @property
    def passes(self) -> int:
        """Count how often an image goes through the network in one step, at most."""
        return 1

    def structure(self, model: nn.Module, share: Share, parts: PartSource) -> None:
        """Change the structure of the network of a ``share``, wherever one is built."""

    def exported(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the global ``state``, float32 by name, as the network has it without this algorithm."""
        return dict(state)

    # On the client.

    def network(self, network: Trained, share: Share, parts: PartSource) -> Trained:
        """Return how the network of a ``share`` is trained; called once for each shape."""
        del share, parts
        return network

    def personalise(self, network: Trained, vector: Tensor, kept: Mapping[str, Tensor]) -> None:
        """Put into ``vector``, the network's state, what the client keeps of it: to train or to test.

        ``vector`` is float32 (elements of the part,); ``kept`` has tensors by the names in ``keeps``, and is
        empty before the client's first round.
        """

    def client(self, visit: Visit) -> ClientSide:
        """Return this algorithm's part in one client's work."""
        del visit
        return ClientSide()

    # On the server.

    def scale(self, scale: Scale, extra: Tensor) -> Scale:
        """Return the scale of a round's sum, from that so far and ``extra``, float32 (extra_elements,)."""
        del extra
        return scale

    def released(self, total: ExactSum, extra: Tensor, words: Words) -> ExactSum:
        """Return what the server goes on with of a round's sum, which may be changed in place.

        ``extra``, float32 (extra_elements,), was sent along in that round; ``words`` are a source of
        random bits.
        """
        del extra, words
        return total

    def figures(self) -> Json:
        """Return what this algorithm says in the row of the last round, by column (``RoundRow``)."""
        return {}

    def rounds_left(self) -> int | None:
        """Return how many more rounds it allows; null for any number."""
        return None

    def mean(self, mean: Tensor, mean_extra: Tensor, collected: Collected) -> None:
        """Change the mean update of the parameters in place, float64 (parameters,).

        ``mean_extra`` is what clients sent for this algorithm, its mean over those that sent each element,
        float64 (extra_elements,).
        """

    def server_step(self, extra: Tensor, mean_extra: Tensor, collected: Collected) -> Tensor:
        """Return what is sent along next, float32 (extra_elements,), from ``extra`` and the mean sum."""
        del mean_extra, collected
        return extra
