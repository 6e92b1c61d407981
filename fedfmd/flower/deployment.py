"""The server's side of a run with real clients: ask the nodes who they are, send each its own orders."""

import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from flwr.app import Message, MessageType
from flwr.serverapp import Grid

from fedfmd.config.experiment import ExperimentConfig, name_from
from fedfmd.data import open_prepared
from fedfmd.deployment.assignment import assignment
from fedfmd.deployment.client import Introduction
from fedfmd.deployment.run import open_deployed_experiment, start_deployed_run
from fedfmd.devices.participant import Host
from fedfmd.errors import RunError, UserError
from fedfmd.experiment import Experiment
from fedfmd.flower.grid import AnyOrder, OrderExchange, last_line
from fedfmd.flower.messages import from_record
from fedfmd.machine.process import prepare_process
from fedfmd.records.rundir import RunDirectory
from fedfmd.records.schema import Json, one_line
from fedfmd.rounds.lifecycle import execute
from fedfmd.rounds.secure import Members
from fedfmd.wire.packages import BadPackageError, Package, WorkResult, most_bytes, read_about

POLL_SECONDS = 0.5
"""Every look for replies is a request to the SuperLink, and clients look for orders every 3 s."""
GATHER_TIMEOUT_SECONDS = 300.0
"""How long clients may take to connect and to say who they are; a small device imports torch slowly."""
MOST_INTRODUCTIONS = 3
"""How often a node is asked who it is, if it answers nonsense or with an error."""
LATE_SECONDS = 120.0
"""Beside its training, a client's answer takes a start of Python and torch, and a few seconds of polling."""


@dataclass(frozen=True)
class Deployment:
    """What a deployed run is told by its run config."""

    clients: int
    data: Path
    """The server's own pictures: a test set."""


class ClientExecutor(OrderExchange):
    """An executor whose nodes are clients: each gets its own orders, at once, and no others'."""

    def __init__(self, grid: Grid, config: ExperimentConfig, run: str, clients: int):
        super().__init__(grid, config, {})
        self.run = run
        self.workers = clients
        self.poll_seconds = POLL_SECONDS
        self.late_seconds = LATE_SECONDS
        self.nodes: dict[int, int] = {}
        """Client to its node."""
        self.hosts: dict[int, Host] = {}
        """Node to what its machine is."""

    def gather(self, timeout: float = GATHER_TIMEOUT_SECONDS) -> dict[int, Introduction]:
        """Wait until every client has said who it is.

        Raises ``RunError`` when some are missing after ``timeout`` seconds, or as many nodes as there are
        clients have answered and not all said who they are, or two claim to be the same one.
        """
        deadline = time.monotonic() + timeout
        known: dict[int, Introduction] = {}
        asked: dict[str, int] = {}
        reasons: set[str] = set()
        refused: Counter[int] = Counter()
        while len(known) < self.workers:
            settled = len(self.nodes) + sum(times >= MOST_INTRODUCTIONS for times in refused.values())
            if time.monotonic() > deadline or (settled >= self.workers and not asked):
                waited = timeout - max(0.0, deadline - time.monotonic())
                raise RunError(_missing(set(known), self.workers, waited, reasons))
            for node in set(self.grid.get_node_ids()) - {*asked.values(), *self.nodes.values()}:
                if refused[node] >= MOST_INTRODUCTIONS:
                    continue
                asked[self._push(self._package(b""), MessageType.QUERY, node)] = node
            for message in self._pull(list(asked)):
                node = asked.pop(message.metadata.reply_to_message_id)
                try:
                    said = introduction_in(message)
                    if said.client >= self.workers:
                        raise ValueError(f"a node says that it is client {said.client} of {self.workers}")
                except ValueError as error:
                    reasons.add(one_line(error))
                    refused[node] += 1
                    continue
                self._admit(said, node, known)
        return known

    def _admit(self, said: Introduction, node: int, known: dict[int, Introduction]) -> None:
        if self.nodes.setdefault(said.client, node) != node:
            raise RunError(f"two nodes say that they are client {said.client}; check their node configs")
        if not said.examples:
            raise RunError(f"client {said.client} has no pictures")
        known[said.client] = said
        self.hosts[node] = said.host

    def _assign(self, waiting: deque[int], orders: Sequence[AnyOrder]) -> Iterator[tuple[int, int]]:
        while waiting:
            index = waiting.popleft()
            (client,) = orders[index].clients
            yield index, self.nodes[client]

    def _beside(self, node: int | None) -> Json:
        """Describe the experiment to a client, and what the server plans with: both see the same limits."""
        if node not in self.hosts:
            return {"deployment": assignment(self.config, self.run, 0)}
        (client,) = (client for client, own in self.nodes.items() if own == node)
        return {
            "deployment": assignment(self.config, self.run, client),
            "host": asdict(self.hosts[node]),
        }

    def members(self, experiment: Experiment, round: int, attempt: int) -> Members:
        """Raise ``RunError``: real clients make no secure sums yet."""
        del experiment, round, attempt
        raise RunError("privacy.secure = 'secagg': is for simulations alone so far")

    def _await_idle(self) -> None:
        """Do not wait: the SuperLink keeps an order until its client asks for it."""
        self.idle.clear()

    def _result(self, package: Package, node: int, most: int) -> WorkResult:
        """Read a reply; its rows say how large it was."""
        result = super()._result(package, node, most)
        rows = tuple(replace(row, uplink_wire_bytes=package.wire_bytes) for row in result.rows)
        return replace(result, rows=rows)


