"""Processes that are started as modules."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fedfmd.machine.children import main_command, module_command

MODULE = """
import multiprocessing
print("imported", flush=True)

def main():
    context = multiprocessing.get_context("forkserver")
    child = context.Process(target=print, args=("child",))
    child.start()
    child.join()

if __name__ == "__main__":
    main()
"""


@pytest.mark.parametrize(("command", "imports"), [(main_command, 1), (module_command, 2)])
def test_children_do_not_run_the_main_module_again(tmp_path: Path, command: object, imports: int) -> None:
    """Of what ``-m`` names, the children of a fork server do: each would take the time, and warn."""
    assert callable(command)
    (tmp_path / "resides.py").write_text(MODULE)
    done = subprocess.run(
        command("resides"),
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
    )
    assert done.stdout.split().count("imported") == imports, sys.version
    assert "child" in done.stdout
