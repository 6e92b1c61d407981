"""Which prepared file has the images that are asked for, made when there is none.

A start whose file is there needs no decoder.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from itertools import chain
from operator import attrgetter
from pathlib import Path

from fedfmd.data.dataset import FORMAT
from fedfmd.data.prepared import is_sound, save_dataset
from fedfmd.data.requests import EMBEDDED_VERSION, DataRequest, source_files
from fedfmd.errors import UserError, as_input
from fedfmd.files import expanded, locked, remove_leftovers, write_atomic
from fedfmd.images import reading


def cache_folder() -> Path:
    """Return ``$FEDFMD_CACHE``, or ``$XDG_CACHE_HOME/fedfmd``, or ``~/.cache/fedfmd``.

    Raises ``UserError`` where there is no home folder.
    """
    chosen = os.environ.get("FEDFMD_CACHE")
    folder = Path(chosen or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "fedfmd"))
    return expanded(folder, "folder of prepared images", "set FEDFMD_CACHE to a folder")


def prepare(request: DataRequest) -> Path:
    """Return the cache file of a dataset, made now if it is missing, outdated or damaged.

    The file's name is a hash of the request and of the size and time of every source file. Processes that
    ask for the same file at the same time wait for the one that makes it. The content of a file that is
    there is checked against its checksum once; a manifest beside it says of which sources it was made and
    which version of it was checked. Raises ``UserError`` as ``read_dataset`` does.
    """
    root = expanded(request.root, "data.root", "write the whole path")
    request = replace(request, root=root.absolute())
    with as_input():
        manifest = CacheNote.of(request)
        if known := manifest.file():
            return known
        path = cache_folder() / f"{_file_name(request.name)}-{_key(request)}.safetensors"
    _make(request, path)
    manifest.write(path)
    return path


def _make(request: DataRequest, path: Path) -> None:
    """Read a dataset and write it to ``path``, unless it is there, or another process is just making it."""
    with ExitStack() as until_made:
        with _writing(path):
            if is_sound(path):
                return
            path.parent.mkdir(parents=True, exist_ok=True)
            until_made.enter_context(locked(path.with_suffix(".lock")))
            remove_leftovers(path.parent)
            if is_sound(path):
                return
        from fedfmd.data.datasets import read_dataset  # brings PyTorch, which draws

        with as_input():
            dataset = read_dataset(request)
        with _writing(path):
            save_dataset(dataset, path)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Raise what the system refuses inside the ``with`` as ``UserError`` over the cache."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error}; set FEDFMD_CACHE to another folder") from None


@dataclass(frozen=True)
class CacheNote:
    """A small file that says to which prepared file a request has led, and from which sources.

    It spares a start to sort tens of thousands of images into classes, and to read what was checked before.
    """

    path: Path
    sources: str
    """A hash of names, sizes and times of all that may be read."""

    @classmethod
    def of(cls, request: DataRequest) -> "CacheNote":
        """Look at the sources of a request; raises ``UserError`` as ``source_files`` does."""
        lines: Iterable[str]
        if request.name == "imagefolder":
            folders = [request.root / part for part in ("train", "val")]
            lines = chain.from_iterable(_walked(folder, frozenset()) for folder in folders)
        else:
            lines = _stamps(source_files(request))
        named = ["named"] if request.natural else []
        asked = _digest([*_versions(), *named, *(f"{item}\n" for item in sorted(asdict(request).items()))])
        return cls(cache_folder() / f"{_file_name(request.name)}-{asked}.json", _digest(lines))

    def file(self) -> Path | None:
        """Return the prepared file; null where its sources, or it itself, are not as they were."""
        try:
            told = json.loads(self.path.read_bytes())
            file = self.path.with_name(told["file"])
            same = told["checked"] == _version(file) and told["sources"] == self.sources
        except (OSError, ValueError, LookupError, TypeError):
            return None
        return file if same else None

    def write(self, file: Path) -> None:
        """Note that ``file`` is whole; where nothing can be written, it is only read again the next time."""
        told = {"file": file.name, "checked": _version(file), "sources": self.sources}
        with suppress(OSError):
            write_atomic(self.path, json.dumps(told))


def _walked(folder: Path, above: frozenset[str]) -> Iterator[str]:
    """Yield what every entry in a folder and below is, links followed, in a fixed order: a text a folder."""
    place = os.path.realpath(folder)
    if place in above or not folder.is_dir():
        return
    with os.scandir(folder) as entries:
        found = sorted(entries, key=attrgetter("name"))
    inner = {entry.name: entry for entry in found if _is_folder(entry)}
    files = [(entry.name, _seen(entry)) for entry in found if entry.name not in inner]
    yield f"{folder}: {[(name, status.st_size, status.st_mtime_ns) for name, status in files]}\n"
    for entry in inner.values():
        yield from _walked(Path(entry.path), above | {place})


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    """Return whether an entry is, or leads to, a folder; a link to itself leads nowhere."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _seen(entry: "os.DirEntry[str]") -> os.stat_result:
    """Look at a file, or at a link that leads nowhere."""
    try:
        return entry.stat()
    except OSError:
        return entry.stat(follow_symlinks=False)


def _version(file: Path) -> list[int]:
    """Return what changes whenever somebody writes to a file."""
    status = file.stat()
    return [status.st_ino, status.st_size, status.st_mtime_ns]


def _file_name(name: str) -> str:
    return re.sub("[^A-Za-z0-9._-]", "-", name)


def _key(request: DataRequest) -> str:
    """Hash what the content depends on: the arguments, the sources' names, sizes and times."""
    arguments = {key: value for key, value in asdict(request).items() if key != "root"}
    if request.natural:
        arguments["natural"] = "named"  # a file of earlier versions knows no names
    else:
        del arguments["natural"]
    return _digest([*_versions(), f"{sorted(arguments.items())}", *_stamps(source_files(request))])


def _versions() -> Iterator[str]:
    """Yield what changes when the same sources are read in another way."""
    yield f"{FORMAT} {EMBEDDED_VERSION} {reading.VERSION} "


def _stamps(files: Iterable[Path]) -> Iterator[str]:
    for path in files:
        status = path.stat()
        yield f"{path} {status.st_size} {status.st_mtime_ns}\n"


def _digest(lines: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()[:20]
