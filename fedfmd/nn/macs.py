"""Multiply-accumulates (MACs; 2 FLOPs each) by the kind of work, in which layers state what they cost."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Macs:
    """Multiply-accumulates by kind."""

    conv: int = 0
    aggregation: int = 0
    """Mixing K kernels, K biases, and the spatial attention of ODConv, into one of each."""
    attention: int = 0
    """The attention branches, and scaling input and output by what they give."""
    linear: int = 0

    @property
    def total(self) -> int:
        """All kinds together."""
        return self.conv + self.aggregation + self.attention + self.linear

    def __mul__(self, times: int) -> "Macs":
        return Macs(
            conv=self.conv * times,
            aggregation=self.aggregation * times,
            attention=self.attention * times,
            linear=self.linear * times,
        )

    def __add__(self, other: "Macs") -> "Macs":
        return Macs(
            conv=self.conv + other.conv,
            aggregation=self.aggregation + other.aggregation,
            attention=self.attention + other.attention,
            linear=self.linear + other.linear,
        )
