from pathlib import Path

import pytest
from synthetic_run import Made, write_run


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    return write_run(tmp_path / "made-up", Made(rounds=6, clients=20, cohort=5, simulated=False))
