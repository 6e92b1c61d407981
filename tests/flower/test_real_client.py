"""What a server can make a real client do: messages in, through the ClientApp that containers run."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from orders import order_for
from pictures import write_pictures

from fedfmd.config.experiment import ExperimentConfig, named_paths, parse_config
from fedfmd.deployment.assignment import RefusedOrderError, assignment, read_assignment
from fedfmd.deployment.client import RealClient
from fedfmd.deployment.identity import identity_of
from fedfmd.deployment.layout import PICTURES
from fedfmd.devices import device_of
from fedfmd.errors import RunError
from fedfmd.flower.client import app
from fedfmd.flower.messages import from_record, to_record
from fedfmd.nn import Temperatures
from fedfmd.training.worker import Worker
from fedfmd.wire.examination import ExaminationOrder, Subject
from fedfmd.wire.packages import BadPackageError, Package, pack, unpack
from fedfmd.wire.testing import Batch, ServerTestOrder

SECRET = "correct horse battery staple"
SETTINGS: dict[str, Any] = {
    "data": {"train_samples": 60, "test_samples": 10},
    "partition": {"scheme": "iid", "clients": 2},
    "model": {"width": 0.25, "conv": "static", "norm": "fedbn"},
    "client": {"batch_size": 10, "augment": False},
    "server": {"cohort": 2},
    "backend": {"kind": "inline", "threads": 1},
    "evaluation": {"clients": 2},
}
"""FedBN: a client keeps its norms, so that it writes something."""


@pytest.fixture(scope="module")
def config() -> ExperimentConfig:
    return parse_config(SETTINGS)


@pytest.fixture(scope="module", autouse=True)
def task() -> Iterator[None]:
    """Let this process be what Flower starts for a message."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_run_id", "_node_id", "_task_id"):
            patch.setattr(TaskIdentity, name, 1, raising=False)
        yield


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory, config: ExperimentConfig) -> Path:
    folder = tmp_path_factory.mktemp("pictures") / "data"
    write_pictures(folder, config)
    return folder / "client-0" / PICTURES


class Home:
    """A client's machine: its state folder, and beside it what is nobody else's business."""

    def __init__(self, folder: Path, pictures: Path):
        self.folder = folder
        self.state = folder / "state"
        self.documents = folder / "documents"
        self.documents.mkdir(parents=True)
        for name in ("thesis.txt", "rows.json", "trace.csv"):
            (self.documents / name).write_text(SECRET)
        self.node: dict[str, Any] = {
            "client-id": 0,
            "data": str(pictures),
            "state": str(self.state),
            "threads": 1,
        }

    def ask(self, kind: str, meta: dict[str, Any], elements: int = 1) -> Message:
        """Give the server's message to the ClientApp; gives its reply."""
        package = Package(json.dumps(meta), pack({}, {"vector": torch.zeros(elements)}).tensors)
        message = Message(to_record(package), dst_node_id=1, message_type=kind)
        message.metadata.__dict__["_message_id"] = "m"
        context = Context(run_id=0, node_id=1, node_config=self.node, state=RecordDict(), run_config={})
        return app(message, context)

    def files(self) -> dict[str, bytes]:
        """Give everything outside of the state folder."""
        return {
            str(path.relative_to(self.folder)): path.read_bytes()
            for path in self.folder.rglob("*")
            if path.is_file() and self.state not in path.parents
        }


@pytest.fixture
def home(tmp_path: Path, pictures: Path) -> Home:
    return Home(tmp_path / "home", pictures)


def order(**changes: Any) -> dict[str, Any]:
    return {**order_for(0, state_rounds=(0,)).to_json(), **changes}


def examination(**changes: Any) -> dict[str, Any]:
    """Give what asks a client to measure the model."""
    subject = Subject(client=0, models=("global",))
    honest = ExaminationOrder(
        round=1, learning_rate=0.1, temperatures=Temperatures(), groups=((subject,),)
    ).to_json()
    honest["groups"][0][0].update(changes.pop("subject", {}))
    return {**honest, **changes}


def elements(config: ExperimentConfig, home: Home) -> int:
    given = read_assignment(assignment(config, "r", 0))
    return int(RealClient(identity_of(home.node), given).worker.network.layout.elements)


def told(config: ExperimentConfig, **changes: Any) -> dict[str, Any]:
    """Give what a server says of the run, changed after its own checks."""
    return {"deployment": json.dumps(json.loads(assignment(config, "r", 0)) | changes)}


