"""What all tests of real runs share: a quiet environment, and no process left behind."""

import uuid
from collections.abc import Callable, Iterator

import pytest
from own_processes import MARKER, OwnProcesses
from waiting import wait_until


@pytest.fixture(scope="session", autouse=True)
def quiet_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Give every process that these tests start a marker, its own cache, and no telemetry."""
    marker = uuid.uuid4().hex
    values = {
        MARKER: marker,
        "FEDFMD_CACHE": str(tmp_path_factory.mktemp("cache")),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setenv(name, value)
        yield marker


@pytest.fixture
def started(quiet_environment: str) -> Iterator[Callable[[str], list[int]]]:
    """Find the processes that a test started, by a part of their command; none may outlive the test."""
    own = OwnProcesses(quiet_environment)
    yield lambda command: [pid for pid, text in own.living() if command in text]
    assert wait_until(lambda: not own.living()), own.living()
