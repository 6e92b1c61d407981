"""One of three real clients answers with something else: the round goes on as if it had failed, and no more.

The bytes go through the server's own code, from the message to the rows and the sum: every field that a
reply, an evaluation or an introduction has, by the schema that reads it, with every kind of nonsense.
"""

import json
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Context, Error, Message, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pictures import write_pictures

from fedfmd.config.experiment import ExperimentConfig, parse_config
from fedfmd.data.prepared import open_prepared
from fedfmd.deployment.experiment import DeployedExperiment
from fedfmd.deployment.introduction import Introduction
from fedfmd.deployment.run import open_deployed_experiment, start_deployed_run
from fedfmd.errors import RunError
from fedfmd.flower import real_clients
from fedfmd.flower.attendance import Attendance
from fedfmd.flower.client import app
from fedfmd.flower.messages import from_record, to_record
from fedfmd.flower.real_clients import ClientExecutor
from fedfmd.nn.vector import bind
from fedfmd.records.rows import ClientRow, EvaluationRow
from fedfmd.rounds.collection import Attempt
from fedfmd.rounds.examination import Examination
from fedfmd.rounds.knowledge import Knowledge
from fedfmd.rounds.lifecycle import resolve
from fedfmd.rounds.synchronous import SynchronousDispatcher
from fedfmd.wire.examination import ClientScore
from fedfmd.wire.packages import Package, pack, unpack

Json = dict[str, Any]
Tensors = dict[str, torch.Tensor]
Forge = Callable[[Json, Tensors], Package | None]
"""Changes what a client says, or gives other bytes."""

CONFIG = {
    "data": {"train_samples": 60, "test_samples": 20},
    "partition": {"scheme": "iid", "clients": 3},
    "model": {"width": 0.25, "kernels": 2, "stem": "imagenet"},
    "client": {"batch_size": 10, "augment": False},
    "server": {"cohort": 3, "rounds": 1},
    "evaluation": {"clients": 3},
    "diagnostics": {"enabled": True},
    "logging": {"tensorboard": False},
    "backend": {"kind": "inline", "threads": 1},
}
NONSENSE = {
    "NaN": float("nan"),
    "infinity": float("inf"),
    "text": "x",
    "long text": "x" * 10**6,
    "escape": "\x1b[2J\n",
    "huge": 10**400,
    "negative": -1,
    "list": [],
    "nested list": [[[]]],
    "object": {"../../x": 1},
    "true": True,
    "null": None,
}
HARMLESS = {
    ("reason", "null"),
    ("staleness", "null"),
    ("joules_source", "null"),
    ("measured_joules_source", "null"),
    ("measured_joules_reason", "null"),
    ("measured_joules_reason", "text"),
    ("reason", "text"),
    ("train_loss", "negative"),
}
"""What a field may say as well."""
MEASURED = {"train_loss", "loss_rms", "cpu_seconds", "wall_seconds", "peak_memory_bytes", "device_seconds"}
MEASURED |= {"energy_joules", "measured_joules"}
"""Fields that may be null."""


