"""Temperature schedules: the published values, the modes, and what no schedule may do."""

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfmd.nn import Temperatures, TemperatureSchedule

SCHEDULES = st.builds(
    TemperatureSchedule,
    rounds=st.integers(1, 500),
    mode=st.sampled_from(["both", "sigmoid_only", "fixed"]),
    curve=st.sampled_from(["step", "linear"]),
    start=st.floats(10, 100),
    end=st.floats(0.1, 10),
    step=st.floats(0.1, 50),
    anneal_fraction=st.floats(0.01, 1),
)


def test_dyconv_falls_from_34_to_1_in_steps_of_3() -> None:
    schedule = TemperatureSchedule.dyconv(100)
    assert [schedule(t).kernel for t in (0, 1, 2, 10, 11, 12, 99)] == [34, 31, 28, 4, 1, 1, 1]
    assert all(schedule(t).kernel == schedule(t).channel for t in range(100))


def test_odconv_falls_linearly_over_the_first_tenth() -> None:
    schedule = TemperatureSchedule.odconv(100)
    assert [schedule(t).kernel for t in (0, 5, 10, 50)] == pytest.approx([30, 15.5, 1, 1])


def test_a_short_linear_schedule_starts_at_the_start() -> None:
    schedule = TemperatureSchedule.odconv(3)
    assert [schedule(t).kernel for t in range(3)] == [30, 1, 1]


def test_the_modes() -> None:
    at_round_5 = {
        mode: TemperatureSchedule(rounds=100, mode=mode, held=20.0)(5)
        for mode in ("both", "sigmoid_only", "fixed")
    }
    assert at_round_5 == {
        "both": Temperatures(kernel=19, channel=19),
        "sigmoid_only": Temperatures(kernel=20, channel=19),
        "fixed": Temperatures(kernel=20, channel=20),
    }


@given(schedule=SCHEDULES, now=st.integers(0, 1000), later=st.integers(0, 1000))
def test_a_temperature_never_rises_and_stays_in_range(
    schedule: TemperatureSchedule, now: int, later: int
) -> None:
    now, later = sorted((now, later))
    for head in ("kernel", "channel"):
        before, after = getattr(schedule(now), head), getattr(schedule(later), head)
        assert after <= before
        if schedule.mode == "both" or (schedule.mode == "sigmoid_only" and head == "channel"):
            assert schedule.end * (1 - 1e-12) <= after <= schedule.start
        else:
            assert after == schedule.held


@given(schedule=SCHEDULES, t=st.integers(0, 1000))
def test_a_temperature_depends_on_the_round_alone(schedule: TemperatureSchedule, t: int) -> None:
    assert schedule(t) == dataclasses.replace(schedule)(t)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rounds": 0}, "rounds = 0"),
        ({"mode": "kernel"}, "mode = 'kernel' is not one of both, sigmoid_only, fixed"),
        ({"curve": "cosine"}, "curve = 'cosine'"),
        ({"start": -1.0}, "start = -1"),
        ({"start": float("nan")}, "start = nan"),
        ({"end": 0.0}, "end = 0"),
        ({"end": 40.0}, "end = 40"),
        ({"step": 0.0}, "step = 0"),
        ({"held": float("inf")}, "held = inf"),
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
