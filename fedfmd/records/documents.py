"""The documents of a run beside its ledgers: what it ran on, who has what, how it ended, what befell it.

Declared as the rows are; every field may be absent, as a killed run or an older version leaves it.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator

from fedfmd.costs.scores import Chance
from fedfmd.records.marks import CHECKSUM, Mark
from fedfmd.records.schema import (
    Amount,
    Column,
    Count,
    Entries,
    Figure,
    Figures,
    Fraction,
    Json,
    Positive,
    Record,
    Text,
    one_line,
)
from fedfmd.registry import HOMES, Origin
from fedfmd.units import number


def _rectangular(table: list[list[int]]) -> list[list[int]]:
    if len({len(row) for row in table}) > 1:
        raise ValueError("must have rows of one length")
    return table


@dataclass(frozen=True, kw_only=True)
class Environment(Record):
    """What a result depends on beside its config: ``environment.json``."""

    schema: Annotated[Count | None, Column("Version of the run directory's layout.")] = None
    fedfmd: Annotated[Text | None, Column("Version of fedfmd.")] = None
    commit: Annotated[Text | None, Column("Git commit of the source, outside of a package.")] = None
    python: Annotated[Text | None, Column("Version of Python.")] = None
    packages: Annotated[dict[Text, Text | None], Column("Versions of packages.")] = field(
        default_factory=dict
    )
    kernels: Annotated[Text | None, Column("Compiled kernels; null: PyTorch's own operations.")] = None
    system: Annotated[Text | None, Column("Operating system.")] = None
    processor: Annotated[Text | None, Column("Name of the processor.")] = None
    cores: Annotated[Count | None, Column("Cores that the process may use.")] = None
    memory_bytes: Annotated[Count | None, Column("Memory of the machine.", unit="B")] = None
    gpus: Annotated[list[Text], Column("Names of the GPUs.")] = field(default_factory=list)


DECLARED = "declared"
"""The ``scheme`` of real clients, which bring their own images and say how many."""


@dataclass(frozen=True, kw_only=True)
class Manifest(Record):
    """Who has what: ``partition.json``."""

    scheme: Annotated[Text | None, Column("How the images were spread.")] = None
    clients: Annotated[Count | None, Column("Clients in the population.")] = None
    samples: Annotated[Count | None, Column("Images that were spread.")] = None
    seed: Annotated[Count | None, Column("What the draws follow from.")] = None
    sha256: Annotated[Text | None, Column("Hash of all that decides who has what.")] = None
    alpha: Annotated[Amount | None, Column("Concentration of a Dirichlet scheme.")] = None
    min_size: Annotated[Count | None, Column("Fewest images of a client.")] = None
    self_balancing: Annotated[bool | None, Column("Whether a client that has its share gets no more.")] = None
    shards_per_client: Annotated[Count | None, Column("Shards of a client.")] = None
    labels_per_client: Annotated[Count | None, Column("Labels of a client.")] = None
    samples_per_client: Annotated[Count | None, Column("Images that a client draws.")] = None
    parameters: Annotated[Entries, Column("Further parameters of the scheme.")] = field(default_factory=dict)
    smallest: Annotated[Count | None, Column("Images of the smallest client.")] = None
    median: Annotated[Amount | None, Column("Images of the middle client.")] = None
    largest: Annotated[Count | None, Column("Images of the largest client.")] = None
    sizes: Annotated[list[Count], Column("Images by client; empty for large populations.")] = field(
        default_factory=list
    )
    label_counts: Annotated[
        list[list[Count]],
        AfterValidator(_rectangular),
        Column("Images by client and class; empty for large populations."),
    ] = field(default_factory=list)
    class_names: Annotated[list[Text], Column("Names of the classes, in their order.")] = field(
        default_factory=list
    )
    client_names: Annotated[list[str], Column("What the clients are called; empty without names.")] = field(
        default_factory=list
    )
    validation: Annotated[list[Count], Column("Images that the server keeps.")] = field(default_factory=list)
    unassigned: Annotated[Count | None, Column("Images that no client got.")] = None
    shared: Annotated[
        Count | None, Column("Images that several clients got; null where they share none.")
    ] = None
    note: Annotated[str | None, Column("What was changed or left out of the images.")] = None


def _of_known_kinds(found: list[Origin]) -> list[Origin]:
    for part in found:
        if part.kind not in HOMES:
            raise ValueError(f"{one_line(part.kind, 50)!r} is no kind of part ({', '.join(HOMES)})")
    return found


@dataclass(frozen=True, kw_only=True)
class TestSet(Record):
    """What accuracy is measured on: known from the start of a run, and told again at its end."""

    test_samples: Annotated[Count | None, Column("Images of the test set; 0 where the server has none.")] = (
        None
    )
    num_classes: Annotated[Positive | None, Column("Classes of the images.")] = None
    largest_class_share: Annotated[
        Fraction | None, Column("Share of the test images that are of the commonest class.", unit="%")
    ] = None

    @property
    def chance(self) -> Chance | None:
        """What guessing scores on the test set; null where the number of classes is not known."""
        if not self.num_classes:
            return None
        return Chance(
            num_classes=self.num_classes,
            samples=self.test_samples or 0,
            largest_class_share=self.largest_class_share,
        )


@dataclass(frozen=True, kw_only=True)
class Parts(TestSet):
    """What a run rests on beside its config: ``parts.json``."""

    registered: Annotated[
        list[Origin], AfterValidator(_of_known_kinds), Column("What the config names and is not built in.")
    ] = field(default_factory=list)
    files: Annotated[dict[str, Text], Column("Files outside of the run, each with its SHA-256.")] = field(
        default_factory=dict
    )
    images: Annotated[Text | None, Column("What tells the run's images from others.")] = None
    server_optimizer: Annotated[Text | None, Column("What Python gave for `server.strategy`.")] = None

    def to_json(self) -> Json:
        """Return what there is."""
        return {name: value for name, value in asdict(self).items() if value}


@dataclass(frozen=True, kw_only=True)
class ControlMatch(Record):
    """How near a static control comes to the network that it stands for: ``control.json``."""

    figure: Annotated[Text, Column("What is compared: `parameters`, or `MACs` of a forward pass.")]
    dynamic: Annotated[Count, Column("Of the dynamic network.")]
    static: Annotated[Count, Column("Of the static network.")]
    ratio: Annotated[Amount, Column("Static over dynamic.")]
    remark: Annotated[Text, Column("What to say of it.")]


@dataclass(frozen=True, kw_only=True)
class SpentPrivacy(Record):
    """What the models of a run tell of one client, at most."""

    epsilon: Annotated[Amount | None, Column("Null without noise, where nothing is promised.")] = None
    delta: Annotated[Fraction, Column("Chance that it may fail.")]
    relation: Annotated[Text, Column("What two populations that it compares differ in.")]

    @property
    def words(self) -> str:
        """The promise in words."""
        if self.epsilon is None:
            return "updates clipped, without noise: nothing is promised"
        return f"epsilon {number(self.epsilon)} at delta {self.delta:.2g}, {self.relation}"


@dataclass(frozen=True, kw_only=True)
class Note(Record):
    """What happened to a run from outside: a line of ``notes.jsonl``."""

    key: ClassVar[tuple[str, ...]] = ("round", "kind", "note")

    round: Annotated[Count, Column("The round it happened after.")]
    kind: Annotated[Text, Column("What kind of event.")]
    note: Annotated[str, Column("What happened, in words.")]


@dataclass(frozen=True, kw_only=True)
class Ending(TestSet):
    """How a run ended, whichever command made it; absent figures are null."""

    name: Annotated[Text | None, Column("Name of the run.")] = None
    status: Annotated[Literal["finished", "stopped"] | None, Column("How it ended.")] = None
    reason: Annotated[str | None, Column("Why it stopped.")] = None
    final_top1: Annotated[Fraction | None, Column("Top-1 of the last evaluation.", unit="%")] = None
    final_top5: Annotated[Fraction | None, Column("Top-5 of the last evaluation.", unit="%")] = None
    best_top1: Annotated[Fraction | None, Column("Top-1 where validation was best.", unit="%")] = None
    best_reason: Annotated[Text | None, Column("Why there is no best.")] = None
    parameters: Annotated[Count | None, Column("Of the network.")] = None
    forward_macs: Annotated[Count | None, Column("Of an image's forward pass.", unit="MAC")] = None
    ledgers: Annotated[
        Mapping[Text, Mark], Column("What tells whether the ledgers are what they were at the end.")
    ] = field(default_factory=dict)
    crc32: Annotated[Count | None, Column("CRC-32 of all else in this file.")] = None

    @property
    def finished(self) -> bool:
        """Whether the run has reached its end."""
        return self.status == "finished"


def figures_of(summary: Json) -> Json:
    """Return what a table shows of a summary: all but what guards its files."""
    return {name: value for name, value in summary.items() if name not in ("ledgers", CHECKSUM)}


@dataclass(frozen=True, kw_only=True)
class RunSummary(Ending):
    """The end of a federated run: ``summary.json``."""

    rounds: Annotated[Count | None, Column("Rounds of training.")] = None
    best_round: Annotated[Count | None, Column("Round that validation chooses.")] = None
    top1_reason: Annotated[Text | None, Column("Why no global model is tested.")] = None
    client_top1: Annotated[Fraction | None, Column("Training accuracy on clients.", unit="%")] = None
    scored_on: Annotated[Text | None, Column("What the scores take their accuracy from.")] = None
    clients: Annotated[Mapping[Text, Figure | None], Column("What clients measured last.")] = field(
        default_factory=dict
    )
    diverged_round: Annotated[Count | None, Column("First round of a divergence.")] = None
    privacy: Annotated[SpentPrivacy | None, Column("What `privacy.dp` came to.")] = None
    ended_early: Annotated[Text | None, Column("Why it has fewer rounds than its config asks for.")] = None
    cumulative: Annotated[Figures, Column("What the run cost.")] = field(default_factory=dict)
    ies: Annotated[Figures, Column("Cumulative cost over top-1, by axis.")] = field(default_factory=dict)
    rcs: Annotated[Figures, Column("Correct answers over cumulative cost, by axis.")] = field(
        default_factory=dict
    )
    seconds: Annotated[Amount | None, Column("Wall time of the last start to the end.", unit="s")] = None
    control: Annotated[ControlMatch | None, Column("How near a static control comes.")] = None


@dataclass(frozen=True, kw_only=True)
class TrainSummary(Ending):
    """The end of a centralised run: ``summary.json``."""

    kind: Annotated[Literal["train"], Column("Tells it from a federated run's.")] = "train"
    epochs: Annotated[Count | None, Column("Epochs of training.")] = None
    dataset: Annotated[Text | None, Column("Name of the images.")] = None
    train_samples: Annotated[Count | None, Column("Images trained on.")] = None
    best_epoch: Annotated[Count | None, Column("Epoch that validation chooses.")] = None
    macs: Annotated[Count | None, Column("Analytic compute of training.", unit="MAC")] = None
    train_seconds: Annotated[Amount | None, Column("Measured, of all epochs.", unit="s")] = None
    seconds_per_epoch: Annotated[Amount | None, Column("Mean of the epochs.", unit="s")] = None
    median_seconds_per_epoch: Annotated[Amount | None, Column("Median of the epochs.", unit="s")] = None
    inference_seconds: Annotated[Amount | None, Column("Measured, on the test set.", unit="s")] = None
    ies_epoch_seconds: Annotated[Amount | None, Column("Seconds of an epoch over top-1.", unit="s")] = None
    ies_total_seconds: Annotated[Amount | None, Column("Seconds of all epochs over top-1.", unit="s")] = None
    rcs: Annotated[Figure | None, Column("Correct test answers a second.", unit="1/s")] = None
    device: Annotated[Text | None, Column("What it was computed on.")] = None
    processes: Annotated[Count | None, Column("Processes that computed together.")] = None
    threads: Annotated[Count | None, Column("Threads a process.")] = None
    peak_gpu_bytes: Annotated[Count | None, Column("Most memory of a GPU.", unit="B")] = None
