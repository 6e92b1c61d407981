"""Training on all images in one place."""

from typing import Annotated, Literal

from pydantic import Field

from fedfmd.config.conditions import Condition, Needs, OnlyIf, above, one_of, value_of
from fedfmd.config.values import Fraction, NonNegative, Places, Rate, Repeats, Section, Whole

WARM_UP_ENDS = Condition(
    "less than train.epochs",
    ("train.epochs",),
    lambda c: value_of(c, "train.warmup_epochs") < value_of(c, "train.epochs"),
)


class TrainConfig(Section):
    """Centralised training (`fedfmd train`): all images in one place; by default the paper's recipe."""

    epochs: Repeats = 100
    """Passes over the training images."""
    batch_size: Annotated[Whole, Field(ge=2, le=10**6)] = 64
    """Images per step, of all processes together."""
    learning_rate: Rate = 0.1
    """Step size after the warm-up."""
    schedule: Literal["step", "cosine", "constant"] = "step"
    """`step`: times `decay` at each milestone; `cosine`: down to 0 at the end of training."""
    milestones: Annotated[list[Repeats], OnlyIf(one_of("train.schedule", "step"))] = [30, 60, 90]
    """`step`: epochs after which the step size falls."""
    decay: Annotated[float, Field(gt=0, le=1), OnlyIf(one_of("train.schedule", "step"))] = 0.1
    """`step`: factor at a milestone."""
    warmup_epochs: Annotated[NonNegative, Needs(WARM_UP_ENDS)] = 0.0
    """The step size rises linearly over these first epochs."""
    momentum: Fraction = 0.9
    """Momentum of SGD."""
    nesterov: Annotated[bool, Needs(above("train.momentum", 0))] = False
    """Nesterov's form of the momentum."""
    weight_decay: NonNegative = 1e-4
    """L2 penalty on all parameters."""
    label_smoothing: Fraction = 0.0
    """Share of the label's probability that is spread over all classes."""
    ema: Fraction = 0.0
    """Decay a step of the exponential moving average of the weights, which is then evaluated; 0 is none."""
    augment: bool = True
    """Random crop (see `data.resized_crop`) and horizontal flip."""
    temperature_every: Literal["epoch", "step"] = "epoch"
    """When temperatures move: from one epoch to the next, or a little with every step (the authors' code)."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """`bf16`: bfloat16 where autocast allows, with float32 weights; `fp32`: float32, on GPUs with TF32."""
    channels_last: bool = False
    """Keep images and static kernels in memory with the channel last."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` is a GPU when there is one; only the CPU promises the same bits again."""
    threads: Places | None = None
    """Threads of torch a process; the cores divided by the processes when absent."""
    evaluate_every: Repeats = 1
    """Epochs between evaluations on the test set; the last epoch is always evaluated."""
    checkpoint_every: Repeats = 1
    """Epochs between checkpoints; a resumed run repeats at most that many."""
    tensorboard: bool = True
    """Write TensorBoard's event files, too, when it is installed."""
