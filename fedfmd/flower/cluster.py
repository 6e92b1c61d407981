"""Ray, as far as a run needs it: one of its own, or a cluster to join; whether it lives, and its end."""

import logging
import os
import signal
import socket
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import ray
from ray.job_config import JobConfig

from fedfmd.config.sections.machine import BackendConfig
from fedfmd.errors import RunError, UserError
from fedfmd.machine.processes import end_process
from fedfmd.workers.folders import OwnFolder

PREFIX = "fedfmd-ray"
MARK = "FEDFMD_RAY_FOLDER"
"""Environment variable of all that Ray starts for a run: its agents hide their command lines."""
LONGEST_ROOT = 16
"""Characters of a temporary folder up to which the paths of Ray's sockets keep to the 107 of Linux."""
ANSWER_SECONDS = 5.0
LOOKS = 500
LOOK_SECONDS = 0.02
"""How often, and how far apart, what was killed is looked for; one that waits for a disk ends late."""
STARTS = 3
NODE = "ray._private.node"
UNASKED = ("start_monitor", "start_log_monitor", "start_api_server")
"""Methods of that module's ``Node`` that start what no run asks: autoscaler, reader of logs, dashboard.

``include_dashboard`` leaves out the dashboard's pages alone. The three take a second before the first worker
can start, 1.7 s of a processor and 160 MB (Ray 2.55.1).
"""


@dataclass(frozen=True)
class Cluster:
    """What a run knows of the Ray that it uses."""

    services: dict[str, tuple[str, int]]
    """What it cannot go on without, and where that listens."""
    nodes: tuple[dict[str, float], ...]
    """What each machine has: CPU, GPU, memory."""

    def check(self) -> None:
        """Raise ``RunError`` when one of the services is gone; its own end would come a minute later."""
        for name, address in self.services.items():
            reason = _silent(*address)
            if reason:
                raise RunError(f"{name} at {address[0]}:{address[1]} has died: {reason}")

    def room(self, cpus: int, gpus: float) -> int:
        """Say how many workers fit that take so many ``cpus`` and ``gpus`` each."""
        fitting = (min(_fits(node, "CPU", cpus), _fits(node, "GPU", gpus)) for node in self.nodes)
        return int(sum(fitting))


@contextmanager
def ray_cluster(backend: BackendConfig) -> Iterator[Cluster]:
    """Start Ray for this run alone, or join the cluster that ``backend`` names; end what was started.

    Ray starts its processes so that they end with the thread that started them, however that ends. All its
    files are in a folder of its own: it finds no other cluster, and leaves nothing that another could find.
    Raises ``RunError`` when it cannot start, ``UserError`` when this process uses Ray already.
    """
    if ray.is_initialized():
        raise UserError("this process uses Ray already: call ray.shutdown(), or set backend.kind = 'inline'")
    with ExitStack() as stack:
        if backend.ray_address is None:
            folder = stack.enter_context(OwnFolder(short_root(), PREFIX)).path
            stack.callback(_end_processes, folder)
            stack.callback(ray.shutdown)
            _start(folder, (backend.workers or 1) * (backend.threads or 1))
        else:
            stack.callback(ray.shutdown)
            _join(backend.ray_address)
        yield _describe()


def _start(folder: Path, cpus: int) -> None:
    """Start Ray with its files in ``folder``; it gives up after 30 s on a busy machine; try again."""
    options = {"num_cpus": cpus, "include_dashboard": False, "_temp_dir": str(folder)}
    for attempt in range(1, STARTS + 1):
        try:
            with _marked(folder), _spared():
                _init(address="local", **options)
            return
        except Exception as error:  # Ray raises many kinds, Exception itself among them
            ray.shutdown()
            _end_processes(folder)
            if attempt == STARTS:
                raise RunError(f"Ray cannot start: {_first_line(error)}") from None


def _join(address: str) -> None:
    try:
        _check_there(address)
        _init(address=address)
    except Exception as error:
        reason = _first_line(error)
        raise RunError(f"backend.ray_address = {address!r}: Ray cannot join: {reason}") from None


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _check_there(address: str) -> None:
    """Raise ``ConnectionError`` if nobody listens at ``HOST:PORT``; Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and (reason := _silent(host, int(port))):
        raise ConnectionError(reason)


def _silent(host: str, port: int) -> str | None:
    """Return the reason why nobody answers there; null if somebody does."""
    try:
        socket.create_connection((host.strip("[]"), port), ANSWER_SECONDS).close()
    except OSError as error:
        return error.strerror or str(error)
    return None


def _init(**options: Any) -> None:
    """Start or join, in silence; Ray's handler of SIGTERM would end the program its own way."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's 15 would starve a run beside other work
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM) if main else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        ray.init(**options, job_config=_job(), log_to_driver=False, logging_level=logging.CRITICAL)
    if before is not None:
        signal.signal(signal.SIGTERM, before)


def _job() -> JobConfig:
    """Describe this program to Ray, whose workers would else import from the working directory first.

    They do where this process does. In a job of Ray's own remote client they do not, which is all that its
    mark means here.
    """
    imports_from_here = not {"", str(Path.cwd())}.isdisjoint(sys.path)
    return JobConfig(_client_job=not imports_from_here)


def _describe() -> Cluster:
    here = ray.get_runtime_context()
    host, _, port = here.gcs_address.rpartition(":")
    services = {"Ray's head (GCS)": (host, int(port))}
    nodes = [node for node in ray.nodes() if node["Alive"]]
    for node in nodes:
        if node["NodeID"] == here.get_node_id():
            address = (node["NodeManagerAddress"], node["NodeManagerPort"])
            services["Ray's process on this machine (raylet)"] = address
    return Cluster(services, tuple(node["Resources"] for node in nodes))


def _fits(node: dict[str, float], kind: str, amount: float) -> float:
    return node.get(kind, 0.0) // amount if amount else float("inf")


@contextmanager
def _spared() -> Iterator[None]:
    """Let this process's Ray start nothing of ``UNASKED`` meanwhile; a version without them starts all.

    They are no part of Ray's interface: it has no option for them.
    """
    try:
        owner = import_module(NODE).Node
    except (ImportError, AttributeError):
        owner = None
    kept = {name: getattr(owner, name) for name in UNASKED if hasattr(owner, name)}
    for name in kept:
        setattr(owner, name, _nothing)
    try:
        yield
    finally:
        for name, method in kept.items():
            setattr(owner, name, method)


def _nothing(*_: object, **__: object) -> None:
    pass


@contextmanager
def _marked(folder: Path) -> Iterator[None]:
    """Let what is started meanwhile, and what that starts in its turn, carry the mark of ``folder``."""
    os.environ[MARK] = str(folder)
    try:
        yield
    finally:
        del os.environ[MARK]


def _end_processes(folder: Path) -> None:
    """End what Ray has started for ``folder``: a failed start, or its head's death, leaves that behind.

    What is ended may just have started another, which no list made before has: look until nothing is left.
    """
    for _ in range(LOOKS):
        processes = _marked_with(folder)
        if not processes:
            return
        for pid in processes:
            end_process(pid)
        time.sleep(LOOK_SECONDS)


def _marked_with(folder: Path) -> list[int]:
    """List the processes that carry the mark of ``folder``; one that has ended has no environment."""
    mark = os.fsencode(f"{MARK}={folder}")
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark in (process / "environ").read_bytes().split(b"\0"):
                found.append(int(process.name))
    return found


def short_root() -> Path:
    """Return the folder for temporary files, or one with a shorter path."""
    root = tempfile.gettempdir()
    return Path(root if len(root) <= LONGEST_ROOT else "/tmp")
