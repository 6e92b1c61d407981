"""Secure sums between a server and real clients: every message goes through the apps that containers run."""

import json
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Error, Message
from nodes import Nodes, as_one_task
from pictures import write_pictures

from fedfmd.aggregation import ExactSum, Scale
from fedfmd.config.experiment import parse_config
from fedfmd.data.prepared import open_prepared
from fedfmd.deployment.experiment import DeployedExperiment, Roll, declared_partition
from fedfmd.deployment.layout import PICTURES
from fedfmd.deployment.run import open_deployed_experiment, start_deployed_run
from fedfmd.deployment.vault import VAULT_FILE
from fedfmd.errors import UserError
from fedfmd.flower.attendance import Attendance
from fedfmd.flower.client import app
from fedfmd.flower.messages import from_record, to_record
from fedfmd.flower.real_clients import ClientExecutor
from fedfmd.nn.submodel import Share
from fedfmd.nn.vector import bind
from fedfmd.rounds.collection import Attempt
from fedfmd.rounds.knowledge import Knowledge
from fedfmd.rounds.lifecycle import resolve
from fedfmd.rounds.synchronous import SynchronousDispatcher
from fedfmd.wire.packages import pack, unpack

CLIENTS = 4
CONFIG: dict[str, Any] = {
    "data": {"train_samples": 60, "test_samples": 10},
    "partition": {"scheme": "iid", "clients": CLIENTS},
    "model": {"name": "resnet8", "width": 0.25, "conv": "static"},
    "client": {"batch_size": 10, "augment": False},
    "server": {"cohort": CLIENTS, "rounds": 1},
    "logging": {"tensorboard": False},
    "backend": {"kind": "inline", "threads": 1},
}
PARTS: dict[str, Any] = {
    "policy": {"kind": "width", "widths": [1.0, 0.5], "classifier_rows": "holders"},
    "devices": {
        "kind": "tiers",
        "tiers": [{"name": "strong"}, {"name": "weak", "budget": {"macs_fraction": 0.4}}],
    },
}
SECURE: dict[str, Any] = {"privacy": {"secure": "secagg"}}
STAGES = ("keys", "shares", "train", "recovery")


def stage_of(meta: dict[str, Any]) -> str:
    """Return which stage a message of the server is about."""
    asked = meta.get("stage")
    if asked is None:
        return "train" if meta.get("order") else "introduction"
    return "recovery" if asked["question"] else "shares" if asked["invitation"] else "keys"


class Grid(Nodes):  # type: ignore[misc]  # mypy does not look into helpers of tests
    """Clients of which some are gone from a stage on; all replies are kept."""

    def __init__(self, folder: Path):
        super().__init__(folder, CLIENTS)
        self.gone: dict[int, str] = {}
        """Client to the stage at which it does not answer any more."""
        self.forge: tuple[int, str, Callable[[dict[str, Any]], None]] | None = None
        """A client, the stage at which it answers something else, and what."""
        self.received: list[tuple[int, str, dict[str, Any], dict[str, torch.Tensor]]] = []
        self.after: Callable[[int, str], None] = lambda client, stage: None

    def answer(self, client: int, message: Message) -> Message:
        stage = stage_of(json.loads(from_record(message.content).meta))
        if client in self.gone and stage in STAGES[STAGES.index(self.gone[client]) :]:
            return Message(Error(code=3, reason="gone"), reply_to=message)
        try:
            reply = super().answer(client, message)
        except Exception as error:
            return Message(Error(code=3, reason=str(error)), reply_to=message)
        if self.forge is not None and self.forge[:2] == (client, stage):
            meta, tensors = unpack(from_record(reply.content))
            self.forge[2](meta["stage"])
            reply = Message(to_record(pack(meta, tensors)), reply_to=message)
        self.received.append((client, stage, *unpack(from_record(reply.content))))
        self.after(client, stage)
        return reply

    def vault(self, client: int) -> Path:
        return self.folder / f"state-{client}" / "run" / VAULT_FILE


class World:
    """A deployed run and its first round."""

    def __init__(self, folder: Path, *changes: dict[str, Any]):
        document = dict(CONFIG)
        for change in changes:
            document |= change
        config = resolve(parse_config(document))
        folder.mkdir(exist_ok=True)
        write_pictures(folder / "data", config)
        data = folder / "data" / "server" / PICTURES
        self.grid = Grid(folder)
        grid: Any = self.grid
        self.executor = ClientExecutor(grid, config, "run", CLIENTS, open_prepared(data))
        self.executor.gather()
        roll = Attendance(self.executor, 0)
        directory = start_deployed_run(config, folder / "run", data, roll)
        self.experiment: DeployedExperiment = open_deployed_experiment(directory, data, roll)
        self.vector = bind(self.experiment.network.build()).clone()

    def round(self, **gone: str) -> Attempt:
        self.grid.gone = {int(name.removeprefix("c")): stage for name, stage in gone.items()}
        return SynchronousDispatcher(self.experiment, self.executor, Knowledge()).attempt(1, 0, self.vector)


