"""What an operator is shown of a run, whatever is written while he looks."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from fedfmd.deployment import operator
from fedfmd.deployment.local import LocalServer
from fedfmd.errors import RunError

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


def test_a_run_that_stopped_says_why_after_its_last_round(tmp_path: Path) -> None:
    server, shown = LocalServer(tmp_path), list[object]()
    write(server, ROWS[:2], {"status": "stopped", "reason": "nobody was available"})
    with pytest.raises(RunError, match="the run stopped: nobody was available"):
        server.follow("1", "run", shown.append)
    assert shown == ROWS[:2]
