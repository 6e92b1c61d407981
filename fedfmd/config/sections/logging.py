"""Where a round's figures go besides the run directory."""

from typing import Annotated

from fedfmd.config.conditions import Condition, Needs, value_of
from fedfmd.config.parts import NamedList
from fedfmd.config.values import Section


def _once(names: list[str]) -> bool:
    return len(set(names)) == len(names)


LOGGED_ONCE = Condition(
    "each logger once, in this list or by its own key",
    ("logging.tensorboard", "logging.wandb", "logging.mlflow"),
    lambda c: _once([*value_of(c, "logging.loggers"), *value_of(c, "logging.switched_on")]),
)


class LoggingConfig(Section):
    """Where each round's figures go besides the run directory; nothing needs a network."""

    tensorboard: bool = True
    """Event files in the run directory, where TensorBoard is installed."""
    wandb: bool = False
    """Weights & Biases, offline unless WANDB_MODE says otherwise; needs `fedfmd[wandb]`."""
    mlflow: bool = False
    """MLflow, into the run directory unless MLFLOW_TRACKING_URI is set; needs `fedfmd[mlflow]`."""
    loggers: Annotated[list[str], NamedList("logger"), Needs(LOGGED_ONCE)] = []
    """Further loggers, each a `MODULE:NAME` or a registered name."""

    @property
    def switched_on(self) -> list[str]:
        """The loggers that have keys of their own here, and are on."""
        return [name for name in ("tensorboard", "wandb", "mlflow") if getattr(self, name)]
