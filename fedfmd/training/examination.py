"""Clients measure models on their own images: the server's, a part of it, one tuned, one trained alone.

Where clients measure the same weights their images pass through the network together, in full batches; which
clients these are is the order's, so that neither packing nor the number of workers can change a result.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial

import torch
from torch import Tensor

from fedfmd.config.sections.evaluation import ClientModel
from fedfmd.experiment import Experiment
from fedfmd.nn.submodel import WHOLE, Share
from fedfmd.nn.vector import bind
from fedfmd.records.schema import told_loss
from fedfmd.seeds import generator
from fedfmd.training.evaluation import classify
from fedfmd.training.local import CLIENT_ERRORS
from fedfmd.training.networks import LocalNetwork, Networks
from fedfmd.wire.examination import (
    ClientScore,
    ExaminationOrder,
    ExaminationResult,
    PastSteps,
    Subject,
)
from fedfmd.wire.plan import Progress


class Examiner:
    """Measures for the clients of an order, with the networks of this process."""

    def __init__(self, experiment: Experiment, networks: Networks):
        self.experiment = experiment
        self.config = experiment.config
        self.networks = networks

    def examine(self, order: ExaminationOrder, vector: Tensor) -> ExaminationResult:
        """Measure the models that ``order`` asks for; ``vector``, float32, begins with the global state."""
        state = vector[: self.experiment.network.part(WHOLE).layout.elements]
        scores: list[ClientScore] = []
        for group in order.groups:
            scores += self._of_server("global", group, order, state)
            same = {s.client for s in group if s.affords_global}
            known = [s for s in scores if s.model == "global" and s.client in same]
            scores += [replace(score, model="affordable", host_seconds=0.0) for score in known]
            scores += self._of_server("affordable", [s for s in group if s.client not in same], order, state)
        for subject in order.subjects:
            if "finetuned" in subject.models:
                scores += self._own("finetuned", subject, partial(self._tuned, subject, order, state))
            if "local" in subject.models:
                scores += self._own("local", subject, partial(self._alone, subject, order))
        return ExaminationResult(scores=tuple(scores))

    def _of_server(
        self, model: ClientModel, group: Sequence[Subject], order: ExaminationOrder, state: Tensor
    ) -> Iterator[ClientScore]:
        """Measure weights that the server has: all clients of one share at once."""
        shares: dict[Share, list[Subject]] = {}
        for subject in group:
            if model in subject.models:
                shares.setdefault(WHOLE if model == "global" else subject.share, []).append(subject)
        for share, subjects in shares.items():
            network = self.networks.of(share, order.round, order.temperatures)
            alike = [[s] for s in subjects] if self.experiment.algorithms.personal else [subjects]
            for some in alike:
                started = time.perf_counter()
                self.networks.load(network, state[self.networks.places(share)], self._kept(some[0]))
                yield from self._scores(model, [s.client for s in some], network, started)

    def _own(
        self, model: ClientModel, subject: Subject, train: Callable[[], LocalNetwork]
    ) -> Iterator[ClientScore]:
        """Measure what one client trains; nothing where its training fails."""
        started = time.perf_counter()
        try:
            network = train()
        except CLIENT_ERRORS:
            return
        yield from self._scores(model, [subject.client], network, started)

    def _tuned(self, subject: Subject, order: ExaminationOrder, state: Tensor) -> LocalNetwork:
        """Train the client's share of the global model for some epochs, as its budget allows."""
        assert subject.plan is not None, "who can afford nothing is not asked to"
        network = self.networks.of(subject.plan.share, order.round, order.temperatures)
        self.networks.load(network, state[self.networks.places(subject.share)], self._kept(subject))
        network.trainer.train(
            *self.experiment.trained_on(subject.client),
            plan=replace(subject.plan, epochs=self.config.evaluation.finetune_epochs),
            learning_rate=order.learning_rate,
            generator=generator(self.config.seed, "finetuning", order.round, subject.client),
            progress=Progress(),
        )
        return network

    def _alone(self, subject: Subject, order: ExaminationOrder) -> LocalNetwork:
        """Do the client's steps again from the initial weights, each round from where it ended before.

        The draws are those of the federated rounds, so the two differ by what others have contributed alone.
        """
        own = self._initial.clone()
        for session in subject.sessions:
            self._again(session, subject.client, own)
        network = self.networks.of(subject.share, order.round, order.temperatures)
        self.networks.load(network, own[self.networks.places(subject.share)], {})
        return network

    def _again(self, session: PastSteps, client: int, own: Tensor) -> None:
        """Do the steps of one round on the client's ``own`` state (elements,), in place."""
        share = session.plan.share
        network = self.networks.of(share, session.round, session.temperatures)
        places = self.networks.places(share)
        self.networks.load(network, own[places], {})
        network.trainer.train(
            *self.experiment.trained_on(client),
            plan=session.plan,
            learning_rate=session.learning_rate,
            generator=generator(self.config.seed, "local-training", session.stamp, client),
            progress=Progress(),
        )
        own[places] = network.vector.cpu()

    def _kept(self, subject: Subject) -> Mapping[str, Tensor]:
        """Return what a client puts of its own into the network; nothing where all have the same."""
        if not self.experiment.algorithms.personal:
            return {}
        return self.networks.kept_state(subject.client, subject.state_round)[0]

    @cached_property
    def _initial(self) -> Tensor:
        return bind(self.experiment.network.build())

    def _scores(
        self, model: ClientModel, clients: Sequence[int], network: LocalNetwork, started: float
    ) -> Iterator[ClientScore]:
        """Measure a network on the images of some clients; the time since ``started`` is theirs by images."""
        data = [self.experiment.tested_on(client) for client in clients]
        images, labels = (
            torch.cat(parts) if len(parts) > 1 else parts[0] for parts in zip(*data, strict=True)
        )
        size = self.config.evaluation.batch_size
        hits, losses = classify(network.model, images, labels, self.experiment.augment, size)
        seconds = time.perf_counter() - started
        sizes = [len(own) for _, own in data]
        for client, right, loss in zip(clients, hits.split(sizes), losses.split(sizes), strict=True):
            total = float(loss.double().sum())
            yield ClientScore(
                client=client,
                model=model,
                examples=len(right),
                correct=int(right.sum()),
                loss_sum=told_loss(total),
                host_seconds=seconds * len(right) / len(labels),
            )
