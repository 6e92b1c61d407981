"""The server's side of a run with real clients: ask the nodes who they are, send each its own orders.

Clients come and go. A run begins once enough have come; before every round those that have come since, or
come back, are asked who they are, and the cohort is drawn from those who are there.
"""

import json
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from flwr.app import Message, MessageType
from flwr.serverapp import Grid
from torch import Tensor

from fedfmd.config.experiment import ExperimentConfig, name_from
from fedfmd.data.dataset import Dataset
from fedfmd.data.prepared import open_prepared
from fedfmd.deployment.assignment import assignment
from fedfmd.deployment.experiment import DeclaredPartition, Roll, declared_partition
from fedfmd.deployment.introduction import Introduction, Totals, misfit, together
from fedfmd.deployment.run import (
    STATISTICS_FILE,
    normalisation_in,
    open_deployed_experiment,
    start_deployed_run,
)
from fedfmd.errors import RunError, UserError
from fedfmd.experiment import Experiment
from fedfmd.files import write_atomic
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
from fedfmd.wire.evaluation import EvaluationOrder, EvaluationResult
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
"""Beside its training, a client's answer takes seconds of polling, at worst a start of Python and torch."""
BYTES_PER_CLASS = 16
"""Of a client's sums, as text."""

Said = TypeVar("Said", Introduction, Totals)


@dataclass(frozen=True)
class Deployment:
    """What a deployed run is told by its run config."""

    clients: int
    """That the run has room for."""
    data: Path
    """The server's own images: a test set, perhaps an empty one."""
    min_clients: int = 0
    """Clients that have to be there for the run to begin; 0 for all."""
    statistics: Path | None = None
    """What the clients have agreed on, where they have."""
    names: Mapping[int, str] = field(default_factory=dict)
    """What the operator calls the clients."""

    @property
    def needed(self) -> int:
        """Clients that have to be there for the run to begin."""
        return self.min_clients or self.clients


class Inquiry:
    """Asks every node that comes one question, until each has answered as a client of its own.

    ``accept`` reads an answer and gives the client's number; what it raises as ``ValueError`` is kept as a
    reason, and the node is asked again, a few times.
    """

    def __init__(
        self, exchange: "ClientExecutor", question: Json, accept: Callable[[Message], int], room: int
    ):
        self.exchange = exchange
        self.question = question
        self.accept = accept
        self.room = room
        self.nodes: dict[int, int] = {}
        """Client to its node: those who are there and have answered."""
        self.asked: dict[str, int] = {}
        self.refused: Counter[int] = Counter()
        self.reasons: set[str] = set()

    def look(self) -> None:
        """Ask who has come, take the answers that are here, and forget who has left."""
        online = set(self.exchange.grid.get_node_ids())
        self.nodes = {client: node for client, node in self.nodes.items() if node in online}
        self.refused = Counter({node: n for node, n in self.refused.items() if node in online})
        for node in online - {*self.asked.values(), *self.nodes.values()}:
            if self.refused[node] < MOST_INTRODUCTIONS:
                package = self.exchange.question(self.question)
                self.asked[self.exchange.push(package, MessageType.QUERY, node)] = node
        for message in self.exchange.pull(list(self.asked)) if self.asked else ():
            node = self.asked.pop(message.metadata.reply_to_message_id)
            try:
                self._admit(self.accept(message), node)
            except ValueError as error:
                self.reasons.add(one_line(error))
                self.refused[node] += 1

    def wait(self, needed: int, timeout: float) -> float:
        """Look until ``needed`` clients have answered, all there are, or time is over; gives the seconds."""
        began = time.monotonic()
        while len(self.nodes) < needed:
            self.look()
            if not self.asked:
                time.sleep(self.exchange.poll_seconds)
            settled = len(self.nodes) + sum(n >= MOST_INTRODUCTIONS for n in self.refused.values())
            waited = time.monotonic() - began
            if waited > timeout or (settled >= self.room and not self.asked):
                break
        return time.monotonic() - began

    def gather(self, needed: int) -> None:
        """Wait until ``needed`` clients have answered.

        Raises ``RunError`` when some are missing after ``GATHER_TIMEOUT_SECONDS``, or as many nodes as there
        are clients have answered and not all said who they are.
        """
        seconds = self.wait(needed, GATHER_TIMEOUT_SECONDS)
        if len(self.nodes) < needed:
            raise RunError(self._lacking(needed, seconds))

    def _admit(self, client: int, node: int) -> None:
        if client >= self.room:
            raise ValueError(f"a node says that it is client {client} of {self.room}")
        if self.nodes.setdefault(client, node) != node:
            raise ValueError(f"two nodes say that they are client {client}; check their node configs")

    def _lacking(self, needed: int, seconds: float) -> str:
        """Say who did not come, and why, as far as known."""
        missing = ", ".join(str(client) for client in range(self.room) if client not in self.nodes)
        why = f"; some nodes answered: {'; '.join(sorted(self.reasons)[:3])}" if self.reasons else ""
        of = f"{len(self.nodes)} of {self.room} clients"
        wanted = "" if needed == self.room else f", {needed} are needed"
        return f"{of} were there in {seconds:.0f} s{wanted}, without {missing}{why}"


