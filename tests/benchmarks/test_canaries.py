"""The audit of private runs finds the canaries where nothing hides them, by far fewer than it has."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from audit import Canaries, attacked


@pytest.mark.slow
def test_canaries_are_told_apart_without_noise() -> None:
    stated, right, _ = attacked(0.0, 1, 1.0, Canaries(100))
    assert stated is None
    found, guesses = map(int, right.split(" of "))
    assert guesses == 40
    assert found >= 36
