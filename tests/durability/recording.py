"""What a program did to a folder, call by call, and the states in which a crash may leave that folder.

The calls are recorded by strace, so that nothing is missed: no matter which library writes. They are replayed
on a model of a file system, names that lead to contents, as on a real one: a write that is held back while
its file is renamed still reaches that file.
"""

import itertools
import os
import random
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

TRACED = (
    "openat,open,creat,write,pwrite64,writev,ftruncate,truncate,fsync,fdatasync,rename,renameat,renameat2,"
    "link,linkat,unlink,unlinkat,mkdir,mkdirat,rmdir,copy_file_range,sendfile,mmap"
)
_LINE = re.compile(r"^(\d+) +(\w+)\((.*)\) += (-?\d+)", re.DOTALL)
_UNFINISHED, _RESUMED = " <unfinished ...>", re.compile(r"^(\d+) +<\.\.\. \w+ resumed>")
_FIELD = re.compile(r'"((?:\\x[0-9a-f]{2})*)"|(?:\d+|AT_FDCWD)<([^>]*)>')


@dataclass(frozen=True)
class Call:
    """One call that changed something: ``open`` (with creation or truncation), ``write``, ``rename`` ..."""

    kind: str
    file: int = -1
    """Which content: contents are numbered as they are made."""
    path: str = ""
    target: str = ""
    offset: int = 0
    data: bytes = b""


@dataclass
class Folder:
    """A model of a file system: names of folders, and of files with the numbers of their contents."""

    folders: set[str] = field(default_factory=set)
    names: dict[str, int] = field(default_factory=dict)
    contents: dict[int, bytearray] = field(default_factory=dict)

    def apply(self, call: Call) -> None:
        """Do what a call did; one whose condition a reordering took away does nothing."""
        if call.kind == "create":
            self.contents.setdefault(call.file, bytearray())
            self.names[call.path] = call.file
        elif call.kind == "write":
            content = self.contents.setdefault(call.file, bytearray())
            content.extend(bytes(max(0, call.offset - len(content))))
            content[call.offset : call.offset + len(call.data)] = call.data
        elif call.kind == "truncate":
            content = self.contents.setdefault(call.file, bytearray())
            del content[call.offset :]
        elif call.kind == "mkdir":
            self.folders.add(call.path)
        elif call.kind == "link" and call.path in self.names:
            self.names[call.target] = self.names[call.path]
        elif call.kind == "unlink":
            self.names.pop(call.path, None)
        elif call.kind == "rmdir":
            self.folders.discard(call.path)
        elif call.kind == "rename":
            self._rename(call.path, call.target)

    def _rename(self, path: str, target: str) -> None:
        if path in self.names:
            self.names[target] = self.names.pop(path)
        elif path in self.folders:
            moved = [name for name in self.folders if name == path or name.startswith(path + "/")]
            self.folders -= set(moved)
            self.folders |= {target + name[len(path) :] for name in moved}
            inner = {name: file for name, file in self.names.items() if name.startswith(path + "/")}
            for name in inner:
                del self.names[name]
            self.names |= {target + name[len(path) :]: file for name, file in inner.items()}

    def write_to(self, root: Path) -> None:
        """Make this state real below ``root``."""
        for name in sorted(self.folders):
            (root / name).mkdir(parents=True, exist_ok=True)
        for name, file in self.names.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(self.contents[file])

    def key(self) -> int:
        """Return a hash: equal states are resumed once."""
        files = sorted((name, bytes(self.contents[file])) for name, file in self.names.items())
        return hash((tuple(sorted(self.folders)), tuple(files)))


