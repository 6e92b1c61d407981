"""What each client got out of a run, what it paid, and how evenly both are spread."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from fedfmd.costs.fairness import Spread, gini, jain, spread, worst_tenth
from fedfmd.records.rows import ClientRow, EvaluationRow, gains
from fedfmd.records.schema import Number
from fedfmd.results.runs import Run, once_per_run

Row = TypeVar("Row", ClientRow, EvaluationRow)
Key = TypeVar("Key")
MODELS = ("affordable", "global", "finetuned", "local")
"""What clients measure, what they would use first."""
GROUPS = 3
"""Clients are told apart by their number of images in so many groups of equal size."""
NO_TIER = "all clients"


@dataclass(frozen=True, kw_only=True)
class ClientResult:
    """One client at the last round that measured it; absent where it did not measure a model."""

    client: int
    round: int
    tier: str | None
    examples: Number
    """Images that it trains on."""
    held: int
    """Images that it measures on."""
    label_count: int | None
    top1_global: Number = None
    top1_affordable: Number = None
    top1_finetuned: Number = None
    top1_local: Number = None
    gain: Number = None
    """Top-1 of ``affordable`` minus ``local``'s."""
    worst: bool = False
    """Among the worst tenth by the model that the report is about."""
    macs: int = 0
    bytes: int = 0
    """Paid in training, whether or not the work was used; both directions, with what secure sums took."""
    asked: int = 0
    completed: int = 0
    """Times that its work was used."""
    late: int = 0
    """Times that it was asked and its work was not used."""

    @property
    def tuned_gain(self) -> Number:
        """Top-1 of ``finetuned`` minus ``local``'s."""
        if self.top1_finetuned is None or self.top1_local is None:
            return None
        return self.top1_finetuned - self.top1_local

    def top1(self, model: str) -> Number:
        """Return the accuracy of one of the models."""
        value: Number = getattr(self, f"top1_{model}")
        return value


@dataclass(frozen=True, kw_only=True)
class ClientGroup:
    """Clients that have something in common."""

    name: str
    clients: int
    top1: Spread
    gain: Number
    gained: int
    """Clients whose gain is known."""


@dataclass(frozen=True, kw_only=True)
class Evenness:
    """How evenly something is spread over the clients that there are figures of."""

    what: str
    clients: int
    gini: Number
    jain: Number


@dataclass(frozen=True, kw_only=True)
class ClientOutcome:
    """What clients got, at the last round that measured any."""

    round: int
    model: str
    """What the report is about: ``affordable``, or ``global`` where that was not measured."""
    clients: tuple[ClientResult, ...]
    groups: Mapping[str, tuple[ClientGroup, ...]]
    """By ``tier``, ``examples`` and ``labels``, as far as these are known."""
    evenness: tuple[Evenness, ...]
    asked: int
    """Clients that were asked in the whole run, measured or not."""
    completed: int
    """Of them, those whose work was used at least once."""


@dataclass(frozen=True, kw_only=True)
class ClientFigures:
    """What clients got after one round, over all that measured anything, so that arms compare the same."""

    mean: float
    worst10: float
    gain: Number
    """Over those that trained alone as well; absent without any."""
    tuned_gain: Number
    """The same of ``finetuned``."""
    served: float
    """Share of the clients that have the model."""


def figures(run: Run, model: str, guess: float) -> dict[int, ClientFigures]:
    """Return by round what clients got of a model.

    A client that has none, as one left out that can afford no part of the network, counts as guessing: the
    mean of the others would flatter a policy by whom it leaves out.
    """
    found = {}
    for round, rows in _by(run.evaluations, lambda row: row.round).items():
        top1 = {row.client: row.top1 for row in rows if row.model == model}
        clients = {row.client for row in rows}
        spreading = spread([top1.get(client, guess) for client in sorted(clients)])
        if not top1 or spreading.mean is None or spreading.worst10 is None:
            continue
        found[round] = ClientFigures(
            mean=spreading.mean,
            worst10=spreading.worst10,
            gain=spread(list(gains(rows).values())).mean,
            tuned_gain=spread(list(gains(rows, "finetuned").values())).mean,
            served=len(top1) / len(clients),
        )
    return found


@once_per_run
def outcome(run: Run) -> ClientOutcome | None:
    """Return what clients got at the last round that measured any; null where none did."""
    if not run.evaluations:
        return None
    last = max(row.round for row in run.evaluations)
    rows = [row for row in run.evaluations if row.round == last]
    model = next(m for m in MODELS if any(row.model == m for row in rows))
    clients = _marked(_results(run, rows), model)
    tiers = _differ(c.tier for c in clients)
    grouped = {
        "tier": _groups(clients, model, lambda c: c.tier or NO_TIER) if tiers else (),
        "examples": _by_size(clients, model),
        "labels": _groups(clients, model, lambda c: c.label_count) if clients[0].label_count else (),
    }
    asked = {row.client for row in run.clients if row.downlink_bytes}
    return ClientOutcome(
        round=last,
        model=model,
        clients=clients,
        groups={name: groups for name, groups in grouped.items() if groups},
        evenness=_evenness(run, clients),
        asked=len(asked),
        completed=len({row.client for row in run.clients if row.used}),
    )


