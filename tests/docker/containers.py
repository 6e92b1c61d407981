"""A deployment in containers: its image from this checkout, its start and end, how one container is found."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fedfmd.deployment.context import WHEELS
from fedfmd.deployment.stack import Stack, compose_command
from fedfmd.errors import UserError

OFFLINE = Path(__file__).parents[2] / "docker" / WHEELS
"""Wheels for the image, where docker/test.sh has put them."""


def skip_without_engine() -> None:
    """Skip a test where there are no containers, with the reason."""
    if not shutil.which("docker"):
        pytest.skip("no docker command")
    if subprocess.run(["docker", "info"], capture_output=True, check=False).returncode:
        pytest.skip("no Docker engine answers")
    try:
        compose_command()
    except UserError as error:
        pytest.skip(str(error))


def built(folder: Path) -> Stack:
    """Build the image for a deployment's folder, from this checkout."""
    folder.parent.chmod(0o755)
    stack = Stack(folder)
    if os.environ.get("FEDFMD_BUILD", "1") == "1":
        if OFFLINE.is_dir():
            shutil.copytree(OFFLINE, folder / "image" / WHEELS)
        stack.build()
    return stack


@contextmanager
def running(stack: Stack) -> Iterator[Stack]:
    """Start a deployment's containers, and remove them at the end with their volumes."""
    try:
        stack.call("up", "-d")
        yield stack
    finally:
        stack.call("down", "--volumes", "--timeout", "5")


def docker(*arguments: str, typed: str = "") -> str:
    """Call Docker, with ``typed`` as its input; gives what it prints."""
    words = ["docker", *arguments]
    return subprocess.run(words, input=typed, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def container(stack: Stack, service: str) -> str:
    """Find a service's container by its labels: names differ between versions of compose."""
    project = stack.settings["COMPOSE_PROJECT_NAME"]
    labels = (f"project={project}", f"service={service}", "oneoff=False")
    filters = [part for label in labels for part in ("--filter", f"label=com.docker.compose.{label}")]
    return docker("ps", "-aq", *filters)
