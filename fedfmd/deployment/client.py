"""A real client: one worker that trains on its own images only, and says what that really took."""

import hashlib
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from fedfmd.config.experiment import ExperimentConfig
from fedfmd.data.arrays import IntArray
from fedfmd.data.cache import cache_folder
from fedfmd.data.configured import partition_data, prepare_data
from fedfmd.data.dataset import Dataset
from fedfmd.data.holdout import holdout_split
from fedfmd.data.prepared import open_prepared, write_client_file
from fedfmd.data.requests import FIXED_SIZE
from fedfmd.deployment.assignment import Assignment, RefusedOrderError
from fedfmd.deployment.experiment import DeployedExperiment, Roll, declared_partition
from fedfmd.deployment.identity import Identity
from fedfmd.deployment.introduction import ImageSums, Introduction, names_hash, own_versions
from fedfmd.deployment.usage import UsageMeter
from fedfmd.deployment.vault import Vault
from fedfmd.devices.participant import Host
from fedfmd.machine.cgroups import memory_left_bytes, memory_limit_bytes, oom_kills, processors
from fedfmd.machine.gauge import gauging
from fedfmd.nn import kernels
from fedfmd.secure import BadSecretError, Blocks, Invitation, Secrets
from fedfmd.secure.messages import Ask, Told
from fedfmd.secure.sums import MaskedSum
from fedfmd.training.worker import Total, Worker
from fedfmd.wire.examination import ExaminationOrder, ExaminationResult
from fedfmd.wire.packages import WorkOrder, WorkResult
from fedfmd.wire.upload import Upload

RESERVED_BYTES = 64 << 20
"""What training takes beside the network, its batch and the messages: the buffers of libraries."""


class RealClient:
    """Answers the orders for one client; it has no others' images and takes no others' orders."""

    def __init__(self, identity: Identity, given: Assignment, host: Host | None = None):
        """Open the client's own images for the experiment that the server describes.

        ``host`` is what the server plans with, once this client has introduced itself.
        """
        self.meter = UsageMeter()
        self.identity = identity
        self.experiment = client_experiment(identity, given, host)
        _check_normalisation(self.experiment, given)
        self.config = self.experiment.config
        self.worker = OwnWorker(self.experiment, expendable=True)
        self.vault = Vault(self.experiment.state_folder, identity.client)
        self.worker.masker.secrets_of = self._secrets

    def introduce(self) -> Introduction:
        """Say who this is, and how much it has."""
        data, own = self.experiment.dataset, self.identity.client
        return Introduction(
            client=own,
            examples=self.experiment.partition.size(own),
            held=self.experiment.partition.holdout_size(own),
            classes=data.num_classes,
            named=names_hash(data.classes),
            input_shape=data.input_shape,
            pack=data.origin.get("sha256"),
            memory_limit_bytes=memory_limit_bytes(),
            processors=processors(),
            host=own_host(self.identity, self.config),
            versions=own_versions(),
        )

    def train(self, order: WorkOrder, vector: Tensor) -> WorkResult:
        """Train; the row says what this process took.

        Raises ``RefusedOrderError`` for an order that is not for this client alone.
        """
        self._check(order)
        own = self.identity.client
        self.experiment.store.prune({own: order.state_round(own)})
        if order.secure is not None:
            self.vault.mask(order, vector, self.config.privacy.threshold)
        with gauging(self.identity.energy) as gauge:
            energy_of_training = gauge.begin()
            result = self._slice_of(order, self.worker.train(order, vector))
            energy = energy_of_training()
        measured: dict[str, Any] = {
            **self.meter.read().to_json(),
            "measured_joules": energy.joules,
            "measured_joules_source": energy.source,
            "measured_joules_reason": energy.reason,
        }
        return replace(result, rows=tuple(replace(row, **measured) for row in result.rows))

    def stage(self, ask: Ask) -> Told:
        """Answer a stage of a secure sum that comes before or after the training.

        Raises ``RefusedOrderError`` for what this client was not asked before, or has answered.
        """
        started, threshold = time.perf_counter(), self.config.privacy.threshold
        try:
            if ask.question is not None:
                kept = self.vault.of(ask.round, ask.attempt)
                revealed = kept.member(threshold).reveal(
                    ask.question, kept.invited, self._blocks(kept.invited)
                )
                self.vault.forget()
                return Told(revealed=revealed, seconds=time.perf_counter() - started)
            if ask.invitation is not None:
                kept = replace(self.vault.of(ask.round, ask.attempt), invitation=ask.invitation)
                deposit = kept.member(threshold).deposit(ask.invitation, self._blocks(ask.invitation))
                self.vault.keep(kept)
                return Told(deposit=deposit, seconds=time.perf_counter() - started)
            keys = self.vault.begin(ask.round, ask.attempt).member(threshold).keys()
            return Told(keys=keys, seconds=time.perf_counter() - started)
        except BadSecretError as error:
            raise RefusedOrderError(f"the secure sum: {error}") from None

    def _blocks(self, invitation: Invitation) -> Blocks:
        return self.experiment.network.blocks({seat.client: seat.part for seat in invitation.seats})

    def _secrets(self, order: WorkOrder, client: int) -> Secrets:
        del client
        return self.vault.of(order.round, order.attempt).secrets

    def _slice_of(self, order: WorkOrder, result: WorkResult) -> WorkResult:
        """Return the result with the words that this client sends, and no zeros in the place of others'."""
        if order.secure is None or not isinstance(result.total, MaskedSum):
            return result
        blocks = self.experiment.network.blocks(order.secure.parts())
        places = blocks.places(blocks.held_by(self.identity.client))
        return replace(result, total=result.total.sliced(places))

    def examine(self, order: ExaminationOrder, vector: Tensor) -> ExaminationResult:
        """Measure on the client's own images, and tell nothing but counts; raises as ``train`` does."""
        self._check(order)
        found = self.worker.examine(order, vector)
        return ExaminationResult(scores=tuple(replace(s, host_seconds=None) for s in found.scores))

    def _check(self, order: WorkOrder | ExaminationOrder) -> None:
        if self.experiment.secure and (isinstance(order, ExaminationOrder) or order.secure is None):
            raise RefusedOrderError("an order without a secure sum, in a run with privacy.secure")
        if order.clients != (self.identity.client,):
            raise RefusedOrderError(f"an order for {order.clients} came to client {self.identity.client}")
        if order.resend and (kills := oom_kills()):
            print(f"{kills} processes of this client were killed for their memory", flush=True)


