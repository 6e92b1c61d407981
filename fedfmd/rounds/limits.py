"""What this machine cannot do is refused before anything is written."""

import torch

from fedfmd.building import described
from fedfmd.config.experiment import ExperimentConfig
from fedfmd.config.sections.machine import BackendConfig
from fedfmd.costs.conventions import FLOAT32_BYTES
from fedfmd.costs.macs import ModelCost
from fedfmd.costs.memory import training_bytes
from fedfmd.errors import FAULTS, UserError
from fedfmd.machine.processes import memory_bytes
from fedfmd.nn.vector import Layout
from fedfmd.planning.demand import optimizer_copies
from fedfmd.rounds.places import check_places, held_workers

LEAST_COPIES = 4
"""Of a model: the global one, a worker's, its gradients and its update."""
BYTES_PER_PIXEL = 3
USUAL_SIDE = 32
"""Of an image in pixels, where ``data.image_size`` leaves it to the set."""
FLOAT64_BYTES = 8


def check_machine(config: ExperimentConfig) -> None:
    """Raise ``UserError`` for what a federated run asks of this machine and it does not have."""
    backend = config.backend
    if backend.device == "cuda":
        require_gpu("backend.device")
    check_places("backend.threads", backend.threads)
    if backend.ray_address is None:  # whose workers are elsewhere
        check_places("backend.workers", backend.workers)
    check_data_memory(config)
    _check_model_memory(config)


def require_gpu(key: str) -> None:
    """Raise ``UserError`` where torch sees no usable GPU, which ``key`` asks for."""
    if not torch.cuda.is_available():
        raise UserError(
            f"{key} = 'cuda': this machine has no GPU that torch can use; set {key} = 'cpu', "
            "or see what fedfmd doctor says"
        )


def check_data_memory(config: ExperimentConfig) -> None:
    """Raise ``UserError`` for a choice of images that does not fit into this machine's memory."""
    data = config.data
    samples = (data.train_samples or 0) + (data.test_samples or 0)
    needed = samples * BYTES_PER_PIXEL * (data.image_size or USUAL_SIDE) ** 2
    _require_memory(needed, f"data.train_samples and data.test_samples = {samples} in all")


def _check_model_memory(config: ExperimentConfig) -> None:
    classes = config.data.known_classes or config.model.outputs or config.data.classes
    network = described(config.model, num_classes=classes)
    try:
        with torch.device("meta"):
            elements = Layout.of(network.build()).elements
    except FAULTS:  # is told when the size of the images is known, or is no fault of a network of one's own
        return
    needed = LEAST_COPIES * FLOAT32_BYTES * elements
    if config.server.aggregation != "mean":
        kept = FLOAT64_BYTES * elements * config.server.cohort
        what = f"server.aggregation = {config.server.aggregation!r}: the updates of server.cohort clients"
        _require_memory(needed + kept, what)
    _require_memory(needed, f"model: {elements / 1e6:,.0f} million weights (width, kernels)")


def placed(asked: BackendConfig, config: ExperimentConfig, cost: ModelCost) -> ExperimentConfig:
    """Return the config with as many workers as this machine's memory holds, where ``asked`` leaves it open.

    ``cost`` is the whole network's. What clients take that may train parts of it, or on a GPU, is not known
    here. Raises ``UserError`` where more workers are asked for.
    """
    backend = config.backend
    if config.parts or backend.device != "cpu" or backend.ray_address is not None:
        return config
    copies = optimizer_copies(config.client)
    each = training_bytes(cost, config.client.batch_size, optimizer_copies=copies)
    check_training_memory(each, "client.batch_size", config.client.batch_size)
    here, workers = memory_bytes(), backend.workers or 1
    most = held_workers(here, each)
    if workers <= most:
        return config
    if asked.workers is None:
        return config.model_copy(update={"backend": backend.model_copy(update={"workers": most})})
    raise UserError(
        f"backend.workers = {workers}: training takes {each / 1e9:,.1f} GB in each "
        f"(client.batch_size = {config.client.batch_size}), and this machine of {(here or 0) / 1e9:,.1f} "
        f"GB holds {most} of them: set backend.workers = {most}, or a smaller client.batch_size"
    )


def check_training_memory(needed_bytes: int, key: str, batch_size: int) -> None:
    """Raise ``UserError`` where training alone takes more than this machine's memory.

    ``key`` is what the ``batch_size`` is called in the config.
    """
    what = f"{key} = {batch_size}: training this network on images of this size (model, data.image_size)"
    _require_memory(needed_bytes, what)


def _require_memory(needed_bytes: int, what: str) -> None:
    here = memory_bytes()
    if here is not None and needed_bytes > here:
        raise UserError(
            f"{what}: needs {needed_bytes / 1e9:,.1f} GB of memory, this machine has {here / 1e9:,.1f}"
        )
