"""Clients with images of their own: they agree by sums, come, go and come back; the server has no image.

The real server and client code, with a grid between them that is plain Python.
"""

import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Context, Error, Message, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from flwr.supercore.task_identity import TaskIdentity

import fedfmd
from fedfmd.config.experiment import parse_config
from fedfmd.data.agreement import Agreement, Normalisation
from fedfmd.data.packs import PackSource, empty_pack, pack
from fedfmd.data.prepared import open_prepared, save_dataset
from fedfmd.data.statistics import channel_statistics
from fedfmd.deployment import assignment as assignments
from fedfmd.deployment.assignment import RefusedOrderError, assignment, read_assignment
from fedfmd.deployment.introduction import ImageSums, names_hash
from fedfmd.errors import RunError, UserError
from fedfmd.flower import inquiry, real_clients
from fedfmd.flower.client import app
from fedfmd.flower.deployment import Deployment, agree, run_deployed
from fedfmd.flower.messages import from_record
from fedfmd.nn.model_file import read_card
from fedfmd.pages.report import write_report
from fedfmd.privacy.accountant import Releases, epsilon
from fedfmd.records.rows import ClientRow
from fedfmd.records.rundir import RunDirectory
from fedfmd.rounds.lifecycle import resolve
from fedfmd.units import percent
from fedfmd.wire.examination import ExaminationOrder
from fedfmd.wire.packages import unpack

AGREED = Agreement(("bird", "cat", "dog"), 16)
SIZES = (30, 20, 25)
CONFIG: dict[str, Any] = {
    "data": {"name": "packs"},
    "partition": {"scheme": "natural", "clients": 3, "holdout": 0.2},
    "model": {"width": 0.25, "conv": "static"},
    "client": {"batch_size": 10, "augment": False},
    "server": {"cohort": 3, "rounds": 4, "min_completed": 1},
    "evaluation": {"clients": "all"},
    "logging": {"tensorboard": False},
    "backend": {"kind": "inline", "threads": 1},
}


class Colours:
    """A client's own set: images of a colour for each class, more or less."""

    classes = AGREED.classes

    def __init__(self, train: bool, client: int):
        generator = torch.manual_seed(client)
        count = SIZES[client] if train else 2
        self.labels = torch.randint(0, 3, (count,), generator=generator)
        self.images = torch.randint(0, 90, (count, 3, 16, 16), generator=generator).to(torch.uint8)
        self.images[torch.arange(count), self.labels] += 120

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, place: int) -> tuple[torch.Tensor, int]:
        return self.images[place], int(self.labels[place])


class Machines:
    """A grid whose nodes 1 to 3 are the machines of clients 0 to 2; some are switched on."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.on = {1, 2, 3}
        self.names: dict[int, str] = {}
        self.since: dict[int, str] = {}
        self.replies: list[Message] = []
        self.sent: list[Message] = []

    def get_node_ids(self) -> Iterable[int]:
        return sorted(self.on)

    def get_nodes(self) -> list[NodeInfo]:
        """Give the nodes that are on, with the names that the server has given to some."""
        return [
            NodeInfo(node_id=node, name=self.names.get(node), last_activated_at=self.since.get(node))
            for node in self.get_node_ids()
        ]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        for message in messages:
            message.metadata.__dict__["_message_id"] = f"m{len(self.sent)}"
            self.sent.append(message)
            self.replies.append(self._answer(message))
        return [message.metadata.message_id for message in self.sent[-1:]]

    def pull_messages(self, identifiers: Iterable[str]) -> list[Message]:
        wanted = set(identifiers)
        found = [reply for reply in self.replies if reply.metadata.reply_to_message_id in wanted]
        self.replies = [reply for reply in self.replies if reply not in found]
        return found

    def _config(self, node: int) -> dict[str, bool | float | int | str]:
        return {
            "client-id": node - 1,
            "data": str(self.folder / f"{node - 1}.safetensors"),
            "state": str(self.folder / f"state-{node}"),
            "threads": 1,
        }

    def _answer(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        own = self._config(node)
        context = Context(run_id=0, node_id=node, node_config=own, state=RecordDict(), run_config={})
        try:
            return Message(app(message, context).content, reply_to=message)
        except RunError as error:  # as Flower hands it on
            return Message(Error(code=2, reason=str(error)), reply_to=message)


@pytest.fixture(scope="module", autouse=True)
def task() -> Iterator[None]:
    """Let this process be what Flower starts for a message."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_run_id", "_node_id", "_task_id"):
            patch.setattr(TaskIdentity, name, 1, raising=False)
        patch.setattr(inquiry, "GATHER_TIMEOUT_SECONDS", 0.3)
        patch.setattr(real_clients, "POLL_SECONDS", 0.01)
        yield


