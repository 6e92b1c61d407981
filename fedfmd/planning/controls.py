"""The controls without which a result about heterogeneous clients means nothing; one switch each.

- `exclude-weak`: clients whose budget the full plan exceeds are left out.
- `smallest`: everybody trains the smallest model.
- `full`: everybody trains the full model, whatever the budget; the violations are counted.
- `static-equal-macs`, `static-equal-parameters`: a static network of the width that comes closest to the
  dynamic one's cost: within 2% where its narrowest stage has 32 channels or more, else as near as whole
  channels allow (`ControlMatch` says how near). It has no kernels to share out, so a policy over kernels
  becomes one over widths.
"""

import functools
from typing import Any

from fedfmd.building import outline
from fedfmd.config.conditions import applied
from fedfmd.config.experiment import ExperimentConfig, changed
from fedfmd.config.sections.model import ModelConfig
from fedfmd.costs.macs import ModelCost, model_cost
from fedfmd.errors import UserError
from fedfmd.records.documents import ControlMatch

POLICIES = {"exclude-weak": "drop", "smallest": "smallest", "full": "none"}
"""Controls that are a policy, and which."""
WIDTH_STEPS = 24
"""Halvings of the interval that the width is looked for in: to less than a channel of any network."""
CLOSE = 0.02
"""Relative difference of costs beyond which a control is not equal."""


def with_control(
    config: ExperimentConfig, *, input_shape: tuple[int, int, int], num_classes: int
) -> ExperimentConfig:
    """Return the experiment that ``config.control`` names, for images of that shape (C, H, W).

    Raises ``UserError`` for a static control of a network that is static already.
    """
    if config.control == "none" or config.control in POLICIES:
        return with_policy(config)
    if config.model.layer == "static":
        raise UserError(f"control = '{config.control}': model.conv is static already")
    width = equal_width(config.model, config.control, input_shape, num_classes)
    return _changed(with_policy(config), {"model.conv": "static", "model.width": width})


def with_policy(config: ExperimentConfig) -> ExperimentConfig:
    """Give the experiment the policy of its control, which needs no data to be known."""
    if config.control == "none":
        return config
    static = "width" if config.policy.kind == "kernels" else config.policy.kind
    kind = POLICIES.get(config.control, static)
    return config if kind == config.policy.kind else _changed(config, {"policy.kind": kind})


def control_match(
    config: ExperimentConfig, *, input_shape: tuple[int, int, int], num_classes: int
) -> ControlMatch | None:
    """Return how near the control of ``config``, not yet turned into it, comes; null for other controls."""
    control, model = config.control, config.model
    if not control.startswith("static-equal"):
        return None
    width = equal_width(model, control, input_shape, num_classes)
    twin = model.model_copy(update={"width": width, "conv": "static"})
    dynamic, static = (_figure(_cost(m, input_shape, num_classes), control) for m in (model, twin))
    figure = "MACs" if control == "static-equal-macs" else "parameters"
    return matched(figure, dynamic=dynamic, static=static)


def matched(figure: str, *, dynamic: int, static: int) -> ControlMatch:
    """Return how near a static network's figure comes to a dynamic one's, with a warning where it is not."""
    ratio = static / dynamic
    remark = f"Static over dynamic {figure}: {ratio:.3f}."
    if abs(ratio - 1.0) > CLOSE:
        remark += f" Warning: they differ by more than {CLOSE:.0%}."
    return ControlMatch(figure=figure, dynamic=dynamic, static=static, ratio=ratio, remark=remark)


@functools.cache
def equal_width(
    model: ModelConfig, control: str, input_shape: tuple[int, int, int], num_classes: int
) -> float:
    """Return the width of the static network whose cost is nearest to that of ``model``.

    Cost grows with width in steps of whole channels: the nearest of the two beside the target is taken.
    """

    def cost(width: float, conv: str) -> int:
        other = model.model_copy(update={"width": width, "conv": conv})
        return _figure(_cost(other, input_shape, num_classes), control)

    target = cost(model.width, model.conv)
    low = high = model.width
    while cost(high, "static") <= target:
        high *= 2
    while cost(low, "static") > target and low > high / 2**WIDTH_STEPS:
        low /= 2
    for _ in range(WIDTH_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if cost(middle, "static") <= target else (low, middle)
    return min(low, high, key=lambda width: abs(cost(width, "static") - target))


def _cost(model: ModelConfig, input_shape: tuple[int, int, int], num_classes: int) -> ModelCost:
    return model_cost(outline(model, num_classes=num_classes, input_shape=input_shape), input_shape)


def _figure(cost: ModelCost, control: str) -> int:
    return cost.forward_macs if control == "static-equal-macs" else cost.parameters


def _changed(config: ExperimentConfig, changes: dict[str, Any]) -> ExperimentConfig:
    return changed(applied(config), changes, source=f"control = '{config.control}'")
