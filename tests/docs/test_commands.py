"""Every command, configuration and program in the documents is tried.

Commands of ``fedfmd`` run as they stand, in the order of the page, in a folder with the project's configs
made small. What cannot run here is tried by another test, named in ``ELSEWHERE``; a command in neither
fails.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import tomli_w
import typer
from typer.testing import CliRunner

from fedfmd.cli.app import app
from fedfmd.config.experiment import parse_config
from fedfmd.config.study import StudyConfig
from fedfmd.records import filenames
from fedfmd.records.__main__ import with_tables
from fedfmd.records.ledgers import KINDS

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SLOW = {"README", "export", "privacy", "secure-sums", "tutorial"}
"""Pages whose commands take minutes."""
ELSEWHERE = {
    "make ": "by continuous integration",
    "pip install .": "tests/packaging/test_wheel.py",
    "pip install examples/plugin": "tests/examples/test_plugin.py",
    "export ": "sets a variable",
    "source ": "tests run in the environment",
    "docker compose ": "tests/docker",
    "scp ": "tests/integration/test_three_machines.py",
    "cd ": "tests/integration/test_three_machines.py",
    "./": "tests/integration/test_three_machines.py",
    "ray start ": "tests/integration/test_faulty_workers.py",
    "flower-superlink ": "tests/integration/test_deployment.py",
    "flwr run ": "tests/integration/test_backends.py",
    "torchrun ": "tests/central/test_run.py",
    "python examples/": "tests/test_examples.py",
}
ONLY_PARSED = {
    "fedfmd deploy ": "tests/docker",
    "fedfmd simulate examples/plugin": "tests/examples/test_plugin.py",
    "fedfmd simulate --resume runs/NAME": "tests/integration/test_crashes.py",
    "fedfmd data fetch": "needs the internet",
    "fedfmd data classes": "tests/data/test_packs.py",
    "fedfmd watch": "tests/watch",
    "fedfmd profile --device-card": "tests/profiling/test_card.py",
    "fedfmd profile --serve-link": "tests/profiling/test_link.py",
    "ray_address": "tests/integration/test_faulty_workers.py",
    "backend.device=cuda": "tests/gpu",
}
QUICKSTART = "fedfmd simulate"
"""Tried by tests/packaging/test_wheel.py."""
SMALL: dict[str, dict[str, Any]] = {
    "data": {"name": "embedded", "train_samples": 200, "test_samples": 50},
    "partition": {"clients": 6, "min_size": 1},
    "backend": {"kind": "inline"},
    "model": {"width": 0.5},
    "client": {"epochs": 1},
    "server": {"rounds": 1, "cohort": 3},
    "train": {"epochs": 2},
}


def blocks(page: Path, language: str) -> list[str]:
    """Give the blocks in a language; what stands behind it, as the machine it is for, is left out."""
    return re.findall(rf"^```{language}(?: .*)?\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def commands(page: Path) -> list[str]:
    """Give the commands of a page, continued lines joined, comments removed."""
    lines = "".join(blocks(page, "sh")).replace("\\\n", " ").splitlines()
    return [command for line in lines if (command := re.sub(r"\s+#.*|^#.*", "", line).strip())]


def parse(command: str) -> None:
    """Let the command line read its arguments, without doing anything; raises for wrong ones."""
    found, words = typer.main.get_command(app), shlex.split(command)[1:]
    context = click.Context(found, info_name="fedfmd")
    while isinstance(found, click.Group):
        name, *words = words
        sub = found.get_command(context, name)
        assert sub is not None, name
        found = sub
    found.make_context(name, words, parent=context)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a copy of the configs in which everything is small."""
    folder = tmp_path_factory.mktemp("small") / "configs"
    shutil.copytree(ROOT / "configs", folder)
    make_small(folder)
    return folder


def make_small(folder: Path) -> None:
    """Let the configs in a folder run in seconds."""
    for path in folder.glob("*.toml"):
        document = tomllib.loads(path.read_text())
        if "base" in document:
            document["seeds"] = document["seeds"][:1]
            document.pop("compare", None)
            axes = document.get("axes", {}).items()
            document["axes"] = {key: values[: 1 if n else 2] for n, (key, values) in enumerate(axes)}
            document["set"] = {
                key: value
                for key, value in document.get("set", {}).items()
                if key.split(".")[1] not in SMALL.get(key.split(".")[0], {})
            }
        else:
            for section, values in SMALL.items():
                if section != "train" or section in document:
                    document[section] = document.get(section, {}) | values
            if document["partition"].get("scheme") == "iid":
                del document["partition"]["min_size"]
        path.write_text(tomli_w.dumps(document))


