"""What a shell is offered for --set."""

import os
import subprocess
import sys

import pytest


def offered(words: str) -> list[str]:
    """Return what zsh is told for a command line that ends in the middle of a word."""
    code = "import sys; from fedfmd.cli.app import app; sys.argv[0] = 'fedfmd'; app(prog_name='fedfmd')"
    environment = {"_FEDFMD_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": f"fedfmd {words}"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | environment,
    )
    return done.stdout.splitlines()


@pytest.mark.parametrize("command", ["simulate", "train", "plan", "study", "data inspect", "deploy run"])
def test_keys_of_the_config_are_offered_with_what_they_are(command: str) -> None:
    lines = "\n".join(offered(f"{command} --set server.ro"))
    assert '"server.rounds=":"Rounds of training."' in lines
    assert "server.cohort" not in lines


def test_keys_of_a_study_are_offered_where_a_study_is_taken() -> None:
    assert "compare.confidence" in "\n".join(offered("study --set compare.co"))
    assert "compare.confidence" not in "\n".join(offered("simulate --set compare.co"))


def test_keys_of_sections_that_may_be_absent_are_offered() -> None:
    assert '"train.epochs=":"Passes over the training images."' in "\n".join(offered("train --set train.ep"))