class OwnWorker(Worker):
    """A worker for one client, which sends that client's update and no sum.

    Its rows say what kind of error there was, and not the text, which may quote files.
    """

    def _empty(self, order: WorkOrder, elements: int, memory: Tensor | None) -> Total:
        """Return what the client's update is put into."""
        if order.secure is None:
            return Upload(order.scale, elements)
        return super()._empty(order, elements, memory)

    def reason(self, error: BaseException) -> str:
        """Return the error's type; the text goes to the client's own log."""
        print(f"training failed: {super().reason(error)}", flush=True)
        return f"{type(error).__name__}; the client's own log says more"


def count_images(identity: Identity, given: Assignment) -> ImageSums:
    """Sum what this client trains on, for the clients to agree on a normalisation; no image is told."""
    experiment = client_experiment(identity, given, None)
    own = experiment.partition.indices(identity.client)
    return ImageSums.of(identity.client, experiment.dataset, own)


def _check_normalisation(experiment: DeployedExperiment, given: Assignment) -> None:
    """Raise ``RefusedOrderError`` for images that are seen by nobody's statistics, or by two."""
    own = experiment.packed
    if given.normalisation is None and not own.mean:
        raise RefusedOrderError(
            "the clients have agreed on no normalisation: fedfmd deploy statistics, on the server, asks all"
        )
    if given.normalisation is not None and own.origin and own.mean and not given.normalisation.is_of(own):
        raise RefusedOrderError(
            "its images were packed with other statistics than the server's: pack them anew without --stats"
        )


def client_experiment(identity: Identity, given: Assignment, host: Host | None) -> DeployedExperiment:
    """Put the server's description and the client's own images together.

    Raises ``RefusedOrderError`` for a run that has no such client, or names images in the client's files.
    """
    config = _own_settings(given.config, identity)
    if identity.client >= config.partition.clients:
        raise RefusedOrderError(
            f"client-id = {identity.client}: the run has clients 0 to {config.partition.clients - 1}"
        )
    if identity.data is None and config.data.name not in FIXED_SIZE:
        raise RefusedOrderError(
            f'data.name = "{config.data.name}": name the file in the node config: data="..."'
        )
    pictures = identity.data or make_own_pictures(config, identity.client)
    own, held = own_split(config, identity.client, open_prepared(pictures, check=True))
    states = identity.state or cache_folder() / "states"
    return DeployedExperiment(
        config,
        dataset_file=pictures,
        partition_file=Path("/nonexistent"),
        state_folder=states / given.run,
        roll=Roll(
            declared_partition(
                config.partition.clients,
                {identity.client: len(own[0])},
                here=identity.client,
                held={identity.client: held},
                own=own,
            ),
            {identity.client: host} if host else {},
        ),
        normalisation=given.normalisation.figures if given.normalisation else None,
    )


def own_split(config: ExperimentConfig, client: int, data: Dataset) -> tuple[tuple[IntArray, IntArray], int]:
    """Return which of a client's training images it trains on and tests on, and how many it tests on in all.

    A file with a test part has chosen already; of any other a share is kept, as ``partition.holdout`` says.
    """
    share, labels = config.partition.holdout, data.train_labels
    if not share or len(data.test_labels):
        everything = np.arange(len(labels)), np.zeros(0, dtype=np.int64)
        return everything, len(data.test_labels) if share else 0
    tested, trained = holdout_split(labels, share, config.seed, client)
    return (trained, tested), len(tested)


def own_host(identity: Identity, config: ExperimentConfig) -> Host:
    """Describe this machine to whom makes the plans; call it when everything is loaded, before training."""
    left = memory_left_bytes()
    compiled = not config.model.dynamic or kernels.available()  # which may have to build them
    if left is None or identity.device != "cpu":
        return Host(memory_bytes=None, compiled=compiled)
    return Host(memory_bytes=max(0, left - RESERVED_BYTES), compiled=compiled)


def make_own_pictures(config: ExperimentConfig, client: int) -> Path:
    """Give the file with one client's share of the configured set, made now if it is missing."""
    wanted = {
        "seed": config.seed,
        "data": config.data.model_dump(),
        "partition": config.partition.model_dump(),
    }
    key = hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()[:20]
    path = cache_folder() / f"client-{client}-{key}.safetensors"
    if not path.exists():
        whole = open_prepared(prepare_data(config))
        write_client_file(whole, partition_data(config, whole.train_labels, whole.owners), client, path)
    return path


def _own_settings(config: ExperimentConfig, identity: Identity) -> ExperimentConfig:
    """Compute with the threads and on the device that the node was given, whatever the server's has."""
    threads = identity.threads or config.backend.threads
    backend = config.backend.model_copy(update={"threads": threads, "device": identity.device})
    return config.model_copy(update={"backend": backend})
