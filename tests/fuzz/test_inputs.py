"""Whatever comes in: configs, overrides, command lines, traces, images. It becomes an object or one refusal.

A refusal is a ``UserError`` of short lines; anything else that is raised fails the test. The inputs are
seeded; ``-m slow`` tries many more.
"""

import contextlib
import io
import json
import tomllib
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import tomli_w
import typer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import BaseModel

from fedfmd.cli.app import app
from fedfmd.config.conditions import applied, unmet
from fedfmd.config.experiment import ExperimentConfig, changed, dump_config, parse_config
from fedfmd.data.idx import read_idx
from fedfmd.devices.population import read_calibration
from fedfmd.devices.states import read_states
from fedfmd.devices.traces import read_trace
from fedfmd.errors import UserError
from fedfmd.images.reading import read_image
from fedfmd.studies.plan import load_study

LONGEST_LINE = 1_000
QUICK, MANY = 100, 20_000
SHARE = {"study": 0.1}
"""Of these numbers, for a kind whose inputs are many experiments each."""


def effort(examples: int) -> Any:
    return settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def accepted(attempt: Any) -> Any:
    """Return what an attempt gives, or null where it is refused; a refusal is a few short lines."""
    try:
        return attempt()
    except UserError as error:
        for line in str(error).splitlines():
            assert 0 < len(line) <= LONGEST_LINE, line
        return None


def keys_of(model: type[BaseModel], prefix: str = "") -> list[str]:
    found = []
    for name, field in model.model_fields.items():
        kind = field.annotation
        inner = isinstance(kind, type) and issubclass(kind, BaseModel)
        found += keys_of(kind, f"{prefix}{name}.") if inner else [f"{prefix}{name}"]  # type: ignore[arg-type]
    return found


KEYS = keys_of(ExperimentConfig)
WORDS = sorted(
    {
        "none",
        "tiers",
        "lognormal",
        "trace",
        "static",
        "fmdconv",
        "sampled",
        "topk",
        "buffered",
        "oort",
        "tifl",
    }
    | {
        "width",
        "kernels",
        "auto",
        "fixbn",
        "fedbn",
        "fedadam",
        "cuda",
        "ray",
        "inline",
        "imagefolder",
        "drop",
    }
    | {"exclude-weak", "linear", "fixed", "adamw", "ordered", "None", "nan", "", "\0", "x" * 5_000}
)
NUMBERS = st.sampled_from(
    [
        0,
        1,
        2,
        5,
        10,
        -1,
        64,
        1000000,
        10**12,
        10**30,
        10**400,
        0.0,
        0.5,
        1.0,
        1000000000.0,
        1e300,
        5e-324,
        -0.0,
        float("nan"),
        float("inf"),
        1.5,
        0.01,
    ]
)
SCALARS = NUMBERS | st.sampled_from(WORDS) | st.booleans() | st.none() | st.text(max_size=20)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "like", "budget", "macs", "share", "round", "client"]), inner
        )
    ),
    max_leaves=6,
)
CHANGES = st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=12), VALUES, max_size=5)


def check_config(changes: dict[str, Any]) -> None:
    """An accepted config has no idle key, and reads back from its own text."""
    config = accepted(lambda: changed({}, changes))
    if config is not None:
        assert not unmet(config)
        assert parse_config(applied(config)) == config
        assert parse_config(tomllib.loads(dump_config(config))) == config


def check_override(text: str) -> None:
    accepted(lambda: changed({}, [text]))


def check_line(words: list[str]) -> None:
    """A command line is parsed, or refused by click; nothing is run."""
    found: Any = typer.main.get_command(app)
    context = click.Context(found, info_name="fedfmd")
    refusals = click.exceptions.ClickException, click.exceptions.Exit, UserError
    with contextlib.suppress(*refusals), contextlib.redirect_stdout(io.StringIO()):
        name, *rest = words
        command = found.get_command(context, name)
        if command is not None:
            command.make_context(name, rest, parent=context)


