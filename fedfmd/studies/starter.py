"""A folder to start from: a commented experiment, and a study that varies it."""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from string import Template

import tomli_w

from fedfmd.config.documents import read_text
from fedfmd.config.experiment import check_name, parse_config
from fedfmd.config.templates import EXPERIMENT, STUDY
from fedfmd.data.configured import partition_data
from fedfmd.data.folders import Listing, list_folders, of_clients
from fedfmd.errors import UserError, as_input
from fedfmd.files import check_encoded, write_atomic
from fedfmd.images.reading import shorter_edge

EMBEDDED = """\
name = "embedded"  # drawn by a program; `fedfmd data fetch` has real sets, `fedfmd new --data FOLDER` takes your own
train_samples = 8000
test_samples = 1000"""  # noqa: E501
OWN = """\
name = "imagefolder"  # $found
$root
image_size = $side  # pixels a side that images are resized to; MACs grow with its square"""
DRAWN = """\
scheme = "dirichlet"  # label skew; "iid" is without
clients = $clients
alpha = 0.5  # smaller is more skewed
min_size = $min_size  # fewest images of a client"""
NATURAL = """\
scheme = "natural"  # the folders in train are the clients
clients = $clients"""
IMAGES_PER_CLIENT = 50
MOST_CLIENTS, MOST_COHORT, LEAST_IMAGES = 40, 10, 10
LEAST_SIDE, MOST_SIDE, SIDE_STEP = 32, 96, 8
LOOKED_AT = 200
"""Images whose sizes decide ``image_size``."""


def make_starter(folder: Path, data: Path | None = None) -> None:
    """Write ``experiment.toml`` and ``study.toml`` into the new ``folder``, for the images in ``data``.

    Raises ``UserError`` when the folder exists, its name cannot be a run's, or the images are not as
    ``imagefolder`` needs them; then nothing is written.
    """
    check_name(folder.name, "fedfmd new")
    if folder.exists():
        raise UserError(f"fedfmd new {folder}: exists already; choose another name")
    names = {"name": folder.name, "folder": str(folder)}
    experiment = _experiment(names, data)
    try:
        folder.mkdir(parents=True)
        write_atomic(folder / EXPERIMENT.name, experiment)
        write_atomic(folder / STUDY.name, Template(read_text(STUDY)).substitute(names))
    except OSError as error:
        raise UserError(f"fedfmd new {folder}: cannot be written: {error.strerror}") from None


def _experiment(names: Mapping[str, str], data: Path | None) -> str:
    template = Template(read_text(EXPERIMENT))
    if data is None:
        drawn = Template(DRAWN).substitute(clients=MOST_CLIENTS, min_size=LEAST_IMAGES)
        return template.substitute(names, data=EMBEDDED, partition=drawn, cohort=MOST_COHORT)
    check_encoded("fedfmd new --data", data)
    with as_input():
        train, test, classes = list_folders(data, natural=of_clients(data))
    found = f"{len(train.files)} training and {len(test.files)} test images of {len(classes)} classes"
    (root,) = tomli_w.dumps({"root": str(data.resolve())}).splitlines()
    own = Template(OWN).substitute(found=found, root=root, side=_side(train.files))
    clients, partition = _partition(train)
    text = template.substitute(names, data=own, partition=partition, cohort=min(MOST_COHORT, clients))
    partition_data(
        parse_config(tomllib.loads(text), source=str(data)), train.labels, train.owners
    )  # or say why
    return text


def _partition(train: Listing) -> tuple[int, str]:
    """Return how many clients there are and the lines that say so: natural ones, or for whom images last."""
    if train.owners is not None:
        clients = int(train.owners.max()) + 1
        return clients, Template(NATURAL).substitute(clients=clients)
    images = len(train.files)
    clients = min(MOST_CLIENTS, max(2, images // IMAGES_PER_CLIENT))
    least = max(1, min(LEAST_IMAGES, images // clients // 5))
    return clients, Template(DRAWN).substitute(clients=clients, min_size=least)


def _side(files: Sequence[Path]) -> int:
    """Return a side in pixels near that of the first images, and small enough to train on quickly."""
    edges = [edge for path in files[:LOOKED_AT] if (edge := shorter_edge(path))]
    side = int(median(edges)) if edges else LEAST_SIDE
    return min(MOST_SIDE, max(LEAST_SIDE, side // SIDE_STEP * SIDE_STEP))
