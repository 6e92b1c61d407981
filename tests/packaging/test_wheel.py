"""What a user has after ``pip install dist/*.whl``, in an environment and a folder without the repository."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.sdist import SdistBuilder
from PIL import Image

ROOT = Path(__file__).parents[2]
SMALL = [
    "data.train_samples=200", "data.test_samples=40", "partition.clients=4", "partition.min_size=1",
    "server.rounds=1", "server.cohort=2", "client.epochs=1", "model.width=0.25",
]  # fmt: skip
SETS = [word for key in SMALL for word in ("--set", key)]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of what git would hand out."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("fedfmd", "server", "clients", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path) -> Path:
    """An environment that has the wheel, and sees this one's dependencies."""
    folder = wheel.parent / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "rest.pth").write_text(sysconfig.get_path("purelib") + "\n")
    found = folder / "bin" / "python"
    pip("--python", found, "install", "--no-deps", "--no-index", wheel)
    return found


def test_the_source_distribution_is_what_the_wheel_is_built_from() -> None:
    """No tests without what they read, and no megabytes of results."""
    files = [Path(file.path) for file in SdistBuilder(str(ROOT)).recurse_included_files()]
    names = {file.relative_to(ROOT).as_posix() for file in files}
    assert {"pyproject.toml", "README.md", "LICENSE", "fedfmd/py.typed", "configs/quickstart.toml"} <= names
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/", "docs/results/data/"))]
    assert sum(file.stat().st_size for file in files) < 6e6


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A user's folder: modules of their own have names of ours, and of what we stand on."""
    for name in ("server", "client", "torch", "flwr", "numpy", "datasets", "fedfmd"):
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('{name}.py of the user was imported')\n")
    (tmp_path / "clients").mkdir()
    (tmp_path / "clients" / "__init__.py").write_text("raise SystemExit('clients/ was imported')\n")
    return tmp_path


def pip(*arguments: object) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def fedfmd(python: Path, folder: Path, *arguments: object) -> str:
    """Run the installed command in ``folder``; gives what it says."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"FEDFMD_CACHE": str(folder.parent / "fedfmd-cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [python.with_name("fedfmd"), *map(str, arguments)],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_holds_the_package_alone_and_all_that_it_needs(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"fedfmd"}
    tracked = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "fedfmd").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert tracked <= set(names)


def test_the_version_is_that_of_the_metadata(python: Path, here: Path) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert fedfmd(python, here, "--version").strip() == f"fedfmd {version}"


def test_the_quickstart_runs_on_ray_beside_a_users_own_modules(python: Path, here: Path) -> None:
    said = fedfmd(python, here, "simulate", *SETS, "--workers", "2", "--out", "run")
    assert "report: run/report.html" in said
    assert (here / "run" / "summary.json").exists()


@pytest.mark.slow
def test_a_new_study_runs_as_it_stands(python: Path, here: Path) -> None:
    """Made small by a few values in its own files."""
    fedfmd(python, here, "new", "my-study")
    study = here / "my-study" / "study.toml"
    sets = "\n".join(f'"{key}" = {value}' for key, value in (line.split("=") for line in SMALL[:-1]))
    text = study.read_text().replace("seeds = [0, 1, 2]", "seeds = [0]")
    study.write_text(text.replace('"model.width" = 0.5', f'"model.width" = 0.25\n{sets}'))
    said = fedfmd(python, here, "study", study, "--jobs", 2)
    assert "report: studies/my-study/report.html" in said


@pytest.mark.slow
def test_own_images_are_filled_in(python: Path, here: Path) -> None:
    for part, count in (("train", 30), ("val", 5)):
        for shade, label in ((40, "dark"), (200, "light")):
            folder = here / "images" / part / label
            folder.mkdir(parents=True)
            for number in range(count):
                Image.new("L", (50, 44 + number), shade + number).save(folder / f"{number}.png")
    fedfmd(python, here, "new", "mine", "--data", "images")
    text = (here / "mine" / "experiment.toml").read_text()
    assert f'root = "{here / "images"}"' in text
    assert "60 training and 10 test images of 2 classes" in text
    said = fedfmd(python, here, "simulate", "mine/experiment.toml", "--backend", "inline", "--rounds", 1)
    assert "report: runs/mine/report.html" in said


def test_a_deployment_builds_without_the_repository(python: Path, here: Path) -> None:
    """Everything that the Dockerfile copies is in the context; tests/docker builds it."""
    fedfmd(python, here, "deploy", "init", "--clients", 1, "--set", "data.train_samples=200",
           "--set", "data.test_samples=40")  # fmt: skip
    image = here / "deploy" / "image"
    recipe = (image / "Dockerfile").read_text()
    steps = [line.split()[1:-1] for line in recipe.splitlines() if line.startswith("COPY ")]
    copied = [name for step in steps for name in step if not step[0].startswith("--from") and "*" not in name]
    assert copied
    assert [name for name in copied if not (image / name).exists()] == []
    context = "context: ${FEDFMD_DEPLOYMENT:-./deploy}/image"
    assert context in (here / "deploy" / "docker-compose.yml").read_text()
    assert str(ROOT) not in recipe + (here / "deploy" / ".env").read_text()
    installed = python.parents[1] / "lib"
    (package,) = installed.glob("python*/site-packages/fedfmd")
    assert files(image / "site" / "fedfmd") == files(package)


def files(folder: Path) -> set[str]:
    paths = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(folder).as_posix() for path in paths}