class ClientExecutor(OrderExchange):
    """An executor whose nodes are clients: each gets its own orders, at once, and no others'."""

    def __init__(self, grid: Grid, config: ExperimentConfig, run: str, clients: int, data: Dataset):
        super().__init__(grid, config, {})
        self.run = run
        self.workers = clients
        self.data = data
        """The server's, as clients shall see theirs."""
        self.poll_seconds = POLL_SECONDS
        self.late_seconds = LATE_SECONDS
        self.known: dict[int, Introduction] = {}
        """What each client said last, those who have left included."""
        self.inquiry = Inquiry(self, {}, self._introduced, clients)
        self.asked: RealMembers
        """In the secure sum that goes on."""

    def gather(self, needed: int | None = None) -> None:
        """Wait until ``needed`` clients, by default all, have said who they are; raises ``RunError``."""
        self.inquiry.gather(self.workers if needed is None else needed)

    def train(self, orders: Sequence[WorkOrder], vector: Tensor) -> Iterator[Reply]:
        """Send each client its orders; one that has left is not waited for."""
        here, gone = self._by_presence(orders)
        yield from (Reply(order=order, reason="the client is not there") for order in gone)
        yield from super().train(here, vector)

    def evaluate(
        self, orders: Sequence[EvaluationOrder], vector: Tensor
    ) -> Iterator[tuple[EvaluationOrder, EvaluationResult | None]]:
        """Let clients measure; null for one that has left."""
        here, gone = self._by_presence(orders)
        yield from ((order, None) for order in gone)
        yield from super().evaluate(here, vector)

    def question(self, asked: Json) -> Package:
        """Return what asks any client something beside the run's description."""
        package = self._package(b"")
        return Package(json.dumps({**json.loads(package.meta), **asked}), package.tensors)

    def _introduced(self, message: Message) -> int:
        said = introduction_in(message)
        if reason := misfit(said, self.data):
            raise ValueError(reason)
        self.known[said.client] = said
        return said.client

    def _by_presence(self, orders: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        here: list[Any] = []
        gone: list[Any] = []
        for order in orders:
            (here if {*order.clients} <= self.inquiry.nodes.keys() else gone).append(order)
        return here, gone

    def _assign(self, waiting: deque[int], orders: Sequence[AnyOrder]) -> Iterator[tuple[int, int]]:
        while waiting:
            index = waiting.popleft()
            (client,) = orders[index].clients
            yield index, self.inquiry.nodes[client]

    def _beside(self, node: int | None) -> Json:
        """Describe the experiment to a client, and what the server plans with: both see the same limits."""
        client = next((client for client, own in self.inquiry.nodes.items() if own == node), None)
        told = {"deployment": assignment(self.config, self.run, client or 0, self.data)}
        return told if client is None else {**told, "host": asdict(self.known[client].host)}

    def members(self, experiment: Experiment, round: int, attempt: int) -> "RealMembers":
        """Return how the clients are asked for the stages of a secure sum."""
        self.asked = RealMembers(self, experiment, round, attempt)
        return self.asked

    def stage(self, asks: Mapping[int, Ask]) -> dict[int, Told]:
        """Ask clients for a stage of a secure sum, each its own; gives the answers that came in time."""
        there = {c: (ask, self.inquiry.nodes[c]) for c, ask in asks.items() if c in self.inquiry.nodes}
        pending = {
            self.push(self._package(b"", None, node, ask), MessageType.QUERY, node): client
            for client, (ask, node) in there.items()
        }
        deadline, told = time.monotonic() + self.late_seconds, dict[int, Told]()
        while pending and time.monotonic() < deadline:
            for message in self.pull(list(pending)):
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
        del node
        result = WorkResult.unpack(package, most=most, update_of=self.elements)
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
        inquiry.wait(needed, GATHER_TIMEOUT_SECONDS)
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
        self.hosts = {client: said.host for client, said in self.executor.known.items()}
        return changed

    def _declared(self) -> DeclaredPartition:
        known = self.executor.known
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
            for client, known in sorted(self.executor.known.items())
        }
        self.directory.write_json("clients.json", said)
        named = [self.names.get(client, "") for client in range(self.executor.workers)]
        manifest = self.shares.manifest() | ({"client_names": named} if self.names else {})
        self.directory.write_json("partition.json", manifest)


