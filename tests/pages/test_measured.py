"""What a report says of real clients, from rows written by hand."""

import csv
import json
from pathlib import Path

from synthetic_run import Made, page_and_tables, write_run

from fedfmd.pages.report import load_run
from fedfmd.pages.run.deployed import DeployedClient, measured_clients


def test_medians_and_most_over_a_clients_answers(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", Made(rounds=3, clients=4, cohort=2))
    measured = {"cpu_seconds": 4.0, "peak_memory_bytes": 400_000_000}
    rows = [
        {"round": 1, "client": 2, "wall_seconds": 3.0, "train_seconds": 1, "device_seconds": 2.0} | measured,
        {"round": 2, "client": 2, "wall_seconds": 9.0, "train_seconds": 2.0, "memory_bytes": 80} | measured,
        {"round": 3, "client": 2, "wall_seconds": 5.0, "train_seconds": 1.5, "budget": {"memory_bytes": 90}}
        | measured
        | {"peak_memory_bytes": 300_000_000},
        {"round": 3, "client": 1, "status": "failed", "reason": "no reply"},
    ]
    (folder / "clients.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert measured_clients(load_run(folder)) == [
        DeployedClient(
            client=2,
            answers=3,
            predicted_seconds=2.0,
            train_seconds=1.5,
            wall_seconds=5.0,
            cpu_seconds=4.0,
            estimated_memory_bytes=80,
            memory_limit_bytes=90,
            peak_memory_bytes=400_000_000,
        )
    ]
    page = page_and_tables(folder)
    assert "Predicted and measured" in page
    assert "<td>400 MB</td>" in page
    with (folder / "tables" / "measured.csv").open(newline="") as file:
        (line,) = csv.DictReader(file)
    assert (line["client"], line["wall_seconds"]) == ("2", "5.0")


def test_a_simulation_has_no_such_section(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", Made(rounds=2))
    assert measured_clients(load_run(folder)) == []
    assert "Predicted and measured" not in page_and_tables(folder)
    assert not (folder / "tables" / "measured.csv").exists()
