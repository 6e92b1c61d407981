"""Who belongs to a deployment: clients come by name, get a number and keys, and a folder to be handed over.

A number is never given twice: a run's ledger and a client's state refer to it.
"""

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedfmd.config.experiment import check_name
from fedfmd.deployment import layout
from fedfmd.deployment.handover import Handover, write_handover
from fedfmd.deployment.keys import days_left, make_keys
from fedfmd.errors import UserError
from fedfmd.files import write_atomic

KEY = re.compile(r"client-(\d+)\.pub")


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
        """What ``.env`` says; raises ``UserError`` where there is none."""
        self.check()
        lines = (self.folder / layout.ENVIRONMENT).read_text(encoding="utf-8").splitlines()
        pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
        return {name: value for name, _, value in pairs}

    def set(self, **values: object) -> None:
        """Change what ``.env`` says; comments and other lines stay."""
        path = self.folder / layout.ENVIRONMENT
        lines = path.read_text(encoding="utf-8").splitlines()
        for name, value in values.items():
            lines = [line for line in lines if not line.startswith(f"{name}=")] + [f"{name}={value}"]
        write_atomic(path, "\n".join(lines) + "\n")

    @property
    def room(self) -> int:
        """Clients that a run has room for."""
        return int(self.settings["FEDFMD_CLIENTS"])

    @property
    def server_names(self) -> list[str]:
        """By which clients reach the gate."""
        return self.settings.get("FEDFMD_SERVER_NAMES", "").split()

    @property
    def public(self) -> Path:
        """The folder with the clients' public keys: those in it belong."""
        return self.folder / layout.KEYS / "public"

    def handed(self, name: str) -> Path:
        """Return the folder that is handed to a client."""
        return self.folder / layout.CLIENTS / name

    def members(self) -> list[Member]:
        """List the clients by their numbers."""
        names = {
            own.client: own.name for own in map(Handover.read, self.folder.glob("clients/*/client.toml"))
        }
        found = (KEY.fullmatch(path.name) for path in self.public.glob("client-*.pub"))
        numbers = sorted(int(match[1]) for match in found if match)
        return [Member(number, names.get(number, f"client-{number}")) for number in numbers]

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
        check_name(name, "NAME")
        if name in {member.name for member in self.members()}:
            raise UserError(f"{name}: {self.folder} has a client of that name; choose another name")
        number = int(self.settings.get("FEDFMD_NEXT_CLIENT", self.room))
        make_keys(self.folder / layout.KEYS, [number], self.server_names)
        self.set(FEDFMD_NEXT_CLIENT=number + 1, FEDFMD_CLIENTS=max(self.room, number + 1))
        member = Member(number, name)
        self.hand_over(member)
        return member

    def remove(self, name: str) -> Member:
        """Put a client out: its key, its folder; what it has packed is with it."""
        member = self.member(name)
        (self.public / f"client-{member.number}.pub").unlink()
        shutil.rmtree(self.folder / layout.KEYS / f"client-{member.number}", ignore_errors=True)
        shutil.rmtree(self.handed(name), ignore_errors=True)
        return member

    def hand_over(self, member: Member) -> None:
        """Write the folder that is handed to a client, in the place of an older one."""
        settings = self.settings
        own = Handover(
            client=member.number,
            name=member.name,
            server=settings.get("FEDFMD_SERVER", "localhost:8000"),
        )
        keys = self.folder / layout.KEYS / f"client-{member.number}"
        write_handover(
            self.handed(member.name), own, keys, self.folder / layout.CLASSES, self.folder / layout.IMAGE
        )

    def renew(self, names: Sequence[str]) -> list[str]:
        """Make new keys and certificates of the server's programs and of clients, by name; gives the names.

        ``server`` are the SuperLink and the gate. Raises ``UserError`` where an authority's key is not here.
        """
        make_keys(self.folder / layout.KEYS, [], self.server_names)  # raises before anything is gone
        renewed = []
        for name in names:
            if name == "server":
                for part in ("server", "gate"):
                    shutil.rmtree(self.folder / layout.KEYS / part)
                make_keys(self.folder / layout.KEYS, [], self.server_names)
            else:
                member = self.member(name)
                handed = self.handed(name).exists()
                (self.public / f"client-{member.number}.pub").unlink()
                shutil.rmtree(self.folder / layout.KEYS / f"client-{member.number}")
                make_keys(self.folder / layout.KEYS, [member.number], self.server_names)
                if handed:
                    self.hand_over(member)
            renewed.append(name)
        return renewed

    def expiries(self) -> dict[str, int]:
        """Return the days for which each certificate is still valid, by its owner."""
        keys = self.folder / layout.KEYS
        files = {
            "server": keys / "server" / "server.crt",
            "gate": keys / "gate" / "gate.crt",
            **{m.name: keys / f"client-{m.number}" / "client.crt" for m in self.members()},
        }
        return {name: days_left(path) for name, path in files.items() if path.is_file()}
