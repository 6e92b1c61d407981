"""What updates become on their way."""

from typing import Annotated

from pydantic import Field

from fedfmd.config.conditions import OnlyIf, none_of, takes
from fedfmd.config.parts import Named
from fedfmd.config.values import Section

CompressionName = Annotated[str, Named("compression")]
"""What updates become before they are sent."""


class CompressionConfig(Section):
    """What updates become before they are sent."""

    uplink: CompressionName = "none"
    """`float16`: half precision; `int8`: 8 bits and a scale per block; `topk`: the largest elements only."""
    topk_fraction: Annotated[
        float, Field(gt=0, le=1), OnlyIf(takes("compression.uplink", "compression", "topk_fraction"))
    ] = 0.1
    """`topk`: share of the elements sent."""
    error_feedback: Annotated[bool, OnlyIf(none_of("compression.uplink", "none"))] = True
    """Keep on the client what compression lost, and add it to its next update."""

    @property
    def keeps_residual(self) -> bool:
        """Whether clients remember what compression lost."""
        return self.uplink != "none" and self.error_feedback
