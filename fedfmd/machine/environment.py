"""What a result depends on beside its config: versions, commit, machine. And what this machine is."""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import fedfmd
from fedfmd.machine.processes import available_cores, memory_bytes
from fedfmd.nn import kernels

PACKAGES = ("torch", "torchvision", "flwr", "ray", "numpy", "flwr-datasets")


def describe_environment() -> dict[str, Any]:
    """Describe software and hardware as plain data."""
    return {
        "fedfmd": fedfmd.__version__,
        "commit": source_commit(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "kernels": kernels.expected(),
        "system": platform.platform(),
        "processor": processor_name(),
        "cores": available_cores(),
        "memory_bytes": memory_bytes(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def source_commit() -> str | None:
    """Return the git commit of the source, with ``+changes`` if the tree is modified; null outside of git.

    An installed package may lie in a repository, as in the environment of a user's project, and not be of it.
    """
    here = Path(__file__).parent
    try:
        _git(here, "ls-files", "--error-unmatch", Path(__file__).name)
        commit = _git(here, "rev-parse", "HEAD")
        return commit + ("+changes" if _git(here, "status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def processor_name() -> str:
    """Return the processor's name as the system knows it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
