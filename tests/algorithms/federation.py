"""A federation of a linear model: algorithms by their contract, and the same data for an oracle in numpy."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedfmd.aggregation import ExactSum, Scale, server_optimizer
from fedfmd.algorithms import Algorithms, Collected, Trained, Visit, taken
from fedfmd.config.experiment import parse_config
from fedfmd.costs.macs import Macs
from fedfmd.data.augment import Augment
from fedfmd.nn.vector import Layout, bind
from fedfmd.records.rows import ClientRow
from fedfmd.training.local import LocalTrainer, PlainForward
from fedfmd.wire.plan import ClientPlan, Progress

SIDE, CLASSES, POPULATION = 3, 3, 5
FEATURES = SIDE * SIDE
RATE = 0.1
AUGMENT = Augment(mean=(0.5,), std=(0.25,), input_shape=(1, SIDE, SIDE), crop_padding=0, flip=False)
SIZES = (4, 7, 10, 5, 6)
STEPS = (1, 3, 2, 4, 2)
"""Of one round, by client: partial work."""
ROUNDS = ((0, 1, 2), (1, 3), (0, 2, 4))
"""Who is in the sum; the others were not asked, or dropped out."""


def images(client: int) -> tuple[Tensor, Tensor]:
    """Return a client's images, uint8 (n, 1, 3, 3), and labels."""
    rng = torch.Generator().manual_seed(client)
    size = SIZES[client]
    pixels = torch.randint(0, 256, (size, 1, SIDE, SIDE), generator=rng, dtype=torch.uint8)
    return pixels, torch.randint(0, CLASSES, (size,), generator=rng)


