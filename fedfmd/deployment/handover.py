"""The folder that is handed to a client: its keys, what all agreed on, and how it starts.

    client.toml                  who it is and where the server is
    ca.crt, node.key, ...        its keys: whoever has them is this client
    classes.txt                  what it packs its images by
    fedfmd                       runs fedfmd's commands, without Docker
    start.sh                     starts the client without Docker
    pack-docker.sh, start-docker.sh   the same with Docker, and nothing else
    fedfmd-client.service        an example of a systemd unit
    image/                       the server's own version of fedfmd, to install or to build an image of

The scripts are for a POSIX shell; they look for everything in their own folder.
"""

import shutil
from pathlib import Path
from typing import Annotated

import tomli_w
from pydantic import Field, ValidationError

import fedfmd
from fedfmd.config.documents import explained, read_toml
from fedfmd.config.values import Name, Section
from fedfmd.deployment import layout
from fedfmd.deployment.context import write_context
from fedfmd.files import write_atomic
from fedfmd.machine.ports import address

FILE = "client.toml"
PACK = "client.safetensors"
FIRST_PORT = 9100
"""Of a client's own processes, on its own machine; its number is added, so that two clients can share one."""

WRAPPER = """\
#!/bin/sh
# fedfmd, in the server's own version: ./fedfmd data pack FOLDER --classes classes.txt
# Needs Python 3.11 or newer. PYTHON=... names one that has the packages; else they go into .venv, once.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
if [ -z "${PYTHON:-}" ]; then
  PYTHON=$here/.venv/bin/python
  if [ ! -e "$here/.venv/ready" ]; then
    python3 -m venv "$here/.venv"
    echo "fedfmd: installing what a client needs into $here/.venv (once; some minutes)" >&2
    "$PYTHON" -m pip install --quiet --disable-pip-version-check \\
      --extra-index-url https://download.pytorch.org/whl/cpu -r "$here/image/requirements.txt"
    touch "$here/.venv/ready"
  fi
fi
export PYTHONPATH="$here/image/site" FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1
export FLWR_HOME="${FLWR_HOME:-$here/state/flwr}" OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
export PATH="$(dirname "$PYTHON"):$PATH"
exec "$PYTHON" -P -m fedfmd "$@"
"""
START = """\
#!/bin/sh
# Starts client {client} ({name}) without Docker; Ctrl-C ends it. Pack its images first, once:
#   ./fedfmd data pack FOLDER --classes classes.txt
set -eu
cd "$(dirname "$0")"
if [ ! -e {pack} ]; then
  echo "start.sh: no {pack} here yet: ./fedfmd data pack FOLDER --classes classes.txt" >&2
  exit 2
fi
mkdir -p state
exec ./fedfmd deploy node --superlink "${{SERVER:-{server}}}" --root-certificates {authority} \\
  --auth-supernode-private-key {node_key} --host 127.0.0.1 --port "${{PORT:-{port}}}" \\
  --node-config "client-id={client} data=\\"$PWD/{pack}\\" state=\\"$PWD/state\\" threads=${{THREADS:-1}}"
"""
PACK_DOCKER = """\
#!/bin/sh
# Packs this client's images with Docker alone: ./pack-docker.sh FOLDER
set -eu
here=$(cd "$(dirname "$0")" && pwd)
[ $# -ge 1 ] && [ -d "$1" ] || {{ echo "pack-docker.sh FOLDER: a folder of class folders" >&2; exit 2; }}
docker image inspect fedfmd:{version} >/dev/null 2>&1 || docker build -t fedfmd:{version} "$here/image"
docker run --rm --user "$(id -u):$(id -g)" --network none \\
  -v "$(cd "$1" && pwd)":/images:ro -v "$here":/client -w /client fedfmd:{version} \\
  python -m fedfmd data pack /images --classes classes.txt --out {pack}
"""
START_DOCKER = """\
#!/bin/sh
# Starts client {client} ({name}) in a container; Ctrl-C ends it. Pack its images first:
#   ./pack-docker.sh FOLDER
set -eu
here=$(cd "$(dirname "$0")" && pwd)
[ -e "$here/{pack}" ] || {{ echo "start-docker.sh: no {pack} here: ./pack-docker.sh FOLDER" >&2; exit 2; }}
docker image inspect fedfmd:{version} >/dev/null 2>&1 || docker build -t fedfmd:{version} "$here/image"
mkdir -p "$here/state"
exec docker run --rm --init --name "fedfmd-{name}" --user "$(id -u):$(id -g)" \\
  --read-only --tmpfs /tmp:mode=1777 --cap-drop ALL --security-opt no-new-privileges \\
  --memory "${{MEMORY:-2g}}" --cpus "${{CPUS:-1}}" --pids-limit "${{PIDS_LIMIT:-1024}}" \\
  --network "${{NETWORK:-bridge}}" -v "$here":/client:ro -v "$here/state":/state fedfmd:{version} \\
  python -m fedfmd deploy node --superlink "${{SERVER:-{server}}}" --root-certificates /client/{authority} \\
  --auth-supernode-private-key /client/{node_key} \\
  --node-config 'client-id={client} data="/client/{pack}" state="/state" threads=1'
"""
UNIT = """\
# An example: copy it to /etc/systemd/system/, with this folder in /opt/fedfmd-client and a user of its own.
[Unit]
Description=fedfmd client {client} ({name})
After=network-online.target
Wants=network-online.target

[Service]
User=fedfmd
WorkingDirectory=/opt/fedfmd-client
ExecStart=/opt/fedfmd-client/start.sh
Restart=on-failure
RestartSec=30
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
TasksMax=1024
PrivateTmp=yes
ReadWritePaths=/opt/fedfmd-client

[Install]
WantedBy=multi-user.target
"""
README = """\
This folder makes its machine client {client} ({name}) of the federation at {server}.
Anybody who holds it can act as that client: transfer it securely, and give it to nobody else.

Without Docker (Python 3.11 or newer):    With Docker:
  ./fedfmd data pack FOLDER --classes classes.txt    ./pack-docker.sh FOLDER
  ./fedfmd doctor .                                  ./start-docker.sh
  ./start.sh

FOLDER has a folder of images for each class of classes.txt, spelt as there; not all have to be there.
The pack, {pack}, stays on this machine: the server gets models, counts and sums.
"""
SCRIPTS = {
    "fedfmd": WRAPPER,
    "start.sh": START,
    "pack-docker.sh": PACK_DOCKER,
    "start-docker.sh": START_DOCKER,
}
TEXTS = {"fedfmd-client.service": UNIT, "README.txt": README}


