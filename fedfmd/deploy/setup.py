"""The folder of a deployment: keys, pictures, the experiment, and what compose needs to know.

    experiment.toml             the resolved experiment
    .env, docker-compose.yml    settings, and a service for each client
    keys/public, keys/server, keys/client-N, keys/ca
    data/server, data/client-N  the server's test and validation sets; each client's own pictures

Each container mounts its own folders only. To deploy on real devices, carry ``keys/client-N`` to its device,
and let each put its own pictures where ``data/client-N`` would be.
"""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import fedfmd
from fedfmd.config import ExperimentConfig, dump_config
from fedfmd.data import open_prepared, write_client_file
from fedfmd.data.cache import save_dataset
from fedfmd.deploy.compose import compose_text
from fedfmd.deploy.keys import make_keys
from fedfmd.errors import UserError
from fedfmd.files import write_atomic
from fedfmd.runs import partition_data, prepare_data

CONTAINER_USER = 10001
PICTURES = "pictures.safetensors"


@dataclass(frozen=True)
class Tier:
    """The resources of a client's container."""

    cpus: float
    memory: str
    """As compose writes it: ``768m``, ``1g``."""


DEFAULT_TIERS = (Tier(0.75, "1g"), Tier(0.5, "768m"), Tier(0.25, "768m"), Tier(0.25, "640m"))


def parse_tier(text: str) -> Tier:
    """Read ``CPUS:MEMORY``, as ``0.5:768m``; raises ``UserError``."""
    cpus, _, memory = text.partition(":")
    try:
        tier = Tier(float(cpus), memory.lower())
    except ValueError:
        tier = Tier(0.0, "")
    if tier.cpus <= 0 or not (tier.memory[:-1].isdigit() and tier.memory[-1] in "mg"):
        raise UserError(f"--tier {text}: must look like CPUS:MEMORY, as 0.5:768m or 1:2g")
    return tier


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
    folder: Path, config: ExperimentConfig, tiers: Sequence[Tier], server_names: Sequence[str] = ()
) -> None:
    """Make the folder of a deployment with a client for each tier.

    Raises ``UserError`` when it exists, or the pictures are not there.
    """
    if folder.exists():
        raise UserError(f"--out {folder}: exists already; choose another folder")
    clients = len(tiers)
    settings = deployed_config(config, clients)
    folder.mkdir(parents=True)
    write_pictures(folder / "data", settings)
    make_keys(folder / "keys", range(clients), server_names)
    write_atomic(folder / "experiment.toml", dump_config(settings))
    write_atomic(folder / ".env", environment_text(folder, settings.name, tiers))
    write_atomic(folder / "docker-compose.yml", compose_text(clients))
    _give_to_containers(folder)


def write_pictures(folder: Path, config: ExperimentConfig) -> None:
    """Write the server's test and validation sets, and each client's own pictures.

    Both are files for ``open_prepared``; what would be a training set is the server's validation set.
    """
    whole = open_prepared(prepare_data(config))
    partition = partition_data(config, whole.train_labels)
    (folder / "server").mkdir(parents=True)
    save_dataset(whole.subset(partition.validation), folder / "server" / PICTURES)
    for client in range(config.partition.clients):
        own = folder / f"client-{client}"
        own.mkdir()
        write_client_file(whole, partition, client, own / PICTURES)


def environment_text(folder: Path, name: str, tiers: Sequence[Tier]) -> str:
    """Give the ``.env`` that compose reads."""
    user = CONTAINER_USER if os.getuid() == 0 else os.getuid()
    lines = [
        "# Settings of this deployment; see docs/deployment.md.",
        f"COMPOSE_PROJECT_NAME=fedfmd-{name.lower().replace('.', '-')}",
        f"FEDFMD_DEPLOYMENT={folder.resolve()}",
        f"FEDFMD_USER={user}:{user if os.getuid() == 0 else os.getgid()}",
        f"FEDFMD_CLIENTS={len(tiers)}",
    ]
    source = Path(fedfmd.__file__).parents[1]
    if (source / "Dockerfile").is_file():
        lines.append(f"FEDFMD_SOURCE={source}")
    for client, tier in enumerate(tiers):
        lines += [f"CLIENT{client}_CPUS={tier.cpus:g}", f"CLIENT{client}_MEMORY={tier.memory}"]
    return "\n".join(lines) + "\n"


def _give_to_containers(folder: Path) -> None:
    """Let the containers' user own the files, where root made them; others run as who made them."""
    if os.getuid() == 0:
        for path in (folder, *folder.rglob("*")):
            shutil.chown(path, CONTAINER_USER, CONTAINER_USER)
