"""Image folders: ``root/train/CLASS/...`` and ``root/val/CLASS/...``, as people have them.

Natural clients have folders of their own, ``root/train/CLIENT/CLASS/...``, where that is asked for.

A class is a folder; whatever lies in its subfolders belongs to it. Hidden files and folders, and those that
systems and tools leave behind, are no images and no classes. What is left out, or changed while it is read,
is counted and said.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from unicodedata import normalize

import numpy as np

from fedfmd.data.arrays import IntArray
from fedfmd.errors import UserError, first_few
from fedfmd.images.decoding import Progress, decode

if TYPE_CHECKING:
    from torch import Tensor

EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".webp", ".tif", ".tiff"}
    | {".bmp", ".dib", ".ppm", ".pgm", ".pbm", ".pnm"}
)
SYSTEM_NAMES = frozenset(
    {"__macosx", "__pycache__", "@eadir", "$recycle.bin", "lost+found", "system volume information"}
    | {"thumbs.db", "ehthumbs.db", "desktop.ini"}
)
"""What systems and tools leave in folders, in lower case."""
OTHER_NAMES = {"train": ("training",), "val": ("valid", "validation", "test", "testing")}
"""What the two folders are often called."""
HIDDEN = "hidden or a system's"
OUTSIDE = "in no class folder"


class Listing(NamedTuple):
    """The images of one part, by class and path."""

    files: list[Path]
    labels: IntArray
    """Each image's class, as a place among all classes, (N,)."""
    left_out: Mapping[str, int]
    """How many files, or folders, were left out, by reason."""
    owners: IntArray | None = None
    """Whose each image is, as a place among ``clients``; null without such."""
    clients: tuple[str, ...] = ()
    """Names of the clients' folders, sorted."""

    def chosen(self, places: IntArray) -> "Listing":
        """Return these images only, int64 (n,)."""
        owners = None if self.owners is None else self.owners[places]
        files = [self.files[i] for i in places.tolist()]
        return Listing(files, self.labels[places], self.left_out, owners, self.clients)


def list_folders(root: Path, *, natural: bool = False) -> tuple[Listing, Listing, tuple[str, ...]]:
    """List training and test images, and the class names: the training folders, sorted.

    With ``natural`` the first level of training folders are clients, and the classes lie in them. Raises
    ``UserError`` for missing folders, broken links, fewer than two classes, and a class or client without
    training images.
    """
    clients = _clients_folders(root / "train") if natural else {"": root / "train"}
    own = {name: class_folders(folder) for name, folder in clients.items()}
    tested = class_folders(root / "val")
    classes = sorted({name for folders in own.values() for name in folders})
    if unknown := sorted(set(tested) - set(classes)):
        cure = '; its folders are clients: set partition.scheme = "natural"' if of_clients(root) else ""
        raise UserError(f"{tested[unknown[0]]}: {root / 'train'} has no such class{cure}")
    if len(classes) < 2:
        raise UserError(
            f"{root / 'train'}: holds one class, {classes[0]!r}, and there is nothing to learn from one; "
            f"expected {root / 'train'}/CLASS/*.jpg of two or more classes"
        )
    parts = [_list(clients[name], own[name], classes) for name in clients]
    joined = _joined(parts, tuple(clients)) if natural else parts[0]
    train, test = joined, _list(root / "val", tested, classes)
    for label, count in enumerate(np.bincount(train.labels, minlength=len(classes)).tolist()):
        if not count:
            folder = next(folders[classes[label]] for folders in own.values() if classes[label] in folders)
            raise UserError(f"{folder}: holds no images ({_endings()}); a class needs some to train on")
    return train, test, tuple(classes)


def of_clients(root: Path) -> bool:
    """Return whether the folders in ``root``/train are clients: the classes of ``root``/val lie in them.

    Raises ``UserError`` for missing folders.
    """
    train, tested = class_folders(root / "train"), set(class_folders(root / "val"))
    if tested & set(train):
        return False
    inner = {readable(e.name) for top in train.values() for e in top.iterdir() if e.is_dir()}
    return tested <= inner


def list_agreed(folder: Path, classes: Sequence[str]) -> Listing:
    """List the images in ``folder``/CLASS, whose names are among ``classes``; labels are places among them.

    Raises ``UserError`` for a folder without images, one of another name, and broken links.
    """
    own = class_folders(folder)
    if unknown := sorted(set(own) - set(classes)):
        raise UserError(
            f"{own[unknown[0]]}: {unknown[0]!r} is not among the agreed classes ({first_few(classes)}); "
            "rename the folder as they are spelt, or move it elsewhere"
        )
    return _list(folder, own, classes)


def _clients_folders(folder: Path) -> dict[str, Path]:
    """Return the clients' folders by name, sorted."""
    if not folder.is_dir():
        raise UserError(f"imagefolder: {folder} is missing; expected {folder}/CLIENT/CLASS/*.jpg")
    return _by_name(path for path in sorted(folder.iterdir()) if path.is_dir() and not _hidden(path.name))


def _joined(parts: Sequence[Listing], clients: tuple[str, ...]) -> Listing:
    """Put the clients' images one behind the other, and say whose each is."""
    owners = [np.full(len(part.files), client) for client, part in enumerate(parts)]
    return Listing(
        files=[file for part in parts for file in part.files],
        labels=np.concatenate([part.labels for part in parts]),
        left_out=sum((Counter(part.left_out) for part in parts), Counter[str]()),
        owners=np.concatenate(owners),
        clients=clients,
    )


