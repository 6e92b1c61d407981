"""Joules of NVIDIA's GPUs, by the counter of their driver's library (NVML; GPUs from Volta on have it).

``nvmlDeviceGetTotalEnergyConsumption`` counts millijoules since the driver was loaded, in 64 bits. It takes
the package ``nvidia-ml-py`` (``fedfmd[energy]``), which nothing else needs.
"""

from collections.abc import Callable
from typing import Any

from fedfmd.machine.energy import EnergyReading, NoEnergyError
from fedfmd.machine.gpus import visible_gpus

MILLI = 1e-3
RANGE = 2**64 - 1


def nvml_reader() -> Callable[[], EnergyReading]:
    """Return what reads the counters of the GPUs that this process may use.

    Raises ``NoEnergyError`` without such GPUs, without NVML, and where a GPU has no counter.
    """
    names = visible_gpus()
    if not names:
        raise NoEnergyError("no GPU that this process may use")
    try:
        import pynvml
    except ImportError:
        raise NoEnergyError("NVML needs a package more: pip install 'fedfmd[energy]'") from None
    try:
        pynvml.nvmlInit()
        handles = {name: _handle(pynvml, name) for name in names}
    except pynvml.NVMLError as error:
        raise NoEnergyError(f"NVML: {error}") from None
    return lambda: read_nvml(pynvml, handles)


def read_nvml(library: Any, handles: dict[str, Any]) -> EnergyReading:
    """Read the counters of some GPUs by name; raises ``NoEnergyError`` where one has none."""
    try:
        counters = {
            name: int(library.nvmlDeviceGetTotalEnergyConsumption(handle)) for name, handle in handles.items()
        }
    except library.NVMLError as error:
        raise NoEnergyError(f"NVML: {error}") from None
    return EnergyReading(counters, dict.fromkeys(counters, RANGE), MILLI)


def _handle(library: Any, name: str) -> Any:
    """Return the handle of a GPU as ``CUDA_VISIBLE_DEVICES`` names it: by its number or its UUID."""
    if name.isdigit():
        return library.nvmlDeviceGetHandleByIndex(int(name))
    return library.nvmlDeviceGetHandleByUUID(name)
