"""What of a run is exported: the network as it was scored, a client's part of it, or what each tier gets."""

import copy
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedfmd.building import model_card
from fedfmd.config.experiment import ExperimentConfig
from fedfmd.costs.macs import ModelCost, model_cost
from fedfmd.data.augment import Augment
from fedfmd.data.configured import open_data
from fedfmd.data.dataset import Dataset
from fedfmd.errors import InputWarning, UserError, pasted
from fedfmd.experiment import Experiment
from fedfmd.nn import set_temperature
from fedfmd.nn.model_file import ModelCard, load_model, read_card
from fedfmd.nn.submodel import WHOLE, Share
from fedfmd.planning.policy import OverBudget, Planner, Usage
from fedfmd.records import filenames
from fedfmd.records.checkpoint import Checkpoint
from fedfmd.records.rundir import RunDirectory
from fedfmd.rounds.lifecycle import open_experiment
from fedfmd.training.networks import Networks

CLIENTS_LOOKED_AT = 1000
"""Of a large population, for what its tiers get."""
MOST_PARTS = 12
"""Parts that are exported of one run; the most frequent ones."""
EVERYBODY = "all clients"


@dataclass(frozen=True, kw_only=True)
class ExportSource:
    """A trained network with what its file says of it, and images to try it on."""

    label: str
    """Which part it is, in a few letters for a file's name; empty for the whole."""
    model: nn.Module
    """In evaluation mode, on the CPU."""
    card: ModelCard
    """Of the whole network."""
    share: Share
    cost: ModelCost
    """Counted from the layers."""
    images: Tensor
    """Test images, uint8 (N, c, H, W), which may be none."""
    labels: Tensor
    """int64 (N,)."""
    tiers: tuple[tuple[str, int], ...] = ()
    """Kinds of devices that get this part, each with how many of its clients do."""

    @property
    def augment(self) -> Augment:
        """How stored images become input."""
        return Augment.for_dataset(self.card, enabled=False)

    def metadata(self) -> dict[str, Any]:
        """Return what goes into the file's properties."""
        card, channels = self.card, self.card.input_shape[0]
        return {
            "classes": card.classes,
            "mean": _for_each(card.mean, channels),
            "std": _for_each(card.std, channels),
            "input_shape": card.input_shape,
            "resized_crop": card.resized_crop,
            "network": asdict(card.network),
            "share": asdict(self.share),
            "temperatures": asdict(card.temperatures),
            "config_sha256": card.config_sha256,
        }


