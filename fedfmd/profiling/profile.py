"""The profile of a set of models: what follows from their layers, and what was measured."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from fedfmd.building import outline
from fedfmd.config.sections.model import ModelConfig
from fedfmd.costs.conventions import FLOAT32_BYTES, TRAINING_MACS_PER_FORWARD
from fedfmd.costs.macs import Macs, ModelCost, model_cost
from fedfmd.costs.memory import inference_bytes, training_bytes
from fedfmd.devices import PROFILES, use
from fedfmd.machine.environment import describe_environment
from fedfmd.machine.process import prepare_process
from fedfmd.nn import kernels as _kernels
from fedfmd.nn import local_state_names
from fedfmd.profiling.measure import WARM_UP_STEPS, measure_memory, measure_seconds
from fedfmd.profiling.variants import Task, baseline, label, with_baselines
from fedfmd.records.schema import Json

Tell = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class BatchProfile:
    """One model at one batch size; measured figures are null where nothing was measured."""

    batch_size: int
    estimated_training_bytes: int
    estimated_inference_bytes: int
    measured_training_bytes: int | None = None
    train_step_seconds: float | None = None
    inference_seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class ModelProfile:
    """One model; MACs are those of one picture's forward pass."""

    label: str
    model: ModelConfig
    cost: ModelCost
    payload_bytes: int
    """What a client receives, and sends back: parameters and buffers without those that stay on it."""
    batches: tuple[BatchProfile, ...]

    def device_seconds(self, batch_size: int) -> dict[str, tuple[float, float]]:
        """Predict, by built-in device, the seconds of a training step and of one exchange of the model."""
        macs = self.cost.macs_by_kind * (TRAINING_MACS_PER_FORWARD * batch_size)
        return {
            name: (
                use(device, macs, 0, 0).seconds,
                use(device, Macs(), self.payload_bytes, self.payload_bytes).seconds,
            )
            for name, device in PROFILES.items()
        }


@dataclass(frozen=True, kw_only=True)
class Profile:
    """A set of models on one machine."""

    task: Task
    models: tuple[ModelProfile, ...]
    device: str
    threads: int
    repeats: int
    """Interleaved turns whose median counts; 0 where nothing was measured."""
    environment: Json = field(default_factory=describe_environment)

    def baseline_of(self, profile: ModelProfile) -> ModelProfile:
        """Return the static network that a model's ratios refer to."""
        wanted = baseline(profile.model)
        return next(p for p in self.models if p.model == wanted)

    def to_json(self) -> Json:
        """Return everything as plain data."""
        return {
            "input_shape": list(self.task.input_shape),
            "num_classes": self.task.num_classes,
            "device": self.device,
            "threads": self.threads,
            "repeats": self.repeats,
            "warm_up_steps": WARM_UP_STEPS if self.repeats else 0,
            "environment": self.environment,
            "models": [_model_json(p, self.baseline_of(p)) for p in self.models],
        }


def analyse(models: Sequence[ModelConfig], task: Task, batch_sizes: Sequence[int], *, device: str) -> Profile:
    """Profile the models, and the static network of each, without running them."""
    compiled = device == "cpu" and _kernels.available()
    profiles = tuple(_analyse(m, task, batch_sizes, compiled=compiled) for m in with_baselines(models))
    return Profile(task=task, models=profiles, device=device, threads=torch.get_num_threads(), repeats=0)


def measure(profile: Profile, *, repeats: int, threads: int, tell: Tell) -> Profile:
    """Add measured seconds and memory; ``tell`` hears what is being done."""
    prepare_process(threads)
    device, task = torch.device(profile.device), profile.task
    models = [p.model for p in profile.models]
    sizes = [batch.batch_size for batch in profile.models[0].batches]
    memory = []
    for p in profile.models:
        tell(f"memory of {p.label}")
        memory.append(measure_memory(p.model, task, sizes, threads=threads, device=device))
    seconds = {}
    for size in sizes:
        tell(f"seconds at batch size {size}")
        seconds[size] = measure_seconds(models, task, size, repeats=repeats, device=device)
    measured = []
    for i, p in enumerate(profile.models):
        batches = tuple(
            replace(
                batch,
                measured_training_bytes=memory[i][batch.batch_size],
                train_step_seconds=seconds[batch.batch_size][i].train_step,
                inference_seconds=seconds[batch.batch_size][i].inference,
            )
            for batch in p.batches
        )
        measured.append(replace(p, batches=batches))
    return replace(profile, models=tuple(measured), threads=threads, repeats=repeats)


def _analyse(model: ModelConfig, task: Task, batch_sizes: Sequence[int], *, compiled: bool) -> ModelProfile:
    net = outline(model, num_classes=task.num_classes, input_shape=task.input_shape)
    cost = model_cost(net, task.input_shape)
    local = sum(net.state_dict()[name].numel() for name in local_state_names(net))
    batches = (
        BatchProfile(
            batch_size=size,
            estimated_training_bytes=training_bytes(cost, size, compiled=compiled),
            estimated_inference_bytes=inference_bytes(cost, size, compiled=compiled),
        )
        for size in batch_sizes
    )
    return ModelProfile(
        label=label(model),
        model=model,
        cost=cost,
        payload_bytes=cost.payload_bytes() - FLOAT32_BYTES * local,
        batches=tuple(batches),
    )


def _model_json(profile: ModelProfile, base: ModelProfile) -> Json:
    pairs = zip(profile.batches, base.batches, strict=True)
    return {
        "label": profile.label,
        "model": profile.model.model_dump(mode="json", exclude_none=True),
        "baseline": base.label,
        "parameters": profile.cost.parameters,
        "forward_macs": profile.cost.forward_macs,
        "forward_macs_by_kind": asdict(profile.cost.macs_by_kind),
        "downlink_bytes": profile.payload_bytes,
        "uplink_bytes": profile.payload_bytes,
        "ratio_to_static": {
            "parameters": profile.cost.parameters / base.cost.parameters,
            "forward_macs": profile.cost.forward_macs / base.cost.forward_macs,
            "payload_bytes": profile.payload_bytes / base.payload_bytes,
        },
        "device_seconds": {
            batch.batch_size: {
                name: {"train_step": step, "exchange": exchange}
                for name, (step, exchange) in profile.device_seconds(batch.batch_size).items()
            }
            for batch in profile.batches
        },
        "batches": [asdict(own) | {"ratio_to_static": _ratios(own, its)} for own, its in pairs],
    }


def _ratios(own: BatchProfile, base: BatchProfile) -> dict[str, Any]:
    names = [name for name in asdict(own) if name != "batch_size"]
    return {name: ratio(getattr(own, name), getattr(base, name)) for name in names}


def ratio(value: float | None, base: float | None) -> float | None:
    """Divide, where both are known."""
    return None if value is None or not base else value / base
