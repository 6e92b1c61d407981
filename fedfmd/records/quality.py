"""How good a model is: on the server's images after a round or an epoch, and on the clients' own."""

from dataclasses import dataclass
from typing import Annotated, Literal

from fedfmd.records.schema import Column, Figure, Fraction, Record, Text

Top1 = Annotated[
    Fraction | None,
    Column("Share of test images whose best-scored class is right.", unit="%", label="Top-1"),
]
Top5 = Annotated[
    Fraction | None, Column("Share whose class is among the five best-scored.", unit="%", label="Top-5")
]
TestLoss = Annotated[
    Figure | None, Column("Mean cross entropy on the test set.", unit="nat", label="Test loss")
]
ValidationLoss = Annotated[
    Figure | None,
    Column("Mean cross entropy on `partition.validation`.", unit="nat", label="Validation loss"),
]


@dataclass(frozen=True, kw_only=True)
class Quality(Record):
    """How good the global model is after a round; null in rounds without evaluation."""

    top1: Top1 = None
    top5: Top5 = None
    top1_reason: Annotated[
        Text | None,
        Column("Why no global model is tested, so that test figures and scores are null."),
    ] = None
    scored_on: Annotated[
        Literal["test set", "clients"] | None,
        Column(
            "What the scores below, and comparisons, take their accuracy from: `test set`, or `clients`, the "
            "mean of `global` over the clients, where there is no global model to test."
        ),
    ] = None
    client_top1: Annotated[
        Fraction | None,
        Column(
            "Training accuracy: on images that `evaluation.clients` clients train on, without a holdout.",
            unit="%",
            label="Training top-1 (clients)",
        ),
    ] = None
    test_loss: TestLoss = None
    train_loss: Annotated[
        Figure | None,
        Column(
            "Mean over the clients used, weighted by examples.",
            unit="nat",
            label="Training loss",
        ),
    ] = None
    validation_top1: Annotated[
        Fraction | None,
        Column("On `partition.validation`, which chooses rounds.", unit="%", label="Validation top-1"),
    ] = None
    validation_loss: ValidationLoss = None


def _over_clients(model: str, figure: str) -> Column:
    """Describe a figure of one model over the clients that measured it."""
    what = {
        "mean": "Mean over clients of",
        "std": "Standard deviation over clients of",
        "worst10": "Mean of the lowest tenth, ceil(n/10) clients, of",
        "jain": "Jain's index over clients of",
    }[figure]
    label = {"mean": f"Clients, {model}", "worst10": f"Worst tenth, {model}"}.get(figure, "")
    return Column(
        f"{what} top-1 of `{model}` on their holdouts.", unit="" if figure == "jain" else "%", label=label
    )


@dataclass(frozen=True, kw_only=True)
class ClientQuality(Record):
    """How good models are on the clients' own images, each client counting once; null where not measured."""

    client_top1_global_mean: Annotated[Fraction | None, _over_clients("global", "mean")] = None
    client_top1_global_std: Annotated[Fraction | None, _over_clients("global", "std")] = None
    client_top1_global_worst10: Annotated[Fraction | None, _over_clients("global", "worst10")] = None
    client_top1_global_jain: Annotated[Fraction | None, _over_clients("global", "jain")] = None
    client_top1_affordable_mean: Annotated[Fraction | None, _over_clients("affordable", "mean")] = None
    client_top1_affordable_std: Annotated[Fraction | None, _over_clients("affordable", "std")] = None
    client_top1_affordable_worst10: Annotated[Fraction | None, _over_clients("affordable", "worst10")] = None
    client_top1_affordable_jain: Annotated[Fraction | None, _over_clients("affordable", "jain")] = None
    client_top1_finetuned_mean: Annotated[Fraction | None, _over_clients("finetuned", "mean")] = None
    client_top1_finetuned_std: Annotated[Fraction | None, _over_clients("finetuned", "std")] = None
    client_top1_finetuned_worst10: Annotated[Fraction | None, _over_clients("finetuned", "worst10")] = None
    client_top1_finetuned_jain: Annotated[Fraction | None, _over_clients("finetuned", "jain")] = None
    client_top1_local_mean: Annotated[Fraction | None, _over_clients("local", "mean")] = None
    client_top1_local_std: Annotated[Fraction | None, _over_clients("local", "std")] = None
    client_top1_local_worst10: Annotated[Fraction | None, _over_clients("local", "worst10")] = None
    client_top1_local_jain: Annotated[Fraction | None, _over_clients("local", "jain")] = None
    client_gain_mean: Annotated[
        Figure | None,
        Column(
            "Mean over clients of top-1 of `affordable` minus that of `local`.",
            unit="%",
            label="Gain over alone",
        ),
    ] = None

    @property
    def on_clients(self) -> dict[str, float]:
        """What clients have measured, by column; empty where they have not."""
        values = {name: getattr(self, name) for name in ClientQuality.columns()}
        return {name: value for name, value in values.items() if value is not None}
