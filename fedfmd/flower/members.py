"""The members of a secure sum, where they are real clients."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from fedfmd.experiment import Experiment
from fedfmd.records.runlog import LOGGER
from fedfmd.secure import Deposit, Invitation, PublicKeys, Question, Revealed, Session
from fedfmd.secure.messages import Ask, Told
from fedfmd.secure.session import complete, usable
from fedfmd.wire.secure import SecureOrder

Stage = Callable[[Mapping[int, Ask]], tuple[dict[int, Told], dict[int, str]]]
"""Asks clients for a stage of a secure sum, each its own; gives the answers that came in time, and by client
why there is none of the others."""
Part = TypeVar("Part", PublicKeys, Deposit, Revealed)


class RealMembers:
    """Real clients in a secure sum, reached by messages; who answers nonsense counts as gone."""

    def __init__(self, stage: Stage, experiment: Experiment, round: int, attempt: int):
        self.stage = stage
        self.experiment = experiment
        self.round, self.attempt = round, attempt
        self.seconds: dict[int, dict[str, float]] = defaultdict(dict)
        self.reasons: dict[int, str] = {}
        """By client, why it has not answered a stage, or not with what that asks for."""
        self.invitations: Mapping[int, Invitation] = {}

    def keys(self, clients: Sequence[int]) -> dict[int, PublicKeys]:
        """Ask for keys; those that agree on nothing with anybody are none."""

        def own(client: int, told: Told) -> PublicKeys | None:
            return told.keys if told.keys and told.keys.client == client and usable(told.keys) else None

        return self._told("keys", dict.fromkeys(clients, self._ask()), own)

    def deposits(self, invitations: Mapping[int, Invitation]) -> dict[int, Deposit]:
        """Ask for shares; a deposit has one for each neighbour."""
        self.invitations = invitations

        def own(client: int, told: Told) -> Deposit | None:
            found = told.deposit
            return found if found and complete(found, client, invitations[client]) else None

        asks = {client: self._ask(invitation=one) for client, one in invitations.items()}
        return self._told("shares", asks, own)

    def order(self, session: Session, clients: Sequence[int]) -> SecureOrder:
        """Return what one client has to know: its neighbours' keys, and their shares for it."""
        (client,) = clients
        return SecureOrder(
            seats=self.invitations[client].seats,
            keys=session.partners(client),
            sealed=session.sealed_for(client),
        )

    def reveal(self, session: Session, questions: Mapping[int, Question]) -> dict[int, Revealed]:
        """Ask the survivors for the shares that take the masks off."""
        del session

        def own(client: int, told: Told) -> Revealed | None:
            return told.revealed if told.revealed and told.revealed.client == client else None

        asks = {client: self._ask(question=question) for client, question in questions.items()}
        return self._told("recovery", asks, own)

    def _ask(self, **what: Any) -> Ask:
        return Ask(round=self.round, attempt=self.attempt, **what)

    def _told(
        self, stage: str, asks: Mapping[int, Ask], own: Callable[[int, Told], Part | None]
    ) -> dict[int, Part]:
        """Ask for a stage; gives of each answer what ``own`` finds in it, and notes whose is of no use."""
        told, reasons = self.stage(asks)
        found: dict[int, Part] = {}
        for client, answer in told.items():
            self.seconds[client][stage] = answer.seconds
            if (part := own(client, answer)) is None:
                reasons[client] = f"its answer is none to what was asked: {stage}"
            else:
                found[client] = part
        for client, reason in sorted(reasons.items()):
            LOGGER.info("round %d: client %d has no part in the secure sum: %s", self.round, client, reason)
        self.reasons |= reasons
        return found