class Handover(Section):
    """What a client is told of itself: the content of its ``client.toml``."""

    client: Annotated[int, Field(ge=0)]
    """Its number."""
    name: Name
    server: str
    """HOST:PORT of the gate."""
    fedfmd: str = fedfmd.__version__
    """The server's version."""

    @classmethod
    def read(cls, path: Path) -> "Handover":
        """Read a ``client.toml``; raises ``UserError`` for any other file."""
        document = read_toml(path, "client's description of itself")
        try:
            own = cls.model_validate(document)
        except ValidationError as error:
            raise explained(error, cls, str(path)) from None
        address(own.server, f"{path}: server = ")
        return own


def write_handover(folder: Path, own: Handover, keys: Path, classes: Path, image: Path) -> None:
    """Write a client's folder; what the client has put into an older one stays."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(keys.iterdir()):
        (folder / path.name).unlink(missing_ok=True)
        shutil.copy2(path, folder / path.name)
    if classes.is_file():
        shutil.copy2(classes, folder / classes.name)
    write_context(folder / image.name)
    said = own.model_dump()
    write_atomic(folder / FILE, tomli_w.dumps(said))
    facts = {**said, "version": own.fedfmd, "port": FIRST_PORT + own.client, "pack": PACK}
    facts |= {"authority": layout.AUTHORITY, "node_key": layout.NODE_KEY}
    for name, text in TEXTS.items():
        write_atomic(folder / name, text.format(**facts))
    for name, text in SCRIPTS.items():
        write_atomic(folder / name, text if text is WRAPPER else text.format(**facts))
        (folder / name).chmod(0o755)