@pytest.fixture(scope="module")
def packs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with three packs, the server's empty one, and what the clients have agreed on."""
    folder = tmp_path_factory.mktemp("packs")
    for client in range(3):
        source = PackSource(f"{__name__}:Colours", options={"client": client})
        pack(source, AGREED, None, folder / f"{client}.safetensors")
    empty_pack(AGREED, folder / "server.safetensors")
    agree(machines(folder), resolved(), folder / "agreed.json", told(folder))
    return folder


def machines(folder: Path) -> Any:
    return Machines(folder)


def resolved(**changes: Any) -> Any:
    return resolve(parse_config({**CONFIG, **changes}))


def told(folder: Path, needed: int = 3, *, agreed: bool = True) -> Deployment:
    statistics = folder / "agreed.json" if agreed else None
    return Deployment(3, folder / "server.safetensors", needed, statistics)


def rows(run: RunDirectory, *keys: str) -> list[list[Any]]:
    return [[row[key] for key in keys] for row in run.rounds()]


def written(run: Path) -> int:
    """Count the rounds in a ledger, round 0 included."""
    ledger = run / "rounds.jsonl"
    return ledger.read_text().count("\n") if ledger.exists() else 0


def notes(run: RunDirectory) -> list[tuple[int, str]]:
    return [(note.round, note.note) for note in run.notes() if note.kind == "clients"]


def test_what_clients_agree_on_is_what_the_pooled_images_would_give(packs: Path, tmp_path: Path) -> None:
    """To the bit, and no message held an image: the sums are those of what each trains on."""
    whole = resolved(partition={**CONFIG["partition"], "holdout": 0.0})
    grid = machines(packs)
    agree(grid, whole, tmp_path / "agreed.json", told(packs))
    agreed = json.loads((tmp_path / "agreed.json").read_text())
    parts = [open_prepared(packs / f"{client}.safetensors") for client in range(3)]
    mean, std = channel_statistics(np.concatenate([part.train_images for part in parts]))
    assert (tuple(agreed["mean"]), tuple(agreed["std"])) == (mean, std)
    labels = np.concatenate([part.train_labels for part in parts])
    assert list(agreed["labels"].values()) == np.bincount(labels).tolist()
    assert (agreed["images"], agreed["clients"]) == (75, [0, 1, 2])


def test_a_run_with_images_that_only_the_clients_have(packs: Path, tmp_path: Path) -> None:
    run_deployed(machines(packs), resolved(), tmp_path / "run", told(packs))
    run = RunDirectory.open(tmp_path / "run")
    assert run.finished()
    assert rows(run, "present", "completed") == [[None, 0], *[[3, 3]] * 4]
    assert run.rounds()[-1]["top1_reason"] == "the server has no test images"
    assert run.rounds()[-1]["client_top1_global_mean"] is not None
    assert run.rounds()[-1]["scored_on"] == "clients"
    mean = percent(run.rounds()[-1]["client_top1_global_mean"])
    assert f"round 4: 3 of 3 clients, clients' top-1 {mean}\n" in (run.path / "log.txt").read_text()
    agreed = json.loads((packs / "agreed.json").read_text())
    assert run.read_json("statistics.json") == agreed
    assert list(read_card(run.path / "model.safetensors").mean) == agreed["mean"]
    said = run.read_json("clients.json")
    assert [said[str(c)]["pack"] for c in range(3)] == [
        open_prepared(packs / f"{c}.safetensors").origin["sha256"] for c in range(3)
    ]
    assert said["0"]["versions"]["fedfmd"] == fedfmd.__version__


