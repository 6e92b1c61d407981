"""The containers of a deployment, by way of compose."""

import io
import shutil
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

from fedfmd.deployment import layout
from fedfmd.deployment.context import write_context
from fedfmd.deployment.operator import Operator, answer_in, nodes_in
from fedfmd.errors import RunError, UserError
from fedfmd.records.schema import Json

READ_ALL = 'for file; do cat "$file" 2>/dev/null; printf "\\0"; done'
"""A shell's words that print files, each with a zero byte behind it."""


def compose_command() -> list[str]:
    """Find Compose v2 or docker-compose 1.29.

    Raises ``UserError`` when there is neither, and when Docker does not answer.
    """
    if shutil.which("docker"):
        asked = subprocess.run(["docker", "version"], capture_output=True, check=False)
        if asked.returncode:
            said = asked.stderr.decode(errors="replace").strip().splitlines()
            raise UserError(
                f"fedfmd deploy: Docker does not answer: {said[-1] if said else asked.returncode}"
            )
        plugin = ["docker", "compose"]
        if subprocess.run([*plugin, "version"], capture_output=True, check=False).returncode == 0:
            return plugin
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    raise UserError("fedfmd deploy: needs Docker with Compose v2, or docker-compose 1.29")


@dataclass(frozen=True)
class Stack(Operator):
    """A deployment's folder and its containers."""

    @cached_property
    def command(self) -> list[str]:
        """How compose is called for this deployment."""
        self.deployed.check()
        file, settings = self.folder / layout.COMPOSE, self.folder / layout.ENVIRONMENT
        return [*compose_command(), "-f", str(file), "--env-file", str(settings)]

    def call(self, *arguments: str) -> None:
        """Run compose on this terminal; raises ``RunError`` when it fails."""
        done = subprocess.run([*self.command, *arguments], check=False)
        if done.returncode:
            raise RunError(f"compose {arguments[0]} ended with code {done.returncode}")

    def build(self) -> None:
        """Build the image from this installation of fedfmd; raises ``RunError`` when that fails."""
        self.deployed.check()
        try:
            write_context(self.folder / layout.IMAGE)
        except OSError as error:
            raise UserError(f"{self.folder / layout.IMAGE}: cannot be written: {error.strerror}") from None
        self.call("build", "superlink")

    @property
    def running(self) -> bool:
        """Whether the SuperLink's container is there."""
        try:
            return bool(self.read("ps", "-q", "superlink").strip())
        except (RunError, UserError):
            return False

    def show(self) -> None:
        """Print how the containers are."""
        self.call("ps")

    def register(self) -> None:
        """Tell the SuperLink who belongs now; raises ``RunError`` when that fails."""
        self.call("run", "--rm", "register")

    def logs(self, services: Sequence[str], *, follow: bool) -> None:
        """Show what containers print."""
        self.call("logs", *(["-f"] if follow else []), *services)

    def read(self, *arguments: str) -> bytes:
        """Give what compose prints; raises ``RunError`` with its last line when it fails."""
        done = subprocess.run([*self.command, *arguments], capture_output=True, check=False)
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            raise RunError(f"compose {arguments[0]}: {said[-1] if said else done.returncode}")
        return done.stdout

    def flwr(self, *arguments: str) -> Json:
        """Ask Flower's command line, in a container of its own."""
        text = self.read("run", "--rm", "-T", "cli", "flwr", *arguments, "--format", "json")
        return answer_in(text.decode(errors="replace"), arguments[0])

    def app_log(self, run: str) -> str:
        """Return what the server's app has printed in a run."""
        try:
            return self.read("run", "--rm", "-T", "cli", "flwr", "log", run, "--show").decode(
                errors="replace"
            )
        except RunError:
            return ""

    def texts(self, *paths: str) -> list[str]:
        """Read files among the results; an empty text for each that is not there."""
        return self._inside(*(f"{self.results_folder}/{path}" for path in paths))

    def nodes(self) -> dict[str, str | None]:
        """Return each registered public key's file name and its node."""
        file = f"/state/{layout.NODES}"
        (text,) = self._inside(file)
        return nodes_in(text or None, file)

    @contextmanager
    def brought(self, beside: Path) -> Iterator[Path]:
        """Unpack the results out of their volume."""
        packed = self.read("exec", "-T", "superlink", "tar", "-C", self.results_folder, "-c", ".")
        with TemporaryDirectory(prefix=".results-", dir=beside) as made:
            with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
                archive.extractall(made, filter="data")
            yield Path(made)

    def advice(self) -> str:
        """Say what may have ended a run that could not say it itself."""
        program = "from fedfmd.machine.cgroups import oom_kills; print(oom_kills())"
        if int(self.read("exec", "-T", "superlink", "python", "-c", program)):
            return "a process of the server was killed for its memory: raise SUPERLINK_MEMORY in .env"
        return "fedfmd deploy logs superlink says more"

    def _inside(self, *paths: str) -> list[str]:
        """Read files of the server's by one call of compose, which takes a second of a processor."""
        try:
            packed = self.read("exec", "-T", "superlink", "sh", "-c", READ_ALL, "sh", *paths)
        except RunError:
            return [""] * len(paths)
        return packed.decode().split("\0")[:-1]