def _results(run: Run, rows: Sequence[EvaluationRow]) -> list[ClientResult]:
    """Put together what each client measured, and what the ledger says that it did."""
    gained, work = gains(rows), _by(run.clients, _client)
    return [
        _result(run, own, work.get(client, []), gained.get(client))
        for client, own in sorted(_by(rows, _client).items())
    ]


def _client(row: ClientRow | EvaluationRow) -> int:
    return row.client


def _by(rows: Iterable[Row], key: Callable[[Row], Key]) -> dict[Key, list[Row]]:
    found: dict[Key, list[Row]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row)
    return found


def _result(
    run: Run, measured: Sequence[EvaluationRow], work: Sequence[ClientRow], gain: Number
) -> ClientResult:
    first, sizes = measured[0], run.partition.sizes
    known = sizes[first.client] if first.client < len(sizes) else None
    top1 = {row.model: row.top1 for row in measured}
    sent = [row for row in work if row.downlink_bytes]
    return ClientResult(
        client=first.client,
        round=first.round,
        tier=first.tier,
        examples=work[-1].examples if work else known,
        held=first.examples,
        label_count=first.label_count,
        top1_global=top1.get("global"),
        top1_affordable=top1.get("affordable"),
        top1_finetuned=top1.get("finetuned"),
        top1_local=top1.get("local"),
        gain=gain,
        macs=sum(row.macs for row in work),
        bytes=sum(row.bytes for row in work),
        asked=len(sent),
        completed=sum(row.used for row in work),
        late=sum(not row.used for row in sent),
    )


def _marked(clients: Sequence[ClientResult], model: str) -> tuple[ClientResult, ...]:
    """Mark the worst tenth of those that measured the model."""
    known = [(i, top1) for i, c in enumerate(clients) if (top1 := c.top1(model)) is not None]
    worst = {known[place][0] for place in worst_tenth([top1 for _, top1 in known])}
    return tuple(replace(c, worst=i in worst) for i, c in enumerate(clients))


def _differ(values: Iterable[str | None]) -> bool:
    return len(set(values)) > 1


def _groups(
    clients: Sequence[ClientResult], model: str, key: Callable[[ClientResult], str | int | None]
) -> tuple[ClientGroup, ...]:
    members: dict[str | int, list[ClientResult]] = {}
    for client in clients:
        if (name := key(client)) is not None:
            members.setdefault(name, []).append(client)
    names = sorted(members, key=lambda name: (isinstance(name, str), name))
    return tuple(_group(str(name), members[name], model) for name in names)


def _by_size(clients: Sequence[ClientResult], model: str) -> tuple[ClientGroup, ...]:
    """Group clients by their training images, in groups of about equal size; equal ones stay together."""
    sizes = sorted(int(c.examples) for c in clients if c.examples is not None)
    if not sizes or sizes[0] == sizes[-1]:
        return ()
    bounds = sorted({sizes[len(sizes) * part // GROUPS - 1] for part in range(1, GROUPS + 1)})
    groups, low = [], sizes[0]
    for bound in bounds:
        own = [c for c in clients if c.examples is not None and low <= c.examples <= bound]
        if own:
            sizes_text = f"{low:,}" if low == bound else f"{low:,} to {bound:,}"
            groups.append(_group(sizes_text, own, model))
        low = bound + 1
    return tuple(groups)


def _group(name: str, clients: Sequence[ClientResult], model: str) -> ClientGroup:
    gained = [c.gain for c in clients if c.gain is not None]
    return ClientGroup(
        name=name,
        clients=len(clients),
        top1=spread([top1 for c in clients if (top1 := c.top1(model)) is not None]),
        gain=spread(gained).mean,
        gained=len(gained),
    )


def _evenness(run: Run, clients: Sequence[ClientResult]) -> tuple[Evenness, ...]:
    """Return how evenly work and gain are spread; a loss counts as no gain."""
    population = run.partition.clients or len(clients)
    work: dict[int, int] = {}
    for row in run.clients:
        work[row.client] = work.get(row.client, 0) + row.macs
    shares = [*work.values(), *([0] * max(0, population - len(work)))]
    gained = [max(0.0, c.gain) for c in clients if c.gain is not None]
    figures: dict[str, Sequence[float]] = {"Training work of all clients, MACs": shares}
    if gained:
        figures["Gain over training alone, losses as 0"] = gained
    return tuple(
        Evenness(what=what, clients=len(values), gini=gini(values), jain=jain(values))
        for what, values in figures.items()
    )
