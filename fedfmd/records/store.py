"""What clients keep between rounds: FedBN's norm layers, SCAFFOLD's control variates.

A state is a file named by client and round. A worker writes the file of the round it trains; which file is a
client's state is decided by the server's checkpoint alone, so a round that is repeated, or resumed after a
crash, starts from the state before it and overwrites what the lost attempt left.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from fedfmd.errors import RunError
from fedfmd.files import write_atomic


@dataclass(frozen=True)
class ClientStore:
    """The states of all clients, in one folder that server and workers share."""

    folder: Path

    def load(self, client: int, round: int) -> dict[str, Tensor]:
        """Read the state that a client wrote in ``round``; round 0 is before its first, and holds nothing.

        Raises ``RunError`` when the file is missing or damaged.
        """
        if round == 0:
            return {}
        path = self._path(client, round)
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise RunError(f"{path}: the client's state cannot be read: {error}") from None

    def save(self, client: int, round: int, state: Mapping[str, Tensor]) -> None:
        """Write a client's state after its training in ``round``."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomic(self._path(client, round), save(dict(state)))

    def prune(self, rounds: Mapping[int, int]) -> None:
        """Delete every state that is not the one of ``rounds``, a client's number to its round."""
        keep = {self._path(client, round).name for client, round in rounds.items()}
        if self.folder.exists():
            for path in self.folder.iterdir():
                if path.name not in keep:
                    path.unlink(missing_ok=True)

    def _path(self, client: int, round: int) -> Path:
        return self.folder / f"client-{client}-round-{round}.safetensors"
