"""Local training on a client."""

from typing import Annotated, Literal

from pydantic import Field

from fedfmd.config.conditions import Condition, Needs, OnlyIf, above, given, none_of, one_of, takes, value_of
from fedfmd.config.parts import Named
from fedfmd.config.sections.switches import WIDTHS
from fedfmd.config.values import Fraction, NonNegative, Proportion, Rate, Repeats, Seconds, Section

OptimizerName = Annotated[str, Named("optimizer")]
"""Clients' optimisers."""


def _optimizer_takes(option: str) -> Condition:
    """Return the condition that the clients' optimiser has an argument; those built in read the config."""
    reads_config = takes("client.optimizer", "optimizer", "config")
    return takes("client.optimizer", "optimizer", option).unless(reads_config.holds)


PAIRS_TO_NORMALISE = Condition(
    "2 or more with model.attention_norm = 'bn', which normalises over a batch; or attention_norm = 'ln'",
    ("model.attention_norm",),
    lambda c: value_of(c, "client.batch_size") > 1 or not value_of(c, "model.attention_needs_pairs"),
)


class ClientConfig(Section):
    """Local training on a client."""

    epochs: Repeats = 1
    """Passes over the client's images a round."""
    batch_size: Annotated[Repeats, Needs(PAIRS_TO_NORMALISE)] = 32
    """Images a step."""
    optimizer: OptimizerName = "sgd"
    """Local optimiser: `sgd`, `adamw`, or `MODULE:NAME` of another, as `torch.optim:RMSprop`; its state does
    not outlive the round."""
    learning_rate: Rate = 0.05
    """Step size in round 1."""
    learning_rate_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Factor on the step size from one round to the next."""
    learning_rate_milestones: list[Repeats] = []
    """Rounds after which the step size falls to `learning_rate_drop` of itself."""
    learning_rate_drop: Annotated[
        float, Field(gt=0, le=1), OnlyIf(given("client.learning_rate_milestones"))
    ] = 0.1
    """Factor at a milestone."""
    momentum: Annotated[Fraction, OnlyIf(_optimizer_takes("momentum"))] = 0.9
    """Momentum of `sgd`, first beta of `adamw`."""
    nesterov: Annotated[bool, Needs(one_of("client.optimizer", "sgd") & above("client.momentum", 0))] = False
    """Nesterov's form of the momentum."""
    weight_decay: Annotated[NonNegative, OnlyIf(_optimizer_takes("weight_decay"))] = 5e-4
    """L2 penalty (`sgd`) or decoupled decay (`adamw`)."""
    proximal_mu: NonNegative = 0.0
    """FedProx: weight of mu/2 * ||w - w_global||^2 in the local objective; 0 is FedAvg."""
    clip_norm: Rate | None = None
    """Largest L2 norm of a step's gradient; no clipping when absent."""
    augment: bool = True
    """Random crop (see `data.resized_crop`) and horizontal flip."""
    scaffold: bool = False
    """SCAFFOLD: correct each step by control variates."""
    scaffold_variant: Annotated[Literal["paper", "niid-bench"], OnlyIf(one_of("client.scaffold", True))] = (
        "paper"
    )
    """`paper`: the correction is in the gradient; needs plain SGD, and clients weigh the same. `niid-bench`:
    it comes after a step with momentum, and clients weigh by examples (the benchmark's published tables)."""
    masked_loss: bool = False
    """HeteroFL: the cross entropy sees only the classes that the client has."""
    scaler: Annotated[bool, OnlyIf(WIDTHS & none_of("policy.width_mode", "ordered"))] = True
    """HeteroFL: a client of width r divides its activations by r while it trains."""
    self_distillation: Annotated[
        bool, OnlyIf(one_of("policy.kind", "width", "auto") & one_of("policy.width_mode", "ordered"))
    ] = False
    """FjORD: each step trains the client's widest network, and the drawn one on what that predicts; at up to
    twice the cost."""
    distillation: Annotated[NonNegative, OnlyIf(one_of("model.exits", True))] = 1.0
    """DepthFL: weight of the classifiers' learning from each other, where `model.exits` is on."""
    distillation_rampup: Annotated[Proportion, OnlyIf(one_of("model.exits", True))] = 0.3
    """DepthFL: share of `server.horizon` over which `distillation` ramps up; 0 is at once."""
    deadline_seconds: Seconds | None = None
    """A client that has not finished by then, on the host's clock, is dropped; never when absent."""

    def rate(self, round: int) -> float:
        """Step size in a round, the first of which is 1."""
        passed = sum(round > milestone for milestone in self.learning_rate_milestones)
        return self.learning_rate * self.learning_rate_decay ** (round - 1) * self.learning_rate_drop**passed

    @property
    def sgd_momentum(self) -> float:
        """Momentum of plain SGD; 0 for other optimisers."""
        return self.momentum if self.optimizer == "sgd" else 0.0
