"""The global model of a run: the vector that the server sends, and what moves it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from fedfmd.aggregation import ServerOptimizer, aggregated, server_optimizer, stepped
from fedfmd.algorithms import Collected
from fedfmd.building import model_card
from fedfmd.config.experiment import ExperimentConfig
from fedfmd.config.parts import origins
from fedfmd.errors import RunError
from fedfmd.experiment import Experiment
from fedfmd.nn.model_file import write_model
from fedfmd.nn.starting import load_initial
from fedfmd.nn.vector import Layout, bind
from fedfmd.records.checkpoint import Checkpoint
from fedfmd.rounds.collection import Attempt

MOVERS = ("aggregation", "strategy", "algorithm")
"""Kinds of parts that change what the mean of the updates makes of the global model."""


def configured_optimizer(config: ExperimentConfig) -> ServerOptimizer:
    """Build the server optimiser that a config names; raises ``UserError`` for what is none."""
    s = config.server
    return server_optimizer(
        s.strategy,
        learning_rate=s.step_size,
        momentum=s.momentum,
        beta2=s.beta2,
        tau=s.tau,
        **config.own("strategy"),
    )


def configured_aggregation(
    config: ExperimentConfig, updates: Mapping[int, Tensor], examples: Sequence[int]
) -> Tensor:
    """Return what a config's aggregation makes of ``updates`` by client, in ascending order.

    Each is float64 (elements,), as is what comes of them; ``examples`` are how many each client trains on.
    Raises ``RunError`` for an aggregation that fails or gives anything else.
    """
    s = config.server
    return aggregated(
        s.aggregation,
        list(updates.values()),
        clients=list(updates),
        examples=examples,
        trim=s.trim,
        hostile=s.hostile,
        krum_keep=s.krum_keep,
        **config.own("aggregation"),
    )


class GlobalModel:
    """The global state with its server optimiser, and what algorithms send along and keep."""

    def __init__(self, experiment: Experiment, optimizer: ServerOptimizer | None = None):
        """Build it; an ``optimizer`` takes the place of the one that ``server.strategy`` names."""
        self.experiment = experiment
        self.config = experiment.config
        self.algorithms = experiment.algorithms
        self.network = experiment.network.build().to(self.config.backend.device)
        """Holds the state while it is measured; between measurements its weights are anybody's."""
        self.buffer = bind(self.network)
        """The network's state, float32 (layout.elements,)."""
        self.layout = Layout.of(self.network)
        extra = self.algorithms.extra_elements(self.layout)
        self.vector = torch.cat([self.buffer.cpu(), torch.zeros(extra)])
        """What the server sends, float32: the global state, and what algorithms send along."""
        self.optimizer = configured_optimizer(self.config) if optimizer is None else optimizer

    def begin(self) -> str:
        """Take the weights that ``model.init`` names, if it does; says what of them did not fit."""
        if self.config.model.init is None:
            return ""
        told = load_initial(self.network, Path(self.config.model.init))
        self.vector[: self.layout.elements] = self.buffer.cpu()
        return told

    def move(self, tried: Attempt, round: int) -> None:
        """Let the server optimiser move the parameters; buffers, such as BatchNorm's, are averaged.

        What no client held stays as it is; algorithms take part in the mean, and move what they send along.
        Raises ``RunError`` where that fails, or makes a model of numbers that are none.
        """
        extra = self.vector[self.layout.elements :]
        words = self.experiment.noise_words(round)
        tried.total = self.algorithms.released(tried.total, extra, self.layout, words)
        holders = tried.total.holders(tried.opened.places if tried.opened else self.experiment.network.places)
        mean = tried.total.mean(holders) if not tried.updates else self._aggregated(tried)
        cut, end = self.layout.parameters, self.layout.elements
        collected = self._collected(tried, holders)
        self.algorithms.mean(mean[:cut], mean[end:], collected)
        parameters = stepped(self.optimizer, self.vector[:cut], mean[:cut])
        buffers = (self.vector[cut:end].double() + mean[cut:end]).float()
        extra = self.algorithms.server_step(self.vector[end:], mean[end:], collected)
        moved = torch.cat([parameters, buffers, extra])
        self.vector = moved if len(holders) == 1 else torch.where(holders > 0, moved, self.vector)
        low, high = torch.aminmax(self.vector)
        if not bool((high - low).isfinite()):
            own = [part.words for part in origins(self.config) if part.kind in MOVERS]
            cures = ["lower server.learning_rate", *(f"look at {words}" for words in own)]
            raise RunError(f"the global model became NaN or infinite; {', or '.join(cures)}")

    def _aggregated(self, tried: Attempt) -> Tensor:
        """Return what the server makes of updates that it has one by one, float64 (elements,)."""
        updates = dict(sorted(tried.updates.items()))
        examples = [self.experiment.partition.size(client) for client in updates]
        return configured_aggregation(self.config, updates, examples)

    def _collected(self, tried: Attempt, holders: Tensor) -> Collected:
        """Return what algorithms are told of a round's sum, whose elements weigh ``holders``."""
        used = [row for row in tried.rows if row.used]
        return Collected(
            rows=used,
            weights=[
                self.algorithms.weight(self.experiment.partition.size(row.client), row.staleness or 0)
                for row in used
            ],
            population=self.config.partition.clients,
            learning_rates=[self.config.client.rate(row.round - (row.staleness or 0)) for row in used],
            layout=self.layout,
            held=holders / max(1, tried.total.weight),
            lag=None if tried.began is None else tried.began.double() - self.vector.double(),
        )

    def kept(self) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
        """Return what the optimiser keeps between rounds, and what each algorithm does, for a checkpoint."""
        algorithms = {name: _copied(state) for name, state in self.algorithms.states().items()}
        return _copied(self.optimizer.state), algorithms

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint; raises ``RunError`` for one of another network."""
        if checkpoint.state.shape != self.vector.shape:
            raise RunError(
                f"the checkpoint holds {len(checkpoint.state)} elements, the model {len(self.vector)}"
            )
        self.vector = checkpoint.state
        self.optimizer.state.update(checkpoint.optimizer)
        self.algorithms.restore(checkpoint.algorithms)

    def write(self, file: Path, round: int) -> None:
        """Write the trained network as it is after a round, without any algorithm's changes to it."""
        state = self.layout.views(self.vector[: self.layout.elements])
        card = model_card(self.config, self.experiment.dataset, self.experiment.temperatures(round))
        write_model(file, self.algorithms.exported(state), card)


def _copied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state that stays as it is, whatever its owner does to its tensors in the next round."""
    return {name: tensor.clone() for name, tensor in state.items()}
