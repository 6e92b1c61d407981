"""What comes back of a round's orders: what holds up is summed, and the rest of the work goes out again.

Nothing that a reply says is taken for granted: it may come from a client that lies.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from fedfmd.aggregation import ExactSum
from fedfmd.errors import first_few
from fedfmd.experiment import Experiment
from fedfmd.planning.bill import lost_row, plan_in
from fedfmd.planning.claims import check_claims
from fedfmd.records.rows import ClientRow
from fedfmd.records.runlog import LOGGER
from fedfmd.records.schema import SchemaError, one_line
from fedfmd.rounds.packing import Executor
from fedfmd.rounds.secure import Opened
from fedfmd.secure.sums import MaskedSum
from fedfmd.selection.drawing import Draw
from fedfmd.training.diagnostics import check_diagnostics
from fedfmd.wire.compression import Uncompressed
from fedfmd.wire.packages import MAX_RESENDS, BadPackageError, Reply, WorkOrder, WorkResult
from fedfmd.wire.upload import Expected, Upload


@dataclass
class Attempt:
    """What a try at a round gave: the sum of what can be used, and a row for every client asked."""

    total: ExactSum
    rows: list[ClientRow]
    device_clock_seconds: float | None = None
    """How long it took on the simulated clock."""
    outrun: frozenset[int] = frozenset()
    """Clients whose work was not waited for, because others were faster."""
    states: dict[int, int] = field(default_factory=dict)
    """Client to the stamp of the state it has kept."""
    updates: dict[int, Tensor] = field(default_factory=dict)
    """Client to its update, float64 (elements,), where the mean is a robust one."""
    began: Tensor | None = None
    """What all clients started from, where that is one older version."""
    drawn: Draw | None = None
    """How the clients were drawn, of a round that all begin together."""
    masked: MaskedSum | None = None
    """What clients have sent, where the sum is a secure one, until its masks are off."""
    opened: Opened | None = None
    """That sum without masks, of which ``total`` is a part."""
    present: int | None = None
    """Clients that were there as it began; null where all always are."""

    @property
    def completed(self) -> int:
        """How many clients entered the sum."""
        return sum(row.used for row in self.rows)


class Collector:
    """Sends orders out and folds the replies in."""

    def __init__(self, experiment: Experiment, executor: Executor):
        self.experiment = experiment
        self.config = experiment.config
        self.executor = executor

    @property
    def apart(self) -> bool:
        """Whether each update is needed by itself, and not their sum."""
        return self.config.server.aggregation != "mean"

    def weights(self, clients: Iterable[int], staleness: int = 0) -> dict[int, int]:
        """Return what each client weighs in the sum."""
        sizes = {client: self.experiment.partition.size(client) for client in clients}
        return {client: self.experiment.algorithms.weight(size, staleness) for client, size in sizes.items()}

    def collect(self, orders: Sequence[WorkOrder], vector: Tensor, into: Attempt) -> None:
        """Have the orders carried out from ``vector``, until each client has a row."""
        while orders:
            orders = self._collect(orders, vector, into)

    def _collect(self, orders: Sequence[WorkOrder], vector: Tensor, into: Attempt) -> list[WorkOrder]:
        """Fold the replies in; give the orders to send again.

        A lost order goes out again client by client, so that a client that kills its worker is found and
        fails alone, and a worker that died for another reason changes nothing.
        """
        again: list[WorkOrder] = []
        for reply in self.executor.train(orders, vector):
            result, reason = self._usable(reply, len(vector))
            if result is not None:
                if self.apart and isinstance(result.total, ExactSum) and reply.order.task == "train":
                    into.updates |= {row.client: result.total.mean() for row in result.rows if row.used}
                self._add(result, into)
                into.rows += result.rows
                into.states |= {row.client: reply.order.stamp for row in result.rows if row.used}
            elif reply.order.resend < MAX_RESENDS and not reply.final:
                whose = first_few(reply.order.clients)
                LOGGER.info(
                    "round %d: work of client %s goes out again: %s", reply.order.round, whose, reason
                )
                again += [reply.order.only(client) for client in reply.order.clients]
            else:
                arrived = reply.arrived or reply.result is not None
                into.rows += [
                    lost_row(self.experiment, reply.order, client, reason, arrived=arrived)
                    for client in reply.order.clients
                ]
        return again

    def _add(self, result: WorkResult, into: Attempt) -> None:
        if isinstance(result.total, ExactSum):
            into.total.merge(result.total)
        elif isinstance(result.total, MaskedSum) and into.masked is not None:
            into.masked.merge(result.total)

    def _order_weights(self, order: WorkOrder) -> dict[int, int]:
        """Return what the clients of an order weigh in its sum; moments weigh by examples."""
        if order.task == "statistics":
            return {client: self.experiment.partition.size(client) for client in order.clients}
        return self.weights(order.clients, order.staleness)

    def _usable(self, reply: Reply, elements: int) -> tuple[WorkResult | None, str]:
        if reply.result is None:
            return None, reply.reason
        try:
            weights = self._order_weights(reply.order)
            result = self._summed(reply.order, reply.result)
            result.check(reply.order, elements, weights, self.experiment.network.places)
            for row in result.rows:
                self._check_row(reply.order, row, weights[row.client])
        except (BadPackageError, SchemaError) as error:
            return None, one_line(error)
        return result, ""

    def _summed(self, order: WorkOrder, result: WorkResult) -> WorkResult:
        """Return the result with a sum: where it holds a real client's update, with the sum of that alone.

        Raises ``BadPackageError`` for what is no update of the order's part.
        """
        if not isinstance(result.total, Upload):
            return result
        (client,) = order.clients
        share = plan_in(order, client, self.config).share
        expected = Expected(
            scale=order.scale,
            part=share.key,
            index=self.experiment.network.index(share),
            method=self.experiment.compressor,
            extra=self.experiment.algorithms.extra_elements(self.experiment.network.part(share).layout),
            local=self.experiment.network.local_places(share),
        )
        if order.task == "statistics":  # moments are sent as they are
            expected = replace(expected, method=Uncompressed(), extra=0)
        try:
            return replace(result, total=result.total.summed(expected))
        except ValueError as error:
            raise BadPackageError(str(error)) from None

    def _check_row(self, order: WorkOrder, row: ClientRow, weight: int) -> None:
        """Raise ``SchemaError`` for a row that its order does not allow."""
        check_claims(self.experiment, order, row)
        if not row.diagnostics:
            return
        if not self.config.measures_attention:
            raise SchemaError("diagnostics that nobody asked for")
        share = plan_in(order, row.client, self.config).share
        check_diagnostics(row.diagnostics, self.experiment.network.part(share).layout, weight)