def arrays(client: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the same as features (n, 9) and one-hot labels (n, 3), float64."""
    pixels, labels = images(client)
    features = (pixels.numpy().reshape(len(labels), FEATURES) / 255.0 - 0.5) / 0.25
    return features, np.eye(CLASSES)[labels.numpy()]


class Features(nn.Module):
    """Takes some of the features (n, 9): what a client of a part has weights for."""

    def __init__(self, held: Sequence[int]):
        super().__init__()
        self.held = torch.tensor(held)

    def forward(self, x: Tensor) -> Tensor:
        return x[:, self.held]


def model(held: Sequence[int] = range(FEATURES)) -> nn.Module:
    torch.manual_seed(7)
    return nn.Sequential(nn.Flatten(), Features(held), nn.Linear(len(held), CLASSES, bias=False))


def places(held: Sequence[int]) -> np.ndarray:
    """Return the places of a part's weights, int64 (3 held,)."""
    return (np.arange(CLASSES)[:, None] * FEATURES + np.array(held)).ravel()


def initial() -> np.ndarray:
    """Return the weights that a run begins with, float64 (27,)."""
    return bind(model()).double().numpy()


def gradient(weights: np.ndarray, client: int, held: Sequence[int] = range(FEATURES)) -> np.ndarray:
    """Return the gradient of a client's mean cross entropy in the weights that it has, float64 (3 held,)."""
    features, labels = arrays(client)
    features = features[:, list(held)]
    scores = features @ weights.reshape(CLASSES, len(held)).T
    odds = np.exp(scores - scores.max(1, keepdims=True))
    return ((odds / odds.sum(1, keepdims=True) - labels).T @ features / len(features)).ravel()


class Federation:
    """Runs rounds of full-batch steps by the algorithms of a config.

    ``held`` are the features that a client has weights for, by client; all where it has none here.
    """

    def __init__(
        self, momentum: float = 0.0, held: Mapping[int, Sequence[int]] = MappingProxyType({}), **changes: Any
    ):
        client = {"momentum": momentum, "weight_decay": 0.0, "learning_rate": RATE, "batch_size": 100}
        document = {"partition": {"clients": POPULATION}, "server": {"cohort": 3}, "client": client}
        for section, values in changes.items():
            document[section] = document.get(section, {}) | values
        self.config = parse_config(document)
        self.algorithms = Algorithms(self.config)
        self.held = held
        self.layout = Layout.of(model())
        state = bind(model())
        self.vector = torch.cat([state, torch.zeros(self.algorithms.extra_elements(self.layout))])
        self.kept: dict[int, Mapping[str, Tensor]] = {}
        s = self.config.server
        self.optimizer = server_optimizer(
            s.strategy, learning_rate=s.step_size, momentum=s.momentum, beta2=s.beta2, tau=s.tau
        )

    def run(self, rounds: Sequence[Sequence[int]] = ROUNDS) -> np.ndarray:
        """Return the weights after these rounds, float64 (27,)."""
        for number, cohort in enumerate(rounds, start=1):
            self._round(number, cohort)
        return self.vector[: self.layout.elements].double().numpy()

    def arrive(self, arrivals: Sequence[tuple[int, int]]) -> np.ndarray:
        """Return the weights after these clients arrived one by one, each followed by another that starts.

        Clients 0 and 1 start first, on the model of the beginning.
        """
        begun = {0: (self.vector, 0), 1: (self.vector, 0)}
        for version, (client, following) in enumerate(arrivals):
            start, older = begun.pop(client)
            self._round(older + 1, [client], start, version - older)
            begun[following] = (self.vector, version + 1)
        return self.vector[: self.layout.elements].double().numpy()

    def _round(
        self, number: int, cohort: Sequence[int], begun: Tensor | None = None, staleness: int = 0
    ) -> None:
        start = self.vector if begun is None else begun
        weights = {client: self.algorithms.weight(SIZES[client], staleness) for client in cohort}
        total = ExactSum.zero(len(self.vector), Scale.for_round(self.vector, sum(weights.values())))
        for client in cohort:
            part = str(client) if client in self.held else ""
            total.add(self._train(number, client, start), weights[client], part, self._index(client))
        holders = total.holders(lambda part: self._index(int(part)) if part else None)
        rows = [
            ClientRow(round=1, client=c, examples=SIZES[c], steps=STEPS[c], staleness=staleness)
            for c in cohort
        ]
        collected = Collected(
            rows=rows,
            weights=list(weights.values()),
            population=POPULATION,
            learning_rates=[RATE] * len(rows),
            layout=self.layout,
            held=holders / total.weight,
            lag=None if begun is None else begun.double() - self.vector.double(),
        )
        mean, cut = total.mean(holders), self.layout.parameters
        self.algorithms.mean(mean[:cut], mean[cut:], collected)
        moved = self.optimizer.step(self.vector[:cut], mean[:cut])
        extra = self.algorithms.server_step(self.vector[cut:], mean[cut:], collected)
        self.vector = torch.cat([moved, extra])

    def _train(self, number: int, client: int, vector: Tensor) -> Tensor:
        network = model(self.held.get(client, range(FEATURES)))
        state, layout, index = bind(network), Layout.of(network), self._index(client)
        sent = taken(vector, index)
        start = sent[: layout.elements].clone()
        state.copy_(start)
        pixels, labels = images(client)
        side = self.algorithms.client(
            Visit(
                round=number,
                network=Trained(network, PlainForward(network, Macs())),
                vector=state,
                layout=layout,
                start=start,
                index=None if index is None else index[: layout.elements],
                whole=self.layout,
                extra=sent[layout.elements :],
                kept=self.kept.get(client, {}),
                labels=labels,
                learning_rate=RATE,
                seed=0,
            )
        )
        progress = Progress()
        plan = ClientPlan(epochs=STEPS[client], batch_size=100)
        rng = torch.Generator().manual_seed(0)
        trainer = LocalTrainer(network, self.config.client, AUGMENT)
        trainer.train(
            pixels, labels, plan=plan, learning_rate=RATE, generator=rng, progress=progress, side=side
        )
        side.trained()
        done = side.finish(state - start, progress.steps)
        self.kept[client] = done.kept
        return done.update if done.extra is None else torch.cat([done.update, done.extra])

    def _index(self, client: int) -> Tensor | None:
        """Return the places of a client's part in the vector; null for the whole."""
        if client not in self.held:
            return None
        held = self.held[client]
        index = torch.from_numpy(places(held))
        return self.algorithms.places(index, Layout.of(model(held)), self.layout)