def _named(clients: Sequence[int]) -> str:
    return f"client{'s' if len(clients) > 1 else ''} {', '.join(map(str, clients))}"


def run_deployed(grid: Grid, config: ExperimentConfig, out: Path, deployment: Deployment) -> None:
    """Run an experiment on real clients, from its start or, where ``out`` exists, from its checkpoint."""
    resumed = (out / "config.toml").is_file()
    directory = RunDirectory.open(out) if resumed else None
    settings = directory.config if directory else config
    if directory and directory.finished():
        raise UserError(f"{out}: this run is finished; choose another out")
    statistics = out / STATISTICS_FILE if directory else deployment.statistics
    data = _seen(deployment.data, settings.data.resized_crop, statistics)
    room = settings.partition.clients
    executor = ClientExecutor(grid, settings, name_from(out), room, data)
    executor.gather(min(deployment.needed, room))
    roll = Attendance(executor, len(data.train_labels), deployment.names)
    if directory is None:
        agreed = json.loads(statistics.read_text()) if statistics and statistics.is_file() else None
        directory = start_deployed_run(settings, out, deployment.data, roll, agreed)
    roll.watched_in(directory)
    backend = directory.config.backend
    executor.config = directory.config
    prepare_process(backend.threads)
    execute(
        directory,
        lambda _: executor,
        print_round,
        lambda run: open_deployed_experiment(run, deployment.data, roll),
    )


def agree(grid: Grid, config: ExperimentConfig, out: Path, deployment: Deployment) -> None:
    """Let the clients agree on a normalisation, by sums over their images, and write it to ``out``.

    Raises ``RunError`` when fewer than needed answer.
    """
    data = _seen(deployment.data, config.data.resized_crop, None, agreed=False)
    executor = ClientExecutor(grid, config, "statistics", deployment.clients, data)
    told: dict[int, Totals] = {}

    def accept(message: Message) -> int:
        totals = _read(Totals, message, "statistics", data.num_classes * BYTES_PER_CLASS)
        if reason := totals.misfit(data):
            raise ValueError(reason)
        told[totals.client] = totals
        return totals.client

    inquiry = Inquiry(executor, {"statistics": True}, accept, deployment.clients)
    inquiry.gather(deployment.needed)
    counted = [told[client] for client in sorted(inquiry.nodes)]
    write_atomic(out, json.dumps(together(counted, data.classes), indent=1) + "\n")


def _seen(file: Path, resized_crop: int | None, statistics: Path | None, *, agreed: bool = True) -> Dataset:
    """Open the server's images as clients shall see theirs; raises ``UserError`` if that is not agreed."""
    data = open_prepared(file).seen_at(resized_crop)
    found = normalisation_in(statistics) if statistics else None
    if found is None and not data.mean and agreed:
        raise UserError("the clients have agreed on no normalisation yet: run fedfmd deploy statistics first")
    return replace(data, mean=found.mean, std=found.std) if found else data


def print_round(row: dict[str, object]) -> None:
    """Say how a round went."""
    from fedfmd.terminal.rounds import figures

    print(f"round {row['round']}: {figures(row)}", flush=True)


def introduction_in(message: Message) -> Introduction:
    """Read who a node is; raises ``ValueError`` when it does not say."""
    return _read(Introduction, message, "introduction", 0)


def _read(kind: type[Said], message: Message, name: str, more_bytes: int) -> Said:
    if message.has_error():
        raise ValueError(last_line(message.error.reason))
    try:
        return read_about(kind, from_record(message.content), name, most_bytes(0, 1) + more_bytes)
    except BadPackageError as error:
        raise ValueError(f"a node did not introduce itself: {error}") from None
