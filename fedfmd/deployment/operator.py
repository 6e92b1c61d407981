"""What an operator does with the server of a deployment, in containers or as processes of this machine."""

import json
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from fedfmd.config.experiment import load_config
from fedfmd.deployment import layout
from fedfmd.deployment.assignment import check_told
from fedfmd.deployment.layout import ROUND_SECONDS
from fedfmd.deployment.members import Deployed
from fedfmd.deployment.registration import noted_in
from fedfmd.deployment.results import copy_runs
from fedfmd.errors import RunError, UserError
from fedfmd.records import filenames
from fedfmd.records.runlog import remarks
from fedfmd.records.schema import Json, SchemaError, one_line, parse

POLL_SECONDS = 2.0
LAST_WORDS = re.compile(r"(?:\w+\.)*\w*(?:Error|Exception): (.+)")
"""How Python ends the words on an exception."""
STATUS_EVERY = 8
"""Looks at the results between two questions to the SuperLink, each of which starts a process."""


def as_document(overrides: Sequence[str]) -> str:
    """Return ``KEY=VALUE`` texts as one JSON document in ASCII without apostrophes, whatever they hold."""
    return json.dumps(list(overrides)).replace("'", "\\u0027")


def run_config(**options: str) -> str:
    """Return options as Flower's ``--run-config`` reads them: TOML literals, which know no escapes.

    Raises ``UserError`` for a value that cannot stand in one, as a path with an apostrophe.
    """
    for name, value in options.items():
        if "'" in value or not value.isprintable():
            raise UserError(f"{name} = {value!r}: a run cannot be told of it; rename what it is of")
    return " ".join(f"{name}='{value}'" for name, value in options.items())


@dataclass(frozen=True)
class ClientStatus:
    """How a client of a deployment is."""

    number: int
    name: str
    status: str
    """Flower's word for it, or why there is none."""
    valid_days: int | None
    """Of its certificate; null where that is not here."""


