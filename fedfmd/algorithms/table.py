"""The algorithms by name, in the order in which they take part."""

from fedfmd.algorithms.base import Algorithm
from fedfmd.algorithms.depthfl import DepthFL
from fedfmd.algorithms.dp_fedavg import DPFedAvg
from fedfmd.algorithms.fedasync import FedAsync
from fedfmd.algorithms.fedbn import FedBN
from fedfmd.algorithms.fedbuff import FedBuff
from fedfmd.algorithms.feddyn import FedDyn
from fedfmd.algorithms.fednova import FedNova
from fedfmd.algorithms.fedprox import FedProx
from fedfmd.algorithms.fedrolex import FedRolex
from fedfmd.algorithms.feedback import ErrorFeedback
from fedfmd.algorithms.fjord import FjORD
from fedfmd.algorithms.heterofl import HeteroFL
from fedfmd.algorithms.label_rows import LabelRows
from fedfmd.algorithms.scaffold import Scaffold
from fedfmd.config.experiment import ExperimentConfig
from fedfmd.registry import find, register

BUILT_IN: tuple[type[Algorithm], ...] = (
    FjORD,
    FedRolex,
    HeteroFL,
    DepthFL,
    FedProx,
    FedDyn,
    FedBN,
    Scaffold,
    FedNova,
    FedAsync,
    FedBuff,
    LabelRows,
    ErrorFeedback,
    DPFedAvg,
)
"""In the order in which they take part; those of a config's own come behind."""
for _algorithm in BUILT_IN:
    register("algorithm", _algorithm.name)(_algorithm)


def named(config: ExperimentConfig) -> list[type[Algorithm]]:
    """Return the algorithms that have a table in the config, each under the name that it has there."""
    return [_called(find("algorithm", name), name) for name in config.algorithms or {}]


def active(config: ExperimentConfig) -> list[type[Algorithm]]:
    """Return the algorithms that the config asks for, in the order in which they take part."""
    own = [kind for kind in named(config) if kind not in BUILT_IN]
    chosen = [kind for kind in (*BUILT_IN, *own) if kind.active(config)]
    return sorted(chosen, key=lambda kind: kind.last)


def _called(kind: type[Algorithm], name: str) -> type[Algorithm]:
    """Return an algorithm under the name by which it was found."""
    return kind if kind.name == name else type(kind.__name__, (kind,), {"name": name})
