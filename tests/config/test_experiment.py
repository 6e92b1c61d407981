"""The config: round trip, overrides, and one clear line for every kind of mistake."""

import json
import math
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError
from typer.testing import CliRunner

from fedfmd import simulate
from fedfmd.cli.app import app
from fedfmd.cli.command import set_once
from fedfmd.config.documents import read_toml, set_key
from fedfmd.config.experiment import (
    FEDERATED_ALONE,
    ExperimentConfig,
    changed,
    check_asked,
    check_name,
    dump_config,
    load_config,
    make_config,
    name_from,
    parse_config,
)
from fedfmd.config.sections.budget import BudgetConfig
from fedfmd.errors import UserError
from fedfmd.registry import names

# A study is a file of its own kind, and its tests are beside it.
CONFIGS = sorted(p for p in Path("configs").rglob("*.toml") if "seeds" not in read_toml(p, "config file"))


def test_written_and_read_back_is_the_same(tmp_path: Path) -> None:
    config = parse_config({"seed": 7, "client": {"clip_norm": 1.5}, "data": {"train_samples": 100}})
    path = tmp_path / "config.toml"
    path.write_text(dump_config(config))
    assert load_config(path) == config


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_config_in_the_repository_is_valid(path: Path) -> None:
    assert load_config(path).name == path.stem


def test_every_run_that_answers_a_published_figure_is_valid() -> None:
    for run in read_toml(Path("benchmarks/reproductions.toml"), "list of runs")["runs"]:
        sets = [f"{key}={json.dumps(value)}" for key, value in run.get("set", {}).items()]
        assert load_config(Path("configs/reproduce", run["config"]), sets).server.rounds >= 50


def test_a_config_is_immutable() -> None:
    with pytest.raises(ValueError, match="frozen"):
        ExperimentConfig().seed = 3


def test_overrides_take_toml_values_and_plain_strings(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('name = "a"\n[server]\nrounds = 3\n')
    changes = [
        "server.rounds=5",
        "model.conv=odconv",
        "client.augment=false",
        'name="b"',
        "client.clip_norm=2",
    ]
    config = load_config(path, changes)
    assert (config.server.rounds, config.model.conv, config.client.augment) == (5, "odconv", False)
    assert (config.name, config.client.clip_norm) == ("b", 2.0)


def test_the_step_size_falls_after_each_milestone() -> None:
    config = parse_config({"client": {"learning_rate": 0.1, "learning_rate_milestones": [2, 4]}})
    assert [config.client.rate(round) for round in range(1, 6)] == pytest.approx(
        [0.1, 0.1, 0.01, 0.01, 0.001]
    )


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"server": {"roundz": 1}}, ["server.roundz", "did you mean rounds?", "cohort"]),
        ({"serer": {}}, ["serer", "did you mean server?"]),
        ({"client": {"lr": 0.1}}, ["client.lr", "did you mean learning_rate?"]),
        ({"model": {"kernels": 0}}, ["model.kernels", "0", "greater than or equal to 1"]),
        ({"client": {"learning_rate": -1.0}}, ["client.learning_rate", "-1.0", "greater than 0"]),
        ({"client": {"learning_rate": float("nan")}}, ["client.learning_rate", "nan"]),
        ({"client": {"epochs": "3"}}, ["client.epochs", "'3'", "valid integer"]),
        ({"client": {"epochs": 1.5}}, ["client.epochs", "1.5", "integer"]),
        ({"model": {"conv": "foo"}}, ["model.conv", "'foo'", "'odconv'"]),
        ({"server": {"cohort": 200}}, ["server.cohort = 200", "partition.clients = 100"]),
        ({"server": {"min_completed": 11}}, ["server.min_completed = 11", "server.cohort = 10"]),
        ({"temperature": {"end": 50.0}}, ["temperature.end = 50", "at most temperature.start", "34"]),
        ({"temperature": {"start": 0.5}}, ["temperature.start = 0.5", "at least temperature.end", "1.0"]),
        (
            {
                "model": {"attention_norm": "bn"},
                "devices": {"kind": "lognormal"},
                "policy": {"kind": "width", "width_mode": "ordered"},
            },
            ["policy.width_mode = 'ordered'", "model.attention_norm other than 'bn'"],
        ),
        ({"client": {"nesterov": True, "momentum": 0.0}}, ["client.nesterov = true", "client.momentum > 0"]),
        ({"data": 3}, ["data = 3", "section"]),
        ({"name": "../evil"}, ["name", "'../evil'", "must be a name: letters"]),
        ({"seed": True}, ["seed = true", "integer"]),
    ],
)
def test_a_mistake_is_one_line_with_key_value_and_what_is_allowed(document: dict, words: list[str]) -> None:
    with pytest.raises(UserError) as error:
        parse_config(document, source="x.toml")
    text = str(error.value)
    assert text.startswith("x.toml: ")
    assert "\n" not in text
    for word in words:
        assert word in text


