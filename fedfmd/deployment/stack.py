"""The containers of a deployment, by way of compose."""

import io
import json
import shutil
import subprocess
import tarfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from fedfmd.deployment.context import write_context
from fedfmd.errors import RunError, UserError
from fedfmd.records.schema import Json, SchemaError, parse

APP = "/opt/fedfmd/app"
POLL_SECONDS = 2.0
STATUS_EVERY = 8
"""Looks at the results between two questions to the SuperLink, each of which starts a container."""


def as_document(overrides: Sequence[str]) -> str:
    """Return ``KEY=VALUE`` texts as one JSON document in ASCII without apostrophes, whatever they hold."""
    return json.dumps(list(overrides)).replace("'", "\\u0027")


def run_config(**options: str) -> str:
    """Return options as Flower's ``--run-config`` reads them: TOML literals, which know no escapes.

    Raises ``ValueError`` for a value that cannot stand in one.
    """
    for name, value in options.items():
        if "'" in value or not value.isprintable():
            raise ValueError(f"{name} = {value!r}: holds what a TOML literal cannot")
    return " ".join(f"{name}='{value}'" for name, value in options.items())


def compose_command() -> list[str]:
    """Find Compose v2 or docker-compose 1.29; raises ``UserError`` when there is neither."""
    if shutil.which("docker"):
        plugin = ["docker", "compose"]
        if subprocess.run([*plugin, "version"], capture_output=True, check=False).returncode == 0:
            return plugin
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    raise UserError("fedfmd deploy: needs Docker with Compose v2, or docker-compose 1.29")


@dataclass(frozen=True)
class Stack:
    """A deployment's folder and its containers."""

    folder: Path

    @cached_property
    def command(self) -> list[str]:
        """How compose is called for this deployment."""
        file, settings = self._files
        return [*compose_command(), "-f", str(file), "--env-file", str(settings)]

    @property
    def _files(self) -> tuple[Path, Path]:
        file, settings = self.folder / "docker-compose.yml", self.folder / ".env"
        if not file.is_file() or not settings.is_file():
            raise UserError(f"{self.folder}: is no deployment; make one with fedfmd deploy init")
        return file, settings

    @property
    def settings(self) -> dict[str, str]:
        """What ``.env`` says; raises ``UserError`` where there is none."""
        _, settings = self._files
        lines = settings.read_text(encoding="utf-8").splitlines()
        pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
        return {name: value for name, _, value in pairs}

    def call(self, *arguments: str) -> None:
        """Run compose on this terminal; raises ``RunError`` when it fails."""
        done = subprocess.run([*self.command, *arguments], check=False)
        if done.returncode:
            raise RunError(f"compose {arguments[0]} ended with code {done.returncode}")

    def build(self) -> None:
        """Build the image from this installation of fedfmd; raises ``RunError`` when that fails."""
        try:
            write_context(self.folder / "image")
        except OSError as error:
            raise UserError(f"{self.folder / 'image'}: cannot be written: {error.strerror}") from None
        self.call("build", "superlink")

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
        return _object(text[max(text.find(b"{"), 0) :].decode(errors="replace"), f"flwr {arguments[0]}")

    def submit(self, name: str, overrides: list[str]) -> str:
        """Submit a run whose results will be in ``name``; gives its number."""
        clients = self.settings["FEDFMD_CLIENTS"]
        options = run_config(clients=clients, out=f"/results/{name}", set=as_document(overrides))
        answer = self.flwr("run", APP, "--run-config", options)
        if not answer.get("success", True):
            raise RunError(f"the SuperLink took no run: {answer.get('error-message', answer)}")
        return str(answer["run-id"])

    def follow(self, run: str, name: str, on_round: Callable[[Json], None]) -> Json:
        """Wait for a run's end; raises ``RunError`` with its reason when it stopped."""
        seen, looks = 0, 0
        while True:
            rows = self._lines(f"{name}/rounds.jsonl")
            for row in rows[seen:]:
                on_round(_object(row, f"{name}/rounds.jsonl"))
            seen = max(seen, len(rows))
            looks += 1
            over = looks % STATUS_EVERY == 0 and self.status_of(run).startswith("finished")
            summary = "".join(self._lines(f"{name}/summary.json"))
            if summary:
                return _ended(_object(summary, f"{name}/summary.json"))
            if over:
                raise RunError(f"the run ended without a summary: {self.status_of(run)}; {self._advice()}")
            time.sleep(POLL_SECONDS)

    def status_of(self, run: str) -> str:
        """Give Flower's word for how a run is; ``unknown`` when the SuperLink does not answer in time."""
        runs = self.flwr("list", "--run-id", run).get("runs") or [{}]
        return str(runs[0].get("status", "unknown"))

    def results(self, into: Path) -> list[Path]:
        """Copy the run directories out of their volume; gives those that are new."""
        packed = self.read("exec", "-T", "superlink", "tar", "-C", "/results", "-c", ".")
        into.mkdir(parents=True, exist_ok=True)
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            names = {member.name.split("/")[1] for member in archive if "/" in member.name}
            new = sorted(name for name in names if not (into / name / "summary.json").exists())
            for member in archive:
                if member.name.split("/")[1:2] and member.name.split("/")[1] in new:
                    archive.extract(member, into, filter="data")
        return [into / name for name in new]

    def _advice(self) -> str:
        """Say what may have ended a run that could not say it itself."""
        program = "from fedfmd.deployment.usage import oom_kills; print(oom_kills())"
        if int(self.read("exec", "-T", "superlink", "python", "-c", program)):
            return "a process of the server was killed for its memory: raise SUPERLINK_MEMORY in .env"
        return "fedfmd deploy logs superlink says more"

    def _lines(self, path: str) -> list[str]:
        """Read the whole lines of a file among the results; none when it is not there yet."""
        try:
            text = self.read("exec", "-T", "superlink", "cat", f"/results/{path}").decode()
        except RunError:
            return []
        return text.split("\n")[:-1]


def _object(text: str, source: str) -> Json:
    """Return the JSON object that the server's side has printed; raises ``RunError`` where it is none."""
    try:
        document = parse(text)
        if not isinstance(document, dict):
            raise SchemaError("must be a JSON object")
    except SchemaError as error:
        raise RunError(f"{source}: {error}") from None
    return document


def _ended(summary: Json) -> Json:
    if summary["status"] != "finished":
        raise RunError(f"the run stopped: {summary['reason']}")
    return summary