class Clients:
    """A grid whose nodes 1 to 3 are the clients 0 to 2; what each answers honestly is worked out once."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.forge: Forge | None = None
        self.honest: dict[tuple[str, int], Message] = {}
        self.replies: list[Message] = []
        self.sent = 0

    def get_node_ids(self) -> Iterable[int]:
        return [1, 2, 3]

    def get_nodes(self) -> list[NodeInfo]:
        return [NodeInfo(node_id=node) for node in self.get_node_ids()]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        identifiers = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = f"m{self.sent}"
            self.sent += 1
            identifiers.append(message.metadata.message_id)
            self.replies.append(self._answer(message))
        return identifiers

    def pull_messages(self, identifiers: Iterable[str]) -> list[Message]:
        found, self.replies = self.replies, []
        return found

    def _answer(self, message: Message) -> Message:
        node, kind = message.metadata.dst_node_id, message.metadata.message_type
        if (kind, node) not in self.honest:
            self.honest[kind, node] = app(message, self._context(node))
        content = self.honest[kind, node].content
        if node != 1 or self.forge is None:
            return Message(content, reply_to=message)
        try:
            meta, tensors = unpack(from_record(content))
            forged = self.forge(meta, tensors)
            package = Package(json.dumps(meta), pack({}, tensors).tensors) if forged is None else forged
            return Message(to_record(package), reply_to=message)
        except RuntimeError as error:
            return Message(Error(code=3, reason=str(error)), reply_to=message)

    def _context(self, node: int) -> Context:
        own: dict[str, bool | float | int | str] = {
            "client-id": node - 1,
            "data": str(self.folder / "data" / f"client-{node - 1}" / "pictures.safetensors"),
            "state": str(self.folder / f"state-{node}"),
            "threads": 1,
        }
        return Context(run_id=0, node_id=node, node_config=own, state=RecordDict(), run_config={})


def executor_for(clients: Clients, config: ExperimentConfig, data: Path) -> ClientExecutor:
    return ClientExecutor(clients, config, "run", 3, open_prepared(data))  # type: ignore[arg-type]


class World:
    """A deployed run whose first round can be had again and again."""

    def __init__(self, folder: Path):
        config = resolve(parse_config(CONFIG))
        write_pictures(folder / "data", config)
        data = folder / "data" / "server" / "pictures.safetensors"
        self.clients = Clients(folder)
        self.executor = executor_for(self.clients, config, data)
        self.executor.gather()
        roll = Attendance(self.executor, 0)
        directory = start_deployed_run(config, folder / "run", data, roll)
        roll.watched_in(directory)
        self.experiment: DeployedExperiment = open_deployed_experiment(directory, data, roll)
        self.vector = bind(self.experiment.network.build()).clone()

    def dispatcher(self, forge: Forge | None) -> SynchronousDispatcher:
        self.clients.forge = forge
        return SynchronousDispatcher(self.experiment, self.executor, Knowledge())

    def round(self, forge: Forge | None) -> Attempt:
        """The round in which client 0 answers what ``forge`` makes of its reply."""
        return self.dispatcher(forge).attempt(1, 0, self.vector)

    def evaluation(self, forge: Forge | None) -> tuple[EvaluationRow, ...]:
        """What the clients measure where client 0 answers what ``forge`` makes of its counts."""
        known = self.dispatcher(forge)
        examination = Examination(self.experiment, self.executor, known.knowledge, known.planner)
        return examination.examine(1, self.vector).rows


@contextmanager
def opened_world(folder: Path) -> Iterator[World]:
    """Give a world in a folder, in which messages have Flower's identity of a task and no round waits."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_run_id", "_node_id", "_task_id"):
            patch.setattr(TaskIdentity, name, 1)
        patch.setattr(real_clients, "POLL_SECONDS", 0.001)
        yield World(folder)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with opened_world(tmp_path_factory.mktemp("hostile")) as world:
        yield world


def dead(meta: Json, tensors: Tensors) -> None:
    raise RuntimeError("gone")


@pytest.fixture(scope="module")
def without(world: World) -> Attempt:
    """The round in which client 0 fails in an honest way."""
    return world.round(dead)


def in_row(name: str, value: Any) -> Forge:
    def forge(meta: Json, tensors: Tensors) -> None:
        meta["rows"][0][name] = value

    return forge


def in_place(path: tuple[str | int, ...], value: Any) -> Forge:
    def forge(meta: Json, tensors: Tensors) -> None:
        target: Any = meta
        for key in path[:-1]:
            target = target[key]
        target[path[-1]] = value

    return forge


def values(change: Callable[[torch.Tensor], torch.Tensor]) -> Forge:
    def forge(meta: Json, tensors: Tensors) -> None:
        tensors["values"] = change(tensors["values"]).contiguous()

    return forge


def bytes_of(meta: str | None = None, tensors: bytes | None = None) -> Forge:
    def forge(said: Json, found: Tensors) -> Package:
        own = Package(json.dumps(said), pack({}, found).tensors)
        return Package(own.meta if meta is None else meta, own.tensors if tensors is None else tensors)

    return forge


