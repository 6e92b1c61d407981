"""What all tests share."""

import os
import signal
import tempfile
from collections import Counter

import pytest
from hypothesis import settings

# A property holds on a busy machine too, and the examples are the same in every run.
settings.register_profile("fedfmd", deadline=None, derandomize=True)
settings.load_profile("fedfmd")

# A script's background job ignores Ctrl-C, and so would every process these tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# What tests approve is nobody's state.
_STATE = tempfile.TemporaryDirectory(prefix="fedfmd-state-")
os.environ["XDG_STATE_HOME"] = _STATE.name

ASKED_FOR = {"slow": "takes minutes: pytest -m slow", "docker": "needs containers: make test-docker"}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip, with a reason, what only runs when it is asked for by its marker."""
    for item in items:
        for marker, reason in ASKED_FOR.items():
            if item.get_closest_marker(marker) and marker not in config.option.markexpr:
                item.add_marker(pytest.mark.skip(reason=reason))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what each folder of tests took, and what was skipped, by reason."""
    reports = [
        r for found in terminalreporter.stats.values() for r in found if isinstance(r, pytest.TestReport)
    ]
    seconds: dict[str, float] = {}
    skipped = Counter[str]()
    for report in reports:
        folder = report.nodeid.split("::")[0].rpartition("/")[0]
        seconds[folder] = seconds.get(folder, 0.0) + report.duration
        if report.skipped and isinstance(report.longrepr, tuple):
            skipped[report.longrepr[2].removeprefix("Skipped: ")] += 1
    terminalreporter.section("seconds per folder")
    for folder, total in sorted(seconds.items(), key=lambda item: -item[1]):
        terminalreporter.write_line(f"{total:8.1f}  {folder}")
    terminalreporter.section("skipped tests by reason")
    for reason, count in skipped.most_common():
        terminalreporter.write_line(f"{count:8}  {reason}")
