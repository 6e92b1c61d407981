"""What ``fedfmd deploy serve`` starts goes with it, however it ends."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from loopback import free_port
from waiting import wait_until

from fedfmd.config.experiment import parse_config
from fedfmd.data.agreement import Agreement
from fedfmd.deployment.setup import make_open_deployment
from fedfmd.machine.ports import is_free

CONFIG = {"data": {"name": "packs"}, "partition": {"scheme": "natural"}, "backend": {"kind": "inline"}}


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux to end the children")
def test_a_killed_server_leaves_no_superlink_behind(
    tmp_path: Path, started: Callable[[str], list[int]]
) -> None:
    """Its ports are free again for the service that restarts it; its gate listens at one address alone."""
    host = "127.0.0.2"
    folder, inside, door = tmp_path / "made", free_port(), free_port()
    agreed = Agreement(("bird", "cat"), 16)
    make_open_deployment(folder, parse_config(CONFIG), agreed, ["north"], server_names=[host], port=door)
    words = ["--dir", str(folder), f"--listen={host}:{door}", f"--inside={inside}"]
    command = [sys.executable, "-P", "-m", "fedfmd", "deploy", "serve", *words]
    served = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert served.stdout is not None
    with served, served.stdout:
        assert "clients come to" in served.stdout.readline()
        assert started("flower-superlink")
        assert not is_free(door, host)
        served.send_signal(signal.SIGKILL)
    assert wait_until(lambda: is_free(door, host) and is_free(inside))
    assert wait_until(lambda: not started("flower-superlink") and not started("deploy gate"))


def test_a_server_whose_superlink_is_killed_ends_and_says_how(
    tmp_path: Path, started: Callable[[str], list[int]]
) -> None:
    """What the SuperLink said last has nothing to do with it."""
    folder, inside, door = tmp_path / "made", free_port(), free_port()
    agreed = Agreement(("bird", "cat"), 16)
    make_open_deployment(folder, parse_config(CONFIG), agreed, ["north"], port=door)
    words = ["--dir", str(folder), f"--listen=127.0.0.1:{door}", f"--inside={inside}"]
    command = [sys.executable, "-P", "-m", "fedfmd", "deploy", "serve", *words]
    served = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert served.stdout is not None
    with served, served.stdout:
        assert "clients come to" in served.stdout.readline()
        for pid in started("flower-superlink"):
            os.kill(pid, signal.SIGKILL)
        said, _ = served.communicate(timeout=60)
    assert served.returncode == 1
    assert "superlink was ended by SIGKILL" in " ".join(said.split())
    assert wait_until(lambda: not started("deploy gate"))
