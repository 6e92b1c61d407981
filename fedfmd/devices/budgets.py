"""Whose budget holds for a client: its device's own, or the experiment's."""

from fedfmd.config.experiment import ExperimentConfig
from fedfmd.config.sections.budget import BudgetConfig
from fedfmd.devices.population import device_of
from fedfmd.devices.profiles import Device
from fedfmd.units import of_key


def told_device(config: ExperimentConfig, client: int) -> dict[str, str]:
    """Return a client's kind of device and its budget in words, as far as the experiment has any."""
    device = device_of(config, client)
    if device is None and not any(value is not None for _, value in config.budget):
        return {}
    limits = [
        f"{key} {_said(key, value)}" for key, value in budget_of(config.budget, device) if value is not None
    ]
    kind = {"device": device.name} if device else {}
    return {**kind, "budget": ", ".join(limits) or "none"}


def _said(key: str, value: float | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else of_key(key, value)


def budget_of(general: BudgetConfig, device: Device | None) -> BudgetConfig:
    """Return the budget of a client: its device's own, key by key before the ``general`` one."""
    return general if device is None else device.budget.over(general)
