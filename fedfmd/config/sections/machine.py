"""The machines that really compute: where clients are trained, and what measures its energy."""

from typing import Annotated, Literal

from pydantic import Field

from fedfmd.config.conditions import Condition, Needs, OnlyIf, given, none_of, one_of, value_of
from fedfmd.config.values import HERE, Places, Section

GPU_SHARED = Condition(
    "backend.gpus_per_worker > 0 where backend.kind = 'ray'",
    ("backend.gpus_per_worker", "backend.kind"),
    lambda c: value_of(c, "backend.kind") == "inline" or value_of(c, "backend.gpus_per_worker") > 0,
)


class BackendConfig(Section):
    """Where clients are computed."""

    kind: Literal["ray", "inline"] = "ray"
    """`ray`: Flower's nodes on Ray; `inline`: a plain loop in this process, the oracle of all others, or with
    more `workers` processes of this machine, without Ray."""
    workers: Places | None = None
    """Processes that train clients at the same time; when absent one for each core
    on Ray, as far as memory holds them, and inline one."""
    threads: Places = 1
    """Threads of torch per worker. One by default, on every machine: oneDNN's sums depend on their number."""
    ray_address: Annotated[
        str | None, OnlyIf(one_of("backend.kind", "ray")), Needs(given("backend.workers"))
    ] = None
    """An existing Ray cluster, `auto` or `HOST:PORT`, that sees the same files; a new one when absent."""
    device: Annotated[Literal["cpu", "cuda"], Needs(GPU_SHARED)] = "cpu"
    """Where the network is computed; only `cpu` promises the same bits for any number of workers."""
    gpus_per_worker: Annotated[
        float, Field(ge=0, le=64), OnlyIf(one_of("backend.kind", "ray") & one_of("backend.device", "cuda"))
    ] = 0.0
    """Share of a GPU that Ray gives to a worker, as 0.25 for four workers on one."""

    @property
    def apart(self) -> bool:
        """Whether clients are trained in other processes than the server's."""
        return self.kind == "ray" or (self.workers or 1) > 1


MeterName = Literal["none", "auto", "rapl", "nvml", "plug"]


class EnergyConfig(Section):
    """What measures the energy of the machine that trains; the joules of devices are modelled anyway."""

    meter: Annotated[
        MeterName,
        Needs(given("energy.plug"), ("plug",)),
        Needs(given("energy.idle_watts"), ("plug",)),
    ] = "none"
    """`rapl`: the processors' own counters (Linux, powercap); `nvml`: those of the GPUs that may be used;
    `auto`: both, or what there is of them; `plug`: a log of the plug's power."""
    plug: Annotated[str | None, HERE, OnlyIf(one_of("energy.meter", "plug"))] = None
    """`plug`: CSV file of times and watts that grows meanwhile; see `fedfmd.machine.plug`."""
    idle_watts: Annotated[
        Annotated[float, Field(ge=0, le=1e9)] | None, OnlyIf(none_of("energy.meter", "none"))
    ] = None
    """Power of the machine at rest, which is subtracted; if absent, it is measured for 2 s at the start."""
