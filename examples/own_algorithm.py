"""Your own algorithm: one class says what it adds to federated averaging, on clients and on the server.

This one bounds how far any client can move the model: an update longer than ``norm`` is scaled down to it
(McMahan et al. 2018, "Learning Differentially Private Recurrent Language Models", section 2), which
differential privacy starts from. Its options are a table of the config, ``[algorithms.clipped]``.

    python examples/own_algorithm.py
    python examples/own_algorithm.py server.rounds=2 algorithms.clipped.norm=0.1
"""

import sys
from typing import Annotated

from pydantic import Field
from torch import Tensor

import fedfmd
from fedfmd.algorithms import Algorithm, ClientSide, Finished, Section, Visit
from fedfmd.registry import register


class ClippedOptions(Section):
    """The table ``[algorithms.clipped]``."""

    norm: Annotated[float, Field(gt=0)] = 1.0
    """Largest L2 norm of an update's parameters."""


@register("algorithm", "clipped")
class Clipped(Algorithm):
    """Scale long updates down."""

    name = "clipped"
    Options = ClippedOptions

    def client(self, visit: Visit) -> ClientSide:
        """Return what happens while one client trains."""
        return ClippedClient(visit.layout.parameters, self.options.norm)


class ClippedClient(ClientSide):
    """A client whose update is no longer than ``norm``."""

    def __init__(self, parameters: int, norm: float):
        self.parameters, self.norm = parameters, norm

    def finish(self, update: Tensor, steps: int) -> Finished:
        """Return what is sent; the buffers behind the parameters stay as they are."""
        del steps
        moved = update[: self.parameters]
        moved *= min(1.0, self.norm / max(float(moved.norm()), 1e-30))
        return Finished(update=update)


result = fedfmd.simulate(
    "configs/quickstart.toml",
    overrides=["backend.kind=inline", "name=clipped", "algorithms.clipped.norm=1.0", *sys.argv[1:]],
)
print(f"{result.path}: top-1 {result.summary['final_top1']:.1%} with updates of norm 1 at most")
