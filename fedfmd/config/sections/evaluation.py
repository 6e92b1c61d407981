"""What is measured of a model, by the server and by clients."""

from typing import Annotated, Literal

from pydantic import Field

from fedfmd.config.conditions import Condition, Needs, OnlyIf, above, one_of, value_of
from fedfmd.config.sections.switches import DYNAMIC
from fedfmd.config.values import Repeats, Section, Whole

ClientModel = Literal["global", "affordable", "finetuned", "local"]
"""What clients measure on their own images."""
MEASURED_EXIST = Condition(
    "at most partition.clients",
    ("evaluation.clients", "partition.clients"),
    lambda c: (
        not isinstance(value_of(c, "evaluation.clients"), int)
        or value_of(c, "evaluation.clients") <= value_of(c, "partition.clients")
    ),
)
DISTINCT = Condition(
    "each of evaluation.models once",
    ("evaluation.models",),
    lambda c: len(set(value_of(c, "evaluation.models"))) == len(value_of(c, "evaluation.models")),
)
ALONE_FROM_THE_SEED = Condition(
    "no model.init with 'local', which starts from the weights that the seed draws",
    ("model.init", "evaluation.models"),
    lambda c: value_of(c, "model.init") is None or "local" not in value_of(c, "evaluation.models"),
)
FINETUNES = Condition(
    "'finetuned' in evaluation.models",
    ("evaluation.models",),
    lambda c: "finetuned" in value_of(c, "evaluation.models"),
)
TRAINS_ALONE = Condition(
    "'local' in evaluation.models",
    ("evaluation.models",),
    lambda c: "local" in value_of(c, "evaluation.models"),
)
MEASURES = Condition(
    "clients that measure (evaluation.clients other than 0)",
    ("evaluation.clients",),
    lambda c: value_of(c, "measuring_clients") > 0,
)


class EvaluationConfig(Section):
    """When and how the global model is measured."""

    every: Repeats = 1
    """Rounds between central evaluations on the test set; the last round is always evaluated."""
    batch_size: Repeats = 250
    """Images per forward pass."""
    clients: Annotated[
        Literal["all"] | Annotated[Whole, Field(ge=0, le=10**7)] | None, Needs(MEASURED_EXIST)
    ] = None
    """Clients that measure `models` on what they kept for testing (`partition.holdout`), drawn anew by the
    seed for each evaluated round; `"all"` for all of them. When absent, `server.cohort` of them where there
    is a holdout, else none. Without a holdout, clients measure the global model on the images that they
    train on: training accuracy."""
    models: Annotated[
        list[ClientModel],
        Field(min_length=1),
        Needs(DISTINCT & ALONE_FROM_THE_SEED),
        OnlyIf(above("partition.holdout", 0) & MEASURES),
    ] = ["global", "affordable"]
    """What these clients measure: `global`, the server's model; `affordable`, the part of it that their
    budget allows; `finetuned`, that part after `finetune_epochs` of training of their own; `local`, the same
    part trained by the same steps from the same initial weights, alone. Gain is `affordable` - `local`."""
    finetune_epochs: Annotated[Repeats, OnlyIf(FINETUNES)] = 1
    """`finetuned`: passes over the client's training images, as far as its budget allows."""
    local_at: Annotated[Literal["last", "every"], OnlyIf(TRAINS_ALONE)] = "last"
    """`local` is trained from its start for every evaluation that measures it: the last one, or each."""
    static_norms: Annotated[bool | None, Needs(one_of("model.norm", "bn"), (True,))] = None
    """HeteroFL's static BatchNorm: before the global model is measured, the round's clients run their
    training images through it, and its statistics are theirs, not averages of running statistics. When
    absent, true where clients may train narrower networks, whose statistics are not the whole one's
    (FjORD's BatchNorm has its own for each width)."""


class DiagnosticsConfig(Section):
    """What dynamic convolutions do under federation; see `fedfmd.training.diagnostics`."""

    enabled: Annotated[bool, OnlyIf(DYNAMIC)] = False
    """Measure attention entropy, kernel usage and the agreement of kernel updates each round."""
