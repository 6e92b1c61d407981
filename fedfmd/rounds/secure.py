"""One attempt at a round as a secure sum: keys and shares before the work, the masks taken off after it.

The stages reach the clients through ``Members``: virtual ones answer in this process, real ones by messages.
Whoever does not answer has dropped out, and stays out.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from fedfmd.aggregation import ExactSum, RejectedUpdateError
from fedfmd.experiment import Experiment
from fedfmd.records.rows import ClientRow
from fedfmd.secure import (
    FIGURES,
    Blocks,
    Deposit,
    Invitation,
    PublicKeys,
    Question,
    Revealed,
    Session,
    SumMember,
    VoidSumError,
)
from fedfmd.secure.costs import (
    StageCost,
    keys_cost,
    masks_cost,
    recovery_cost,
    sealed_bytes,
    shares_cost,
)
from fedfmd.secure.messages import NUMBER_BYTES
from fedfmd.secure.sums import MaskedSum, SummedFigures
from fedfmd.training.faults import fault_of
from fedfmd.wire.secure import SecureOrder, graph_seed, simulated_secrets

LEAVES = {
    "leave-keys": "left before it told its keys",
    "leave-shares": "left before it deposited its shares",
}
"""By fault, what the rows of clients say that do not train."""


class Members(Protocol):
    """How the clients of a secure sum are reached; each stage gives the answers of those who are there."""

    @property
    def seconds(self) -> Mapping[int, Mapping[str, float]]:
        """What the stages took each client, by name, as far as that is known."""
        ...

    @property
    def reasons(self) -> Mapping[int, str]:
        """By client why it has not answered a stage, or not with what that asks for, as far as known."""
        ...

    def keys(self, clients: Sequence[int]) -> Mapping[int, PublicKeys]:
        """Ask for keys."""
        ...

    def deposits(self, invitations: Mapping[int, Invitation]) -> Mapping[int, Deposit]:
        """Ask for shares of the clients' secrets."""
        ...

    def order(self, session: Session, clients: Sequence[int]) -> SecureOrder:
        """Return what the order for some clients says of the secure sum."""
        ...

    def reveal(self, session: Session, questions: Mapping[int, Question]) -> Mapping[int, Revealed]:
        """Ask the survivors for the shares that take the masks off."""
        ...


