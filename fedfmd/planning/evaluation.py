"""What measuring models costs, apart from training: on clients' own images, and of a run beforehand."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from fedfmd.config.sections.evaluation import ClientModel
from fedfmd.costs.conventions import FLOAT32_BYTES
from fedfmd.costs.macs import Macs
from fedfmd.devices import use
from fedfmd.devices.simulation import overhead_seconds
from fedfmd.experiment import Experiment
from fedfmd.nn.norm import STATISTICS
from fedfmd.nn.submodel import WHOLE, Share
from fedfmd.planning.budget import training_passes
from fedfmd.planning.demand import work_of
from fedfmd.records.cost import Cost
from fedfmd.wire.examination import Subject
from fedfmd.wire.plan import ClientPlan

ANSWER_BYTES = 32
"""What a client answers for one model: its number, two counts and a sum of 8 bytes each."""


@dataclass(frozen=True)
class _Passes:
    """MACs of a network, in batches of so many images in the mean."""

    macs: Macs
    images_per_step: float


def evaluation_costs(
    experiment: Experiment, subject: Subject, answered: Collection[ClientModel]
) -> dict[ClientModel, Cost]:
    """Return what each model costs a client: receiving it, its work, and its counts where it ``answered``.

    A model that it has received already for another measurement, or trains from its own start, is not sent.
    """
    costs: dict[ClientModel, Cost] = {}
    received: set[Share] = set()
    for model in subject.models:
        sent = _sent(model, subject)
        new = sent is not None and sent not in received
        downlink_bytes = experiment.received_elements(sent) * FLOAT32_BYTES if new and sent else 0
        received |= {sent} if sent else set()
        done = model in answered
        passes = list(_work(experiment, model, subject)) if done else []
        answer_bytes = ANSWER_BYTES if done else 0
        share = _share(model, subject)
        costs[model] = _billed(experiment, subject.client, share, passes, downlink_bytes, answer_bytes)
    return costs


def statistics_cost(experiment: Experiment, client: int, *, answered: bool) -> Cost:
    """Return what static BatchNorm costs a client: the model, a pass over its images, their moments."""
    part = experiment.network.part(WHOLE)
    sized = zip(part.layout.names, part.layout.sizes, strict=True)
    moments = sum(size for name, size in sized if name.endswith(STATISTICS))
    passes = [_forward(experiment, WHOLE, experiment.partition.size(client))] if answered else []
    sent = experiment.received_elements(WHOLE) * FLOAT32_BYTES
    return _billed(experiment, client, WHOLE, passes, sent, moments * FLOAT32_BYTES if answered else 0)


def evaluation_work(experiment: Experiment, subject: Subject) -> float:
    """Return the MACs of all that a client measures."""
    works = (_work(experiment, model, subject) for model in subject.models)
    return float(sum(passes.macs.total for work in works for passes in work))


def expected_macs(experiment: Experiment, training_macs: float, most_clients: int) -> float:
    """Return what all measuring of a run takes, about: at the server, on the clients, and training for it.

    ``training_macs`` are those of the whole run; what clients train alone is what it has asked of those who
    measure. Images of clients are those of the first ``most_clients``, on average.
    """
    config, server = experiment.config, experiment.config.server
    evaluated = [r for r in range(1, server.rounds + 1) if r % config.evaluation.every == 0]
    evaluated += [] if server.rounds in evaluated else [server.rounds]
    later = len(evaluated)
    images = len(experiment.dataset.test_labels) + len(experiment.partition.validation)
    held = config.partition.holdout
    own = fmean(
        experiment.participant(c).examples for c in range(min(config.partition.clients, most_clients))
    )
    models = config.evaluation.models if held else ["global"]
    measured = config.measuring_clients * len(models) * own * (held / (1 - held) if held else 1.0)
    for_statistics = server.cohort * own if config.restates_norms else 0.0
    passes = (1 + later) * images + later * (measured + for_statistics)
    if "finetuned" in models:
        passes += _tuning_passes(experiment, evaluated, own)
    alone = 0.0
    if "local" in models:
        trained = evaluated if config.evaluation.local_at == "every" else [server.rounds]
        share = config.measuring_clients / config.partition.clients
        alone = training_macs * share * sum(trained) / server.rounds
    return experiment.network.cost.forward_macs * passes + alone


def _tuning_passes(experiment: Experiment, rounds: Sequence[int], examples: float) -> float:
    """Return the forward passes of fine-tuning after some rounds, of those clients who were asked by then."""
    config = experiment.config
    never = 1 - min(1.0, config.server.cohort / config.partition.clients)  # asked in a round
    tuned = sum(1 - never**round for round in rounds)
    epochs = config.evaluation.finetune_epochs * training_passes(experiment)
    return tuned * config.measuring_clients * examples * epochs


def _sent(model: ClientModel, subject: Subject) -> Share | None:
    """Return the part of the global model that a measurement needs; null for none."""
    if model == "global":
        return WHOLE
    return None if model == "local" or subject.plan is None else subject.plan.share


def _share(model: ClientModel, subject: Subject) -> Share:
    """Return the part of the network that is measured."""
    return WHOLE if model == "global" else subject.share


def _work(experiment: Experiment, model: ClientModel, subject: Subject) -> Iterator[_Passes]:
    """Yield the forward passes, and the training before them."""
    if model == "affordable" and subject.affords_global:
        return  # measured as the global one
    yield _forward(experiment, _share(model, subject), experiment.tested_size(subject.client))
    if model == "finetuned" and subject.plan:
        yield _training(experiment, _tuning(experiment, subject.plan), subject.client)
    for session in subject.sessions if model == "local" else ():
        yield _training(experiment, session.plan, subject.client)


def _tuning(experiment: Experiment, plan: ClientPlan) -> ClientPlan:
    return replace(plan, epochs=experiment.config.evaluation.finetune_epochs)


def _forward(experiment: Experiment, share: Share, images: int) -> _Passes:
    """Return one pass over some images, in the batches of an evaluation."""
    batches = -(-images // experiment.config.evaluation.batch_size)
    return _Passes(experiment.network.part(share).cost.macs_by_kind * images, images / max(1, batches))


def _training(experiment: Experiment, plan: ClientPlan, client: int) -> _Passes:
    work = work_of(experiment, plan, experiment.partition.size(client))
    macs = experiment.network.part(plan.share).cost.macs_by_kind * (
        training_passes(experiment) * work.samples
    )
    return _Passes(macs, work.images_per_step)


def _billed(
    experiment: Experiment,
    client: int,
    share: Share,
    work: Sequence[_Passes],
    downlink_bytes: int,
    uplink_bytes: int,
) -> Cost:
    device, used = experiment.participant(client).device, None
    macs = sum((passes.macs for passes in work), Macs())
    if device:
        cost = experiment.network.part(share).cost
        beside = sum(overhead_seconds(device, each.macs, cost, each.images_per_step) for each in work)
        used = use(device, macs, downlink_bytes, uplink_bytes, overhead_seconds=beside)
    return Cost(
        evaluation_macs=macs.total,
        evaluation_downlink_bytes=downlink_bytes,
        evaluation_uplink_bytes=uplink_bytes,
        evaluation_device_seconds=used.seconds if used else None,
        evaluation_energy_joules=used.joules if used else None,
    )
