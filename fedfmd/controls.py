"""The controls without which a result about heterogeneous clients means nothing; one switch each.

- `exclude-weak`: clients whose budget the full plan exceeds are left out.
- `smallest`: everybody trains the smallest model.
- `full`: everybody trains the full model, whatever the budget; the violations are counted.
- `static-equal-macs`, `static-equal-parameters`: a static network of the width that comes closest to the
  dynamic one's cost. It has no kernels to share out, so a policy over kernels becomes one over widths.
"""

from typing import Any

import torch

from fedfmd.conditions import applied
from fedfmd.config import ExperimentConfig, changed
from fedfmd.errors import UserError
from fedfmd.experiment import network
from fedfmd.network.cost import ModelCost, model_cost
from fedfmd.sections import ModelConfig

WIDTH_STEPS = 24
"""Halvings of the interval that the width is looked for in."""


def with_control(
    config: ExperimentConfig, *, input_shape: tuple[int, int, int], num_classes: int
) -> ExperimentConfig:
    """Give the experiment that ``config.control`` names, for pictures of that shape (C, H, W).

    Raises ``UserError`` for a static control of a network that is static already.
    """
    kinds = {"exclude-weak": "drop", "smallest": "smallest", "full": "none"}
    if config.control == "none":
        return config
    if config.control in kinds:
        return _changed(config, {"policy.kind": kinds[config.control]})
    if config.model.conv == "static":
        raise UserError(f"control = '{config.control}': model.conv is static already")
    width = equal_width(config.model, config.control, input_shape, num_classes)
    changes: dict[str, Any] = {"model.conv": "static", "model.width": width}
    if config.policy.kind == "kernels":
        changes["policy.kind"] = "width"
    return _changed(config, changes)


def equal_width(
    model: ModelConfig, control: str, input_shape: tuple[int, int, int], num_classes: int
) -> float:
    """Give the width of the static network that costs as much as ``model``; cost grows with width."""

    def cost(width: float, conv: str) -> int:
        other = model.model_copy(update={"width": width, "conv": conv})
        return _figure(_cost(other, input_shape, num_classes), control)

    target = cost(model.width, model.conv)
    low, high = model.width, model.width * model.kernels
    for _ in range(WIDTH_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if cost(middle, "static") <= target else (low, middle)
    return min(low, high, key=lambda width: abs(cost(width, "static") - target))


def _cost(model: ModelConfig, input_shape: tuple[int, int, int], num_classes: int) -> ModelCost:
    with torch.device("meta"):
        net = network(model, num_classes=num_classes, in_channels=input_shape[0])
    return model_cost(net, input_shape)


def _figure(cost: ModelCost, control: str) -> int:
    return cost.forward_macs if control == "static-equal-macs" else cost.parameters


def _changed(config: ExperimentConfig, changes: dict[str, Any]) -> ExperimentConfig:
    return changed(applied(config), changes, source=f"control = '{config.control}'")