def test_an_honest_round_writes_below_the_state_folder_alone(config: ExperimentConfig, home: Home) -> None:
    before, size = home.files(), elements(config, home)
    introduced = home.ask("query", told(config))
    assert unpack(from_record(introduced.content))[0]["introduction"]["client"] == 0
    trained = home.ask("train", told(config) | {"order": order()}, size)
    (row,) = unpack(from_record(trained.content))[0]["rows"]
    assert row["status"] == "completed", row
    answer = home.ask("evaluate", told(config) | {"examination": examination()}, size)
    (score,) = unpack(from_record(answer.content))[0]["result"]["scores"]
    assert {name for name, value in score.items() if value is not None} == {
        "client", "model", "examples", "correct", "loss_sum"
    }  # fmt: skip
    assert home.files() == before
    assert [p.relative_to(home.state).as_posix() for p in home.state.rglob("*") if p.is_file()] == [
        "r/client-0-round-1.safetensors"
    ]


@pytest.mark.parametrize(
    "name",
    [
        "../documents",
        "/HOME/documents",
        "..",
        ".",
        "",
        "a/b",
        "a\\b",
        "r\n",
        "r\0",
        ".r",
        "x" * 101,
        5,
        None,
        ["r"],
    ],
)
def test_the_run_has_a_name_and_no_path(config: ExperimentConfig, home: Home, name: object) -> None:
    if isinstance(name, str):
        name = name.replace("/HOME", str(home.folder))
    before = home.files()
    for kind in ("query", "train", "evaluate"):
        with pytest.raises(RefusedOrderError, match="run"):
            home.ask(kind, told(config, run=name) | {"order": order(), "examination": examination()})
    assert home.files() == before
    assert not home.state.exists()


def test_a_folder_that_was_chosen_badly_loses_nothing(config: ExperimentConfig, home: Home) -> None:
    """The client's owner named the home folder for states, and the server the run after a folder in it."""
    home.node["state"] = str(home.folder)
    before = home.files()
    trained = home.ask("train", told(config, run="documents") | {"order": order()}, elements(config, home))
    assert unpack(from_record(trained.content))[0]["rows"][0]["status"] == "completed"
    assert {name: home.files().get(name) for name in before} == before


@pytest.mark.parametrize(
    ("section", "values"),
    [
        ("devices", {"kind": "trace", "trace": "DOCUMENTS/trace.csv"}),
        ("devices", {"kind": "tiers", "tiers": [{"name": "a"}], "states": "DOCUMENTS/rows.json"}),
        ("devices", {"kind": "lognormal", "calibration": "DOCUMENTS/rows.json"}),
        ("data", {"name": "imagefolder", "image_size": 32, "root": "DOCUMENTS"}),
        ("data", {"name": "cifar10", "root": "DOCUMENTS"}),
    ],
)
@pytest.mark.parametrize("own_pictures", [True, False])
def test_a_client_opens_no_file_that_a_server_names(
    config: ExperimentConfig, home: Home, section: str, values: dict[str, Any], own_pictures: bool
) -> None:
    """It is refused by its key, whatever is in the file, and whether or not it is there."""
    if not own_pictures:
        del home.node["data"]
    for folder in (home.documents, home.folder / "nowhere"):
        document = json.loads(assignment(config, "r", 0))
        document["config"][section] = json.loads(json.dumps(values).replace("DOCUMENTS", str(folder)))
        for kind in ("query", "train"):
            with pytest.raises(
                RefusedOrderError, match="a client opens no file that a server names"
            ) as refusal:
                home.ask(kind, {"deployment": json.dumps(document), "order": order()})
            assert SECRET not in str(refusal.value)


def test_every_key_that_names_a_file_is_known_as_one(config: ExperimentConfig) -> None:
    devices = {"kind": "trace", "trace": "x", "states": "x", "calibration": "x"}
    data = {"name": "cifar10", "root": "x"}
    whole = parse_config(SETTINGS | {"devices": devices, "data": data})
    assert set(named_paths(whole)) == {"data.root", "devices.trace", "devices.states", "devices.calibration"}
    assert not list(named_paths(config))


WRONG_ORDERS: list[Any] = [
    {"round": "../../documents/x"},
    {"state_rounds": ["../../documents/x"]},
    {"state_rounds": "0"},
    {"clients": ["0"]},
    {"clients": [1]},
    {"learning_rate": "fast"},
    {"plans": [{"share": {}, "epochs": "1", "batch_size": 1}]},
    {"scale": {"range_exponent": 7}},
    {"temperatures": {"kernel": -1.0}},
]


@pytest.mark.parametrize("change", WRONG_ORDERS, ids=lambda change: next(iter(change)))
def test_an_order_is_read_to_the_letter(config: ExperimentConfig, home: Home, change: dict[str, Any]) -> None:
    before = home.files()
    with pytest.raises((RefusedOrderError, BadPackageError)):
        home.ask("train", told(config) | {"order": order(**change)})
    assert home.files() == before


