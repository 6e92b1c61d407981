"""What an operator is shown of a run, whatever is written while he looks."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from fedfmd.deployment import operator
from fedfmd.deployment.local import LocalServer
from fedfmd.errors import RunError
from fedfmd.records.runlog import LOGGER, logged

ROWS = [{"round": number} for number in range(4)]


def lines(rows: Sequence[object]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


class Ending(LocalServer):
    """A server whose run ends in the moment in which somebody has read its rounds."""

    def texts(self, *paths: str) -> list[str]:
        """Read files, and let the run end."""
        written = []
        for path in paths:
            written += super().texts(path)
            if path.endswith("rounds.jsonl"):
                write(self, ROWS, {"status": "finished"})
        return written


def write(server: LocalServer, rows: Sequence[object], summary: object = None) -> None:
    folder = Path(server.results_folder) / "run"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rounds.jsonl").write_text(lines(rows))
    if summary:
        (folder / "summary.json").write_text(lines([summary]))


def test_every_round_is_shown_however_late_it_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operator, "POLL_SECONDS", 0.0)
    shown: list[object] = []
    server = Ending(tmp_path)
    write(server, ROWS[:2])
    assert server.follow("1", "run", shown.append) == {"status": "finished"}
    assert shown == ROWS


def test_whose_work_goes_out_again_and_who_failed_is_told_as_it_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the log of a run that goes on had before is not told again."""

    class Written(LocalServer):
        looks = 0

        def texts(self, *paths: str) -> list[str]:
            found = super().texts(*paths)
            self.looks += 1
            with logged(Path(self.results_folder) / "run"):
                LOGGER.info("round 2: work of client %s goes out again: %s", self.looks, "no [reply]")
                LOGGER.debug("round 2: 2 of 3 clients")
            if self.looks == 3:
                write(self, ROWS, {"status": "finished"})
            return found

    monkeypatch.setattr(operator, "POLL_SECONDS", 0.0)
    server, told = Written(tmp_path), list[str]()
    write(server, ROWS[:1])
    with logged(Path(server.results_folder) / "run"):
        LOGGER.info("round 1: client 7 failed: OSError")
    server.follow("1", "run", lambda row: None, told.append)
    assert told == [f"round 2: work of client {look} goes out again: no [reply]" for look in (1, 2, 3)]


def test_a_run_that_stopped_says_why_after_its_last_round(tmp_path: Path) -> None:
    server, shown = LocalServer(tmp_path), list[object]()
    write(server, ROWS[:2], {"status": "stopped", "reason": "nobody was available"})
    with pytest.raises(RunError, match="the run stopped: nobody was available"):
        server.follow("1", "run", shown.append)
    assert shown == ROWS[:2]