@pytest.fixture(params=PAGES, ids=lambda page: page.stem)
def page(request: pytest.FixtureRequest) -> Path:
    result: Path = request.param
    return result


def test_every_command_is_known_to_be_tried(page: Path) -> None:
    for command in commands(page):
        if not command.startswith(("fedfmd ", "python benchmarks/")):
            assert command.startswith(tuple(ELSEWHERE)), f"{command}: who tries this?"


def test_every_command_line_is_understood(page: Path) -> None:
    for command in commands(page):
        if command.startswith("fedfmd "):
            parse(command)


@pytest.mark.parametrize(
    "page",
    [pytest.param(p, id=p.stem, marks=[pytest.mark.slow] if p.stem in SLOW else []) for p in PAGES],
)
def test_commands_run_as_they_stand(page: Path, small: Path, tmp_path: Path) -> None:
    wanted = [
        command
        for command in commands(page)
        if command.startswith("fedfmd ")
        and command != QUICKSTART
        and not any(k in command for k in ONLY_PARSED)
    ]
    if not wanted:
        return
    (tmp_path / "configs").symlink_to(small)
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "FEDFMD_CACHE": str(small.parent / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    files = re.findall(r"Write `([\w.-]+)`.*?^```\w+\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    for name, text in files:
        (tmp_path / name).write_text(text)
    for command in wanted:
        done = subprocess.run(
            shlex.split(command),
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        if command.startswith("fedfmd new "):
            make_small(tmp_path / command.split()[2])


@pytest.mark.slow
def test_the_tutorial_ends_where_it_says(tmp_path: Path) -> None:
    """Its runs in full: the final top-1 that the page shows, but for ten points that another CPU may make."""
    page = ROOT / "docs" / "tutorial.md"
    shown = dict(re.findall(r"^\| `(runs/\w+)` \|.*\| ([\d.]+)% \|$", page.read_text(), re.MULTILINE))
    assert set(shown) == {"runs/first", "runs/static", "runs/limited"}
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    for command in commands(page):
        if not command.startswith("fedfmd simulate configs/") or "--out" not in command:
            continue
        words = [sys.executable, "-m", *shlex.split(command)]
        subprocess.run(words, cwd=tmp_path, check=True, capture_output=True)
        folder = shlex.split(command)[-1]
        summary = json.loads((tmp_path / folder / "summary.json").read_text())
        final = json.loads((tmp_path / folder / "rounds.jsonl").read_text().splitlines()[-1])["top1"]
        assert summary["status"] == "finished"
        assert final == pytest.approx(float(shown[folder]) / 100, abs=0.1), folder
        assert final > 0.2


def test_configurations_are_valid(page: Path) -> None:
    for text in blocks(page, "toml"):
        document = tomllib.loads(text)
        if "base" in document:
            StudyConfig.model_validate(document)
        else:
            parse_config(document)


def test_programs_run(page: Path, small: Path, tmp_path: Path) -> None:
    (tmp_path / "configs").symlink_to(small)
    environment = {**os.environ, "FEDFMD_CACHE": str(small.parent / "cache"), "OMP_NUM_THREADS": "1"}
    for text in blocks(page, "python"):
        program = [sys.executable, "-c", text]
        done = subprocess.run(program, cwd=tmp_path, env=environment, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize("script", ["engine", "layers", "step"])
def test_benchmarks_know_the_options_of_the_documents(script: str) -> None:
    path = ROOT / "benchmarks" / f"{script}.py"
    done = subprocess.run([sys.executable, path, "--help"], capture_output=True, text=True, check=True)
    used = {
        option
        for page in PAGES
        for command in commands(page)
        if command.startswith(f"python benchmarks/{script}.py")
        for option in re.findall(r"--[\w-]+", command)
    }
    assert not {option for option in used if option not in done.stdout}


def test_the_run_directory_page_has_the_columns_of_the_ledgers() -> None:
    """`make docs` writes them."""
    page = (ROOT / "docs" / "reference" / "run-directory.md").read_text()
    assert with_tables(page) == page
    for ledger, record in KINDS.items():
        table = page.split(f"## A line of `{ledger}`\n\n")[1].split("\n\n")[0]
        assert len(table.splitlines()) == 2 + len(record.columns())
        assert all(column.meaning.endswith(".") for column in record.columns().values())


def test_the_run_directory_page_names_every_file_of_a_run() -> None:
    page = (ROOT / "docs" / "reference" / "run-directory.md").read_text()
    of_studies = {filenames.STUDY, filenames.OUTCOMES, filenames.TUNINGS, filenames.FORECASTS}
    files = {name for key, name in vars(filenames).items() if key.isupper() and "." in name.lstrip(".")}
    shown = {name for name in files - of_studies if not name.startswith(".")}
    assert {name for name in shown if f"`{name}`" not in page} == set()


def test_links_lead_somewhere() -> None:
    for page in [*PAGES, *(ROOT / "docs" / "reference").glob("*.md")]:
        for target in targets(page):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def targets(page: Path) -> Iterator[str]:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        if "://" not in target:
            yield target


def test_the_superlink_that_flwr_run_leaves_behind_is_stopped_by_its_port() -> None:
    flwr = pytest.importorskip("flwr.cli.constant")
    assert f"fuser -k {flwr.LOCAL_SUPERLINK_HTTP_API_PORT}/tcp" in (ROOT / "README.md").read_text()


def test_the_page_of_commands_has_all_of_them() -> None:
    """`make docs` writes it."""
    text = (ROOT / "docs" / "reference" / "commands.md").read_text()
    for path, command in leaves(typer.main.get_command(app), "fedfmd"):
        assert f"`{path}`" in text, path
        section = text.split(f"`{path}`", 1)[1]
        for parameter in command.params:
            named = any(f"`{', '.join(options)}" in section for options in orders(parameter.opts))
            assert named or isinstance(parameter, click.Argument), f"{path}: {parameter.opts}"


def test_the_list_of_commands_has_whole_sentences() -> None:
    """Click and Typer cut them off at 45 characters, unless told otherwise."""
    page = (ROOT / "docs" / "reference" / "commands.md").read_text()
    lists = re.findall(r"^\*\*Commands\*\*:\n\n(.*?)\n\n", page, re.MULTILINE | re.DOTALL)
    listed = [line for lines in lists for line in lines.splitlines()]
    assert len(listed) > 25
    assert [words for words in listed if not words.endswith(".") or words.endswith("...")] == []


def test_a_value_without_set_is_explained_by_commands_of_deploy_too() -> None:
    with pytest.raises(click.UsageError, match=r"Did you mean --set server\.rounds=5\?"):
        parse("fedfmd deploy run server.rounds=5")


@pytest.mark.parametrize("wrong", ["simulte", "deploy serv"])
def test_a_misspelt_command_is_corrected_once(wrong: str) -> None:
    done = CliRunner().invoke(app, wrong.split())
    assert done.exit_code == 2
    assert done.output.count("Did you mean") == 1


def orders(options: list[str]) -> list[list[str]]:
    """Return the ways in which the page may write an option that has a short name, too."""
    return [options, options[::-1]]


def leaves(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    if isinstance(command, click.Group):
        for name, sub in command.commands.items():
            yield from leaves(sub, f"{path} {name}")
    else:
        yield path, command


def test_the_site_builds_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    zensical = shutil.which("zensical", path=str(Path(sys.executable).parent))
    if zensical is None:
        pytest.skip("the site's tools are not installed: pip install '.[docs]'")
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    for name in ("docs", "fedfmd"):
        shutil.copytree(ROOT / name, tmp_path / name)
    done = subprocess.run(
        [zensical, "build", "--strict"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    site = tmp_path / "site"
    pages = list(site.rglob("index.html"))
    assert len(pages) >= len(PAGES)
    for built in pages:
        tags = re.findall(r"<(?:script|img|link)[^>]*>", built.read_text())
        loaded = [tag for tag in tags if re.search(r'(src|href)="https?:', tag) and "canonical" not in tag]
        assert not loaded, f"{built}: {loaded}"
    assert "macs_fraction" in (site / "reference" / "config" / "index.html").read_text()
    python = (site / "reference" / "python" / "index.html").read_text()
    assert "inverse_efficiency" in python
    assert "<blockquote>" not in python  # an example outside a section "Examples:" is a quotation


def test_every_argument_and_option_says_what_it_is() -> None:
    """In the text that ``--help`` shows: versions of the libraries between have lost it."""

    def parameters(command: click.Command, path: str) -> Iterator[tuple[str, str | None]]:
        if isinstance(command, click.Group):
            for name, inner in command.commands.items():
                yield from parameters(inner, f"{path} {name}")
        else:
            yield from ((f"{path} {p.name}", getattr(p, "help", None)) for p in command.params)

    found = dict(parameters(typer.main.get_command(app), "fedfmd"))
    assert len(found) > 50
    assert [name for name, text in found.items() if not text] == []