WRONG_EXAMINATIONS: list[Any] = [
    {"round": "../../documents/x"},
    {"groups": [[{}]]},
    {"groups": []},
    {"subject": {"client": 1}},
    {"subject": {"state_round": "../../documents/x"}},
    {"subject": {"models": ["documents"]}},
    {"subject": {"sessions": [{"round": "../x"}]}},
    {"learning_rate": "fast"},
]


@pytest.mark.parametrize("change", WRONG_EXAMINATIONS, ids=str)
def test_what_to_measure_is_read_to_the_letter(
    config: ExperimentConfig, home: Home, change: dict[str, Any]
) -> None:
    before, size = home.files(), elements(config, home)
    with pytest.raises((RefusedOrderError, BadPackageError)):
        home.ask("evaluate", told(config) | {"examination": examination(**change)}, size)
    assert home.files() == before


def test_a_client_tests_nothing_on_the_servers_images(config: ExperimentConfig, home: Home) -> None:
    before, size = home.files(), elements(config, home)
    batches = (Batch(images="test", number=0),)
    test = ServerTestOrder(round=1, temperatures=Temperatures(), batches=batches, seconds=9.0).to_json()
    with pytest.raises(RefusedOrderError, match="on the server's images, which are not here"):
        home.ask("evaluate", told(config) | {"test": test}, size)
    assert home.files() == before


@pytest.mark.parametrize("meta", [{}, {"deployment": 5}, {"deployment": "[]"}, {"experiment": "{}"},
                                  {"deployment": "{}", "host": {"memory_bytes": "all"}}])  # fmt: skip
def test_what_describes_no_run_is_refused(home: Home, meta: dict[str, Any]) -> None:
    with pytest.raises((RefusedOrderError, BadPackageError)):
        home.ask("query", meta)


def test_an_error_tells_the_server_its_kind_and_nothing_else(
    config: ExperimentConfig, home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    """The client's own picture file is damaged: neither its name nor its contents leave the machine.

    Its own log has both, in one line.
    """
    own = home.folder / "private-name.safetensors"
    own.write_text(SECRET)
    home.node["data"] = str(own)
    with pytest.raises(RunError) as failure:
        home.ask("query", told(config))
    text = str(failure.value)
    assert text.endswith("; the client's own log says more")
    assert SECRET not in text
    assert "private-name" not in text
    assert f"error: {own}: no prepared dataset, or a damaged one" in capsys.readouterr().out
    assert failure.value.__suppress_context__


def test_a_failed_training_tells_its_kind_and_nothing_else(
    config: ExperimentConfig, home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise ValueError(f"{home.documents}: {SECRET}")

    monkeypatch.setattr(Worker, "_local_update", fail)
    trained = home.ask("train", told(config) | {"order": order()}, elements(config, home))
    (row,) = unpack(from_record(trained.content))[0]["rows"]
    assert (row["status"], row["reason"]) == ("failed", "ValueError; the client's own log says more")
    assert SECRET in capsys.readouterr().out


def test_a_trace_on_the_server_reaches_a_client_as_its_device(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    names = "name,conv_macs_per_second,memory_bytes,downlink_bits_per_second,uplink_bits_per_second"
    trace.write_text(f"{names}\none,1e9,500000000,1e6,2e6\ntwo,3e9,700000000,4e6,5e6\n")
    devices = {"kind": "trace", "trace": str(trace)}
    whole = parse_config(SETTINGS | {"devices": devices})
    for client in range(2):
        given = read_assignment(assignment(whole, "r", client))
        device = device_of(whole, client)
        assert device is not None
        assert device_of(given.config, client) == device


@pytest.mark.parametrize("own", ["chosen by its file", "drawn by itself"])
def test_a_client_measures_itself_on_what_it_keeps_and_tells_counts(
    tmp_path: Path, home: Home, own: str
) -> None:
    """Of a file without a test part it keeps a share, the one that the seed draws; it trains on the rest."""
    kept = parse_config({**SETTINGS, "partition": {**SETTINGS["partition"], "holdout": 0.2}})
    if own == "chosen by its file":
        write_pictures(tmp_path / "data", kept)
        home.node["data"] = str(tmp_path / "data" / "client-0" / PICTURES)
    said = unpack(from_record(home.ask("query", told(kept)).content))[0]["introduction"]
    assert (said["examples"], said["held"]) == (24, 6)
    answer = home.ask("evaluate", told(kept) | {"examination": examination()}, elements(kept, home))
    (score,) = unpack(from_record(answer.content))[0]["result"]["scores"]
    assert score["examples"] == 6
    assert set(score) == {"client", "model", "examples", "correct", "loss_sum", "host_seconds"}
    trained = home.ask("train", told(kept) | {"order": order()}, elements(kept, home))
    (row,) = unpack(from_record(trained.content))[0]["rows"]
    assert (row["examples"], row["status"]) == (24, "completed")
