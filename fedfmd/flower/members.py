"""The members of a secure sum, where they are real clients."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fedfmd.experiment import Experiment
from fedfmd.secure import Deposit, Invitation, PublicKeys, Question, Revealed, Session
from fedfmd.secure.messages import Ask, Told
from fedfmd.secure.session import complete, usable
from fedfmd.wire.secure import SecureOrder

Stage = Callable[[Mapping[int, Ask]], dict[int, Told]]
"""Asks clients for a stage of a secure sum, each its own; gives the answers that came in time."""


class RealMembers:
    """Real clients in a secure sum, reached by messages; who answers nonsense counts as gone."""

    def __init__(self, stage: Stage, experiment: Experiment, round: int, attempt: int):
        self.stage = stage
        self.experiment = experiment
        self.round, self.attempt = round, attempt
        self.seconds: dict[int, dict[str, float]] = defaultdict(dict)
        self.invitations: Mapping[int, Invitation] = {}

    def keys(self, clients: Sequence[int]) -> dict[int, PublicKeys]:
        """Ask for keys; those that agree on nothing with anybody are none."""
        told = self._told("keys", dict.fromkeys(clients, self._ask()))
        return {c: t.keys for c, t in told.items() if t.keys and t.keys.client == c and usable(t.keys)}

    def deposits(self, invitations: Mapping[int, Invitation]) -> dict[int, Deposit]:
        """Ask for shares; a deposit has one for each neighbour."""
        self.invitations = invitations
        asks = {client: self._ask(invitation=one) for client, one in invitations.items()}
        told = self._told("shares", asks)
        return {c: t.deposit for c, t in told.items() if t.deposit and complete(t.deposit, c, invitations[c])}

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
        asks = {client: self._ask(question=question) for client, question in questions.items()}
        told = self._told("recovery", asks)
        return {c: t.revealed for c, t in told.items() if t.revealed and t.revealed.client == c}

    def _ask(self, **what: Any) -> Ask:
        return Ask(round=self.round, attempt=self.attempt, **what)

    def _told(self, stage: str, asks: Mapping[int, Ask]) -> dict[int, Told]:
        told = self.stage(asks)
        for client, answer in told.items():
            self.seconds[client][stage] = answer.seconds
        return told