@dataclass(frozen=True)
class Operator(ABC):
    """The server of the deployment in ``folder``, as its operator sees it."""

    folder: Path

    app = "/opt/fedfmd/app"
    """What is submitted: names, no code."""
    results_folder = "/results"
    """As the server has it."""

    @property
    def deployed(self) -> Deployed:
        """The deployment's folder."""
        return Deployed(self.folder)

    @property
    def settings(self) -> dict[str, str]:
        """What ``.env`` says; raises ``UserError`` where there is none."""
        return self.deployed.settings

    @property
    @abstractmethod
    def running(self) -> bool:
        """Whether the server is there."""

    @abstractmethod
    def flwr(self, *arguments: str) -> Json:
        """Ask Flower's command line, inside the server; raises ``RunError`` when it does not answer."""

    @abstractmethod
    def texts(self, *paths: str) -> list[str]:
        """Read files among the results, one after the other; an empty text for each that is not there."""

    @abstractmethod
    def nodes(self) -> dict[str, str | None]:
        """Return each registered public key's file name and its node."""

    @abstractmethod
    def brought(self, beside: Path) -> AbstractContextManager[Path]:
        """Give a folder of this machine that holds the results while the ``with`` lasts.

        What has to be brought for it lies in the folder ``beside`` meanwhile.
        """

    def results(self, into: Path) -> list[Path]:
        """Copy run directories of which ``into`` lacks the end; gives the copies.

        Raises ``UserError`` where another run's copy has the name, before anything is copied.
        """
        into.mkdir(parents=True, exist_ok=True)
        with self.brought(into) as there:
            return copy_runs(there, into)

    @abstractmethod
    def logs(self, services: Sequence[str], *, follow: bool) -> None:
        """Show on this terminal what some programs of the deployment say, by default all; raises
        ``UserError`` for a name of none."""

    @abstractmethod
    def app_log(self, run: str) -> str:
        """Return what the server's app has printed in a run, as the SuperLink keeps it."""

    @abstractmethod
    def advice(self) -> str:
        """Say what may have ended a run that could not say it itself."""

    @property
    def options(self) -> dict[str, str]:
        """What each run is told beside its name and overrides."""
        return {}

    def submit(
        self,
        name: str,
        overrides: Sequence[str] = (),
        needed: int | None = None,
        round_seconds: int = ROUND_SECONDS,
    ) -> str:
        """Submit a run whose results will be in ``name``; gives its number.

        ``needed`` clients have to be there for it to begin; by default all that belong. A round goes on after
        ``round_seconds`` with the answers that are there. Raises ``UserError`` for overrides that the
        experiment or its clients do not take, before anything is submitted.
        """
        check_told(load_config(self.folder / layout.EXPERIMENT, overrides))
        return self._submit(
            out=f"{self.results_folder}/{name}",
            needed=needed,
            set=as_document(overrides),
            round_timeout=str(round_seconds),
        )

    def agree(self, needed: int | None = None) -> Json:
        """Let the clients agree on a normalisation; returns it. Raises ``RunError`` where they do not."""
        run = self._submit(
            out=f"{self.results_folder}/{filenames.STATISTICS}", needed=needed, task="statistics", set="[]"
        )
        failure, looks = f"{filenames.STATISTICS}.{run}.failed", 0
        (before,) = self.texts(filenames.STATISTICS)
        while True:
            looks += 1
            over = looks % STATUS_EVERY == 0 and self.status_of(run).startswith("finished")
            failed, now = self.texts(failure, filenames.STATISTICS)
            _raise_failure(failed)
            if now and (now != before or over):
                return _object(now, filenames.STATISTICS)
            if over:
                raise RunError(f"the clients agreed on nothing: {self.status_of(run)}; {self._why(run)}")
            time.sleep(POLL_SECONDS)

    def _submit(self, *, out: str, needed: int | None, **more: str) -> str:
        members = self.deployed.members()
        options = run_config(
            clients=str(self.deployed.room),
            min_clients=str(needed or len(members)),
            names=json.dumps({member.number: member.name for member in members}),
            out=out,
            statistics=f"{self.results_folder}/{filenames.STATISTICS}",
            **self.options,
            **more,
        )
        answer = self.flwr("run", self.app, "--run-config", options)
        if not answer.get("success", True):
            raise RunError(f"the SuperLink took no run: {answer.get('error-message', answer)}")
        return str(answer["run-id"])

    def follow(
        self, run: str, name: str, on_round: Callable[[Json], None], on_wait: Callable[[str], None] = print
    ) -> Json:
        """Wait for a run's end; raises ``RunError`` with its reason when it stopped.

        ``on_wait`` is told who is not there, as long as the run has not begun, then what the run's log has
        beside its rounds: who failed, and whose work went out again.
        """
        summary_file, rounds_file = f"{name}/{filenames.SUMMARY}", f"{name}/{filenames.ROUNDS}"
        # In this order: where there is a summary, the rows that are read after it are all.
        files = (summary_file, rounds_file, f"{name}.{run}.failed", f"{name}/{filenames.LOG}")
        seen, looks, missing = 0, 0, list[str]()
        (older,) = self.texts(summary_file)  # of the stopped run that goes on, as long as it has not ended
        told: int | None = None  # a run that goes on has a log already
        while True:
            looks += 1
            over = looks % STATUS_EVERY == 0 and self.status_of(run).startswith("finished")
            ended, begun, failed, log = self.texts(*files)
            remarked = remarks(log)
            for remark in remarked[len(remarked) if told is None else told :]:
                on_wait(remark)
            told = len(remarked)
            if looks % STATUS_EVERY == 0 and not begun:
                before, missing = missing, self.missing()
                if missing and missing != before:
                    on_wait(f"not connected: {', '.join(missing)}; --min-clients begins with fewer than all")
            summary, rows = "".join(_whole_lines(ended)), _whole_lines(begun)
            for row in rows[seen:]:
                on_round(_object(row, rounds_file))
            seen = max(seen, len(rows))
            if summary and ended != older:
                return _ended(_object(summary, summary_file))
            _raise_failure(failed)
            if over and summary:
                return _ended(_object(summary, summary_file))
            if over:
                raise RunError(f"the run ended without a summary: {self.status_of(run)}; {self._why(run)}")
            time.sleep(POLL_SECONDS)

    def _why(self, run: str) -> str:
        """Say why a run ended that left no word in its results, as on a full disk: its app's last error."""
        found = [match for line in self.app_log(run).splitlines() if (match := LAST_WORDS.fullmatch(line))]
        return one_line(found[-1][1]) if found else self.advice()

    def status_of(self, run: str) -> str:
        """Give Flower's word for how a run is; ``unknown`` when the SuperLink does not answer in time."""
        runs = self.flwr("list", "--run-id", run).get("runs") or [{}]
        return str(runs[0].get("status", "unknown"))

    def show(self) -> None:  # noqa: B027 - most have nothing to show
        """Print what only this way of running has to show."""

    def clients(self) -> list["ClientStatus"]:
        """List the clients that belong, and how each is."""
        running = self.running
        online = self.online() if running else {}
        other = "not registered" if running else "server is off"
        valid = self.deployed.expiries()
        return [
            ClientStatus(
                member.number,
                member.name,
                online.get(layout.public_key(member.number), other),
                valid.get(member.name),
            )
            for member in self.deployed.members()
        ]

    def online(self) -> dict[str, str]:
        """Return for each registered public key's file name Flower's word for how its client is."""
        listed = self.flwr("supernode", "list").get("nodes") or []
        words = {str(node["node-id"]): str(node["status"]) for node in listed}
        return {key: words.get(node or "", "unknown") for key, node in self.nodes().items()}

    def missing(self) -> list[str]:
        """Name the registered clients that are not connected."""
        return sorted(Path(key).stem for key, word in self.online().items() if word != "online")


def _whole_lines(text: str) -> list[str]:
    """Return the lines that have been written to their end."""
    return text.split("\n")[:-1]


def _raise_failure(text: str) -> None:
    if failed := text.strip():
        raise RunError(failed)


def nodes_in(text: str | None, source: object) -> dict[str, str | None]:
    """Read which key has which node; nothing where nothing is kept.

    Raises ``UserError`` for a damaged file, called ``source``.
    """
    noted = {} if text is None else noted_in(text, source)
    return {entry["key"]: entry["node"] for entry in noted.values()}


def _object(text: str, source: str) -> Json:
    """Return the JSON object that the server's side has printed; raises ``RunError`` where it is none."""
    try:
        document = parse(text)
        if not isinstance(document, dict):
            raise SchemaError("must be a JSON object")
    except SchemaError as error:
        raise RunError(f"{source}: {error}") from None
    return document


def answer_in(text: str, asked: str) -> Json:
    """Return the JSON object in what Flower's command line has printed; raises ``RunError`` without one."""
    return _object(text[max(text.find("{"), 0) : text.rfind("}") + 1], f"flwr {asked}")


def _ended(summary: Json) -> Json:
    if summary["status"] != "finished":
        raise RunError(
            f"the run stopped: {summary['reason']}; deploy run with the same --name goes on from there"
        )
    return summary