def test_clients_come_and_go_and_come_back(packs: Path, tmp_path: Path) -> None:
    """The run begins with two; the third comes late, the first leaves for a round."""
    grid, seen = machines(packs), {1: {1, 2}, 2: {1, 2, 3}, 3: {2, 3}, 4: {1, 2, 3}}
    grid.on = {1, 2}
    heard = grid.get_node_ids

    def switched() -> Iterable[int]:
        done = (
            (tmp_path / "run" / "rounds.jsonl").read_text().count("\n")
            if (tmp_path / "run" / "rounds.jsonl").exists()
            else 0
        )
        grid.on = seen[min(max(done, 1), 4)]
        return heard()

    grid.get_node_ids = switched
    run_deployed(grid, resolved(), tmp_path / "run", told(packs, needed=2))
    run = RunDirectory.open(tmp_path / "run")
    assert rows(run, "round", "present", "completed", "failed")[1:] == [
        [1, 2, 2, 0],
        [2, 3, 3, 0],
        [3, 2, 2, 0],
        [4, 3, 3, 0],
    ]
    assert notes(run) == [
        (0, "begins without client 2"),
        (1, "client 2 came"),
        (2, "client 0 left"),
        (3, "client 0 came back"),
    ]
    assert {row.client for row in run.client_rows(3)} == {1, 2}
    assert run.read_json("partition.json")["sizes"] == list(SIZES)


def test_a_run_without_test_images_has_a_report_of_its_own_name(packs: Path, tmp_path: Path) -> None:
    """Nothing of it is damaged, nothing is said of a test set, and no validation is advised."""
    run_deployed(machines(packs), resolved(), tmp_path / "first", told(packs))
    page = Path(write_report([tmp_path / "first"])).read_text().split('<script type="application/json"')[0]
    assert "<h1>first</h1>" in page
    assert "damaged" not in page
    assert "Accuracy of the global model on the clients' own images" in page
    assert "global model on the test set" not in page
    assert "partition.validation" not in page


def test_no_client_is_asked_to_test_on_the_servers_images(packs: Path, tmp_path: Path) -> None:
    """Workers of the server's machine share that test; real clients measure on their own images alone."""
    grid, config = machines(packs), resolved(evaluation={"clients": "all", "batch_size": 1})
    with_images = replace(told(packs), data=packs / "0.safetensors")
    run_deployed(grid, config, tmp_path / "run", with_images)
    assert RunDirectory.open(tmp_path / "run").rounds()[-1]["top1"] is not None
    asked = [unpack(from_record(m.content))[0] for m in grid.sent if m.metadata.message_type == "evaluate"]
    assert all(ExaminationOrder.exactly(one["examination"]).clients for one in asked)
    assert not any("test" in one for one in asked)


def test_the_operators_names_are_in_the_files_and_the_report(packs: Path, tmp_path: Path) -> None:
    named = replace(told(packs), names={0: "north", 1: "south", 2: "west"})
    run_deployed(machines(packs), resolved(), tmp_path / "run", named)
    run = RunDirectory.open(tmp_path / "run")
    assert [said["name"] for said in run.read_json("clients.json").values()] == ["north", "south", "west"]
    assert run.read_json("partition.json")["client_names"] == ["north", "south", "west"]
    page = Path(write_report([run.path])).read_text()
    assert '<th scope="row">south</th>' in page


def test_work_that_a_client_lost_goes_out_again_and_the_log_says_so(packs: Path, tmp_path: Path) -> None:
    """The process of client 0 dies over its first order, and another one answers the second."""
    grid = machines(packs)
    honest, lost = grid._answer, list[Message]()

    def dies_once(message: Message) -> Message:
        if message.metadata.message_type == "train" and message.metadata.dst_node_id == 1 and not lost:
            lost.append(message)
            return Message(Error(code=3, reason="the client was killed"), reply_to=message)
        reply: Message = honest(message)
        return reply

    grid._answer = dies_once
    run_deployed(grid, resolved(), tmp_path / "run", told(packs))
    run = RunDirectory.open(tmp_path / "run")
    assert lost
    assert rows(run, "present", "completed", "failed")[1] == [3, 3, 0]
    log = (run.path / "log.txt").read_text()
    assert log.count("round 1: work of client 0 goes out again: the client was killed\n") == 1


def test_a_run_goes_on_with_other_clients_than_it_began_with(packs: Path, tmp_path: Path) -> None:
    """It stops for want of clients, keeps what it has, and goes on with those who are there then."""
    grid = machines(packs)
    grid.on = {1, 2}
    counted = grid.get_node_ids
    out = tmp_path / "run"

    grid.get_node_ids = lambda: [] if written(out) > 2 else counted()
    with pytest.raises(RunError, match="nobody was available"):
        run_deployed(grid, resolved(), out, told(packs, needed=2))
    assert RunDirectory.open(out).rounds_done() == 2
    other = machines(packs)
    other.on = {2, 3}
    run_deployed(other, resolved(), out, told(packs, needed=1, agreed=False))
    run = RunDirectory.open(out)
    assert run.finished()
    assert [row[0] for row in rows(run, "present")[1:]] == [2, 2, 2, 2]
    assert {row.client for row in run.ledgers.read("clients.jsonl", ClientRow)} == {0, 1, 2}
    assert (2, "begins without client 0") in notes(run)


