"""The folder of a deployment: keys, images, the experiment, and what compose needs to know.

    experiment.toml             the resolved experiment
    .env, docker-compose.yml    settings, and a service for each client
    image/                      what the containers' image is built from
    classes.txt                 what clients pack their own images by
    clients/NAME                what is handed to a client with images of its own
    keys/public, keys/server, keys/gate, keys/client-N, keys/ca
    data/server, data/client-N  the server's test and validation sets; each client's own images

Each container mounts its own folders only. To deploy on real devices, carry ``keys/client-N`` to its device,
and let each put its own images where ``data/client-N`` would be.
"""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from fedfmd.config.documents import read_toml
from fedfmd.config.experiment import ExperimentConfig, config_in, dump_config
from fedfmd.config.sections.data import DataConfig, PartitionConfig
from fedfmd.config.values import Section
from fedfmd.data.agreement import Agreement
from fedfmd.data.configured import partition_data, prepare_data
from fedfmd.data.dataset import Dataset
from fedfmd.data.packs import PackSource, empty_pack, pack
from fedfmd.data.partition import Partition
from fedfmd.data.prepared import open_prepared, save_dataset, write_client_file
from fedfmd.deployment import layout
from fedfmd.deployment.assignment import check_told
from fedfmd.deployment.compose import LIMITS, compose_text
from fedfmd.deployment.context import write_context
from fedfmd.deployment.keys import make_keys
from fedfmd.deployment.members import Deployed, check_client_name
from fedfmd.errors import UserError
from fedfmd.files import write_atomic
from fedfmd.machine.ports import joined
from fedfmd.units import memory_size

CONTAINER_USER = 10001
OWN_HOLDOUT = 0.2
"""Share of their own images that clients test on where the server has no test images."""
LEAST_MEMORY = 300 << 20
"""Of a client: a SuperNode alone takes 190 MB."""
UNFIT_FOR_COMPOSE = frozenset(":$#'\"`\\")
"""What ends a path in a compose file or an .env, or stands for something else there."""


class ContainerTier(Section):
    """The resources of a client's container."""

    cpus: Annotated[float, Field(ge=0.01, le=1024, allow_inf_nan=False)]
    memory: str
    """As compose writes it: ``768m``, ``1g``."""


DEFAULT_TIERS = tuple(ContainerTier(cpus=float(cpus), memory=memory) for cpus, memory in LIMITS)


def parse_tier(text: str) -> ContainerTier:
    """Read ``CPUS:MEMORY``, as ``0.5:768m``; raises ``UserError``."""
    cpus, _, memory = text.partition(":")
    try:
        mebibytes = memory_size(memory, "--tier", LEAST_MEMORY) >> 20
        written = f"{mebibytes}m" if mebibytes % 1024 else f"{mebibytes // 1024}g"
        return ContainerTier(cpus=float(cpus), memory=written)
    except (ValueError, UserError):  # pydantic's, too
        raise UserError(
            f"--tier {text}: must look like CPUS:MEMORY, as 0.5:768m or 1:2g, with 0.01 to 1024 processors "
            "and at least 300m"
        ) from None


def tiers_for(texts: Sequence[str], clients: int | None) -> list[ContainerTier]:
    """Return each client's tier, which clients take in turn; without a number there is one for each tier."""
    tiers = [parse_tier(text) for text in texts] or list(DEFAULT_TIERS)
    return [tiers[client % len(tiers)] for client in range(clients or len(tiers))]


def config_for(file: Path, clients: int, changes: Sequence[str]) -> ExperimentConfig:
    """Read a config and lower what cannot be above the number of clients, but for what ``changes`` say."""
    document = read_toml(file, "config file")
    return config_in(file, document, [*_lowered(document.get("server", {}), clients), *changes])


def _lowered(server: Any, clients: int) -> list[str]:
    try:
        cohort = min(int(server.get("cohort", clients)), clients)
        completed = min(int(server.get("min_completed", 1)), cohort)
    except (ValueError, AttributeError, TypeError, OverflowError):
        return []  # the config's own reader says what is wrong
    return [
        f"partition.clients={clients}",
        f"server.cohort={cohort}",
        f"server.min_completed={completed}",
    ]


