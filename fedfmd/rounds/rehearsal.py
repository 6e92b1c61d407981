"""What a config asks for is tried before anything is written: its parts, its network, its partition."""

import warnings
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from fedfmd.aggregation import stepped
from fedfmd.building import check_initial, network, outline
from fedfmd.config.experiment import ExperimentConfig
from fedfmd.config.parts import origins
from fedfmd.contracts import CONTRACTS, blamed, raised_in
from fedfmd.costs.macs import ModelCost, model_cost
from fedfmd.data.dataset import Dataset
from fedfmd.data.partition import Partition
from fedfmd.errors import FAULTS, InputWarning, RunError, UserError
from fedfmd.nn.vector import Layout, bind, carried
from fedfmd.registry import origin
from fedfmd.rounds.model import configured_aggregation, configured_optimizer
from fedfmd.selection.cohort import Selector
from fedfmd.training.losses import classification_loss
from fedfmd.training.optimizers import local_optimizer
from fedfmd.wire.compression import compress, compressor, restore

LAYERS = {"network", "conv", "norm"}
"""Kinds of parts that a network is made of."""


def check_makes(config: ExperimentConfig) -> None:
    """Try the parts that need no images; raises ``UserError`` for one that makes nothing of its kind."""
    weights = torch.linspace(-1, 1, 300)
    _try_strategy(config, weights)
    if origin("aggregation", config.server.aggregation):
        cohort = range(config.server.cohort)
        try:
            configured_aggregation(config, {c: weights.double() for c in cohort}, [1 for _ in cohort])
        except RunError as error:
            raise UserError(str(error)) from error
    if origin("selection", config.selection.kind):
        with blamed(f"selection.kind = {config.selection.kind!r}: fails when it is tried"):
            Selector(config).draw(1)
    uplink = compressor(config.compression, config.own("compression"))
    with blamed(f"compression.uplink = {config.compression.uplink!r}: fails when it is tried"):
        restore(compress(weights, uplink, torch.Generator()), uplink, len(weights))
    parameter = torch.zeros(1, requires_grad=True)
    parameter.grad = torch.ones(1)
    optimizer = local_optimizer([parameter], config.client, config.own("optimizer"))
    with blamed(f"client.optimizer = {config.client.optimizer!r}: fails when it is tried"):
        optimizer.restart(config.client.learning_rate)
        optimizer.step()


def _try_strategy(config: ExperimentConfig, weights: Tensor) -> None:
    """Let the server optimiser do two steps, the second also as one that was resumed after the first.

    An ``InputWarning`` says that these differ; raises ``UserError`` for one that fails.
    """
    what = f"server.strategy = {config.server.strategy!r}"
    whole, resumed = configured_optimizer(config), configured_optimizer(config)
    try:
        moved = stepped(whole, weights, weights.double())
        resumed.state.update({name: tensor.clone() for name, tensor in whole.state.items()})
        ends = [stepped(one, moved.clone(), weights.double() / 2) for one in (whole, resumed)]
    except RunError as error:
        raise UserError(f"{what}: {error}") from error
    if not torch.equal(*ends):
        told = "keeps more from one step to the next than its state holds: a resumed run would end otherwise"
        warnings.warn(f"{what}: {told}", InputWarning, stacklevel=2)


