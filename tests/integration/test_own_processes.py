"""The tests' own search for the processes that they started."""

import os
import signal
import subprocess
from collections.abc import Callable

from waiting import wait_until


def test_a_child_that_has_lost_the_marker_is_found_even_when_its_parent_is_dead(
    started: Callable[[str], list[int]],
) -> None:
    parent = subprocess.Popen(["sh", "-c", "env -i sleep 1234 & wait"])
    assert wait_until(lambda: len(started("sleep 1234")) == 2), (
        "the shell, whose command names it, and itself"
    )
    parent.kill()
    parent.wait()
    (left,) = started("sleep 1234")
    os.kill(left, signal.SIGKILL)
    assert wait_until(lambda: not started("sleep 1234"))
