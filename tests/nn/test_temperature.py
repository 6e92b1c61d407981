"""Temperature schedules: the published values, the modes, and what no schedule may do."""

import dataclasses
from collections.abc import Sequence
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfmd.nn import Temperatures, TemperatureSchedule

MODES = ["both", "kernel_only", "sigmoid_only", "fixed"]
FRACTIONS = st.none() | st.floats(0.01, 1)
SCHEDULES = st.builds(
    TemperatureSchedule,
    rounds=st.integers(1, 500),
    mode=st.sampled_from(MODES),
    curve=st.sampled_from(["step", "linear"]),
    start=st.floats(10, 100),
    end=st.floats(0.1, 10),
    step=st.floats(0.1, 50),
    anneal_fraction=FRACTIONS,
)


def test_dyconv_falls_from_34_to_1_in_steps_of_3() -> None:
    schedule = TemperatureSchedule.dyconv(100)
    assert [schedule(t).kernel for t in (0, 1, 2, 10, 11, 12, 99)] == [34, 31, 28, 4, 1, 1, 1]
    assert all(schedule(t).kernel == schedule(t).channel for t in range(100))


def test_odconv_falls_linearly_over_the_first_tenth() -> None:
    schedule = TemperatureSchedule.odconv(100)
    assert [schedule(t).kernel for t in (0, 5, 10, 50)] == pytest.approx([30, 15.5, 1, 1])


def taus(rounds: int, times: Sequence[float], **options: Any) -> list[float]:
    schedule = TemperatureSchedule(rounds=rounds, **options)
    return [schedule(t).tau for t in times]


def test_tau_falls_evenly_over_20_epochs_whatever_the_curve_of_the_others() -> None:
    """KernelWarehouse's; within a short run it reaches 0, and where kernels are not annealed it is 0."""
    for mode in ("both", "kernel_only"):
        assert taus(300, (0, 5, 10.5, 20, 299), mode=mode) == pytest.approx([1, 0.75, 0.475, 0, 0])
        assert taus(5, range(5), mode=mode) == [1, 0.75, 0.5, 0.25, 0]
    assert taus(11, (0, 2.75, 5.5), curve="linear", anneal_fraction=0.5) == pytest.approx([1, 0.5, 0])
    assert taus(3, [2], anneal_rounds=40) == pytest.approx([0.95])
    for mode in ("sigmoid_only", "fixed"):
        assert set(taus(300, (0, 7, 299), mode=mode)) == {0.0}


@pytest.mark.parametrize("tau", [-0.1, 1.1, float("nan")])
def test_tau_is_a_share(tau: float) -> None:
    with pytest.raises(ValueError, match="tau = "):
        Temperatures(tau=tau)


def test_a_short_linear_schedule_starts_at_the_start() -> None:
    schedule = TemperatureSchedule.odconv(3)
    assert [schedule(t).kernel for t in range(3)] == [30, 1, 1]


@pytest.mark.parametrize("curve", ["step", "linear"])
@pytest.mark.parametrize("rounds", [2, 3, 10, 15, 100])
def test_annealing_over_the_whole_run_ends_in_its_last_round(curve: Any, rounds: int) -> None:
    schedule = TemperatureSchedule(rounds=rounds, curve=curve, anneal_fraction=1.0)
    assert (schedule(0).kernel, schedule(rounds - 1).kernel) == (34, 1)
    assert rounds == 2 or schedule(rounds - 2).kernel > 1


def test_a_share_of_the_rounds_is_the_same_shape_at_any_length() -> None:
    """The authors' 11 stairs of 100 epochs, in a run of 1,000 rounds: each stair ten rounds long."""
    long = TemperatureSchedule(rounds=1000, anneal_fraction=0.11)
    assert [long(10 * t).kernel for t in range(100)] == [
        TemperatureSchedule.dyconv(100)(t).kernel for t in range(100)
    ]
    short = TemperatureSchedule(rounds=15, anneal_fraction=0.4)
    assert [short(t).kernel for t in range(8)] == [34, 31, 25, 19, 13, 7, 1, 1]