def test_several_mistakes_are_all_named() -> None:
    with pytest.raises(UserError) as error:
        parse_config({"model": {"kernels": 0, "conv": "x"}, "seed": -1})
    assert len(str(error.value).splitlines()) == 3


@pytest.mark.parametrize("override", ["server.rounds", "=3", "server.=3", ".x=1"])
def test_a_malformed_override_is_refused(override: str) -> None:
    with pytest.raises(UserError, match=r"SECTION\.KEY=VALUE"):
        changed({}, [override])


def test_an_override_cannot_look_inside_a_value() -> None:
    with pytest.raises(UserError, match="is a value"):
        changed({"name": "a"}, ["name.x=1"])


def test_an_empty_table_changes_nothing_of_a_section_and_makes_one_where_there_is_none() -> None:
    document = {"client": {"batch_size": 3}}
    assert changed(document, {"client": {}}).client.batch_size == 3
    assert changed(document, {"train": {}}).train is not None


def test_missing_broken_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such config file"):
        load_config(tmp_path / "none.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("name = ")
    with pytest.raises(UserError, match="not valid TOML"):
        load_config(broken)
    broken.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read"):
        load_config(broken)
    with pytest.raises(UserError, match="/dev/zero: has more than 16 MiB, which is no config file"):
        load_config(Path("/dev/zero"))


def test_a_pipe_is_read_to_its_end(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.toml"
    os.mkfifo(pipe)
    text = "# long\n" * 20_000 + "[server]\nrounds = 3\n"  # more than a pipe holds at once
    with ThreadPoolExecutor(1) as writer:
        writer.submit(pipe.write_text, text)
        assert load_config(pipe).server.rounds == 3


EXPERIMENT = '[model]\nname = "cnn"\n[server]\nrounds = 3\n'
STUDY = (
    'name = "s"\nseeds = [0]\narms = [{ name = "a" }]\n[experiment]\nserver = { rounds = 1, cohort = 2 }\n'
)


@pytest.mark.parametrize(
    ("command", "text"),
    [("plan", EXPERIMENT), ("plan", STUDY), ("profile", EXPERIMENT)],
    ids=["plan", "plan a study", "profile"],
)
def test_commands_read_a_pipe_once(command: str, text: str, tmp_path: Path) -> None:
    """As a shell's ``<(...)``: read again it is empty, and an empty config is the default one."""
    file = tmp_path / "experiment.toml"
    file.write_text(text)
    reader, writer = os.pipe()
    os.write(writer, text.encode())
    os.close(writer)
    try:
        of_pipe, of_file = (
            CliRunner().invoke(app, [command, "--no-measure", str(p)]) for p in (f"/dev/fd/{reader}", file)
        )
    finally:
        os.close(reader)
    assert of_file.exit_code == 0, of_file.output
    assert of_pipe.output == of_file.output


@pytest.mark.parametrize(
    "own",
    ["run-2**60", "my run", "..", "\u00e4\u00f6\u00fc", "-x", "a" * 101, "b" * 200, "run\n", "a'b\"c", "."],
)
def test_any_folder_gives_a_name_that_is_no_path(own: str) -> None:
    name = name_from(Path("/results") / own)
    assert check_name(name, "name") == name
    assert name != name_from(Path("/results") / f"{own}x")


@pytest.mark.parametrize("own", ["first", "2026-11-26", "a.b_c"])
def test_a_folder_that_bears_a_name_keeps_it(own: str) -> None:
    assert name_from(Path("/results") / own) == own


def test_training_alone_starts_from_the_seeds_weights() -> None:
    held = {"partition": {"holdout": 0.2}, "evaluation": {"models": ["affordable", "local"]}}
    parse_config(held)
    with pytest.raises(UserError, match=r"evaluation.models = .*needs no model.init with 'local'"):
        parse_config(held | {"model": {"init": "some/model.safetensors"}})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"conv": {"reduction": 4}}, r"options\.conv: is no kind of part that has options"),
        ({"partition": {"alpha": 0.1}}, r"options\.partition\.alpha: is the key partition\.alpha"),
        ({"strategy": {"learning_rate": 1.0}}, r"options\.strategy\.learning_rate: is the key server"),
        ({"partition": {"colour": 1}}, r"options\.partition\.colour: the partition 'dirichlet' has no such"),
        ({"partition": {"copy": 1}}, r"options\.partition\.copy: the partition 'dirichlet' has no such"),
        ({"data": {"since": date(2026, 1, 2)}}, r"since: is '2026-01-02', a date; must be a finite number"),
        ({"data": {"deep": [{"rate": math.nan}]}}, r"deep\.rate: is 'nan', a float; must be a finite number"),
        ({"data": {"nothing": None}}, r"nothing: is 'None', a NoneType; must be a finite number"),
    ],
)
def test_an_option_that_no_part_is_given_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        parse_config({"options": options})