def introduction_in(message: Message) -> Introduction:
    """Read who a node is; raises ``ValueError`` when it does not say."""
    if message.has_error():
        raise ValueError(last_line(message.error.reason))
    try:
        package = from_record(message.content)
        return read_about(Introduction, package, "introduction", most_bytes(0, 1))
    except BadPackageError as error:
        raise ValueError(f"a node did not introduce itself: {error}") from None


def run_deployed(grid: Grid, config: ExperimentConfig, out: Path, deployment: Deployment) -> None:
    """Run an experiment on real clients, from its start or, where ``out`` exists, from its checkpoint."""
    resumed = (out / "config.toml").is_file()
    directory = RunDirectory.open(out) if resumed else None
    settings = directory.config if directory else config
    if directory and directory.finished():
        raise UserError(f"{out}: this run is finished; choose another out")
    executor = ClientExecutor(grid, settings, name_from(out), deployment.clients)
    known = executor.gather()
    _check_pictures(known, deployment.data, settings.data.resized_crop)
    sizes = {client: said.examples for client, said in known.items()}
    held = {client: said.held for client, said in known.items()}
    hosts = {client: said.host for client, said in known.items()}
    if directory is None:
        directory = start_deployed_run(settings, out, deployment.data, sizes, held)
    _note_clients(directory, known)
    backend = directory.config.backend
    executor.config = directory.config
    prepare_process(backend.threads)
    execute(
        directory,
        lambda _: executor,
        print_round,
        lambda run: open_deployed_experiment(run, deployment.data, sizes, hosts, held),
    )


def print_round(row: dict[str, object]) -> None:
    """Say how a round went."""
    from fedfmd.terminal.rounds import figures

    print(f"round {row['round']}: {figures(row)}", flush=True)


def _note_clients(directory: RunDirectory, known: dict[int, Introduction]) -> None:
    """Keep what the clients said of themselves beside the run."""
    said = {str(client): asdict(introduction) for client, introduction in sorted(known.items())}
    directory.write_json("clients.json", said)


def _check_pictures(known: dict[int, Introduction], server_data: Path, resized_crop: int | None) -> None:
    data = open_prepared(server_data).seen_at(resized_crop)
    ours = (data.num_classes, data.input_shape)
    for client, said in known.items():
        if (said.classes, tuple(said.input_shape)) != ours:
            raise RunError(
                f"client {client} has {said.classes} classes of pictures {said.input_shape}, "
                f"the server's test set {ours[0]} of {ours[1]}"
            )


def _missing(known: set[int], clients: int, timeout: float, reasons: set[str]) -> str:
    missing = ", ".join(str(client) for client in range(clients) if client not in known)
    why = f"; some nodes answered: {'; '.join(sorted(reasons)[:3])}" if reasons else ""
    return f"{len(known)} of {clients} clients were there in {timeout:.0f} s, without {missing}{why}"