def check_folder(folder: Path) -> None:
    """Raise ``UserError`` unless ``folder`` can be made, and can stand in a compose file."""
    if os.path.lexists(folder):
        raise UserError(f"--dir {folder}: exists already; choose another folder")
    path = str(folder.resolve())
    if wrong := sorted({c for c in path if c in UNFIT_FOR_COMPOSE or not c.isprintable()}):
        raise UserError(f"--dir {path!r}: compose cannot take {' '.join(map(repr, wrong))} in a path")
    parent = next(parent for parent in folder.resolve().parents if parent.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise UserError(f"--dir {folder}: {parent} is no folder in which one can be made")


def deployed_config(config: ExperimentConfig, clients: int) -> ExperimentConfig:
    """Fit an experiment to ``clients`` real clients; a larger cohort becomes all of them."""
    server = config.server.model_copy(
        update={
            "cohort": min(config.server.cohort, clients),
            "min_completed": min(config.server.min_completed, clients),
        }
    )
    partition = config.partition.model_copy(update={"clients": clients})
    return config.model_copy(update={"server": server, "partition": partition})


def make_deployment(
    folder: Path, config: ExperimentConfig, tiers: Sequence[ContainerTier], server_names: Sequence[str] = ()
) -> None:
    """Make the folder of a deployment with a client for each tier.

    It is there whole or not at all. Raises ``UserError`` when it exists or cannot be made, the images are
    not there or do not suffice, clients would not take the experiment, or a server name cannot stand in a
    certificate.
    """
    check_folder(folder)
    clients = len(tiers)
    settings = deployed_config(config, clients)
    check_told(settings)
    whole = open_prepared(prepare_data(settings))
    partition = partition_data(settings, whole.train_labels, whole.owners)
    with _whole_or_none(folder) as made:
        make_keys(made / layout.KEYS, range(clients), server_names)
        save_pictures(made / "data", whole, partition)
        write_atomic(made / layout.EXPERIMENT, dump_config(settings))
        names = f"FEDFMD_SERVER_NAMES={' '.join(server_names)}\n"
        write_atomic(
            made / layout.ENVIRONMENT, environment_text(folder, settings.name, clients, tiers) + names
        )
        write_atomic(made / layout.COMPOSE, compose_text(clients, published=bool(server_names)))
        write_context(made / layout.IMAGE)
        _give_to_containers(made)


def make_open_deployment(
    folder: Path,
    config: ExperimentConfig,
    agreement: Agreement,
    names: Sequence[str],
    *,
    places: int | None = None,
    server_names: Sequence[str] = (),
    port: int = layout.GATE_PORT,
    tested_on: Path | None = None,
) -> ExperimentConfig:
    """Make the folder of a deployment whose clients bring images of their own; returns its experiment.

    ``names`` are the first clients, ``places`` is how many a run has room for, ``tested_on`` a folder with
    the server's own test images. Without those, clients keep a share of theirs to measure the model on; under
    ``[privacy]`` nobody does.
    Raises ``UserError`` as ``make_deployment`` does.
    """
    check_folder(folder)
    for name in names:
        check_client_name(name, "--client")
    if len(set(names)) < len(names):
        raise UserError(f"--client: {', '.join(names)}: each client has a name of its own")
    room = max(1, len(names)) if places is None else places
    if room < len(names):
        raise UserError(f"--places {places}: fewer than the {len(names)} clients that are named")
    settings = _with_own_images(config, room, tested=tested_on is not None)
    check_told(settings)
    with _whole_or_none(folder) as made:
        made_keys = made / layout.KEYS
        make_keys(made_keys, [], server_names)
        pictures = made / layout.SERVER_PICTURES
        pictures.parent.mkdir(parents=True)
        _pack_test_set(tested_on, agreement, pictures)
        write_atomic(made / layout.CLASSES, agreement.text)
        write_atomic(made / layout.EXPERIMENT, dump_config(settings))
        host = server_names[0] if server_names else "localhost"
        more = (
            f"FEDFMD_NEXT_CLIENT=0\nFEDFMD_SERVER={joined(host, port)}\nGATE_PORT={port}\n"
            f"FEDFMD_SERVER_NAMES={' '.join(server_names)}\n"
        )
        write_atomic(made / layout.ENVIRONMENT, environment_text(folder, settings.name, room) + more)
        write_atomic(made / layout.COMPOSE, compose_text(0, published=True))
        write_context(made / layout.IMAGE)
        _give_to_containers(made)
        for name in names:  # what is handed over is not for this machine's containers
            Deployed(made).add(name)
    return settings


def _with_own_images(config: ExperimentConfig, room: int, *, tested: bool) -> ExperimentConfig:
    """Fit an experiment to clients with images of their own."""
    told = config.privacy.dp == config.privacy.secure == "none"  # else no client tells what it measured
    measured = told and not tested
    kept = config.partition.holdout or (OWN_HOLDOUT if measured else 0.0)
    data = DataConfig(name="packs", resized_crop=config.data.resized_crop)
    partition = PartitionConfig(scheme="natural", clients=room, holdout=kept)
    options = {kind: own for kind, own in (config.options or {}).items() if kind not in ("data", "partition")}
    update: dict[str, Any] = {"data": data, "partition": partition, "options": options or None}
    if kept and config.evaluation.clients is None:
        update["evaluation"] = config.evaluation.model_copy(update={"clients": "all"})
    return deployed_config(config.model_copy(update=update), room)


def _pack_test_set(folder: Path | None, agreement: Agreement, out: Path) -> None:
    """Write the server's own images as a test set; an empty one where it has none."""
    if folder is None:
        return empty_pack(agreement, out)
    packed = pack(PackSource(str(folder)), agreement, None, out)
    nothing = np.zeros(0, dtype=np.int64)
    tested = (packed.train_images, packed.train_labels)
    if len(packed.test_labels):
        tested = packed.test_images, packed.test_labels
    save_dataset(
        replace(packed.subset(nothing), test_images=tested[0], test_labels=tested[1], origin={}), out
    )
    return None


@contextmanager
def _whole_or_none(folder: Path) -> Iterator[Path]:
    """Yield a folder that becomes ``folder`` at the end, and is removed where there is none."""
    made = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        made.mkdir(parents=True)
        yield made
        made.rename(folder)
    except OSError as error:
        raise UserError(f"--dir {folder}: cannot be written: {error.strerror}") from None
    finally:
        shutil.rmtree(made, ignore_errors=True)


def save_pictures(folder: Path, whole: Dataset, partition: Partition) -> None:
    """Write the server's test and validation sets, and each client's own images.

    All are files for ``open_prepared``; what would be a training set is the server's validation set.
    """
    (folder / "server").mkdir(parents=True)
    save_dataset(whole.subset(partition.validation), folder / "server" / layout.PICTURES)
    for client in range(partition.num_clients):
        own = folder / f"client-{client}"
        own.mkdir()
        write_client_file(whole, partition, client, own / layout.PICTURES)


def environment_text(folder: Path, name: str, clients: int, tiers: Sequence[ContainerTier] = ()) -> str:
    """Give the ``.env`` that compose reads: room for ``clients`` in a run, ``tiers`` of them containers."""
    user = CONTAINER_USER if os.getuid() == 0 else os.getuid()
    lines = [
        "# Settings of this deployment; see docs/deployment.md.",
        f"COMPOSE_PROJECT_NAME=fedfmd-{name.lower().replace('.', '-')}",
        f"FEDFMD_DEPLOYMENT={folder.resolve()}",
        f"FEDFMD_USER={user}:{user if os.getuid() == 0 else os.getgid()}",
        f"FEDFMD_CLIENTS={clients}",
    ]
    for client, tier in enumerate(tiers):
        lines += [f"CLIENT{client}_CPUS={tier.cpus:g}", f"CLIENT{client}_MEMORY={tier.memory}"]
    return "\n".join(lines) + "\n"


def _give_to_containers(folder: Path) -> None:
    """Let the containers' user own the files, where root made them; others run as who made them."""
    if os.getuid() == 0:
        for path in (folder, *folder.rglob("*")):
            shutil.chown(path, CONTAINER_USER, CONTAINER_USER)
