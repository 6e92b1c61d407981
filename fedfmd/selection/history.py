"""What is known of the clients that have been asked: it lasts between rounds, and in a checkpoint."""

from collections.abc import Sequence, Set
from dataclasses import asdict, dataclass, field

from fedfmd.records.rows import ClientRow
from fedfmd.records.schema import Json
from fedfmd.selection.drawing import Draw


@dataclass(frozen=True)
class Known:
    """What a client's last use told."""

    round: int
    loss: float | None
    """Root of the mean squared loss of its examples, where the selection asks for it."""
    device_seconds: float | None
    examples: int
    uses: int = 1
    """How often it has answered."""

    @property
    def utility(self) -> float:
        """Oort's statistical utility, n sqrt(mean squared loss); 0 for one whose loss is not known."""
        return self.examples * (self.loss or 0.0)


@dataclass
class TierHistory:
    """What TiFL knows of its tiers, of which the first is the fastest."""

    uses: list[int] = field(default_factory=list)
    """How often each was chosen."""
    accuracies: list[float] = field(default_factory=list)
    """When they were last measured; empty before."""
    probabilities: list[float] = field(default_factory=list)
    """Of being chosen; empty while all are alike."""
    last: int | None = None
    """The one chosen last."""

    def choose(self, tier: int, tiers: int) -> None:
        """Note the choice of one of so many ``tiers``."""
        self.uses += [0] * (tiers - len(self.uses))
        self.uses[tier] += 1
        self.last = tier


@dataclass
class SelectionHistory:
    """What is known of the clients that have been asked."""

    clients: dict[int, Known] = field(default_factory=dict)
    """Those who have answered."""
    silent: set[int] = field(default_factory=set)
    """Those who have been asked, and have never answered."""
    exploited: dict[int, float] = field(default_factory=dict)
    """Round to the mean utility of the clients that were asked for theirs (Oort)."""
    tiers: TierHistory = field(default_factory=TierHistory)

    def update(
        self, rows: Sequence[ClientRow], outrun: Set[int] = frozenset(), drawn: Draw | None = None
    ) -> None:
        """Learn from the rows of an attempt, in which the clients ``outrun`` were only slower than others.

        An update that arrived is an answer, of use or not. Who was outrun would have answered: what it took
        until the round closed is the least it takes. ``drawn`` is how the attempt's clients were drawn.
        """
        for row in rows:
            if row.used or row.uplink_bytes or row.client in outrun:
                self._learn(row)
        self.silent |= {row.client for row in rows}
        self.silent -= self.clients.keys()
        if drawn is not None and drawn.exploited is not None and rows:
            used = [row.client for row in rows if row.used and row.client in drawn.exploited]
            gained = sum(self.clients[client].utility for client in used)
            self.exploited[rows[0].round] = gained / max(1, len(used))
        if drawn is not None and drawn.tier is not None:
            self.tiers.choose(*drawn.tier)

    def _learn(self, row: ClientRow) -> None:
        before = self.clients.get(row.client)
        self.clients[row.client] = Known(
            row.round,
            row.loss_rms if row.used else None,
            row.device_seconds,
            row.examples or 0,
            1 + (before.uses if before else 0),
        )

    def to_json(self) -> Json:
        """Return it as plain data."""
        known = [[client, *asdict(known).values()] for client, known in self.clients.items()]
        return {
            "clients": known,
            "silent": sorted(self.silent),
            "exploited": list(self.exploited.items()),
            "tiers": asdict(self.tiers),
        }

    @classmethod
    def from_json(cls, document: Json) -> "SelectionHistory":
        """Read it back."""
        known = {client: Known(*known) for client, *known in document["clients"]}
        tiers = TierHistory(**document["tiers"])
        return cls(known, set(document["silent"]), dict(document["exploited"]), tiers)
