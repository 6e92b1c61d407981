"""The server's side of a run with real clients: ask the nodes who they are, send each its own orders."""

import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

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
from fedfmd.secure import Deposit, Invitation, PublicKeys, Question, Revealed, Session
from fedfmd.secure.messages import Ask, Told
from fedfmd.secure.session import complete, usable
from fedfmd.secure.sums import MaskedSum
from fedfmd.wire.packages import (
    BadPackageError,
    Package,
    Reply,
    WorkOrder,
    WorkResult,
    most_bytes,
    read_about,
)
from fedfmd.wire.secure import SecureOrder

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
        self.asked: RealMembers
        """In the secure sum that goes on."""

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

    def members(self, experiment: Experiment, round: int, attempt: int) -> "RealMembers":
        """Return how the clients are asked for the stages of a secure sum."""
        self.asked = RealMembers(self, experiment, round, attempt)
        return self.asked

    def stage(self, asks: Mapping[int, Ask]) -> dict[int, Told]:
        """Ask clients for a stage of a secure sum, each its own; gives the answers that came in time."""
        pending = {
            self._push(
                self._package(b"", None, self.nodes[client], ask), MessageType.QUERY, self.nodes[client]
            ): client
            for client, ask in asks.items()
        }
        deadline, told = time.monotonic() + self.late_seconds, dict[int, Told]()
        while pending and time.monotonic() < deadline:
            for message in self._pull(list(pending)):
                client = pending.pop(message.metadata.reply_to_message_id)
                if message.has_error():
                    print(f"client {client}: {last_line(message.error.reason)}", flush=True)
                    continue
                with suppress(BadPackageError):
                    package, most = from_record(message.content), most_bytes(0, self.workers)
                    told[client] = read_about(Told, package, "stage", most)
        return told

    def _read(self, order: WorkOrder, message: Message | None) -> Reply:
        """Read a reply; masked words are those of the client's slice, and are put in their places."""
        reply = super()._read(order, message)
        result = reply.result
        if result is None or order.secure is None or not isinstance(result.total, MaskedSum):
            return reply
        (client,) = order.clients
        blocks = self.asked.experiment.blocks(order.secure.parts())
        try:
            total = result.total.spread(blocks.places(blocks.held_by(client)), self.elements)
        except ValueError as error:
            return Reply(order=order, reason=str(error), arrived=True)
        return replace(reply, result=replace(result, total=total))

    def _await_idle(self) -> None:
        """Do not wait: the SuperLink keeps an order until its client asks for it."""
        self.idle.clear()

    def _result(self, package: Package, node: int, most: int) -> WorkResult:
        """Read a reply; its rows say how large it was."""
        result = super()._result(package, node, most)
        rows = tuple(replace(row, uplink_wire_bytes=package.wire_bytes) for row in result.rows)
        return replace(result, rows=rows)


class RealMembers:
    """Real clients in a secure sum, reached by messages; who answers nonsense counts as gone."""

    def __init__(self, executor: ClientExecutor, experiment: Experiment, round: int, attempt: int):
        self.executor = executor
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
        told = self.executor.stage(asks)
        for client, answer in told.items():
            self.seconds[client][stage] = answer.seconds
        return told


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
