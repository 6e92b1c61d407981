import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from fedfmd.errors import RunError
from fedfmd.machine.liveness import FAILED_STARTS, SILENCE_SECONDS, TICK_SECONDS, Silence, Watch
from fedfmd.machine.processes import processor_ticks


@pytest.fixture
def waiting() -> Iterator[int]:
    """Return the process id of a child that waits for its standard input to end."""
    with subprocess.Popen(
        [sys.executable, "-ISc", "print(flush=True); input()"], stdin=-1, stdout=-1
    ) as child:
        assert child.stdout
        child.stdout.readline()
        yield child.pid
        child.kill()


def work_for_ticks(count: int) -> None:
    until = processor_ticks(os.getpid()) + count
    while processor_ticks(os.getpid()) < until:
        sum(range(10_000))


def test_a_process_that_waits_is_frozen_after_a_long_silence_alone(waiting: int) -> None:
    silence = Silence()
    silence.end(waiting)
    silence.seconds += SILENCE_SECONDS
    assert not silence.frozen(waiting)
    silence.seconds += TICK_SECONDS
    assert silence.frozen(waiting)


def test_a_silent_process_that_works_is_not_frozen() -> None:
    silence = Silence()
    silence.end(os.getpid())
    silence.seconds = 2 * SILENCE_SECONDS
    work_for_ticks(2)
    assert not silence.frozen(os.getpid())
    assert not silence.too_long


def test_a_server_that_did_not_listen_counts_one_tick() -> None:
    watch = Watch(listened=time.monotonic() - 3600.0)
    assert watch.seconds_listened() == TICK_SECONDS
    assert 0.0 <= watch.seconds_listened() <= TICK_SECONDS


def test_failed_starts_in_a_row_end_the_run_with_the_last_reason() -> None:
    watch = Watch()
    for _ in range(FAILED_STARTS - 1):
        watch.fail("no memory")
    watch.start()
    for _ in range(FAILED_STARTS - 1):
        watch.fail("no memory")
    with pytest.raises(RunError, match="a worker cannot start: no disk"):
        watch.fail("no disk")
