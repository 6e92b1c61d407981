"""What somebody who made a config may not have meant, although it can run."""

from fedfmd.building import cut_off
from fedfmd.config.experiment import ExperimentConfig
from fedfmd.devices import kinds_of
from fedfmd.devices.budgets import budget_of
from fedfmd.registry import origin


def remarks(config: ExperimentConfig) -> list[str]:
    """Return what there is to say of a simulation, a sentence or two each."""
    return [said for said in (cut_off(config), _idle_policy(config)) if said]


def _idle_policy(config: ExperimentConfig) -> str:
    """Say that no client has a limit that the policy could keep to; empty where one has, or it needs none."""
    policy = config.policy
    if policy.kind in ("none", "smallest") or policy.rates == "drawn" or origin("policy", policy.kind):
        return ""
    budgets = (budget_of(config.budget, kind) for kind in kinds_of(config) or (None,))
    if any(value not in (None, False) for budget in budgets for _, value in budget):
        return ""
    return (
        f"policy.kind = '{policy.kind}' changes nothing, because no client has a limit: set one in [budget], "
        "or in the budget of a device."
    )
