"""Limits of a client and round."""

from typing import Annotated

from pydantic import Field

from fedfmd.config.conditions import Needs
from fedfmd.config.sections.switches import DEVICES
from fedfmd.config.values import Count, Rate, Section

BudgetFraction = Annotated[float, Field(gt=0, le=1)]


class BudgetConfig(Section):
    """Limits a client and round; absent is without limit. A fraction is of the full plan's cost."""

    macs: Count | None = None
    """Multiply-accumulates of training."""
    macs_fraction: BudgetFraction | None = None
    """The same, as a fraction of what the whole model and all epochs cost this client."""
    downlink_bytes: Count | None = None
    """Payload received."""
    uplink_bytes: Count | None = None
    """Payload sent."""
    bytes_fraction: BudgetFraction | None = None
    """Payload each way, as a fraction of the whole model's."""
    memory_bytes: Count | None = None
    """Peak memory of training."""
    device_memory: Annotated[bool | None, Needs(DEVICES, (True,))] = None
    """Limit the memory by what the device has; not, when absent."""
    joules: Annotated[Rate | None, Needs(DEVICES)] = None
    """Energy of receiving, computing and sending."""
    device_seconds: Annotated[Rate | None, Needs(DEVICES)] = None
    """Simulated time of receiving, computing and sending: a deadline."""

    def over(self, general: "BudgetConfig") -> "BudgetConfig":
        """Return these limits, and for those that are absent the ``general`` ones."""
        return general.model_copy(update=self.model_dump(exclude_none=True))
