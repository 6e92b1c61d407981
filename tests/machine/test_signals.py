"""Ctrl-C ends a run wherever it comes, and breaks off no import."""

import signal
import subprocess
import sys
from pathlib import Path

SLOW = """
import time

print("begun", flush=True)
try:
    for _ in range(10):
        time.sleep(0.05)
except BaseException:
    pass  # as modules do that try what may be missing
else:
    whole = True
"""
PROGRAM = """
import time

from fedfmd.machine.signals import stoppable

try:
    with stoppable() as came:
        import slow

        time.sleep(30)
except KeyboardInterrupt:
    print("stopped", slow.whole, len(came))
"""


def test_a_signal_waits_for_the_end_of_an_import(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    (tmp_path / "program.py").write_text(PROGRAM)
    with subprocess.Popen(
        [sys.executable, str(tmp_path / "program.py")], stdout=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "begun\n"
        program.send_signal(signal.SIGINT)
        assert program.stdout.read() == "stopped True 1\n"
    assert program.returncode == 0
