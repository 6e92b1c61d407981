"""Watching runs: a real server, a real browser, and a run that goes on, is killed and is resumed."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest
import waiting
from browsing import needs_browser, started_browser, violations

from fedfmd.records.tail import Tail
from fedfmd.watch.follower import Follower

CONFIG = """
name = "watched"
[data]
train_samples = 120
test_samples = 40
[partition]
scheme = "sampled"
clients = 6
samples_per_client = 10
[model]
width = 0.25
conv = "static"
[server]
rounds = 400
cohort = 3
[logging]
tensorboard = false
"""
wait_until = partial(waiting.wait_until, timeout=90.0)
COMMAND = [sys.executable, "-c", "from fedfmd.cli.app import main; main()"]


def start(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen([*COMMAND, *arguments], cwd=folder, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def folder(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEDFMD_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    (tmp_path / "watched.toml").write_text(CONFIG)
    return tmp_path


@pytest.fixture
def server(folder: Path) -> Iterator[str]:
    """Give the address of a server that watches the folder's runs; there are none yet."""
    process = start(folder, "watch", "--port", "0")
    assert process.stdout is not None
    address = process.stdout.readline().split()[1]
    yield address
    process.send_signal(signal.SIGINT)
    assert process.wait(20) in (0, 128 + signal.SIGINT)


def rounds(folder: Path) -> int:
    ledger = folder / "runs" / "watched" / "rounds.jsonl"
    return ledger.read_bytes().count(b"\n") - 1 if ledger.exists() else -1


@needs_browser
def test_a_page_follows_a_run_through_kill_and_resume(folder: Path, server: str, tmp_path: Path) -> None:
    run = start(folder, "simulate", "watched.toml", "--backend", "inline")
    with started_browser(tmp_path / "profile") as browser:
        try:
            assert wait_until(lambda: rounds(folder) >= 2)
            browser.get(server)
            ask = browser.execute_script

            def panel() -> str:
                return str(ask("return document.querySelector('.live').innerText"))

            def reported() -> int:
                lead = str(ask("return document.querySelector('.lead').innerText"))
                return int(lead.rpartition(", ")[2].split()[0])

            assert wait_until(lambda: "Running" in panel())
            ask("window.kept = true; document.querySelector('input[data-set=axis][value=macs]').click()")
            before = reported()
            assert wait_until(lambda: reported() > before)
            assert ask("return window.kept"), "the page must not have been loaded anew"
            assert ask("return state.axis") == "macs"
            assert ask("return document.querySelector('input[data-set=axis]:checked').value") == "macs"
            assert "3 clients by their compute" in panel()
        finally:
            run.kill()
            run.wait()
        assert wait_until(lambda: "Interrupted" in panel())
        more = rounds(folder) + 2
        resumed = start(folder, "simulate", "--resume", "runs/watched", "--rounds", str(more))
        assert resumed.wait(120) == 0
        assert wait_until(lambda: "Finished" in panel())
        assert wait_until(lambda: "Finished" in str(ask("return document.querySelector('.top').textContent")))
        assert ask("return window.kept")
        assert not [line for line in browser.get_log("browser") if line["level"] == "SEVERE"]


@pytest.mark.slow
@needs_browser
def test_axe_finds_nothing_that_keeps_anybody_out(folder: Path, server: str, tmp_path: Path) -> None:
    """Of the list of all runs, and of a run's page with its panel."""
    for name in ("one", "two"):
        done = start(
            folder,
            "simulate",
            "watched.toml",
            "--backend",
            "inline",
            "--rounds",
            "2",
            "--out",
            f"runs/{name}",
        )
        assert done.wait(120) == 0
    with started_browser(tmp_path / "profile") as browser:
        browser.get(server)
        ask = browser.execute_script
        assert wait_until(lambda: ask("return document.querySelectorAll('.live article').length") == 2)
        assert violations(browser) == []
        browser.get(ask("return document.querySelector('.live article a').href"))
        assert wait_until(lambda: "Finished" in str(ask("return document.querySelector('.live').innerText")))
        assert violations(browser) == []


def test_only_reading_and_only_by_its_own_name(folder: Path, server: str) -> None:
    """No other method, no path out of the runs, and no page of another host reads it by a name of its own.

    An address is nobody's name: others find the pages by it where the server listens for them.
    """
    with httpx.Client(base_url=server, trust_env=False) as client:
        assert client.get("/").status_code == 200
        for host in ("elsewhere.example", "elsewhere.example:8008", "192.0.2.7.example", "", "[::1", "a b"):
            assert client.get("/", headers={"host": host}).status_code == 400
        for host in (
            "192.0.2.7",
            "192.0.2.7:8008",
            "[2001:db8::7]:8008",
            "localhost:1",
            socket.gethostname(),
        ):
            assert client.get("/", headers={"host": host}).status_code == 200
        for method in ("POST", "PUT", "DELETE", "PATCH"):
            assert client.request(method, "/").status_code == 405
        for path in ("/run/unknown", "/run/..%2f..%2fetc%2fpasswd", "/watched.toml", "/events?of=unknown"):
            assert client.get(path).status_code == 404


def test_a_taken_port_is_one_clear_line(folder: Path, server: str) -> None:
    port = server.rstrip("/").rpartition(":")[2]
    done = subprocess.run(
        [*COMMAND, "watch", "--port", port],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ,
    )
    assert done.returncode == 2
    assert done.stderr.replace("\n", " ").count(f"--port {port}: cannot listen there") == 1


def test_a_tail_gives_whole_lines_and_tells_when_it_was_cut(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    tail = Tail(file)
    assert tail.read() == (False, [])
    file.write_bytes(b"one\ntw")
    assert tail.read() == (False, [b"one"])
    file.write_bytes(b"one\ntwo\n")
    assert tail.read() == (False, [b"two"])
    file.write_bytes(b"one\n")
    assert tail.read() == (True, [b"one"])
    file.unlink()
    assert tail.read() == (True, [])


def test_a_follower_counts_reasons_once_and_estimates_the_time_left(folder: Path) -> None:
    done = start(folder, "simulate", "watched.toml", "--backend", "inline", "--rounds", "2")
    assert done.wait(120) == 0
    run = folder / "runs" / "watched"
    follower = Follower(run)
    state = follower.look()
    assert (state["done"], state["wanted"], state["status"], state["unused"]) == (2, 2, "finished", 0)
    assert state == follower.look()
    row = json.loads((run / "clients.jsonl").read_text().splitlines()[-1])
    late = row | {"round": 3, "status": "dropped", "reason": "late"}
    with (run / "clients.jsonl").open("a") as file:
        file.write(json.dumps(late) + "\n")
    state = follower.look()
    assert state["reasons"] == [("dropped: late", 1)]
    assert [one["client"] for one in state["cohort"]] == [row["client"]]
    assert follower._left_seconds(10) == pytest.approx(
        10 * sum(r.host_seconds or 0 for r in follower.rounds if r.round) / 2
    )
