"""The containers' image, as far as that can be tried without an engine: ``tests/docker`` builds it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import torch

from fedfmd.deployment.context import write_context

KERNELS = "/kernels/"


def test_the_kernels_compile_from_what_is_copied_for_them(tmp_path: Path) -> None:
    """Their step of the Dockerfile has these files of the package alone, so that it is seldom done again."""
    context, kernels = tmp_path / "context", tmp_path / "kernels"
    write_context(context)
    steps = [line.split() for line in (context / "Dockerfile").read_text().splitlines()]
    for _, *sources, target in (words for words in steps if words[:1] == ["COPY"]):
        if target.startswith(KERNELS):
            copy([context / source for source in sources], kernels, target.removeprefix(KERNELS))
    (kernels / "fedfmd" / "__init__.py").touch()  # else an installed fedfmd would come first
    path = os.pathsep.join([str(kernels), str(Path(torch.__file__).parents[1])])
    done = subprocess.run(
        [sys.executable, "-S", "-m", "fedfmd.nn.kernels", "--help"],
        cwd=kernels,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "--portable" in done.stdout


def copy(sources: list[Path], root: Path, target: str) -> None:
    """Copy as COPY does: a folder's contents, and files into a target that ends with a slash."""
    for source in sources:
        if source.is_dir():
            shutil.copytree(source, root / target, dirs_exist_ok=True)
        else:
            into = root / target / source.name if target.endswith("/") else root / target
            into.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, into)