class PuttingOut(Machines):
    """Some clients are put out while a round goes on: Flower takes no message for them any more."""

    out = frozenset[int]()

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        (message,) = messages
        if self.out and message.metadata.dst_node_id in self.out:
            return [""]
        return super().push_messages([message])

    def _answer(self, message: Message) -> Message:
        if message.metadata.message_type == "train":
            self.out = frozenset({2, 3})
            if message.metadata.dst_node_id in self.out:
                return Message(Error(code=3, reason="it has been put out"), reply_to=message)
        return super()._answer(message)


def test_clients_that_are_put_out_in_a_round_have_failed_and_no_order_is_lost(
    packs: Path, tmp_path: Path
) -> None:
    grid = PuttingOut(packs)
    run_deployed(grid, resolved(server={"cohort": 3, "rounds": 1}), tmp_path / "run", told(packs))  # type: ignore[arg-type]
    run = RunDirectory.open(tmp_path / "run")
    assert rows(run, "completed", "failed")[1] == [1, 2]
    found = {row.client: row.reason for row in run.ledgers.read("clients.jsonl", ClientRow)}
    assert found == {0: None, 1: "the client is not there", 2: "the client is not there"}


class Forging(Machines):
    """Client 2's answers say that they are to a question that nobody has asked."""

    def pull_messages(self, identifiers: Iterable[str]) -> list[Message]:
        found = super().pull_messages(identifiers)
        for message in found:
            if self.sent[int(message.metadata.reply_to_message_id[1:])].metadata.dst_node_id == 3:
                message.metadata.__dict__["_reply_to_message_id"] = "another"
        return found


class Frozen(Machines):
    """Client 2 hangs over the first message of a kind, and is started again before anybody looks."""

    def __init__(self, folder: Path, kind: str):
        super().__init__(folder)
        self.kind = kind

    def _answer(self, message: Message) -> Message:
        if message.metadata.dst_node_id != 3 or message.metadata.message_type != self.kind or self.since:
            return super()._answer(message)
        self.since = {3: "later"}
        another = Message(RecordDict(), dst_node_id=3, message_type=self.kind)
        another.metadata.__dict__["_message_id"] = "another"
        return Message(RecordDict(), reply_to=another)


@pytest.mark.parametrize("kind", ["train", "query"])
def test_a_client_that_hung_and_was_started_again_takes_part_again(
    packs: Path, tmp_path: Path, kind: str
) -> None:
    """What it was asked before, to train or who it is, will never be answered."""
    grid = Frozen(packs, kind)
    run_deployed(
        grid,  # type: ignore[arg-type]
        resolved(),
        tmp_path / "run",
        replace(told(packs, needed=2), round_seconds=1.0),
    )
    run = RunDirectory.open(tmp_path / "run")
    first = [1, 2, 1] if kind == "train" else [1, 3, 0]
    assert rows(run, "round", "completed", "failed")[1:] == [first, [2, 3, 0], [3, 3, 0], [4, 3, 0]]


def test_who_was_refused_for_another_s_sake_is_asked_again_once_that_has_left(packs: Path) -> None:
    """A client that died is there until the server misses it; it comes again as another node meanwhile."""
    grid = Impostor(packs)
    executor = executor_over(grid)
    executor.gather()
    grid.on.add(4)
    for _ in range(2 * inquiry.MOST_INTRODUCTIONS):
        executor.inquiry.look()
    assert executor.inquiry.nodes[0] == 1
    grid.on.remove(1)
    executor.inquiry.look()
    assert executor.inquiry.nodes == {0: 4, 1: 2, 2: 3}


def test_an_answer_to_what_nobody_asked_is_nobody_s(packs: Path, tmp_path: Path) -> None:
    run_deployed(Forging(packs), resolved(), tmp_path / "run", told(packs, needed=2))  # type: ignore[arg-type]
    run = RunDirectory.open(tmp_path / "run")
    assert run.finished()
    assert {row.client for row in run.ledgers.read("clients.jsonl", ClientRow)} == {0, 1}


