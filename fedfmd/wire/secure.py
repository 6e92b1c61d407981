"""What an order says of its round's secure sum."""

from dataclasses import dataclass

from fedfmd.records.schema import Record
from fedfmd.secure import PublicKeys, SealedShares, Seat, Secrets
from fedfmd.secure.graph import degree_for, neighbours
from fedfmd.secure.keys import derived
from fedfmd.seeds import derive


@dataclass(frozen=True, kw_only=True)
class SecureOrder(Record):
    """Who takes part in a secure sum, and with whom the order's clients share masks."""

    seats: tuple[Seat, ...]
    """All that told their keys."""
    keys: tuple[PublicKeys, ...]
    """Of those that have deposited shares; a real client is told its neighbours'."""
    sealed: tuple[SealedShares, ...] = ()
    """Shares of a real client's neighbours, for it to hold."""

    def partners(self, client: int, seed: int, *, parts: bool) -> tuple[PublicKeys, ...]:
        """Return the keys of those that a client shares masks with, whom ``seed`` draws."""
        clients = [seat.client for seat in self.seats]
        near = set(neighbours(client, clients, degree_for(len(clients), parts=parts), seed))
        return tuple(keys for keys in self.keys if keys.client in near)

    def parts(self) -> dict[int, str]:
        """Return the name of the part of the model that each client holds."""
        return {seat.client: seat.part for seat in self.seats}


def graph_seed(seed: int, round: int, attempt: int) -> int:
    """Return what draws who shares masks with whom."""
    return derive(seed, "secure-graph", round, attempt)


def simulated_secrets(seed: int, round: int, attempt: int, client: int) -> Secrets:
    """Return the secrets of a virtual client: the same in every process, and of a repeated run."""
    number = derive(seed, "secure-root", round, attempt, client)
    return Secrets(derived(number.to_bytes(8, "big"), "simulated root"))