def _for_each(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    return values * channels if len(values) == 1 else values


def whole_network(path: Path) -> ExportSource:
    """Return the network of a finished run, federated or central, or of a model file, as it was scored."""
    _check_tested(path)
    card, model = read_card(path), load_model(path)
    dataset = without_images(card)
    if filenames.holds_run(path):
        try:
            dataset = open_data(RunDirectory.open(path).config)
        except UserError as error:
            _tell_absent(path, error)
    return ExportSource(
        label="",
        model=model,
        card=card,
        share=WHOLE,
        cost=model_cost(model, card.input_shape),
        images=torch.from_numpy(dataset.test_images),
        labels=torch.from_numpy(dataset.test_labels),
    )


def without_images(card: ModelCard) -> Dataset:
    """Return what a model file says of the images that it is for, without any."""
    images, labels = np.empty((0, *card.input_shape), dtype=np.uint8), np.empty(0, dtype=np.int64)
    return Dataset(
        name="none",
        train_images=images,
        train_labels=labels,
        test_images=images,
        test_labels=labels,
        classes=card.classes,
        mean=card.mean,
        std=card.std,
        input_shape=card.input_shape,
        resized_crop=card.resized_crop,
    )


def _tell_absent(path: Path, error: UserError) -> None:
    told = f"the images of {path} are not here, so that random ones are compared: {error}"
    warnings.warn(told, InputWarning, stacklevel=3)


@dataclass(frozen=True)
class ImagelessExperiment(Experiment):
    """A run's experiment where its images are not: real clients keep theirs, another machine has none."""

    card: ModelCard

    @cached_property
    def dataset(self) -> Dataset:
        """Of the run's classes and shapes, without images."""
        return without_images(self.card)


def _open(directory: RunDirectory) -> Experiment:
    """Return the experiment of a run, with its images where they are here."""
    try:
        return open_experiment(directory)
    except UserError as error:
        _tell_absent(directory.path, error)
    return ImagelessExperiment(
        directory.config,
        dataset_file=Path(),
        partition_file=directory.partition_file.resolve(),
        state_folder=directory.state_folder.resolve(),
        card=read_card(directory.path),
    )


def _check_tested(path: Path) -> None:
    """Raise ``UserError`` for a federated run that has no global model."""
    if not filenames.holds_federated_run(path):
        return
    config = RunDirectory.open(path).settings.started
    if config.model.keeps_norms:
        raise UserError(
            f"{path}: model.norm = {config.model.norm!r} keeps the norms on the clients, so the run has no "
            "model of its own; name one of them: --client N"
        )


class FederatedSource:
    """A finished federated run, of which parts are cut as its clients were given them."""

    def __init__(self, path: Path):
        self.path = path
        directory = RunDirectory.open(path)
        if not filenames.holds_federated_run(path):
            raise UserError(f"{path}: is no federated run: only such a one has parts for clients and tiers")
        changes = directory.settings.changes(directory.config)  # images may be elsewhere on another machine
        directory.settings.check({key: told for key, told in changes.items() if not key.startswith("data.")})
        if not directory.finished():
            raise UserError(f"{path}: is not finished; go on with: fedfmd simulate --resume {pasted(path)}")
        found = directory.load_checkpoint()
        if found is None:
            raise UserError(f"{path}: has no checkpoint, from which parts are cut")
        self.checkpoint: Checkpoint = found
        self.experiment: Experiment = _open(directory)
        self.networks = Networks(self.experiment)

    @property
    def config(self) -> ExperimentConfig:
        """The run's config."""
        return self.experiment.config

    @property
    def dataset(self) -> Dataset:
        """The run's images."""
        return self.experiment.dataset

    def part(self, share: Share, client: int | None = None) -> ExportSource:
        """Return a part of the global network, with the norms of a ``client`` where it keeps its own."""
        self._check(share, client)
        last = self.checkpoint.round
        temperatures = self.experiment.temperatures(last)
        network = self.networks.of(share, last, temperatures)
        state = self.checkpoint.state[: self.experiment.network.part(WHOLE).layout.elements]
        kept: Mapping[str, Tensor] = {}
        if client is not None:
            kept, _ = self.networks.kept_state(client, self.checkpoint.state_rounds.get(client, 0))
        self.networks.load(network, state[self.networks.places(share)], kept)
        model = copy.deepcopy(network.model).eval().to("cpu")
        set_temperature(model, temperatures)
        return ExportSource(
            label="-".join([*_label(share), *([] if client is None else [f"client{client}"])]),
            model=model,
            card=model_card(self.config, self.dataset, temperatures),
            share=share,
            cost=self.experiment.network.part(share).cost,
            images=self.experiment.test[0],
            labels=self.experiment.test[1],
        )

    def chosen(self, width: float | None, kernels: int | None, depth: int | None) -> Share:
        """Return the part of that size, where the window of the last round is; raises ``UserError``."""
        model = self.config.model
        self._check_axis("--width", width, "width" in model.slices, "model.conv, of which a part can be held")
        self._check_axis("--kernels", kernels, model.dynamic, "a dynamic convolution")
        self._check_axis(
            "--depth",
            depth,
            model.exits and not model.shares,
            "model.exits = true, of layers that share nothing",
        )
        if width is not None and not 0 < width <= 1:
            raise UserError(f"--width {width:g}: must be above 0 and at most 1, all channels")
        if kernels is not None and not 1 <= kernels <= model.kernels:
            raise UserError(f"--kernels {kernels}: must be between 1 and {model.kernels}, all there are")
        if depth is not None and not 1 <= depth <= model.stages:
            raise UserError(f"--depth {depth}: must be between 1 and {model.stages}, all stages")
        share = Share(
            width=width or 1.0,
            kernels=() if kernels in (None, model.kernels) else tuple(range(kernels or 0)),
            depth=0 if depth in (None, model.stages) else depth or 0,
        )
        return self.experiment.algorithms.share(share, self.checkpoint.round)

    def tiers(self) -> Iterator[ExportSource]:
        """Yield each part that clients get by the run's policy, with the kinds of devices that get it."""
        if not self.experiment.partition_file.is_file():
            raise UserError(
                f"--tiers: what the clients of {self.path} get depends on how many images each has, which "
                "is not recorded here; name a part: --width, --kernels or --depth"
            )
        counts: Counter[tuple[Share, str]] = Counter()
        planner = Planner(self.experiment)
        usage = dict[int, Usage](self.checkpoint.memory["usage"])
        clients = self.config.partition.clients
        looked_at = min(clients, CLIENTS_LOOKED_AT)
        for client in range(looked_at):
            plan = planner.plan(client, self.checkpoint.round, usage)
            if not isinstance(plan, OverBudget):
                device = self.experiment.participant(client).device
                counts[plan.share, device.name if device else EVERYBODY] += 1
        if not counts:
            raise UserError(f"{self.path}: no client can afford any part of the network: nothing to export")
        parts: Counter[Share] = Counter()
        for (share, _), having in counts.items():
            parts[share] += having
        if looked_at < clients:
            _note(f"clients are counted among the first {looked_at:,} of {clients:,}")
        if without := looked_at - parts.total():
            _note(f"{without:,} of {looked_at:,} clients can afford no part of the network")
        if len(parts) > MOST_PARTS:
            _note(
                f"{MOST_PARTS} of {len(parts)} parts are written, those that most clients get; "
                "name another one with --width, --kernels or --depth"
            )
        for share in sorted((s for s, _ in parts.most_common(MOST_PARTS)), key=self._elements, reverse=True):
            held = tuple(sorted((tier, n) for (part, tier), n in counts.items() if part == share))
            yield replace(self.part(share), tiers=held)

    def _elements(self, share: Share) -> int:
        return self.experiment.network.part(share).layout.elements

    def _check_axis(self, option: str, value: float | None, possible: bool, needs: str) -> None:
        if value is not None and not possible:
            raise UserError(f"{option} {value:g}: {self.path} has no such parts; needs {needs}")

    def _check(self, share: Share, client: int | None) -> None:
        """Raise ``UserError`` for a part that the network does not hold, and a client without norms."""
        clients = self.config.partition.clients
        if client is not None and not 0 <= client < clients:
            raise UserError(f"--client {client}: the run's clients are 0 to {clients - 1}")
        if self.experiment.untested and client is None:
            raise UserError(f"{self.path}: {self.experiment.untested}; name one of them: --client N")
        if client is not None and not self.experiment.algorithms.personal:
            raise UserError(f"--client {client}: the run's clients keep no norms of their own")
        if client is not None and client not in self.checkpoint.state_rounds:
            raise UserError(f"--client {client}: was never asked to train, so it has no norms of its own")
        whole = set(self.experiment.network.part(WHOLE).layout.names)
        if missing := [n for n in self.experiment.network.part(share).layout.names if n not in whole]:
            widths = ", ".join(f"{width:g}" for width in sorted(self.config.policy.widths))
            raise UserError(
                f"--width {share.width:g}: the run has no {missing[0]}: its norms have statistics for the "
                f"widths of policy.widths, {widths}"
            )


def _note(told: str) -> None:
    warnings.warn(f"--tiers: {told}", InputWarning, stacklevel=3)


def _label(share: Share) -> list[str]:
    """Name a part in a few letters."""
    return [
        *([f"width{share.width:g}"] if share.width < 1 else []),
        *([f"kernels{len(share.kernels)}"] if share.kernels else []),
        *([f"depth{share.depth}"] if share.depth else []),
    ]
