"""What clients keep between rounds: FedBN's norm layers, SCAFFOLD's control variates.

A state is a file named by client and round. A worker writes the file of the round it trains; which file is a
client's state is decided by the server's checkpoint alone, so a round that is repeated, or resumed after a
crash, starts from the state before it and overwrites what the lost attempt left.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from fedfmd.sealed import DamagedFileError
from fedfmd.tensors import read_tensors, write_tensors

NOT_KEPT = "its state cannot be kept"
"""How the reason of a client begins whose state found no place on the disk."""
_KIND = "fedfmd-client-state-1"
STATE_FILE = re.compile(r"client-\d+-round-\d+\.safetensors|\.client-\d+-round-\d+\.safetensors\.\d+\.tmp")
"""States, and what a kill leaves of one that was being written."""


class LostStateError(Exception):
    """A client's kept state that is missing or damaged."""


class StateNotKeptError(OSError):
    """A client's new state that could not be written."""


@dataclass(frozen=True)
class ClientStore:
    """The states of all clients, in one folder that server and workers share."""

    folder: Path

    def load(self, client: int, round: int) -> dict[str, Tensor]:
        """Read the state that a client wrote in ``round``; round 0 is before its first, and holds nothing.

        Raises ``LostStateError`` when the file is missing or damaged.
        """
        if round == 0:
            return {}
        path = self._path(client, round)
        try:
            return read_tensors(path, _KIND)[0]
        except (OSError, DamagedFileError) as error:
            raise LostStateError(f"{path}: {error}") from None

    def lost(self, rounds: Mapping[int, int]) -> list[int]:
        """Return the clients of ``rounds``, a client's number to its round, whose states cannot be read."""
        return [client for client, round in rounds.items() if not self._readable(client, round)]

    def _readable(self, client: int, round: int) -> bool:
        try:
            self.load(client, round)
        except LostStateError:
            return False
        return True

    def save(self, client: int, round: int, state: Mapping[str, Tensor]) -> None:
        """Write a client's state after its training in ``round``; raises ``StateNotKeptError``."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_tensors(self._path(client, round), state, {}, _KIND)
        except OSError as error:
            raise StateNotKeptError(f"{NOT_KEPT}: {error}") from None

    def prune(self, *kept: Mapping[int, int]) -> None:
        """Delete every state that is in none of ``kept``, each a client's number to its round.

        What else is in the folder stays: it may be somebody's who chose it badly.
        """
        keep = {self._path(client, round).name for rounds in kept for client, round in rounds.items()}
        if self.folder.exists():
            for path in self.folder.iterdir():
                if STATE_FILE.fullmatch(path.name) and path.name not in keep:
                    path.unlink(missing_ok=True)

    def _path(self, client: int, round: int) -> Path:
        return self.folder / f"client-{client}-round-{round}.safetensors"
