"""What this machine has, what is missing, and how to get it."""

import shutil
import subprocess
from dataclasses import dataclass

from fedfmd.machine.environment import describe_environment
from fedfmd.nn import kernels

ANSWER_SECONDS = 10.0
"""How long a program may take to say its version."""


@dataclass(frozen=True)
class Finding:
    """One line of the examination; ``needed`` things make the machine unhealthy when they are absent."""

    what: str
    found: str | None
    remedy: str
    needed: bool = False


def examined() -> list[Finding]:
    """Look at the machine."""
    environment = describe_environment()
    versions = environment["packages"]
    memory = environment["memory_bytes"]
    packages = [Finding(name, versions[name], f"pip install {name}", needed=True) for name in versions]
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    return [
        Finding("python", environment["python"], "", needed=True),
        *packages,
        Finding("cores", str(environment["cores"]), "", needed=True),
        Finding("memory", f"{memory / 2**30:.0f} GiB" if memory else "unknown", ""),
        Finding(
            "GPU",
            ", ".join(environment["gpus"]) or None,
            "an NVIDIA GPU with a CUDA build of torch; runs on the CPU without",
        ),
        Finding(
            "C++ compiler", shutil.which("c++") or shutil.which("g++"), "apt-get install g++ (faster layers)"
        ),
        Finding("compiled kernels", _kernels(), "python -m fedfmd.nn.kernels says why (faster layers)"),
        *_containers(),
        Finding("browser", browser, "apt-get install chromium chromium-driver (report tests only)"),
    ]


def _containers() -> list[Finding]:
    """Look for what deployments in containers need: the command, the engine behind it, and Compose."""
    install = "https://docs.docker.com/engine/install (deployment in containers only)"
    compose = _said("docker", "compose", "version", "--short") or _said(
        "docker-compose", "version", "--short"
    )
    return [
        Finding("Docker command", shutil.which("docker"), install),
        Finding(
            "Docker engine",
            _said("docker", "version", "--format", "{{.Server.Version}}"),
            "no engine answers: start it (systemctl start docker), and belong to the group docker",
        ),
        Finding("Docker Compose", compose, "Compose v2, or docker-compose 1.29; not needed on clients"),
    ]


def _said(*command: str) -> str | None:
    """Return what a program prints in a line; null where there is none, or it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip().splitlines()[-1] if done.returncode == 0 and done.stdout.strip() else None


def _kernels() -> str | None:
    name = kernels.expected()
    return name and (name if kernels.library_path().exists() else f"{name}, at first use")
