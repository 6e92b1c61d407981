"""Who belongs to a deployment: clients come by name, get a number and keys, and a folder to be handed over.

A number is never given twice: a run's ledger and a client's state refer to it.
"""

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fedfmd.config.documents import read_text
from fedfmd.config.experiment import check_name
from fedfmd.deployment import layout
from fedfmd.deployment.handover import FILE, Handover, write_handover
from fedfmd.deployment.keys import check_issued, days_left, make_keys
from fedfmd.deployment.layout import KeyFiles
from fedfmd.errors import UserError, pasted
from fedfmd.files import locked, write_atomic
from fedfmd.machine.ports import address

KEY = re.compile(layout.public_key(r"(\d+)").replace(".", r"\."))
SERVER, GATE = "server", "gate"
"""What certificates are listed under that are no client's; ``server`` are both where they are renewed."""


def check_client_name(name: str, source: str) -> None:
    """Raise ``UserError`` for what no client can be called; ``source`` is what the message calls it."""
    check_name(name, source)
    if name in (SERVER, GATE):
        raise UserError(f"{source} {name}: is what a part of the server is called; choose another name")


@dataclass(frozen=True)
class Member:
    """One client of a deployment."""

    number: int
    name: str


@dataclass(frozen=True)
class Deployed:
    """The folder of a deployment, as ``fedfmd deploy init`` made it."""

    folder: Path

    def check(self) -> None:
        """Raise ``UserError`` for any other folder."""
        if not (self.folder / layout.ENVIRONMENT).is_file():
            raise UserError(f"{self.folder}: is no deployment; make one with: fedfmd deploy init")

    @property
    def settings(self) -> dict[str, str]:
        """What ``.env`` says; raises ``UserError`` where there is none, or no text."""
        self.check()
        lines = read_text(self.folder / layout.ENVIRONMENT, "settings").splitlines()
        pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
        return {name: value for name, _, value in pairs}

    def set(self, **values: object) -> None:
        """Change what ``.env`` says; comments and other lines stay."""
        path = self.folder / layout.ENVIRONMENT
        lines = read_text(path, "settings").splitlines()
        for name, value in values.items():
            lines = [line for line in lines if not line.startswith(f"{name}=")] + [f"{name}={value}"]
        write_atomic(path, "\n".join(lines) + "\n")

    def setting(self, name: str, default: str | None = None) -> str:
        """Return what ``.env`` says; raises ``UserError`` where it lacks a line that ``init`` has written.

        ``default`` stands for a line that only ``init --no-data`` writes; in such a deployment it stands for
        nothing: without its lines the server would have another name, or another port.
        """
        found = self.settings.get(name, None if self.brings_images else default)
        if found is None:
            raise UserError(
                f"{self.folder / layout.ENVIRONMENT}: {name} is missing; bring back the line {name}=... that "
                "fedfmd deploy init wrote"
            )
        return found

    def number(self, name: str, default: int | None = None) -> int:
        """Return a whole number that ``.env`` says; raises ``UserError`` for any other text there."""
        text = self.setting(name, None if default is None else str(default))
        if not text.isdecimal():
            raise UserError(
                f"{self.folder / layout.ENVIRONMENT}: {name} = {text!r}: must be a whole number, as "
                "fedfmd deploy init wrote it"
            )
        return int(text)

    @property
    def brings_images(self) -> bool:
        """Whether clients have images of their own, by what all have agreed on."""
        return (self.folder / layout.CLASSES).is_file()

    @property
    def room(self) -> int:
        """Clients that a run has room for."""
        return self.number("FEDFMD_CLIENTS")

    @property
    def gate_port(self) -> int:
        """Where clients come."""
        return self.number("GATE_PORT", layout.GATE_PORT)

    @property
    def server(self) -> str:
        """HOST:PORT at which clients find the gate."""
        found = self.setting("FEDFMD_SERVER", f"localhost:{layout.GATE_PORT}")
        address(found, f"{self.folder / layout.ENVIRONMENT}: FEDFMD_SERVER = ")
        return found

    @property
    def server_names(self) -> list[str]:
        """By which clients reach the gate."""
        return self.setting("FEDFMD_SERVER_NAMES").split()

    @property
    def keys(self) -> KeyFiles:
        """Keys and certificates; the clients whose public keys are there belong."""
        return KeyFiles(self.folder / layout.KEYS)

    def handed(self, name: str) -> Path:
        """Return the folder that is handed to a client."""
        return self.folder / layout.CLIENTS / name

    def members(self) -> list[Member]:
        """List the clients by their numbers."""
        names = self._names()
        found = (KEY.fullmatch(path.name) for path in self.keys.public.glob(layout.public_key("*")))
        numbers = sorted(int(match[1]) for match in found if match)
        return [Member(number, names.get(number, f"client-{number}")) for number in numbers]

    def _names(self) -> dict[int, str]:
        """Return what clients are called, by number; raises ``UserError`` where a file is another's."""
        names: dict[int, str] = {}
        for file in sorted(self.folder.glob(f"{layout.CLIENTS}/*/{FILE}")):
            own = Handover.read(file)
            if own.name != file.parent.name:
                raise UserError(
                    f"{file}: name = {own.name!r}: must be {file.parent.name!r}, as its folder is called; "
                    "bring back the client's own file"
                )
            if own.client in names:
                raise UserError(
                    f"{file}: client = {own.client}: is the number of {names[own.client]}; bring back the "
                    "client's own file"
                )
            names[own.client] = own.name
        return names

    def member(self, name: str) -> Member:
        """Find a client; raises ``UserError`` for a name that none has, and for any other folder."""
        self.check()
        members = self.members()
        for member in members:
            if member.name == name:
                return member
        known = ", ".join(member.name for member in members) or "none"
        raise UserError(f"{name}: {self.folder} has no such client; it has {known}")

    def add(self, name: str) -> Member:
        """Take in a client: keys, and the folder to be handed over.

        Raises ``UserError`` for a name that is none, or taken.
        """
        check_client_name(name, "NAME")
        with self._changing():
            if name in {member.name for member in self.members()}:
                raise UserError(f"{name}: {self.folder} has a client of that name; choose another name")
            number = self.number("FEDFMD_NEXT_CLIENT", self.room)
            if number <= (last := max(self._names(), default=-1)):
                raise UserError(
                    f"{self.folder / layout.ENVIRONMENT}: FEDFMD_NEXT_CLIENT = {number}: must be above "
                    f"{last}, the number of a client that has a folder"
                )
            member = Member(number, name)
            own = self._handover(member)
            make_keys(self.keys.folder, [number], self.server_names)
            self.set(FEDFMD_NEXT_CLIENT=number + 1, FEDFMD_CLIENTS=max(self.room, number + 1))
            self._hand_over(own)
            return member

    def remove(self, name: str) -> Member:
        """Put a client out: its key, its folder; what it has packed is with it."""
        with self._changing():
            member = self.member(name)
            self.keys.public_key(member.number).unlink()
            shutil.rmtree(self.keys.of_client(member.number), ignore_errors=True)
            shutil.rmtree(self.handed(name), ignore_errors=True)
            return member

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Let one command at a time change who belongs; raises ``UserError`` for any other folder."""
        self.check()
        with locked(self.folder / layout.LOCK):
            yield

    def _handover(self, member: Member) -> Handover:
        """Return what a client is told of itself; raises ``UserError`` where ``.env`` does not say it."""
        return Handover(client=member.number, name=member.name, server=self.server)

    def _hand_over(self, own: Handover) -> None:
        """Write the folder that is handed to a client, in the place of an older one."""
        keys, here = self.keys.of_client(own.client), self.folder
        write_handover(self.handed(own.name), own, keys, here / layout.CLASSES, here / layout.IMAGE)

    def renew(self, names: Sequence[str]) -> list[str]:
        """Make new keys and certificates of the server's programs and of clients, by name; gives the names.

        ``server`` are the SuperLink and the gate. Raises ``UserError``, before anything is gone, where an
        authority's key is not here, and for a name that none has. After a kill in between it can be done
        again: a client belongs by its old key until its new one takes the place.
        """
        with self._changing():
            return self._renew(names)

    def _renew(self, names: Sequence[str]) -> list[str]:
        keys = self.keys
        told = {name: self._handover(self.member(name)) for name in names if name != SERVER}
        make_keys(keys.folder, [], self.server_names)
        renewed = []
        for name in names:
            if name == SERVER:
                own = [part.key.parent for part in (keys.server, keys.gate)]
                make_keys(keys.folder, [], self.server_names, renewed=own)
            else:
                number, handed = told[name].client, self.handed(name).exists()
                make_keys(keys.folder, [number], self.server_names, renewed=[keys.of_client(number)])
                if handed:
                    self._hand_over(told[name])
            renewed.append(name)
        return renewed

    def check_certificates(self) -> None:
        """Raise ``UserError`` for keys and certificates by which no client would come to the server.

        They have expired, are damaged, or do not belong together.
        """
        keys, cure = self.keys, self._renewal(SERVER)
        inside, outside = keys.inside.certificate, keys.outside.certificate
        for files, authorities in (
            (keys.server, (keys.server.key.with_name(layout.AUTHORITY), keys.gate_inside, inside)),
            (keys.gate, (keys.gate.key.with_name(layout.AUTHORITY), outside)),
        ):
            for authority in authorities:
                check_issued(files, authority, cure)
        valid = self._days(self._server_certificates)
        if over := [name for name in (SERVER, GATE) if valid[name] < 0]:
            raise UserError(f"{self.folder}: the certificate of {' and '.join(over)} has expired; {cure}")

    @property
    def server_days(self) -> int:
        """For how many days all certificates of the server are still valid; negative once one is not."""
        return min(self._days(self._server_certificates).values(), default=0)

    def expiries(self) -> dict[str, int]:
        """Return the days for which each certificate is still valid, by its owner.

        Raises ``UserError`` for a damaged one.
        """
        clients = {m.name: self.keys.client(m.number).certificate for m in self.members()}
        return self._days(self._server_certificates | clients)

    @property
    def _server_certificates(self) -> dict[str, Path]:
        return {SERVER: self.keys.server.certificate, GATE: self.keys.gate.certificate}

    def _days(self, files: Mapping[str, Path]) -> dict[str, int]:
        return {
            name: days_left(path, self._renewal(SERVER if name == GATE else name))
            for name, path in files.items()
            if path.is_file()
        }

    def _renewal(self, name: str) -> str:
        """Say how to get other keys and certificates."""
        return f"make new ones with: fedfmd deploy renew {name} --dir {pasted(self.folder)}"