def record(command: Sequence[str], root: Path, environment: Mapping[str, str]) -> list[Call]:
    """Run a command under strace; returns the calls that changed something below ``root``."""
    log = root.with_suffix(".strace")
    options = [
        "-f",
        "--seccomp-bpf",
        "-qq",
        "-y",
        "-xx",
        "-s",
        "100000000",
        "-e",
        f"trace={TRACED}",
        "-e",
        "signal=none",
    ]
    done = subprocess.run(
        ["strace", *options, "-o", str(log), *command],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    calls = _Reader(root).read(log.read_text().splitlines())
    log.unlink()
    return calls


def cuts(calls: Sequence[Call]) -> Iterator[tuple[str, list[Call]]]:
    """Return the state after each call, and with its last write half done: what kill -9 may leave."""
    for number, call in enumerate(calls):
        before = list(calls[:number])
        yield f"cut {number}", before
        if call.kind == "write" and len(call.data) > 1:
            half = Call(call.kind, call.file, offset=call.offset, data=call.data[: len(call.data) // 2])
            yield f"torn {number}", [*before, half]


def reordered(calls: Sequence[Call], ways: int, seed: int) -> Iterator[tuple[str, list[Call]]]:
    """Return states in which, of the calls since the last sync, some are done, in another order.

    That is what a loss of power may leave; at most ``ways`` between two syncs. A sync is taken to bring all
    that came before it to the disk.
    """
    rng = random.Random(seed)
    syncs = [-1, *(i for i, call in enumerate(calls) if call.kind == "sync"), len(calls)]
    for start, stop in itertools.pairwise(syncs):
        window = list(calls[start + 1 : stop])
        for way in range(min(ways, 2 ** len(window)) if len(window) > 1 else 0):
            some = rng.sample(window, rng.randint(1, len(window)))
            yield f"reordered {start + 1}-{stop} way {way}", [*calls[: start + 1], *some]


def state(calls: Sequence[Call]) -> Folder:
    """Return what is there after ``calls``."""
    folder = Folder()
    for call in calls:
        folder.apply(call)
    return folder


class _Reader:
    """Makes calls of strace's lines, and follows which descriptor writes where."""

    def __init__(self, root: Path):
        self.root = str(root.resolve()) + "/"
        self.names: dict[str, int] = {}
        self.sizes: dict[int, int] = {}
        self.offsets: dict[tuple[str, int], int] = {}
        self.calls: list[Call] = []

    def read(self, lines: Sequence[str]) -> list[Call]:
        waiting: dict[str, str] = {}
        for line in lines:
            if line.endswith(_UNFINISHED):
                waiting[line.split()[0]] = line.removesuffix(_UNFINISHED)
                continue
            if resumed := _RESUMED.match(line):
                line = waiting.pop(resumed[1]) + line[resumed.end() :]
            if (found := _LINE.match(line)) and int(found[4]) >= 0:
                self._call(found[2], found[3], int(found[4]))
        return self.calls

    def _call(self, name: str, text: str, result: int) -> None:
        paths = [self._inside(f) for f in self._paths(name, text)]
        if not any(paths):
            return
        path = paths[0] or ""
        if name in ("openat", "open", "creat"):
            self._open(path, text)
        elif name in ("write", "pwrite64"):
            data = _bytes(re.search(r'"((?:\\x[0-9a-f]{2})*)"', text)[1])  # type: ignore[index]
            self._write(path, data[:result], int(text.rsplit(",", 1)[1]) if name == "pwrite64" else None)
        elif name in ("ftruncate", "truncate"):
            length = int(text.rsplit(",", 1)[1])
            self._add(Call("truncate", self.names[path], offset=length))
            self.sizes[self.names[path]] = length
        elif name in ("fsync", "fdatasync"):
            self._add(Call("sync"))
        elif name.startswith("rename"):
            self._rename(path, paths[1] or "")
        elif name.startswith("link"):
            self._add(Call("link", path=path, target=paths[1] or ""))
            self.names[paths[1] or ""] = self.names[path]
        elif name.startswith("mkdir"):
            self._add(Call("mkdir", path=path))
        elif name.startswith(("unlink", "rmdir")):
            folder = "AT_REMOVEDIR" in text or name == "rmdir"
            self._add(Call("rmdir" if folder else "unlink", path=path))
            self.names.pop(path, None)
        elif name == "mmap":
            assert "PROT_WRITE" not in text or "MAP_SHARED" not in text, f"unseen writes: {text[:200]}"
        else:
            raise AssertionError(f"{name} is not understood: {text[:200]}")

    def _open(self, path: str, text: str) -> None:
        if not re.search("O_WRONLY|O_RDWR|O_CREAT|O_TRUNC", text):
            return
        if path not in self.names:
            self.names[path] = len(self.sizes)
            self.sizes[self.names[path]] = 0
            self._add(Call("create", self.names[path], path=path))
        elif "O_TRUNC" in text:
            self._add(Call("truncate", self.names[path]))
            self.sizes[self.names[path]] = 0
        self.offsets[path, 0] = self.sizes[self.names[path]] if "O_APPEND" in text else 0

    def _write(self, path: str, data: bytes, offset: int | None) -> None:
        file = self.names[path]
        at = self.offsets.get((path, 0), 0) if offset is None else offset
        self._add(Call("write", file, offset=at, data=data))
        self.sizes[file] = max(self.sizes[file], at + len(data))
        if offset is None:
            self.offsets[path, 0] = at + len(data)

    def _rename(self, path: str, target: str) -> None:
        self._add(Call("rename", path=path, target=target))
        for name in [n for n in self.names if n == path or n.startswith(path + "/")]:
            self.names[target + name[len(path) :]] = self.names.pop(name)

    def _add(self, call: Call) -> None:
        self.calls.append(call)

    def _paths(self, name: str, text: str) -> list[str]:
        """Return the paths that a call names: of descriptors, or as text, relative to a folder's."""
        found: list[str] = []
        folder = str(Path.cwd())
        for quoted, descriptor in _FIELD.findall(text):
            if descriptor:
                folder = _text(descriptor)
                if name in ("write", "pwrite64", "ftruncate", "fsync", "fdatasync", "mmap"):
                    return [folder]
            elif quoted:
                found.append(os.path.normpath(Path(folder) / _text(quoted)))
        return found

    def _inside(self, path: str) -> str | None:
        if path + "/" == self.root:  # synced, once a run directory has its name
            return "."
        return path.removeprefix(self.root) if path.startswith(self.root) else None


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


def _text(text: str) -> str:
    return _bytes(text).decode() if text.startswith("\\x") else text
