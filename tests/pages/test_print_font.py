"""The copy of the print font: it lies in a folder that no process leaves behind for good."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
from fedfmd.pages.print_font import small_copy
small_copy(("DejaVu Sans",))
print("there", flush=True)
input()
"""


@pytest.mark.parametrize("killed", [False, True])
def test_no_process_leaves_its_copy_behind(tmp_path: Path, killed: bool) -> None:
    """The copy of one that was killed is removed by the next one, and that one's by its end."""
    for kill in [True, False] if killed else [False]:
        with subprocess.Popen(
            [sys.executable, "-c", CODE],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "TMPDIR": str(tmp_path)},
        ) as process:  # fmt: skip
            assert process.stdout is not None
            assert process.stdout.readline() == b"there\n"
            assert len(list(tmp_path.glob("fedfmd-font-*"))) == 1
            if kill:
                process.kill()
    assert not list(tmp_path.glob("fedfmd-font-*"))
