"""What an operator is shown: of a run, whatever is written while he looks; of programs and containers."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedfmd.cli.deploy import app
from fedfmd.deployment import operator
from fedfmd.deployment.local import LOCK, LocalServer
from fedfmd.errors import RunError
from fedfmd.files import locked
from fedfmd.records.runlog import LOGGER, logged
from fedfmd.records.schema import Json

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
            if len(paths) == 1:
                return found  # the look at what an older run has left
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


STOPPED = {"status": "stopped", "reason": "nobody was available"}


def test_a_run_that_goes_on_is_not_told_by_the_end_of_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operator, "POLL_SECONDS", 0.0)
    server, shown = Ending(tmp_path), list[object]()
    write(server, ROWS[:2], STOPPED)
    assert server.follow("1", "run", shown.append) == {"status": "finished"}
    assert shown == ROWS


PRINTED = """round 3: ...
OSError: [Errno 28] No space left on device

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
    raise RunError(f"{directory.path}: {reason}") from error
fedfmd.errors.RunError: /results/run: [Errno 28] No space left on device
ERROR :     Exit Code: 201
"""


class Failed(LocalServer):
    """A server whose run has ended, and has left no word in its results."""

    printed = PRINTED

    def flwr(self, *arguments: str) -> Json:
        """Say that the run has failed."""
        return {"runs": [{"status": "finished:failed"}]}

    def app_log(self, run: str) -> str:
        """Return what it has printed."""
        return self.printed


def test_a_run_that_could_leave_no_word_is_told_by_its_apps_last_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operator, "POLL_SECONDS", 0.0)
    server = Failed(tmp_path)
    write(server, ROWS)
    with pytest.raises(
        RunError, match=r"ended without a summary: finished:failed; /results/run: .* No space left on device$"
    ):
        server.follow("1", "run", on_round=lambda row: None, on_wait=lambda words: None)
    monkeypatch.setattr(Failed, "printed", "Killed")
    with pytest.raises(RunError, match=r"finished:failed; .*superlink\.log says more"):
        server.follow("1", "run", on_round=lambda row: None, on_wait=lambda words: None)


def test_a_run_that_stops_again_for_the_same_reason_says_so_once_it_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operator, "POLL_SECONDS", 0.0)
    server, shown = Failed(tmp_path), list[object]()
    write(server, ROWS[:2], STOPPED)
    with pytest.raises(RunError, match=r"the run stopped: nobody was available; .*same --name goes on"):
        server.follow("1", "run", shown.append)
    assert shown == ROWS[:2]


@pytest.fixture
def served(tmp_path: Path) -> Path:
    """A deployment that was served without Docker."""
    folder = tmp_path / "made"
    (folder / "state").mkdir(parents=True)
    (folder / ".env").write_text("FEDFMD_CLIENTS=1\n")
    for name in ("superlink", "gate"):
        (folder / "state" / f"{name}.log").write_text(f"said by the {name}\n")
    return folder


def test_without_docker_the_logs_are_those_of_the_servers_programs(
    served: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    runner = CliRunner()
    assert runner.invoke(app, ["logs", "--dir", str(served)]).exit_code == 0
    said = capfd.readouterr().out
    assert "said by the superlink" in said
    assert "said by the gate" in said
    assert runner.invoke(app, ["logs", "gate", "--dir", str(served)]).exit_code == 0
    assert "superlink" not in capfd.readouterr().out
    refused = runner.invoke(app, ["logs", "client-2", "--dir", str(served)])
    assert "client-2: the server has the logs of superlink and gate" in str(refused.exception)


def test_what_is_served_without_docker_is_not_started_or_ended_by_compose(served: Path) -> None:
    with locked(served / "state" / LOCK):
        for command in ("up", "down"):
            refused = CliRunner().invoke(app, [command, "--dir", str(served)])
            assert "is served without Docker; Ctrl-C there ends it" in str(refused.exception)


def test_a_docker_that_does_not_answer_is_one_line(
    served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not what compose makes of it."""
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text("#!/bin/sh\necho Client: 1 >&2\necho Cannot connect to the Docker daemon >&2\nexit 1\n")
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", str(docker.parent), prepend=os.pathsep)
    refused = CliRunner().invoke(app, ["down", "--dir", str(served)])
    assert str(refused.exception) == (
        "fedfmd deploy: Docker does not answer: Cannot connect to the Docker daemon"
    )