FIELDS = {
    f"{name} = {kind}": in_row(name, value)
    for name in ClientRow.columns()
    for kind, value in NONSENSE.items()
    if (name, kind) not in HARMLESS and not (name in MEASURED and kind == "null")
}
CLAIMS = {
    "more examples": in_row("examples", 10**15),
    "more steps": in_row("steps", 10**6),
    "more compute": in_row("macs", 10**15),
    "more bytes": in_row("uplink_bytes", 10**12),
    "no compute": in_row("macs", 0),
    "fewer steps": in_row("steps", 0),
    "fewer bytes": in_row("uplink_bytes", 0),
    "less memory": in_row("memory_bytes", 0),
    "fewer steps than it was asked for": in_row("status", "partial"),
    "late where nothing is": in_row("status", "dropped"),
    "bytes of a secure sum": in_row("secure_downlink_bytes", 5),
    "more bytes of a secure sum": in_row("secure_uplink_bytes", 10**24),
    "compute of a secure sum": in_row("secure_macs", 10**24),
    "time of a secure sum": in_row("secure_seconds", 1e30),
    "stages of a secure sum": in_row("secure_stages", {"keys_bytes": 5}),
    "time of a stage": in_row("secure_stage_seconds", {"keys": 5.0}),
    "a huge message to it": in_row("downlink_wire_bytes", 10**24),
    "a message to it of nothing": in_row("downlink_wire_bytes", 0),
    "a long time": in_row("train_seconds", 1e30),
    "much energy": in_row("measured_joules", 1e30),
    "much memory": in_row("peak_memory_bytes", 10**24),
    "a long wait": in_row("wall_seconds", 1e30),
    "a huge loss": in_row("train_loss", 1e30),
    "a huge negative loss": in_row("train_loss", -1e30),
    "losses that nobody asked for": in_row("loss_rms", 1.0),
    "a meter of its own": in_row("measured_joules_source", "<script>alert(1)</script>"),
    "a meter that measured nothing": in_row(
        "measured_joules_source", "measured: RAPL, less the power at rest"
    ),
    "a device": in_row("device_seconds", 5.0),
    "more memory": in_row("memory_bytes", 10**15),
    "another plan": in_row("plan", {"width": 0.1}),
    "a limit": in_row("budget", {"macs": 5}),
    "a broken limit": in_row("budget", {"violations": ["macs"]}),
    "an unknown field": in_row("surprise", 1),
    "an unknown part": in_place(("surprise",), 1),
    "no rows": in_place(("rows",), []),
    "another weight": in_place(("weights", ""), 10**15),
    "another part": in_place(("weights",), {"[0.5,[],0,0]": 20}),
    "another scale": in_place(("scale", "range_exponent"), 900),
    "a huge scale": in_place(("scale", "weight_exponent"), 10**400),
    "norms of no layer": in_place(("rows", 0, "diagnostics", "weighted_norms"), {"x": 1.0}),
    "norms that are null": in_place(("rows", 0, "diagnostics", "weighted_norms"), None),
    "entropy of text": in_place(("rows", 0, "diagnostics", "attention_entropy"), {"conv1": "x"}),
    "other kernels": in_place(("rows", 0, "diagnostics", "kernel_usage"), [0.1] * 50),
    "another's weight": in_place(("rows", 0, "diagnostics", "weight"), 10**9),
    "more diagnostics": in_place(("rows", 0, "diagnostics", "more"), 1),
}
SUMS = {
    "times 1e4": values(lambda q: q * 1e4),
    "1e38": values(lambda q: torch.full_like(q, 1e38)),
    "beyond the range": values(lambda q: torch.full_like(q, 2.0**20)),
    "NaN": values(lambda q: q.index_fill(0, torch.tensor([3]), torch.nan)),
    "infinity": values(lambda q: q.index_fill(0, torch.tensor([3]), torch.inf)),
    "short": values(lambda q: q[:-1]),
    "long": values(lambda q: torch.cat([q, q])),
    "empty": values(lambda q: q[:0]),
    "float64": values(lambda q: q.double()),
    "two dimensions": values(lambda q: q.reshape(1, -1)),
    "bools": values(lambda q: q > 0),
}
BYTES = {
    "no document": bytes_of(meta=""),
    "no JSON": bytes_of(meta="{"),
    "no object": bytes_of(meta="[]"),
    "deep": bytes_of(meta="[" * 200_000),
    "deep objects": bytes_of(meta='{"rows":' * 100_000),
    "large document": bytes_of(meta='{"rows": "' + "x" * 2_000_000 + '"}'),
    "long number": bytes_of(meta='{"rows": ' + "9" * 10_000 + "}"),
    "surrogate": bytes_of(meta='{"\\ud800": 1}'),
    "no tensors": bytes_of(tensors=b""),
    "junk": bytes_of(tensors=b"\xff" * 100),
    "huge header": bytes_of(tensors=(1 << 62).to_bytes(8, "little")),
    "another tensor": bytes_of(tensors=pack({}, {"other": torch.zeros(3)}).tensors),
    "large tensors": bytes_of(tensors=b"\0" * 20_000_000),
}
REPLIES = FIELDS | CLAIMS | SUMS | BYTES


def test_the_honest_round_has_three(world: World) -> None:
    assert [row.status for row in world.round(None).rows] == ["completed"] * 3


def test_replies_of_every_kind_are_tried() -> None:
    assert len(REPLIES) >= 250


@pytest.mark.parametrize("name", REPLIES)
def test_a_hostile_reply_is_a_failed_client(world: World, without: Attempt, name: str) -> None:
    check(world.round(REPLIES[name]), without)