class VirtualMembers:
    """Clients of a simulation, who answer here; counted ones say what they would without the arithmetic."""

    def __init__(self, experiment: Experiment, round: int, attempt: int):
        self.experiment = experiment
        self.config = experiment.config
        self.round, self.attempt = round, attempt
        self.real = self.config.privacy.masks == "real"
        self.seconds: dict[int, dict[str, float]] = defaultdict(dict)
        self.reasons: dict[int, str] = {}
        self.invitations: Mapping[int, Invitation] = {}

    def keys(self, clients: Sequence[int]) -> dict[int, PublicKeys]:
        """Return the keys of those who do not leave before."""
        found = {}
        for client in self._there(clients, "leave-keys"):
            with self._timed(client, "keys"):
                found[client] = self._member(client).keys() if self.real else _no_keys(client)
        return found

    def deposits(self, invitations: Mapping[int, Invitation]) -> dict[int, Deposit]:
        """Return the shares of those who do not leave before."""
        self.invitations = invitations
        found = {}
        for client in self._there(invitations, "leave-shares"):
            with self._timed(client, "shares"):
                found[client] = (
                    self._member(client).deposit(invitations[client], self._blocks(client))
                    if self.real
                    else Deposit(client=client, sealed=())
                )
        return found

    def order(self, session: Session, clients: Sequence[int]) -> SecureOrder:
        """Return what workers need for all of their clients."""
        del clients
        seats = next(iter(self.invitations.values())).seats
        keys = tuple(session.keys[client] for client in sorted(session.deposits))
        return SecureOrder(seats=seats, keys=keys)

    def reveal(self, session: Session, questions: Mapping[int, Question]) -> dict[int, Revealed]:
        """Return the answers of those who do not leave before."""
        found = {}
        for client in self._there(questions, "leave-unmasking"):
            if not self.real:
                found[client] = Revealed(client=client, own_masks=(), masking=())
                continue
            member = self._member(client)
            member.held = {shares.sender: shares for shares in session.sealed_for(client)}
            with self._timed(client, "recovery"):
                found[client] = member.reveal(
                    questions[client], self.invitations[client], self._blocks(client)
                )
        return found

    def _member(self, client: int) -> SumMember:
        secrets = simulated_secrets(self.config.seed, self.round, self.attempt, client)
        return SumMember(client, secrets, self.config.privacy.threshold)

    def _blocks(self, client: int) -> Blocks:
        seats = self.invitations[client].seats
        return self.experiment.network.blocks({seat.client: seat.part for seat in seats})

    def _there(self, clients: Iterable[int], fault: str) -> list[int]:
        return [client for client in clients if fault_of(self.config, self.round, client) != fault]

    @contextmanager
    def _timed(self, client: int, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        if self.real:
            self.seconds[client][stage] = time.perf_counter() - started


@dataclass(frozen=True)
class Opened:
    """The sum over the survivors, without masks."""

    total: ExactSum
    figures: SummedFigures
    places: Callable[[str], Tensor | None]
    """Places of a part in the vector, as far as its sum is known; null for all of it."""


@dataclass
class SecureRound:
    """The server's part in one attempt."""

    experiment: Experiment
    members: Members
    round: int
    attempt: int
    parts: Mapping[int, str]
    """Client to the part of the model that it is to train."""
    session: Session | None = None
    answers: Mapping[int, Revealed] = field(default_factory=dict)

    def open(self) -> Session:
        """Collect keys and shares; raises ``VoidSumError`` when too few answer."""
        privacy = self.experiment.config.privacy
        keys = self.members.keys(sorted(self.parts))
        self.session = Session(
            self.experiment.network.blocks({client: self.parts[client] for client in sorted(keys)}),
            keys,
            privacy.threshold,
            graph_seed(self.experiment.config.seed, self.round, self.attempt),
            parts=self.experiment.config.parts,
        )
        self.session.take_deposits(self.members.deposits(self.session.invitations()).values())
        return self.session

    def left(self, clients: Iterable[int]) -> dict[int, str]:
        """Return those of the ``clients`` that have not come as far as the masked updates, and why."""
        session = self.session
        assert session is not None
        return {
            client: self._why_left(LEAVES["leave-shares" if client in session.keys else "leave-keys"], client)
            for client in clients
            if client not in session.deposits
        }

    def _why_left(self, when: str, client: int) -> str:
        reason = self.members.reasons.get(client)
        return when if reason is None else f"{when}: {reason}"

    def close(self, masked: MaskedSum, weights: Mapping[int, int]) -> Opened:
        """Take the masks off the sum of those who have sent one, whose ``weights`` are given.

        Raises ``VoidSumError`` when it cannot be known, or is none that these clients can have made.
        """
        session = self.session
        assert session is not None
        question = session.close(weights.keys())
        self.answers = self.members.reveal(session, dict.fromkeys(question.survivors, question))
        session.check_answers(self.answers.keys())
        words = {number: masked.block(number, session.blocks) for number in session.visible}
        if self.experiment.config.privacy.masks == "real":
            session.unmask(words, self.answers.values())
        return self._opened(session, words, masked, weights)

    def _opened(
        self,
        session: Session,
        words: Mapping[int, Tensor],
        masked: MaskedSum,
        weights: Mapping[int, int],
    ) -> Opened:
        blocks, figures = session.blocks, SummedFigures.read(words[FIGURES])

        def places(part: str) -> Tensor | None:
            return blocks.places(n for n in words if n != FIGURES and part in blocks[n].parts)

        by_part: dict[str, int] = defaultdict(int)
        for client in session.survivors:
            by_part[self.parts[client]] += weights[client]
        total = ExactSum.zero(len(masked.quanta), masked.scale)
        total.weights = dict(by_part)
        for number, piece in words.items():
            if number != FIGURES:
                _put(total.quanta, blocks[number].places, piece)
        if figures.weight != total.weight:
            raise VoidSumError("its weight is not that of its clients")
        try:
            total.check(places)
        except RejectedUpdateError as error:
            raise VoidSumError(str(error)) from None
        return Opened(total, figures, places)

    def billed(self, row: ClientRow) -> ClientRow:
        """Return the row with what the secure sum has taken from its client, by stage."""
        stages = self._stages(row) if row.client in self.parts else {}
        total = sum(stages.values(), StageCost())
        seconds = {**self.members.seconds.get(row.client, {}), **row.secure_stage_seconds}
        return replace(
            row,
            secure_downlink_bytes=total.downlink_bytes,
            secure_uplink_bytes=total.uplink_bytes,
            secure_macs=total.macs,
            secure_seconds=sum(filter(None, seconds.values())),
            secure_stages={
                f"{stage}_{what}": figure
                for stage, cost in stages.items()
                for what, figure in (
                    ("bytes", cost.downlink_bytes + cost.uplink_bytes),
                    ("macs", cost.macs),
                )
                if figure
            },
            secure_stage_seconds=seconds,
        )

    def _stages(self, row: ClientRow) -> dict[str, StageCost]:
        session, client = self.session, row.client
        if session is None or client not in session.keys:
            return {}
        threshold = self.experiment.config.privacy.threshold
        near, held = session.neighbours(client), session.blocks.held_by(client)
        seats_bytes = sum(NUMBER_BYTES + len(part) for part in session.blocks.seats.values())
        stages = {"keys": keys_cost(len(near), seats_bytes)}
        if client not in session.deposits:
            return stages
        secrets = {c: 1 + len(session.blocks.held_by(c)) for c in (client, *near) if c in session.deposits}
        received = sum(sealed_bytes(count) for c, count in secrets.items() if c != client)
        stages["shares"] = shares_cost(len(near), secrets[client], received, threshold)
        if not row.uplink_bytes:
            return stages
        partners = secrets.keys() - {client}
        words = sum(
            session.blocks.words(number) * (1 + len(session.blocks.holders(number, partners)))
            for number in held
        )
        stages["masks"] = masks_cost(len(partners), words)
        if client in self.answers:
            stages["recovery"] = _recovery(session, secrets)
        return stages


def _recovery(session: Session, holds: Collection[int]) -> StageCost:
    """Return the cost of telling shares of the clients that one ``holds`` shares of, itself among them."""
    survivors, visible = session.survivors, set(session.visible)
    own = sum(len(visible & set(session.blocks.held_by(client))) for client in holds if client in survivors)
    lost = sum(client not in survivors for client in holds)
    return recovery_cost(len(survivors), len(holds) - 1, own, lost)


def _put(quanta: Tensor, places: Tensor | None, words: Tensor) -> None:
    if places is None:
        quanta.copy_(words)
    else:
        quanta[places] = words.to(torch.float64)


def _no_keys(client: int) -> PublicKeys:
    return PublicKeys(client=client, masking="00" * 32, sealing="00" * 32)


def leavers(experiment: Experiment, round: int, clients: Collection[int]) -> dict[int, str]:
    """Return the clients that leave before they train, and what their rows say."""
    faults = {client: fault_of(experiment.config, round, client) for client in clients}
    return {client: LEAVES[fault] for client, fault in faults.items() if fault in LEAVES}
