"""Commands without root's right to read and write whatever it wants, where tests run as root."""

import os
import shutil

import pytest


def powerless() -> list[str]:
    """Return what stands before a command that permissions hold for; skips the test where nothing does."""
    if os.geteuid():
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("runs as root, whom no permissions hold for, and setpriv (util-linux) is missing")
    return ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