@pytest.fixture(autouse=True)
def task(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with as_one_task(tmp_path_factory.getbasetemp() / "real-cache"):
        yield


def mean(tried: Attempt, world: World) -> torch.Tensor:
    places = tried.opened.places if tried.opened else world.experiment.network.places
    return tried.total.mean(tried.total.holders(places))


@pytest.mark.parametrize("changes", [{}, PARTS], ids=["whole", "parts"])
def test_the_sum_is_the_plain_one_and_no_message_tells_a_clients_part(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    """Two rounds of the same clients, plain and secure; then all that the server received is looked at."""
    plain, secure = World(tmp_path / "plain", changes), World(tmp_path / "secure", changes, SECURE)
    modes: set[int] = set()

    def look(client: int, stage: str) -> None:
        if stage in ("keys", "shares", "train"):
            modes.add(stat.S_IMODE(secure.grid.vault(client).stat().st_mode))

    secure.grid.after = look
    open_round, hidden_round = plain.round(), secure.round()
    assert hidden_round.completed == CLIENTS
    known = secure.experiment.network.blocks((hidden_round.opened and seats(hidden_round)) or {})
    shown = known.places(known.visible(range(CLIENTS)))
    everywhere = slice(None) if shown is None else shown
    assert torch.equal(mean(hidden_round, secure)[everywhere], mean(open_round, plain)[everywhere])

    assert modes == {0o600}
    assert not any(secure.grid.vault(client).exists() for client in range(CLIENTS))
    updates = {
        c: words_of(plain, meta, tensors["values"])
        for c, stage, meta, tensors in plain.grid.received
        if stage == "train"
    }
    stages = [stage for _, stage, *_ in secure.grid.received if stage != "introduction"]
    assert stages == [stage for stage in STAGES for _ in range(CLIENTS)]
    for client, stage, meta, tensors in secure.grid.received:
        text = json.dumps(meta)
        if stage != "introduction":
            assert '"examples": null' in text or '"examples"' not in text
            assert '"train_loss": null' in text or '"train_loss"' not in text
        if stage != "train":
            assert not tensors
            continue
        masked, places = tensors["quanta"], known.places(known.held_by(client))
        own = updates[client] if places is None else updates[client][places]
        assert len(masked) == len(own) == len(masked.unique())
        looks_random(masked)
        looks_random(masked - own.long())  # the mask itself
        agreement = ((masked < 0) == (own < 0))[own != 0].double()
        assert abs(float(agreement.mean()) - 0.5) < 6 * 0.5 / len(agreement) ** 0.5


def words_of(world: World, meta: dict[str, Any], update: torch.Tensor) -> torch.Tensor:
    """Return what a client's plain update is in the sum."""
    ((part, weight),) = meta["weights"].items()
    total = ExactSum.zero(len(world.vector), Scale(**meta["scale"]))
    total.add(update, weight, part, world.experiment.network.index(Share.from_key(part)))
    return total.quanta


def seats(tried: Attempt) -> dict[int, str]:
    from fedfmd.rounds.roster import part_in

    return {row.client: part_in(row) for row in tried.rows}


def looks_random(words: torch.Tensor) -> None:
    """Assert that each bit is a fair coin, within 6 standard deviations."""
    bits = torch.stack([(words >> bit & 1).double().mean() for bit in range(64)])
    assert float((bits - 0.5).abs().max()) < 6 * 0.5 / len(words) ** 0.5


def test_clients_that_leave_at_each_stage(tmp_path: Path) -> None:
    """One is gone from a stage on: the sum of the others is what the plain run has without it."""
    plain, secure = World(tmp_path / "plain"), World(tmp_path / "secure", SECURE | {"seed": 0})
    without = mean(plain.round(c2="train"), plain)
    for stage in ("keys", "shares", "train"):
        tried = secure.round(c2=stage)
        assert tried.completed == CLIENTS - 1
        assert torch.equal(mean(tried, secure), without), stage
    everybody = mean(plain.round(), plain)
    assert torch.equal(mean(secure.round(c2="recovery"), secure), everybody)
    rows = secure.round(c1="train", c2="train").rows
    assert {row.status for row in rows} == {"dropped", "failed"}
    assert all("secure sum: 2 clients sent a masked update" in (row.reason or "") for row in rows if row.macs)


def keys_of_nobody(told: dict[str, Any]) -> None:
    told["keys"] |= {"masking": "00" * 32, "sealing": "00" * 32}


def as_another(told: dict[str, Any]) -> None:
    told["keys"]["client"] = 1


def one_share_less(told: dict[str, Any]) -> None:
    told["deposit"]["sealed"].pop()


def no_numbers(told: dict[str, Any]) -> None:
    told["deposit"]["sealed"][0]["sender"] = "0"


def nothing(told: dict[str, Any]) -> None:
    told["revealed"] = None


NONSENSE: dict[Callable[[dict[str, Any]], None], tuple[str, str]] = {
    keys_of_nobody: ("keys", "left before it told its keys: its answer is none to what was asked: keys"),
    as_another: ("keys", "left before it told its keys: its answer is none to what was asked: keys"),
    one_share_less: (
        "shares",
        "left before it deposited its shares: its answer is none to what was asked: shares",
    ),
    no_numbers: (
        "shares",
        "left before it deposited its shares: malformed stage: deposit.sealed.0.sender",
    ),
}


@pytest.mark.parametrize("change", NONSENSE, ids=lambda change: change.__name__)
def test_who_answers_a_stage_with_nonsense_is_left_out_and_its_row_says_why(
    tmp_path: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    """The sum is that of a round in which it left, to the bit."""
    world = World(tmp_path / "world", SECURE)
    stage, reason = NONSENSE[change]
    without = world.round(c0=stage)
    world.grid.forge = (0, stage, change)
    tried = world.round()
    assert torch.equal(tried.total.quanta, without.total.quanta)
    assert [row.status for row in tried.rows] == ["dropped", *["completed"] * 3]
    assert str(tried.rows[0].reason).startswith(reason)


def test_who_tells_no_shares_is_logged_and_the_sum_is_known(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Those of the others are enough; its own update counts."""
    caplog.set_level("INFO")
    world = World(tmp_path / "world", SECURE)
    honest = world.round()
    assert not caplog.messages
    world.grid.forge = (0, "recovery", nothing)
    tried = world.round()
    assert torch.equal(tried.total.quanta, honest.total.quanta)
    assert caplog.messages == [
        "round 1: client 0 has no part in the secure sum: its answer is none to what was asked: recovery"
    ]


def test_what_a_dishonest_server_asks_is_refused(tmp_path: Path) -> None:
    """Plain updates, a second update under the same masks, partners left out, and shares told twice."""
    world = World(tmp_path / "world", SECURE)
    orders: list[tuple[dict[str, Any], torch.Tensor]] = []
    original = world.grid.push_messages

    def tampered(messages: Iterable[Message]) -> list[str]:
        sent = list(messages)
        for message in sent:
            meta, tensors = unpack(from_record(message.content)) if "order" in meta_of(message) else ({}, {})
            if meta.get("order") and message.metadata.dst_node_id == 1:
                orders.append((meta, tensors["vector"]))
        return original(sent)

    world.grid.push_messages = tampered  # type: ignore[method-assign]
    world.round(c0="recovery")  # it has masked, and was asked nothing since
    (meta, vector), secret = orders[0], world.grid.vault(0).read_bytes()

    def ask(change: Callable[[dict[str, Any]], None], moved: float = 0.0) -> str:
        copy = json.loads(json.dumps(meta))
        change(copy["order"])
        package = pack(copy, {"vector": vector + moved})
        message = Message(to_record(package), dst_node_id=1, message_type="train")
        message.metadata.__dict__["_message_id"] = "x"
        world.grid.vault(0).write_bytes(secret)
        with pytest.raises(Exception, match=r"secure sum|masked another") as caught:
            app(message, world.grid.context(0))
        return str(caught.value)

    assert "without a secure sum" in ask(lambda order: order.update(secure=None))
    assert "masked another update" in ask(lambda order: None, moved=1e-3)
    assert "too few" in ask(lambda order: order["secure"].update(keys=[]))
    assert "not the one" in ask(lambda order: order["secure"]["seats"].pop())


def meta_of(message: Message) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(from_record(message.content).meta)
    return {name: value for name, value in found.items() if value is not None}


def test_counted_masks_are_for_simulations(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"privacy\.masks = 'counted': real clients always mask"):
        start_deployed_run(
            parse_config(CONFIG | {"privacy": {"secure": "secagg", "masks": "counted"}}),
            tmp_path / "run",
            tmp_path / "none",
            Roll(declared_partition(2, {})),
        )
