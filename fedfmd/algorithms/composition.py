"""All algorithms that a config asks for, as one: the worker and the server know nothing finer."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from fedfmd.aggregation import ExactSum, Scale
from fedfmd.algorithms.base import Algorithm, ClientSide, Collected, Finished, PartSource, Trained, Visit
from fedfmd.algorithms.hooks import (
    call_in_place,
    finish_fault,
    hooks_of,
    kind_of,
    of_kind,
    of_size,
    overrides,
)
from fedfmd.algorithms.table import active
from fedfmd.config.documents import explained
from fedfmd.config.experiment import ExperimentConfig
from fedfmd.errors import RunError
from fedfmd.nn.submodel import Share
from fedfmd.nn.vector import Layout
from fedfmd.privacy.discrete_gaussian import Words
from fedfmd.records.schema import Json
from fedfmd.tensors import unstorable


class Algorithms:
    """The active algorithms, composed in the order of the table."""

    def __init__(self, config: ExperimentConfig):
        """Make them; raises ``UserError`` for options that are not allowed."""
        self.config = config
        self.active: Sequence[Algorithm] = [_made(kind, config) for kind in active(config)]

    # What crosses, and what stays.

    @property
    def keeps_state(self) -> bool:
        """Whether clients keep anything between rounds."""
        return any(algorithm.keeps for algorithm in self.active)

    @property
    def personal(self) -> bool:
        """Whether clients put something of their own into the network that they train and test."""
        return any(type(a).personalise is not Algorithm.personalise for a in self.active)

    @property
    def untested(self) -> str | None:
        """Why the global model cannot be tested; null where it can."""
        return next((reason for a in self.active if (reason := a.untested)), None)

    def extra_elements(self, layout: Layout) -> int:
        """Count the elements that travel each way beside the state of that ``layout``."""
        return sum(algorithm.extra_elements(layout) for algorithm in self.active)

    def places(self, index: Tensor, part: Layout, whole: Layout) -> Tensor:
        """Return the places of all that travels with a part, in the whole state and what goes along with it.

        ``index`` are those of the ``part`` in the ``whole`` state, int64 (elements of the part,).
        """
        places, start = [index], whole.elements
        for algorithm in self.active:
            places.append(start + algorithm.extra_places(index, part, whole))
            start += algorithm.extra_elements(whole)
        return torch.cat(places)

    @property
    def leaves_some(self) -> bool:
        """Whether part of the model's state stays on the clients."""
        return any(type(a).local_names is not Algorithm.local_names for a in self.active)

    def local_places(self, model: nn.Module) -> Tensor:
        """Return the places of the model's state that stay on the client, int64 (places,)."""
        names = frozenset[str]().union(*(algorithm.local_names(model) for algorithm in self.active))
        return Layout.of(model).mask(names).nonzero().flatten()

    def share(self, share: Share, round: int) -> Share:
        """Return which part of the model stands for a share of that size in a round."""
        for algorithm in self.active:
            share = of_kind(algorithm, "share", algorithm.share(share, round), Share)
        return share

    def weight(self, examples: int, staleness: int = 0) -> int:
        """Return what an update weighs in the sum: its examples, or 1 where all weigh the same, and more.

        Raises ``RunError`` for a weight that is no whole number of 0 or more.
        """
        weight = min(examples, 1) if self.config.server.weighting == "uniform" else examples
        for algorithm in self.active:
            weight = algorithm.weight(weight, staleness)
            if not isinstance(weight, int) or weight < 0:
                raise RunError(
                    f"algorithms.{algorithm.name}: weight gives {weight!r}, not a whole number of 0 or more"
                )
        return weight

    @property
    def passes(self) -> int:
        """Count how often an image goes through the network in one step, at most."""
        return max([1, *(algorithm.passes for algorithm in self.active)])

    @property
    def plain_steps(self) -> bool:
        """Whether a plan says exactly what a step costs: the network, once."""
        return all(a.same_cost or type(a).network is Algorithm.network for a in self.active)

    def structure(self, model: nn.Module, share: Share, parts: PartSource) -> None:
        """Change the structure of the network of a ``share``."""
        for algorithm in self.active:
            call_in_place(algorithm, algorithm.structure, model, share, parts)

    def exported(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the global ``state`` as the network has it without any algorithm."""
        exported = dict(state)
        for algorithm in self.active:
            exported = of_kind(algorithm, "exported", algorithm.exported(exported), dict)
        return exported

    # On the client.

    def network(self, network: Trained, share: Share, parts: PartSource) -> Trained:
        """Return how the network of a ``share`` is trained."""
        network = replace(network, local=self.local_places(network.model))
        for algorithm in self.active:
            network = of_kind(algorithm, "network", algorithm.network(network, share, parts), Trained)
        return network

    def personalise(self, network: Trained, vector: Tensor, kept: Mapping[str, Tensor]) -> None:
        """Put into ``vector``, the state, float32 (elements of the part,), what the client keeps of it."""
        for algorithm in self.active:
            call_in_place(algorithm, algorithm.personalise, network, vector, kept)

    def client(self, visit: Visit) -> "ClientSides":
        """Begin one client's work; ``visit.extra`` is what the server sent for all algorithms.

        Raises ``RunError`` for an algorithm that gives no part in it, or one that changes nothing.
        """
        extras = self._extras(visit.extra, visit.layout)
        sides = {a: a.client(replace(visit, extra=e)) for a, e in zip(self.active, extras, strict=True)}
        for algorithm, side in sides.items():
            of_kind(algorithm, "client", side, ClientSide)
            if type(side) is not ClientSide and not overrides(type(side), ClientSide):
                found = f"client gives {kind_of(side)}, which changes nothing"
                raise RunError(f"algorithms.{algorithm.name}: {found}: {hooks_of(type(side), ClientSide)}")
        return ClientSides(sides, [len(extra) for extra in extras])

    # On the server.

    def scale(self, scale: Scale, extra: Tensor, layout: Layout) -> Scale:
        """Return the scale of a round's sum; ``extra``, float32, goes with a state of that ``layout``."""
        for algorithm, own in zip(self.active, self._extras(extra, layout), strict=True):
            scale = of_kind(algorithm, "scale", algorithm.scale(scale, own), Scale)
        return scale

    def released(self, total: ExactSum, extra: Tensor, layout: Layout, words: Words) -> ExactSum:
        """Return what the server goes on with of a round's sum, which may be changed in place."""
        for algorithm, own in zip(self.active, self._extras(extra, layout), strict=True):
            total = of_kind(algorithm, "released", algorithm.released(total, own, words), ExactSum)
        return total

    def figures(self) -> Json:
        """Return what algorithms say in the row of the last round, by column."""
        return {name: value for a in self.active for name, value in a.figures().items()}

    def rounds_left(self) -> int | None:
        """Return how many more rounds all of them allow; null for any number."""
        return min((left for a in self.active if (left := a.rounds_left()) is not None), default=None)

    def mean(self, mean: Tensor, mean_extra: Tensor, collected: Collected) -> None:
        """Change the mean update of the parameters in place, float64 (parameters,)."""
        extras = self._extras(mean_extra, collected.layout)
        for algorithm, extra in zip(self.active, extras, strict=True):
            call_in_place(algorithm, algorithm.mean, mean, extra, collected)

    def server_step(self, extra: Tensor, mean_extra: Tensor, collected: Collected) -> Tensor:
        """Return what is sent along next, from ``extra`` and the mean sum, float32 and float64 (elements,).

        Raises ``RunError`` for an algorithm that gives anything else, or keeps what no checkpoint holds.
        """
        held = collected.held.expand(collected.layout.elements + len(extra))[collected.layout.elements :]
        parts = (self._extras(vector, collected.layout) for vector in (extra, mean_extra, held))
        steps = (
            of_size(a, "server_step", a.server_step(own, mean, replace(collected, held=share)), len(own))
            for a, own, mean, share in zip(self.active, *parts, strict=True)
        )
        sent = torch.cat([torch.empty(0), *steps])
        for algorithm in self.active:
            if fault := unstorable(algorithm.state):
                raise RunError(f"algorithms.{algorithm.name}: {fault}")
        return sent

    def states(self) -> dict[str, dict[str, Tensor]]:
        """Return what each algorithm keeps on the server between rounds, by the algorithm's name."""
        return {algorithm.name: algorithm.state for algorithm in self.active}

    def restore(self, states: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Take what ``states`` gave."""
        for algorithm in self.active:
            algorithm.state.update(states.get(algorithm.name, {}))

    def _extras(self, extra: Tensor, layout: Layout) -> Sequence[Tensor]:
        """Split what travels beside the state of that ``layout`` into the algorithms' parts."""
        sizes = [algorithm.extra_elements(layout) for algorithm in self.active]
        return [extra[start:end] for start, end in pairwise(accumulate(sizes, initial=0))]


class ClientSides(ClientSide):
    """The parts of all algorithms in one client's work, one after another."""

    def __init__(self, sides: Mapping[Algorithm, ClientSide], extra_elements: Sequence[int]):
        self.algorithms, self.sides, self.extra_elements = list(sides), list(sides.values()), extra_elements
        self.alike = all(side.alike for side in self.sides if side.acts)

    @property
    def acts(self) -> bool:
        """Whether any of them takes part in steps."""
        return any(side.acts for side in self.sides)

    @property
    def ends(self) -> bool:
        """Whether any of them takes part where training has ended, or keeps or sends something beside it."""
        beside = any(self.extra_elements) or any(algorithm.keeps for algorithm in self.algorithms)
        return beside or any(side.ends for side in self.sides)

    def logits(self, logits: Tensor) -> Tensor:
        """Return the logits that the loss sees."""
        for side in self.sides:
            logits = side.logits(logits)
        return logits

    def loss(self, loss: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss with all its terms."""
        for side in self.sides:
            loss = side.loss(loss, logits, labels)
        return loss

    def gradient(self, parameters: Sequence[Tensor]) -> None:
        """Add all terms of the objective to the gradients."""
        for algorithm, side in zip(self.algorithms, self.sides, strict=True):
            call_in_place(algorithm, side.gradient, parameters)

    def direction(self, parameters: Sequence[Tensor]) -> None:
        """Change the clipped gradients."""
        for algorithm, side in zip(self.algorithms, self.sides, strict=True):
            call_in_place(algorithm, side.direction, parameters)

    def stepped(self, parameters: Sequence[Tensor]) -> None:
        """Change the parameters where a step has left them."""
        for algorithm, side in zip(self.algorithms, self.sides, strict=True):
            call_in_place(algorithm, side.stepped, parameters)

    def trained(self) -> None:
        """Look at the network where the training ended."""
        for algorithm, side in zip(self.algorithms, self.sides, strict=True):
            call_in_place(algorithm, side.trained)

    def finish(self, update: Tensor, steps: int) -> Finished:
        """Return what is sent and kept; the extra sums are those of all algorithms, one behind the other.

        Raises ``RunError`` for what an algorithm returns and nothing can be done with.
        """
        extras, kept = list[Tensor](), dict[str, Tensor]()
        sent: Mapping[str, Tensor] | None = None
        for algorithm, side, elements in zip(self.algorithms, self.sides, self.extra_elements, strict=True):
            done = side.finish(update, steps)
            if fault := finish_fault(done, update, elements, algorithm.keeps):
                raise RunError(f"algorithms.{algorithm.name}: finish gives {fault}")
            if done.sent is not None or done.update is not update:
                sent = done.sent
            update = done.update
            extras += [torch.zeros(elements) if done.extra is None else done.extra]
            kept |= done.kept
        extra = torch.cat(extras) if any(map(len, extras)) else None
        return Finished(update=update, sent=sent, extra=extra, kept=kept)


def _made(kind: type[Algorithm], config: ExperimentConfig) -> Algorithm:
    try:
        return kind(config)
    except ValidationError as error:
        raise explained(error, kind.Options, f"algorithms.{kind.name}") from None