def test_without_enough_clients_nothing_is_begun(packs: Path, tmp_path: Path) -> None:
    grid = machines(packs)
    grid.on = {2}
    with pytest.raises(RunError, match=r"1 of 3 clients were there.*2 are needed, without 0, 2"):
        run_deployed(grid, resolved(), tmp_path / "run", told(packs, needed=2))
    assert not (tmp_path / "run").exists()


def test_what_is_not_agreed_is_said_before_anybody_is_asked(packs: Path, tmp_path: Path) -> None:
    grid = machines(packs)
    with pytest.raises(UserError, match="run fedfmd deploy statistics first"):
        run_deployed(grid, resolved(), tmp_path / "run", told(packs, agreed=False))
    assert not grid.sent


MISFITS = {
    "other order": ({"classes": ("cat", "bird", "dog")}, "its classes have other names, or another order"),
    "another size": ({"input_shape": (3, 32, 32)}, r"the server 3 of \(3, 16, 16\): pack its images anew"),
    "own statistics": ({"mean": (0.5,) * 3, "std": (0.2,) * 3}, "pack them anew without --stats"),
}


@pytest.mark.parametrize(("changes", "said"), MISFITS.values(), ids=MISFITS)
def test_a_pack_that_does_not_fit_is_refused_with_the_cure(
    packs: Path, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    here = tmp_path / "packs"
    shutil.copytree(packs, here)
    data = open_prepared(packs / "1.safetensors")
    save_dataset(replace(data, **changes), here / "1.safetensors")
    with pytest.raises(RunError, match=said) as refusal:
        run_deployed(machines(here), resolved(), tmp_path / "run", told(here))
    assert "without 1" in str(refusal.value)
    assert not (tmp_path / "run").exists()


def test_another_version_is_refused_at_introduction(
    packs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything else of the server's description is read, which may mean another thing."""
    theirs = json.loads(assignment(resolved(), "r", 0)) | {"version": "9.9.9", "unknown": 1}
    with pytest.raises(
        RefusedOrderError, match=r"the server has fedfmd 9\.9\.9, .*pip install fedfmd==9\.9\.9"
    ):
        read_assignment(json.dumps(theirs))
    honest = assignments.assignment
    monkeypatch.setattr(
        real_clients,
        "assignment",
        lambda *given: json.dumps(json.loads(honest(*given)) | {"version": "9.9.9"}),
    )
    with pytest.raises(RunError, match=r"some nodes answered: .*the server has fedfmd 9\.9\.9"):
        run_deployed(machines(packs), resolved(), tmp_path / "run", told(packs))


def test_parts_that_only_the_server_uses_are_no_reason_to_refuse() -> None:
    """Who is asked, how the server steps, how a set was once cut up: a client needs none of it."""
    config = parse_config({
        **CONFIG,
        "data": {"name": f"{__name__}:Colours", "image_size": 16},
        "partition": {"scheme": f"{__name__}:everything", "clients": 3, "holdout": 0.2},
        "selection": {"kind": f"{__name__}:anybody"},
        "server": {**CONFIG["server"], "strategy": f"{__name__}:Stepping"},
        "logging": {"loggers": [f"{__name__}:Silent"]},
        "options": {"data": {"client": 1}},
    })  # fmt: skip
    given = read_assignment(assignment(config, "r", 0))
    assert given.config.partition.holdout == 0.2
    assert given.config.client == config.client
    assert given.config.model == config.model
    ours = json.loads(assignment(config, "r", 0))
    ours["config"]["model"]["conv"] = f"{__name__}:Conv"
    with pytest.raises(RefusedOrderError, match=r"model\.conv: a client imports no module"):
        read_assignment(json.dumps(ours))


def everything(labels: Any, clients: int) -> None:
    """Stand for a partition of somebody's own."""


def anybody(drawing: Any) -> None:
    """Stand for a selection of somebody's own."""


class Stepping:
    """Stand for a server optimiser of somebody's own."""


class Silent:
    """Stand for a logger of somebody's own."""


def test_sums_that_are_of_no_images_are_refused(packs: Path) -> None:
    data = open_prepared(packs / "0.safetensors")
    honest = ImageSums.of(0, data, np.arange(len(data.train_labels)))
    assert honest.misfit(data) is None
    for change in (
        {"images": 31},
        {"pixels": 1},
        {"pixels": 10**20},  # of few images would outweigh everybody
        {"pixels": honest.pixels + 1},
        {"squares": honest.sums},  # of pixels 0 and 1 alone, whose sum is at most their number
        {"sums": (1, 2)},
        {"squares": (0, 0, 0)},
        {"squares": tuple(256 * n for n in honest.sums)},
        {"labels": (1, 2)},
        {"named": names_hash(("a", "b", "c"))},
    ):
        assert replace(honest, **change).misfit(data) is not None, change  # type: ignore[arg-type]


PRIVATE: dict[str, Any] = {"dp": "central", "noise_multiplier": 1.0, "delta": 0.01}


def test_a_private_run_with_real_clients_accounts_for_its_rounds(packs: Path, tmp_path: Path) -> None:
    """The ledger says the accountant's epsilon, and no two runs have the same noise."""
    server = {"cohort": 3, "rounds": 2, "weighting": "uniform"}
    unheld = {"scheme": "natural", "clients": 3}
    private = resolved(privacy=PRIVATE, server=server, partition=unheld, evaluation={})
    runs = []
    for name in ("one", "two"):
        run_deployed(machines(packs), private, tmp_path / name, told(packs))
        runs.append(run := RunDirectory.open(tmp_path / name))
        assert run.finished()
        spent = [epsilon([Releases(1.0, 3, 3, "replace-one", n)], 0.01) for n in (1, 2)]
        assert [row[0] for row in rows(run, "epsilon")] == [None, *spent]
        assert rows(run, "completed") == [[0], [3], [3]]
        assert run.rounds()[-1]["top1_reason"] == "the server has no test images"
    one, two = ((run.path / "model.safetensors").read_bytes() for run in runs)
    assert one != two


class Impostor(Machines):
    """A fourth machine says that it is client 0, and has other images."""

    def _config(self, node: int) -> dict[str, bool | float | int | str]:
        own = super()._config(node)
        return {**own, "client-id": 0, "data": str(self.folder / "2.safetensors")} if node == 4 else own


NAMED = {node: f"client-{node - 1}" for node in (1, 2, 3, 4)}
"""What the server has registered the nodes as."""


def executor_over(grid: Machines) -> real_clients.ClientExecutor:
    data, agreed = (
        open_prepared(grid.folder / "server.safetensors"),
        Normalisation.read(grid.folder / "agreed.json"),
    )
    seen = replace(data, mean=agreed.mean, std=agreed.std)
    return real_clients.ClientExecutor(grid, resolved(), "run", 3, seen)  # type: ignore[arg-type]


def test_what_a_node_says_as_another_s_client_counts_for_nothing(packs: Path) -> None:
    grid = Impostor(packs)
    executor = executor_over(grid)
    executor.gather()
    before = dict(executor.inquiry.said)
    assert before[0].examples != before[2].examples
    grid.on.add(4)
    executor.inquiry.look()
    assert executor.inquiry.refused[4] == 1
    assert any("two nodes say that they are client 0" in reason for reason in executor.inquiry.reasons)
    assert executor.inquiry.said == before
    assert executor.inquiry.nodes == {0: 1, 1: 2, 2: 3}


def test_no_client_passes_for_another_whose_key_it_does_not_have(packs: Path) -> None:
    """Not even before the other has come: who a node is, its registered key says."""
    grid = Impostor(packs)
    grid.names = NAMED
    executor = executor_over(grid)
    grid.on = {2, 3, 4}
    executor.gather(2)
    for _ in range(4):
        executor.inquiry.look()
    assert executor.inquiry.nodes == {1: 2, 2: 3}
    assert 0 not in executor.inquiry.said
    assert executor.inquiry.reasons == {"client 3: it says that it is client 0; check its node config"}
    grid.on = {1, 2, 3, 4}
    executor.gather()
    assert executor.inquiry.nodes == {0: 1, 1: 2, 2: 3}


class Leaving(Impostor):
    """The impostor has answered, and is gone before the answer is read."""

    late = False

    def pull_messages(self, identifiers: Iterable[str]) -> list[Message]:
        self.on.discard(4)
        wanted = [i for i in identifiers if self.sent[int(i[1:])].metadata.dst_node_id != 4 or self.late]
        return super().pull_messages(wanted)


def test_an_impostor_that_has_left_counts_for_nothing_either(packs: Path) -> None:
    grid = Leaving(packs)
    grid.names = NAMED
    executor = executor_over(grid)
    grid.on = {2, 4}
    executor.inquiry.look()
    grid.late = True
    executor.inquiry.look()
    assert executor.inquiry.refused == {4: 1}
    assert 0 not in executor.inquiry.said
    assert any("client 3: it says that it is" in reason for reason in executor.inquiry.reasons)