def test_a_table_in_place_of_a_list_is_told_what_the_list_holds() -> None:
    with pytest.raises(UserError, match=r"devices\.tiers = .* must be a list of tables, each with a name"):
        parse_config({"devices": {"kind": "tiers", "tiers": {"weak": {"share": 1.0}}}})
    with pytest.raises(UserError, match=r"policy\.proportions = .* must be a list, as in \[1, 2\]$"):
        parse_config({"policy": {"kind": "width", "rates": "drawn", "proportions": {"a": 0.5}}})


def test_a_path_with_a_null_character_is_refused_at_the_door() -> None:
    with pytest.raises(UserError, match=r"data\.root = .*: must hold no null character; remove it"):
        parse_config({"data": {"name": "imagefolder", "image_size": 32, "root": "photos\0"}})


def test_a_dotted_key_in_a_document_is_told_to_be_one() -> None:
    with pytest.raises(
        UserError, match=r"unknown key data\.name; dotted keys are for overrides \(--set\): here name"
    ):
        parse_config({"data.name": "cifar10"})


def numbers(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield all numbers of a config, each with its type, those of lists of tables, too."""
    for name, field in model.model_fields.items():
        for kind in inner_types(field.annotation, tuple(field.metadata)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from numbers(kind, f"{prefix}{name}.")
            elif get_args(kind)[:1] in ((int,), (float,)):
                yield f"{prefix}{name}", kind


def inner_types(kind: Any, about: tuple[Any, ...] = ()) -> Iterator[Any]:
    if get_origin(kind) is Annotated:
        yield from inner_types(get_args(kind)[0], (*get_args(kind)[1:], *about))
    elif kind in (int, float) or not get_args(kind) or get_origin(kind) is Literal:
        yield Annotated[kind, *about, "said"]
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield kind
    else:
        for inner in get_args(kind):
            yield from inner_types(
                inner, about if len(get_args(kind)) == 2 and type(None) in get_args(kind) else ()
            )


NUMBERS = dict(numbers(ExperimentConfig))


def test_the_numbers_of_a_config_are_found() -> None:
    assert {"seed", "temperature.start", "devices.tiers.budget.macs", "policy.widths"} <= NUMBERS.keys()


@pytest.mark.parametrize("key", NUMBERS)
def test_no_number_of_a_config_is_beyond_what_a_row_holds(key: str) -> None:
    """A row may repeat it: what is asked for is refused before the first round, or can be written down."""
    with pytest.raises(ValidationError):
        TypeAdapter(NUMBERS[key]).validate_python(1.1e30 if get_args(NUMBERS[key])[0] is float else 10**30)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"client.optimizer": "torch.optim:Adam", "client.momentum": 0.5},
            "client.momentum = 0.5: counts only with",
        ),
        (
            {"client.optimizer": "torch.optim:Rprop", "client.weight_decay": 0.1},
            "client.weight_decay = 0.1: counts only with a client.optimizer that takes weight_decay",
        ),
        (
            {"faults.at": [{"round": 11, "client": 0, "kind": "nan"}]},
            "each round of faults.at at most server.rounds",
        ),
        (
            {"faults.at": [{"round": 1, "client": 100, "kind": "nan"}]},
            "each client below partition.clients",
        ),
        (
            {"model.conv": "static", "policy.kind": "kernels"},
            "policy.kind = .kernels.: needs model.conv = .*or one of your own that states dynamic",
        ),
        (
            {"model.conv": "static", "model.kernels": 2},
            "model.kernels = 2: counts only with .* or one of your own that states dynamic",
        ),
        (
            {"model.conv": "static", "policy.widths": [1.0]},
            "policy.widths = .*: counts only with .* or one of your own along the axis .width.",
        ),
        (
            {"policy.kind": "none", "client.self_distillation": True},
            "counts only with policy.kind = .* and policy.width_mode = .ordered.",
        ),
        (
            {"model.norm": "fixbn", "model.freeze_round": 11},
            "model.freeze_round = 11: needs at most server.rounds",
        ),
        (
            {"server.aggregation": "median", "server.weighting": "examples"},
            "server.weighting = 'examples': counts only with server.aggregation = 'mean'",
        ),
        (
            {"partition.holdout": 0.2, "evaluation.clients": 0, "evaluation.models": ["local"]},
            "evaluation.models = .*: counts only with clients that measure",
        ),
        (
            {"server.aggregation": "krum", "server.krum_keep": 11},
            "server.krum_keep = 11: needs .* at most server",
        ),
        (
            {"policy.kind": "batch", "policy.min_batch_size": 33},
            "policy.min_batch_size = 33: needs policy.min_batch_size at most client.batch_size",
        ),
        ({"logging.loggers": ["tensorboard"]}, "logging.loggers = .*: needs each logger once"),
        (
            {"data.name": "torchvision.datasets:FakeData", "data.root": "images"},
            "data.root = 'images': counts only with a data.name that is read from a folder",
        ),
        (
            {"data.name": "huggingface", "data.root": "images", "options.data": {"source": "mnist"}},
            "data.root = 'images': counts only with a data.name that is read from a folder",
        ),
        (
            {"logging.loggers": ["wandb", "wandb"], "logging.tensorboard": False},
            "logging.loggers = .*: needs each logger once",
        ),
    ],
)
def test_what_would_not_be_honoured_is_refused(changes: dict[str, Any], message: str) -> None:
    document: dict[str, Any] = {}
    for key, value in changes.items():
        set_key(document, key, value, "test")
    with pytest.raises(UserError, match=message):
        make_config(document)


def test_a_key_that_is_set_twice_is_refused() -> None:
    assert set_once(["server.rounds=3"], ['backend.kind="inline"']) == [
        "server.rounds=3",
        'backend.kind="inline"',
    ]
    with pytest.raises(
        UserError, match=r"server.rounds is set twice, by server.rounds=4 and server.rounds=2"
    ):
        set_once(["server.rounds=4"], ["server.rounds=2"])
    for lines in (
        ["server.cohort=3", "server={rounds=5}"],
        ["server={rounds=5}", "server.rounds=3"],
        ['"server" . rounds=5', "server.rounds=3"],
    ):
        with pytest.raises(UserError, match=r"server.(rounds|cohort) is set twice, by "):
            set_once(lines)
    assert set_once(["train={}", "train.epochs=3", "server.rounds=5", "server.rounds_ago=1"])
    done = CliRunner().invoke(app, ["plan", "configs/quickstart.toml", "--set", "seed=1", "--set", "seed=2"])
    assert isinstance(done.exception, UserError)
    assert "seed is set twice, by seed=1 and seed=2" in str(done.exception)


MEDIAN = {"devices": {"kind": "lognormal", "median": {"name": "x", "like": "phone-mid"}}}


def test_a_table_that_a_change_switches_off_goes_whole() -> None:
    config = changed(MEDIAN, ["devices.kind=none"])
    assert (config.devices.kind, config.devices.median.name) == ("none", "device")
    linked = {"link": {"loss": 0.1}, "name": "x"}
    assert changed({"devices": {"kind": "lognormal", "median": linked}}, ["devices.kind=none"]) == config


def test_a_key_that_is_set_with_its_switch_off_does_not_go_with_its_table() -> None:
    with pytest.raises(UserError, match=r"devices.median.like = 'laptop': counts only with"):
        changed(MEDIAN, ["devices.kind=none", "devices.median.like=laptop"])


def test_a_change_that_only_another_command_looks_at_is_refused() -> None:
    check_asked(["train.epochs=5", "data.name=embedded", "partition.validation=0.1"], FEDERATED_ALONE, "x")
    for change in ("server.rounds=5", "partition.clients=3", "evaluation.every=2", "devices={}"):
        with pytest.raises(UserError, match="counts only for fedfmd simulate; leave it out"):
            check_asked([change], FEDERATED_ALONE, "fedfmd simulate")
    with pytest.raises(UserError, match=r"--set train.epochs=5: counts only for fedfmd.train"):
        simulate({}, overrides={"train": {"epochs": 5}})


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("client.augment=yes", r"client\.augment = 'yes': must be true or false$"),
        ("policy.widths=0.5", r"policy\.widths = 0\.5: must be a list, as in \[1, 2\]$"),
        ("name=für", r"name = 'für': must be a name: letters, digits, '\.', '_' and '-', the first a letter"),
        ("client.optimizer=SGD", r"did you mean sgd\?$"),
        ("model.conv=FMDConv", r"did you mean fmdconv\?$"),
        ('devices.tiers=[{name="a"}]', r"devices\.tiers = \[\{'name': 'a'\}\]: counts only with"),
        ("server.strategy=scaffold", r"this algorithm is switched on by client\.scaffold = true$"),
        ("server.strategy=FedProx", r"this algorithm is switched on by client\.proximal_mu = 0\.01$"),
        ("server.strategy=feddyn", r"this algorithm is switched on by \[algorithms\.feddyn\]$"),
        ("selection.kind=fedbuff", r"this algorithm is switched on by server\.mode = \"buffered\"$"),
    ],
)
def test_a_wrong_value_is_told_in_the_words_of_the_file(override: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        make_config({}, [override])


def test_what_the_starter_names_beside_its_values_may_be_written() -> None:
    """In its comments, too, which are no values that a check would see."""
    text = Path("fedfmd/config/templates/experiment.toml").read_text()
    told = {
        line.split("=")[0].strip("# "): re.split("also ", line)[1]
        for line in text.splitlines()
        if "also " in line
    }
    budgets = [name for name in told["macs_fraction"].split(", ") if name != "..."]
    assert set(budgets) < BudgetConfig.model_fields.keys()
    assert set(re.findall(r'"(\w+)"', told["kind"])) < set(names("policy"))
    assert {"macs_fraction", "kind"} < told.keys()
