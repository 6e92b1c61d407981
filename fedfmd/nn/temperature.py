"""Temperature of the attention as a pure function of the round.

A high temperature makes the attention of early training near uniform, so that all K kernels learn.  DyConv
(Chen et al. 2020) lowers the kernels' temperature from 34 to 1 in steps of 3 per epoch; ODConv (Li et al.
2022) lowers all its temperatures linearly from 30 to 1 over the first tenth of training.  KernelWarehouse (Li
and Yao 2024) begins with a fixed assignment of cells, whose share tau it lowers to 0.  Deviation: the unit
here is the federated round (the epoch in centralised training), never a client's local step, because clients
that did a different amount of work would otherwise average models of different temperatures.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

TemperatureMode = Literal["both", "kernel_only", "sigmoid_only", "fixed"]
TemperatureCurve = Literal["step", "linear"]

LINEAR_FRACTION = 0.1
"""Share of training over which `linear` falls where nothing else is said: ODConv's."""
TAU_ROUNDS = 20
"""Rounds in which tau falls where nothing else is said: KernelWarehouse's epochs."""


@dataclass(frozen=True, kw_only=True)
class Temperatures:
    """Divisors of the logits: `kernel` before the softmax over kernels, `channel` before every sigmoid."""

    kernel: float = 1.0
    channel: float = 1.0
    tau: float = 0.0
    """KernelWarehouse's: share, 0 to 1, that the fixed assignment of cells has beside the attention."""

    def __post_init__(self) -> None:
        _require_positive(kernel=self.kernel, channel=self.channel)
        if not 0 <= self.tau <= 1:
            raise ValueError(f"tau = {self.tau} is not in 0 to 1")


class Tempered:
    """A layer whose output depends on temperatures, which `fedfmd.nn.set_temperature` sets."""

    follows: ClassVar[Mapping[str, str]] = {}
    """The layer's attributes that are temperatures, and which of `Temperatures` each is."""


@dataclass(frozen=True, kw_only=True)
class TemperatureSchedule:
    """Call it with a round (the first is 0) for that round's `Temperatures`; raises ValueError on bad values.

    The modes are the four combinations of two switches, so that two runs can differ in one of them alone:

    | mode | softmax over kernels | sigmoids | tau | |
    |---|---|---|---|---|
    | `both` | annealed | annealed | annealed | ODConv, KernelWarehouse |
    | `kernel_only` | annealed | 1 | annealed | FMDConv's abstract read literally; DyConv |
    | `sigmoid_only` | `held` | annealed | 0 | the code published by FMDConv's authors |
    | `fixed` | `held` | 1 | 0 | no annealing; `held = 1` is no temperature at all |

    KernelWarehouse's tau falls evenly from 1 to 0, whatever the curve of the others.
    """

    rounds: int
    """Rounds (or epochs) that `anneal_fraction` refers to."""
    mode: TemperatureMode = "both"
    curve: TemperatureCurve = "step"
    """`step` falls in stairs of `step`, `linear` evenly."""
    start: float = 34.0
    end: float = 1.0
    step: float = 3.0
    anneal_rounds: float | None = None
    """Rounds until `end`. Without this and `anneal_fraction`, `step` descends one stair per round, as DyConv
    does, `linear` takes a tenth of `rounds`, as ODConv does, and tau 20 rounds, as KernelWarehouse does."""
    anneal_fraction: float | None = None
    """The same as a share of `rounds`; `end` is reached in the last of them at the latest."""
    held: float = 34.0
    """Temperature of a softmax that is not annealed."""

    @classmethod
    def dyconv(cls, rounds: int, *, mode: TemperatureMode = "both") -> "TemperatureSchedule":
        """Return DyConv's schedule: 34, 31, 28, ... 1."""
        return cls(rounds=rounds, mode=mode)

    @classmethod
    def odconv(cls, rounds: int, *, mode: TemperatureMode = "both") -> "TemperatureSchedule":
        """Return ODConv's schedule: 30 to 1, linearly over the first tenth of the rounds."""
        return cls(rounds=rounds, mode=mode, curve="linear", start=30.0)

    def __post_init__(self) -> None:
        _require_choice("mode", self.mode, get_args(TemperatureMode))
        _require_choice("curve", self.curve, get_args(TemperatureCurve))
        _require_positive(rounds=self.rounds, start=self.start, end=self.end, step=self.step, held=self.held)
        if self.end > self.start:
            raise ValueError(f"end = {self.end} is above start = {self.start}; a temperature only falls")
        if self.anneal_rounds is not None and self.anneal_fraction is not None:
            raise ValueError("anneal_rounds and anneal_fraction exclude each other")
        if self.anneal_rounds is not None:
            _require_positive(anneal_rounds=self.anneal_rounds)
        if self.anneal_fraction is not None and not 0 < self.anneal_fraction <= 1:
            raise ValueError(f"anneal_fraction = {self.anneal_fraction} is not in (0, 1]")

    def __call__(self, round_index: float) -> Temperatures:
        """Return the temperatures of a round; a fraction is a moment within a centralised epoch."""
        if round_index < 0:
            raise ValueError(f"round = {round_index} is negative; the first round is 0")
        annealed = self._annealed(round_index)
        kernels = self.mode in ("both", "kernel_only")
        return Temperatures(
            kernel=annealed if kernels else self.held,
            channel=annealed if self.mode in ("both", "sigmoid_only") else 1.0,
            tau=max(0.0, 1 - round_index / self._tau_span) if kernels else 0.0,
        )

    def _annealed(self, round_index: float) -> float:
        progress = min(1.0, round_index / self._span)
        if self.curve == "linear":
            return self.start + (self.end - self.start) * progress
        # The product's rounding error must not keep a stair back.
        return max(self.end, self.start - self.step * math.floor(self._stairs * progress + 1e-9))

    @property
    def _stairs(self) -> int:
        return math.ceil((self.start - self.end) / self.step - 1e-9)

    @property
    def _span(self) -> float:
        """Rounds from `start` to `end`, at least one."""
        if self.anneal_rounds is not None:
            return max(1.0, self.anneal_rounds)
        if self.curve == "step" and self.anneal_fraction is None:
            return max(1.0, self._stairs)
        return self._within_run((self.anneal_fraction or LINEAR_FRACTION) * self.rounds)

    @property
    def _tau_span(self) -> float:
        """Rounds in which tau falls to 0, at least one."""
        if self.anneal_rounds is not None:
            return max(1.0, self.anneal_rounds)
        return self._within_run(self.anneal_fraction * self.rounds if self.anneal_fraction else TAU_ROUNDS)

    def _within_run(self, rounds: float) -> float:
        return max(1.0, min(rounds, self.rounds - 1))


def _require_positive(**values: float) -> None:
    for name, value in values.items():
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{name} = {value} is not a positive finite number")


def _require_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} = {value!r} is not one of {', '.join(allowed)}")