def check_network(config: ExperimentConfig, dataset: Dataset) -> ModelCost:
    """Try the network on one image and return its cost.

    An ``InputWarning`` says which MACs are counted by the generic rule. Raises ``UserError`` for a network
    that cannot be built, or does not take such images.
    """
    try:
        layout, cost = _built(config, dataset)
    except FAULTS as error:
        if not origins(config) or isinstance(error, (UserError, RunError, MemoryError)):
            raise
        own = [part for part in origins(config) if part.kind in LAYERS]
        keys = [f"{CONTRACTS[part.kind].key} = {part.name!r}" for part in own]
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"{', '.join(keys) or f'model.name = {config.model.name!r}'}: builds no network for images of "
            f"shape {dataset.input_shape}: {reason}{raised_in(error, own)}"
        ) from error
    if config.privacy.dp != "none" and layout.elements > layout.parameters:
        raise UserError(
            f"privacy.dp = {config.privacy.dp!r}: needs a network that keeps nothing beside its parameters; "
            f"model.name = {config.model.name!r} has {layout.elements - layout.parameters} such "
            "values (buffers)"
        )
    if told := check_initial(config, dataset):
        warnings.warn(told, InputWarning, stacklevel=2)
    if cost.generic:
        warnings.warn(
            f"model.name = {config.model.name!r}: {', '.join(cost.generic)}: MACs counted by PyTorch's FLOP "
            "counter, as no cost rule is known",
            InputWarning,
            stacklevel=2,
        )
    return cost


def _built(config: ExperimentConfig, dataset: Dataset) -> tuple[Layout, ModelCost]:
    """Build the network, try it where parts of it are the user's own, and describe it."""
    classes, shape = dataset.num_classes, dataset.input_shape
    model = outline(config.model, num_classes=classes, input_shape=shape)
    layout = Layout.of(model)
    if not layout.parameters:
        raise UserError(f"model.name = {config.model.name!r}: has no parameters: there is nothing to train")
    cost = model_cost(model, shape)
    if LAYERS & {part.kind for part in origins(config)}:
        with torch.random.fork_rng(devices=[]):
            whole = network(config.model, num_classes=classes, input_shape=shape)
            _try_on_images(whole, classes, shape)
    return layout, cost


def _try_on_images(model: nn.Module, num_classes: int, input_shape: tuple[int, ...]) -> None:
    """Measure and train a network on two images.

    Raises ``ValueError`` for one that gives no logits for its classes, that draws at random where it is
    measured, or of which training changes what clients neither send nor keep.
    """
    bind(model)
    images = torch.rand(2, *input_shape)
    with torch.no_grad():
        measured = [_logits(model.eval(), images, num_classes, "in evaluation mode") for _ in range(2)]
    if not torch.equal(*measured):
        raise ValueError(
            "two measurements of the same images differ: it draws at random in evaluation mode; let layers "
            "do so, as nn.Dropout, or tell functions training=self.training"
        )
    beside = {name: tensor.clone() for name, tensor in _beside(model)}
    logits = _logits(model.train(), images, num_classes, "in training mode")
    classification_loss(logits, torch.zeros(2, dtype=torch.int64)).backward()
    if changed := [name for name, tensor in _beside(model) if not torch.equal(tensor, beside[name])]:
        raise ValueError(
            f"training changes its {changed[0]}, which no client sends or keeps: make it a parameter or a "
            "persistent buffer of float32, or leave it out"
        )


def _logits(model: nn.Module, images: Tensor, num_classes: int, mode: str) -> Tensor:
    """Return what a network makes of two images; raises ``ValueError`` where these are no finite logits."""
    logits = model(images)
    if not isinstance(logits, Tensor) or logits.shape[-2:] != (2, num_classes):
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"two images give {found} {mode}, where logits are (2, {num_classes})")
    if not logits.isfinite().all():
        raise ValueError(f"two images give logits {mode} that are NaN or infinite")
    return logits


def _beside(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Return the tensors of a network that are not carried, by name."""
    sent = {id(tensor) for tensor in carried(model).values()}
    tensors = (*model.named_parameters(), *model.named_buffers())
    return ((name, tensor) for name, tensor in tensors if id(tensor) not in sent)


def check_sizes(config: ExperimentConfig, partition: Partition) -> None:
    """Raise ``UserError`` for clients whose whole data make a batch of one, where none can be trained."""
    single = int((partition.sizes < 2).sum())
    if single and config.model.attention_needs_pairs:
        raise UserError(
            f"partition: {single} of {partition.num_clients} clients have one training image, and "
            "model.attention_norm = 'bn' needs two: take fewer partition.clients, or more images each "
            "(partition.min_size, partition.samples_per_client), or model.attention_norm = 'ln'"
        )