def read_pictures(files: Sequence[Path], side: int, progress: Progress | None = None) -> "Tensor":
    """Decode image files to uint8 (N, 3, side, side), as the reader of folders does; see ``decode``.

    Raises ``UserError`` for a file that is no image.
    """
    from torch import from_numpy  # nothing else here needs PyTorch

    return from_numpy(decode(files, side, progress).pixels)


def reading_note(
    root: Path, parts: Sequence[Listing], remarks: Mapping[str, int], classes: Sequence[str]
) -> str:
    """Return one line: what was read, what was done to it, what was left out and why; or nothing."""
    untested = sorted(set(range(len(classes))) - set(parts[1].labels.tolist()))
    said = remarks_on(remarks, sum((Counter(part.left_out) for part in parts), Counter[str]()))
    if untested:
        said.append(f"no test images of {', '.join(classes[label] for label in untested[:5])}")
    train, test = (len(part.files) for part in parts)
    return f"{root}: read {train} training and {test} test images; {'; '.join(said)}" if said else ""


def remarks_on(remarks: Mapping[str, int], left_out: Mapping[str, int]) -> list[str]:
    """Say how many images were changed, by how, and how many were left out, by why."""
    said = [f"{count} {what}" for what, count in sorted(remarks.items())]
    if left_out:
        said.append("left out: " + ", ".join(f"{count} {why}" for why, count in sorted(left_out.items())))
    return said


def _first_folder(folders: Iterable[Path]) -> Path | None:
    return next((folder for folder in folders if folder.is_dir()), None)


def class_folders(folder: Path) -> dict[str, Path]:
    """Return the class folders in a folder by name, sorted; raises ``UserError`` where there are none."""
    if not folder.is_dir():
        named = [folder.with_name(name) for name in OTHER_NAMES.get(folder.name, ())]
        meant = f"; is it {other}? rename that, or link it" if (other := _first_folder(named)) else ""
        raise UserError(
            f"imagefolder: {folder} is missing{meant}; expected {folder}/CLASS/*.jpg (data.root is "
            f"{folder.parent}); put the images there, or name their folder with --set data.root=FOLDER"
        )
    entries = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not _hidden(entry.name))
    if not entries:
        raise UserError(f"imagefolder: {folder} holds no class folders; expected {folder}/CLASS/*.jpg")
    return _by_name(entries)


def readable(name: str) -> str:
    """Return a folder's name as tables, pages and ledgers can hold it.

    macOS spells an accent as a character of its own: one name, however it is spelt. What cannot be printed,
    as a line break or a byte that is no UTF-8, is escaped.
    """
    escaped = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)
    return normalize("NFC", "".join(escaped))


def _by_name(entries: Iterable[Path]) -> dict[str, Path]:
    """Return folders by their readable names; raises ``UserError`` for two of one name."""
    folders: dict[str, Path] = {}
    for entry in entries:
        name = readable(entry.name)
        if name in folders:
            raise UserError(
                f"{entry}: is called as another folder beside it, with accents spelt as other characters "
                f"({folders[name].name!a}, {entry.name!a}); put the images of both into one"
            )
        folders[name] = entry
    return folders


def _list(folder: Path, folders: Mapping[str, Path], classes: Sequence[str]) -> Listing:
    left_out = Counter(HIDDEN if _hidden(e.name) else OUTSIDE for e in folder.iterdir() if _stray(e))
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        for path in sorted(_files(folders[name], left_out)) if name in folders else ():
            files.append(path)
            labels.append(label)
    if not files:
        raise UserError(f"imagefolder: {folder} holds no images ({_endings()})")
    return Listing(files, np.array(labels, dtype=np.int64), left_out)


def _stray(entry: Path) -> bool:
    return _hidden(entry.name) or not entry.is_dir()


def _files(folder: Path, left_out: Counter[str]) -> Iterator[Path]:
    """List the images in a folder and its subfolders; a link to a folder above is not followed.

    Raises ``OSError`` for a folder that cannot be read: its images are not to be missing in silence.
    """
    seen = {folder.resolve(), *folder.resolve().parents}
    for here, folders, names in os.walk(folder, onerror=_raise, followlinks=True):
        for name in list(folders):
            place = Path(here, name).resolve()
            if _hidden(name) or place in seen:
                folders.remove(name)
                left_out[HIDDEN] += _hidden(name)
            seen.add(place)
        for name in names:
            path = Path(here, name)
            if reason := _reason(path):
                left_out[reason] += 1
            elif not path.exists():
                raise UserError(f"{path}: a link to a file that is not there; remove it, or bring the file")
            else:
                yield path


def _raise(error: OSError) -> None:
    raise error


def _reason(path: Path) -> str | None:
    """Return why a file is no image; null for one that should be."""
    if _hidden(path.name):
        return HIDDEN
    if path.suffix.lower() not in EXTENSIONS:
        return f"with the ending {path.suffix.lower()[:12]}" if path.suffix else "without an ending"
    return "no regular file" if path.exists() and not path.is_file() else None


def _hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in SYSTEM_NAMES


def _endings() -> str:
    return ", ".join(sorted(EXTENSIONS))
