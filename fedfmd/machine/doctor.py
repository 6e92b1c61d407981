"""What this machine has, what is missing, and how to get it."""

import shutil
from dataclasses import dataclass

import torch
from rich.table import Table

from fedfmd.machine.environment import available_cores, describe_environment
from fedfmd.nn import kernels


@dataclass(frozen=True)
class Finding:
    """One line of the examination; ``needed`` things make the machine unhealthy when they are absent."""

    what: str
    found: str | None
    remedy: str
    needed: bool = False


def examine() -> tuple[Table, bool]:
    """Look at the machine; gives a table, and whether everything needed is there."""
    findings = _findings()
    table = Table("what", "found", "how to get it")
    for finding in findings:
        colour = "green" if finding.found else "red" if finding.needed else "yellow"
        table.add_row(
            finding.what, f"[{colour}]{finding.found or 'missing'}", "" if finding.found else finding.remedy
        )
    return table, all(f.found for f in findings if f.needed)


def _findings() -> list[Finding]:
    environment = describe_environment()
    versions = environment["packages"]
    memory = environment["memory_bytes"]
    packages = [Finding(name, versions[name], f"pip install {name}", needed=True) for name in versions]
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    return [
        Finding("python", environment["python"], "", needed=True),
        *packages,
        Finding("cores", str(available_cores()), "", needed=True),
        Finding("memory", f"{memory / 2**30:.0f} GiB" if memory else "unknown", ""),
        Finding("GPU", _gpus(), "an NVIDIA GPU with a CUDA build of torch; runs on the CPU without"),
        Finding(
            "C++ compiler", shutil.which("c++") or shutil.which("g++"), "apt-get install g++ (faster layers)"
        ),
        Finding("compiled kernels", _kernels(), "python -m fedfmd.nn.kernels says why (faster layers)"),
        Finding("Docker", shutil.which("docker"), "https://docs.docker.com/engine/install (deployment only)"),
        Finding("browser", browser, "apt-get install chromium chromium-driver (report tests only)"),
    ]


def _kernels() -> str | None:
    name = kernels.expected()
    return name and (name if kernels.library_path().exists() else f"{name}, at first use")


def _gpus() -> str | None:
    count = torch.cuda.device_count()
    return ", ".join(torch.cuda.get_device_name(i) for i in range(count)) or None
