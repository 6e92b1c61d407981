"""The algorithms by name, in the order in which they take part."""

from fedfmd.algorithms.base import Algorithm
from fedfmd.algorithms.depthfl import DepthFL
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

ALGORITHMS: dict[str, type[Algorithm]] = {
    algorithm.name: algorithm
    for algorithm in (
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
    )
}
"""Name to class. An algorithm that is added here takes part in every config that asks for it."""