def check(found: Attempt, without: Attempt) -> None:
    """The other clients' rows and the sum, to the bit, are those of a round in which the client failed."""
    bad, *others = found.rows
    assert (bad.client, bad.status) == (0, "failed")
    assert bad.reason is not None
    assert bad.reason.isprintable()
    assert len(bad.reason) <= 200
    assert others == without.rows[1:]
    assert found.total.weights == without.total.weights
    assert torch.equal(found.total.quanta, without.total.quanta)


@settings(max_examples=40, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32 - 1))
def test_random_damage_is_refused_or_changes_nothing(world: World, without: Attempt, seed: int) -> None:
    fuzz(world, without, seed)


@pytest.mark.slow
@settings(max_examples=6_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32 - 1))
def test_much_random_damage_is_refused_or_changes_nothing(world: World, without: Attempt, seed: int) -> None:
    """Each reply once in a round and once in an evaluation: five minutes of a processor."""
    fuzz(world, without, seed)


def fuzz(world: World, without: Attempt, seed: int) -> None:
    found = world.round(random_forge(random.Random(seed)))
    assert [row.client for row in found.rows] == [0, 1, 2]
    assert found.rows[1:] == without.rows[1:]
    if found.rows[0].status == "failed":
        check(found, without)
    world.evaluation(random_forge(random.Random(seed)))


def random_forge(rng: random.Random) -> Forge:
    """Damage one place of the document, or some bytes of it or of the tensors."""

    def forge(meta: Json, tensors: Tensors) -> Package | None:
        if rng.random() < 0.6:
            places = list(paths(meta))
            in_place(rng.choice(places), rng.choice([*NONSENSE.values(), 0, 1, 1e30, 2**63]))(meta, tensors)
            return None
        own = Package(json.dumps(meta), pack({}, tensors).tensors)
        return Package(damaged(own.meta.encode(), rng).decode(errors="replace"), damaged(own.tensors, rng))

    return forge


def paths(document: Any, before: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    inner = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in inner:
        yield (*before, key)
        if isinstance(value, dict | list):
            yield from paths(value, (*before, key))


def damaged(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice([0, 1, 1, 3])):
        changed[rng.randrange(min(len(changed), 4000))] = rng.randrange(256)
    return bytes(changed[: rng.randrange(len(changed))] if rng.random() < 0.1 else changed)


EVALUATIONS = {
    **{
        f"{field.name} = {kind}": in_place(("result", "scores", 0, field.name), value)
        for field in fields(ClientScore)
        for kind, value in NONSENSE.items()
    },
    "missing": bytes_of(meta="{}"),
    "junk": bytes_of(meta="{", tensors=b""),
    "more examples": in_place(("result", "scores", 0, "examples"), 10**15),
    "more hits than images": in_place(("result", "scores", 0, "correct"), 10**15),
    "another client": in_place(("result", "scores", 0, "client"), 1),
    "another model": in_place(("result", "scores", 0, "model"), "local"),
    "nothing": in_place(("result", "scores"), []),
    "another part": in_place(("surprise",), 1),
    "large": in_place(("result", "surprise"), "x" * 2_000_000),
}
for harmless in ("loss_sum = null", "host_seconds = null"):
    EVALUATIONS.pop(harmless)


@pytest.mark.parametrize("name", EVALUATIONS)
def test_a_hostile_evaluation_is_left_out(world: World, name: str) -> None:
    everybody, others = world.evaluation(None), world.evaluation(dead)
    assert [[row.client for row in rows] for rows in (everybody, others)] == [[0, 1, 2], [1, 2]]
    assert all(row.host_seconds is row.label_count is None for row in everybody)
    assert world.evaluation(EVALUATIONS[name]) == others


INTRODUCTIONS = {
    **{
        f"{name} = {kind}": in_place(("introduction", name), value)
        for name in Introduction.columns()
        for kind, value in NONSENSE.items()
        if not (kind == "null" and name in ("memory_limit_bytes", "processors", "pack"))
    },
    "examples = 10**15": in_place(("introduction", "examples"), 10**15),
    "client 7 of 3": in_place(("introduction", "client"), 7),
    "memory of text": in_place(("introduction", "host", "memory_bytes"), "x"),
    "deep": bytes_of(meta="[" * 200_000),
    "nothing": bytes_of(meta="{}"),
}


@pytest.mark.parametrize("name", INTRODUCTIONS)
def test_a_hostile_introduction_is_one_clear_refusal(world: World, name: str) -> None:
    world.clients.forge = INTRODUCTIONS[name]
    executor = executor_for(world.clients, world.executor.config, world.experiment.dataset_file)
    with pytest.raises(
        RunError, match=r"2 of 3 clients were there.*without 0; some nodes answered: "
    ) as error:
        executor.gather()
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500