@pytest.mark.parametrize("curve", ["step", "linear"])
def test_rounds_and_their_share_say_the_same(curve: Any) -> None:
    by_rounds = TemperatureSchedule(rounds=40, curve=curve, anneal_rounds=10)
    by_share = TemperatureSchedule(rounds=40, curve=curve, anneal_fraction=0.25)
    assert [by_rounds(t) for t in range(50)] == [by_share(t) for t in range(50)]


def test_within_an_epoch_the_linear_curve_falls_with_every_step() -> None:
    schedule = TemperatureSchedule.odconv(100)
    assert [schedule(t).channel for t in (0.5, 9.75, 10.25)] == pytest.approx([28.55, 1.725, 1])


def test_the_modes_are_two_switches() -> None:
    at_round_5 = {mode: TemperatureSchedule(rounds=100, mode=cast(Any, mode), held=20.0)(5) for mode in MODES}
    assert at_round_5 == {
        "both": Temperatures(kernel=19, channel=19, tau=0.75),
        "kernel_only": Temperatures(kernel=19, channel=1, tau=0.75),
        "sigmoid_only": Temperatures(kernel=20, channel=19),
        "fixed": Temperatures(kernel=20, channel=1),
    }


def test_the_authors_code_anneals_the_sigmoids_from_30_over_10_epochs_and_holds_the_softmax_at_34() -> None:
    schedule = TemperatureSchedule.odconv(100, mode="sigmoid_only")
    assert [schedule(t) for t in (0, 10, 99)] == [
        Temperatures(kernel=34, channel=30),
        Temperatures(kernel=34, channel=1),
        Temperatures(kernel=34, channel=1),
    ]


@given(schedule=SCHEDULES, now=st.integers(0, 1000), later=st.integers(0, 1000))
def test_a_temperature_never_rises_and_stays_in_range(
    schedule: TemperatureSchedule, now: int, later: int
) -> None:
    now, later = sorted((now, later))
    annealed = {"both": ("kernel", "channel"), "kernel_only": ("kernel",), "sigmoid_only": ("channel",)}
    for head, rest in (("kernel", schedule.held), ("channel", 1.0)):
        before, after = getattr(schedule(now), head), getattr(schedule(later), head)
        assert after <= before
        if head in annealed.get(schedule.mode, ()):
            assert schedule.end * (1 - 1e-12) <= after <= schedule.start
        else:
            assert after == rest


@given(schedule=SCHEDULES, t=st.integers(0, 1000))
def test_a_temperature_depends_on_the_round_alone(schedule: TemperatureSchedule, t: int) -> None:
    assert schedule(t) == dataclasses.replace(schedule)(t)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rounds": 0}, "rounds = 0"),
        ({"mode": "kernel"}, "mode = 'kernel' is not one of both, kernel_only, sigmoid_only, fixed"),
        ({"curve": "cosine"}, "curve = 'cosine'"),
        ({"start": -1.0}, "start = -1"),
        ({"start": float("nan")}, "start = nan"),
        ({"end": 0.0}, "end = 0"),
        ({"end": 40.0}, "end = 40"),
        ({"step": 0.0}, "step = 0"),
        ({"held": float("inf")}, "held = inf"),
        ({"anneal_rounds": 0}, "anneal_rounds = 0"),
        ({"anneal_rounds": 5, "anneal_fraction": 0.5}, "exclude each other"),
        ({"anneal_fraction": 0.0}, "anneal_fraction = 0"),
        ({"anneal_fraction": 1.5}, "anneal_fraction = 1.5"),
    ],
)
def test_impossible_values_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TemperatureSchedule(**{"rounds": 10, **change})


def test_a_negative_round_and_a_temperature_of_zero_are_refused() -> None:
    with pytest.raises(ValueError, match="round = -1"):
        TemperatureSchedule(rounds=10)(-1)
    with pytest.raises(ValueError, match="kernel = 0"):
        Temperatures(kernel=0.0)
