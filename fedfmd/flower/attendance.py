"""Who is there: real clients come and go, and the run directory notes it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from types import MappingProxyType

from fedfmd.deployment.experiment import DeclaredPartition, Roll, declared_partition
from fedfmd.flower.real_clients import ClientExecutor
from fedfmd.records import filenames
from fedfmd.records.rundir import RunDirectory


class Attendance(Roll):
    """The clients as the server has seen them come and go, noted in the run directory."""

    def __init__(
        self, executor: ClientExecutor, validation: int, names: Mapping[int, str] = MappingProxyType({})
    ):
        self.executor = executor
        self.names = names
        self.validation = validation
        self.directory: RunDirectory | None = None
        self.there: set[int] = set()
        super().__init__(self._declared())
        self._update()

    def absent(self, round: int, needed: int) -> frozenset[int]:
        """Look who has come and gone; waits a while for ``needed`` clients."""
        inquiry = self.executor.inquiry
        inquiry.look()
        inquiry.wait(needed)
        self._note(round)
        return frozenset(range(self.executor.workers)) - self.there

    def watched_in(self, directory: RunDirectory) -> None:
        """Keep in ``directory`` who comes and goes from now on; who is not there as it begins, too."""
        self.directory = directory
        away = sorted(set(range(self.executor.workers)) - self.there)
        if away:
            directory.note("clients", directory.rounds_done(), f"begins without {_named(away)}")
        self._write()

    def _note(self, round: int) -> None:
        before, known = self.there, set(self.hosts)
        if not self._update() or self.directory is None:
            return
        for how, clients in (
            ("came", self.there - known),
            ("came back", (self.there - before) & known),
            ("left", before - self.there),
        ):
            if clients:
                self.directory.note("clients", round - 1, f"{_named(sorted(clients))} {how}")
        self._write()

    def _update(self) -> bool:
        """Take over what the executor knows; gives whether anything is new."""
        now = set(self.executor.inquiry.nodes)
        changed = now != self.there
        self.there = now
        self.shares = self._declared()
        self.hosts = {client: said.host for client, said in self.executor.inquiry.said.items()}
        return changed

    def _declared(self) -> DeclaredPartition:
        known = self.executor.inquiry.said
        return declared_partition(
            self.executor.workers,
            {client: said.examples for client, said in known.items()},
            validation=self.validation,
            held={client: said.held for client, said in known.items()},
        )

    def _write(self) -> None:
        """Keep what the clients said of themselves, and how much each has."""
        assert self.directory is not None
        said = {
            str(client): {"name": self.names.get(client)} | asdict(known)
            for client, known in sorted(self.executor.inquiry.said.items())
        }
        self.directory.write_json(filenames.MEMBERS, said)
        named = [self.names.get(client, "") for client in range(self.executor.workers)]
        manifest = self.shares.manifest() | ({"client_names": named} if self.names else {})
        self.directory.write_json(filenames.PARTITION, manifest)


def _named(clients: Sequence[int]) -> str:
    return f"client{'s' if len(clients) > 1 else ''} {', '.join(map(str, clients))}"