CELLS = st.sampled_from(
    [
        "name",
        "like",
        "share",
        "memory_bytes",
        "phone-low",
        "1e6",
        "-1",
        "nan",
        "1e400",
        "",
        " ",
        '"',
        "a,b",
        "\0",
    ]
) | st.text(max_size=8)
TABLES = st.lists(st.lists(CELLS, max_size=4).map(",".join), max_size=5).map("\r\n".join)
JSONS = st.recursive(
    NUMBERS.filter(lambda n: n == n) | st.text(max_size=8) | st.none() | st.booleans(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "messages",
                    "ready_time",
                    "trace_start",
                    "trace_end",
                    "active",
                    "inactive",
                    "finish_time",
                    "computation",
                    "communication",
                    "down_u",
                    "up_u",
                    "tcp_speed_results",
                    "name",
                    "like",
                    "macs_per_second",
                    "conv",
                    "aggregation",
                    "attention",
                    "linear",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
).map(json.dumps)
BYTES = st.binary(max_size=200)


def check_files(folder: Path, content: bytes) -> None:
    """Every reader of files takes any bytes."""
    for name, read in (
        ("t.csv", read_trace),
        ("t.JSON", read_trace),
        ("s.json", read_states),
        ("c.json", read_calibration),
        ("i.idx", lambda path: read_idx(path, 3)),
        ("i.gz", lambda path: read_idx(path, 1)),
        ("study.toml", load_study),
    ):
        path = folder / name
        path.write_bytes(content)
        accepted(lambda read=read, path=path: read(path))


FORMATS = [("PNG", "RGBA"), ("PNG", "P"), ("PNG", "I;16"), ("JPEG", "RGB"), ("GIF", "P"), ("TIFF", "RGB")]
FORMATS += [("TIFF", "F"), ("WEBP", "RGB"), ("BMP", "RGB"), ("PPM", "RGB")]


def image_bytes(ending: str, mode: str) -> bytes:
    colours = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8))
    image = colours.convert("I").convert(mode) if mode == "I;16" else colours.convert(mode)
    file = io.BytesIO()
    image.save(file, ending)
    return file.getvalue()


IMAGES = [(ending.lower(), image_bytes(ending, mode)) for ending, mode in FORMATS]
DAMAGE = st.tuples(
    st.sampled_from(IMAGES),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=4),
    st.integers(0, 600),
)


def check_image(folder: Path, damage: Any) -> None:
    """A damaged image is read, or refused by its name."""
    (ending, content), flips, length = damage
    data = bytearray(content)
    for place, value in flips:
        data[place % len(data)] = value
    path = folder / f"a.{ending}"
    path.write_bytes(bytes(data[:length]) if length < 200 else bytes(data))
    read = accepted(lambda: read_image(path, 8))
    assert read is None or read[0].shape == (8, 8, 3)


ARGUMENTS = st.lists(
    st.sampled_from(
        [
            "simulate",
            "train",
            "study",
            "report",
            "data",
            "profile",
            "doctor",
            "deploy",
            "--set",
            "--out",
            "--resume",
            "--workers",
            "--backend",
            "inline",
            "server.rounds=3",
            "-1",
            "--help",
            "",
            "configs/quickstart.toml",
        ]
    )
    | st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=10),  # as of any shell
    min_size=1,
    max_size=6,
)
STUDIES = st.dictionaries(
    st.sampled_from(KEYS),
    st.lists(st.sampled_from(WORDS[1:]) | st.integers(0, 99), min_size=1, max_size=3),
    max_size=2,
).map(lambda axes: tomli_w.dumps({"name": "s", "experiment": {}, "axes": axes}))
KINDS: dict[str, tuple[Any, Any]] = {
    "config": (CHANGES, lambda folder, x: check_config(x)),
    "override": (
        st.tuples(st.sampled_from(KEYS) | st.text(max_size=9), st.text(max_size=30)).map("=".join)
        | st.text(),
        lambda folder, x: check_override(x),
    ),
    "command-line": (ARGUMENTS, lambda folder, x: check_line(x)),
    "table": (TABLES, lambda folder, x: check_files(folder, x.encode())),
    "json": (JSONS, lambda folder, x: check_files(folder, x.encode())),
    "bytes": (BYTES, check_files),
    "study": (STUDIES, lambda folder, x: check_files(folder, x.encode())),
    "image": (DAMAGE, check_image),
}


def attempt(kind: str, folder: Path, examples: int) -> None:
    strategy, check = KINDS[kind]

    @effort(round(examples * SHARE.get(kind, 1.0)))
    @given(strategy)
    def tried(value: Any) -> None:
        check(folder, value)

    tried()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_every_input_becomes_an_object_or_one_refusal(kind: str, tmp_path: Path) -> None:
    attempt(kind, tmp_path, QUICK)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_many_inputs_become_an_object_or_one_refusal(kind: str, tmp_path: Path) -> None:
    attempt(kind, tmp_path, MANY)
