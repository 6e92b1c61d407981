"""Temperature of the attention as a pure function of the round.

A high temperature makes the attention of early training near uniform, so that all K kernels learn.  DyConv
(Chen et al. 2020) lowers the kernels' temperature from 34 to 1 in steps of 3 an epoch; ODConv (Li et al.
2022) lowers all its temperatures linearly from 30 to 1 over the first tenth of training.  Deviation: the unit
here is the federated round (the epoch in centralised training), never the local step, because clients that
did a different amount of work would otherwise average models of different temperatures.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

TemperatureMode = Literal["both", "sigmoid_only", "fixed"]
TemperatureCurve = Literal["step", "linear"]


@dataclass(frozen=True, kw_only=True)
class Temperatures:
    """Divisors of the logits: `kernel` before the softmax over kernels, `channel` before every sigmoid."""

    kernel: float = 1.0
    channel: float = 1.0

    def __post_init__(self) -> None:
        _require_positive(kernel=self.kernel, channel=self.channel)


@dataclass(frozen=True, kw_only=True)
class TemperatureSchedule:
    """Call it with a round (the first is 0) for that round's `Temperatures`; raises ValueError on bad values.

    The modes: `both` anneals the softmax and the sigmoids, as FMDConv's paper says; `sigmoid_only` keeps the
    softmax at `held`, as its authors' published code does; `fixed` keeps everything at `held`.
    """

    rounds: int
    """Rounds (or epochs) of the whole training; only `linear` depends on it."""
    mode: TemperatureMode = "both"
    curve: TemperatureCurve = "step"
    """`step` falls by `step` a round; `linear` reaches `end` after `anneal_fraction` of the rounds."""
    start: float = 34.0
    end: float = 1.0
    step: float = 3.0
    anneal_fraction: float = 0.1
    held: float = 34.0
    """Temperature of whatever the mode does not anneal."""

    @classmethod
    def dyconv(cls, rounds: int, *, mode: TemperatureMode = "both") -> "TemperatureSchedule":
        """Give DyConv's schedule, which FMDConv's paper follows: 34, 31, 28, ... 1."""
        return cls(rounds=rounds, mode=mode)

    @classmethod
    def odconv(cls, rounds: int, *, mode: TemperatureMode = "both") -> "TemperatureSchedule":
        """Give ODConv's schedule: 30 to 1, linearly over the first tenth of the rounds."""
        return cls(rounds=rounds, mode=mode, curve="linear", start=30.0)

    def __post_init__(self) -> None:
        _require_choice("mode", self.mode, get_args(TemperatureMode))
        _require_choice("curve", self.curve, get_args(TemperatureCurve))
        _require_positive(rounds=self.rounds, start=self.start, end=self.end, step=self.step, held=self.held)
        if self.end > self.start:
            raise ValueError(f"end = {self.end} is above start = {self.start}; a temperature only falls")
        if not 0 < self.anneal_fraction <= 1:
            raise ValueError(f"anneal_fraction = {self.anneal_fraction} is not in (0, 1]")

    def __call__(self, round_index: int) -> Temperatures:
        """Give the temperatures of one round."""
        if round_index < 0:
            raise ValueError(f"round = {round_index} is negative; the first round is 0")
        annealed = self._annealed(round_index)
        return Temperatures(
            kernel=annealed if self.mode == "both" else self.held,
            channel=self.held if self.mode == "fixed" else annealed,
        )

    def _annealed(self, round_index: int) -> float:
        if self.curve == "step":
            return max(self.end, self.start - self.step * round_index)
        progress = min(1.0, round_index / (self.anneal_fraction * self.rounds))
        return self.start + (self.end - self.start) * progress


def _require_positive(**values: float) -> None:
    for name, value in values.items():
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{name} = {value} is not a positive finite number")


def _require_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} = {value!r} is not one of {', '.join(allowed)}")
