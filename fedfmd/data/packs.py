"""A client's own images as one file, by the agreed classes and size: what it trains on never leaves it.

Images come from class folders (``FOLDER/CLASS/*``, or ``FOLDER/train/CLASS/*`` with ``FOLDER/val/CLASS/*``
to test on), from a CSV file with the columns ``file``, ``label`` and perhaps ``part`` (train or test), or
from any registered data set by name. What does not fit is refused, with the file and what to do.
"""

import csv
import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import fedfmd
from fedfmd.data.agreement import CHANNELS, Agreement, Normalisation, spelt
from fedfmd.data.arrays import Bytes, IntArray
from fedfmd.data.dataset import Dataset
from fedfmd.data.folders import Listing, list_agreed, remarks_on
from fedfmd.data.prepared import open_prepared, save_dataset
from fedfmd.data.requests import FIXED_SIDE, FIXED_SIZE, DataRequest
from fedfmd.errors import UserError, as_input, first_few
from fedfmd.files import check_file
from fedfmd.images.decoding import Progress, decode
from fedfmd.registry import names, takes

PARTS = ("train", "test")
COLUMNS = {"file", "label"}
PART = "part"
"""A column that may be missing."""
BEYOND = "\0beyond"
"""Key of the cells for which a table has no column."""


class PackedImages(NamedTuple):
    """Images uint8 (N, 3, side, side) and labels int64 (N,), and what was done or left out, counted."""

    images: Bytes
    labels: IntArray
    remarks: Counter[str]
    left_out: Counter[str]


@dataclass(frozen=True)
class PackSource:
    """Where a client's images are."""

    name: str
    """A folder, a CSV file, or the name of a data set."""
    root: Path | None = None
    """Of a data set by name: the folder with its files, `data` when absent."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of a data set by name: its further arguments."""


def pack(
    source: PackSource,
    agreement: Agreement,
    normalisation: Normalisation | None,
    out: Path,
    progress: Progress | None = None,
) -> Dataset:
    """Read a client's images, write its pack to ``out``, and return what is in it.

    Without a ``normalisation`` it is agreed later, among all clients. Raises ``UserError`` for what does not
    fit the agreement; nothing is written then.
    """
    check_file("--out", out)
    train, test = _parts(source, agreement, progress)
    if not len(train.labels):
        raise UserError(f"{source.name}: holds no images to train on")
    dataset = _dataset(agreement, normalisation, train, test)
    packed = replace(dataset, origin=_origin(source.name, dataset))
    try:
        save_dataset(packed, out)
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written: {error.strerror}") from None
    return packed


def empty_pack(agreement: Agreement, out: Path) -> None:
    """Write a pack without images: what a server has that is to test none."""
    images = np.zeros((0, CHANNELS, agreement.side, agreement.side), dtype=np.uint8)
    nothing = PackedImages(images, np.zeros(0, dtype=np.int64), Counter(), Counter())
    save_dataset(_dataset(agreement, None, nothing, nothing), out)


def open_pack(path: Path) -> Dataset:
    """Open a pack and check its content; raises ``UserError`` for any other file."""
    dataset = open_prepared(path, check=True)
    if not dataset.origin:
        raise UserError(f"{path}: is no client's pack; make one with fedfmd data pack")
    return dataset


def described(dataset: Dataset) -> str:
    """Return one line on a pack: how much it holds, of what, what was left out, and its hash."""
    train, test = len(dataset.train_labels), len(dataset.test_labels)
    held = len({*dataset.train_labels.tolist(), *dataset.test_labels.tolist()})
    side, noted = dataset.input_shape[1], f"; {dataset.note}" if dataset.note else ""
    return (
        f"{train} training and {test} test images of {held} of {dataset.num_classes} classes, "
        f"{side} x {side} pixels{noted}; sha256 {dataset.origin['sha256'][:16]}"
    )


def seen_by(dataset: Dataset) -> str:
    """Say by what a pack's images are normalised, and where they are from."""
    pairs = zip(dataset.mean, dataset.std, strict=True)
    figures = ", ".join(f"{mean:.4f} ± {std:.4f}" for mean, std in pairs)
    agreed = f"normalised by {figures}" if figures else "normalisation: as the server says"
    return f"{agreed}; packed from {dataset.origin['source']} by fedfmd {dataset.origin['fedfmd']}"


def _parts(
    source: PackSource, agreement: Agreement, progress: Progress | None
) -> tuple[PackedImages, PackedImages]:
    path = Path(source.name)
    _check_given(source, path)
    if path.is_file() or path.is_dir():
        with as_input():
            listed = _table(path, agreement) if path.is_file() else _folders(path, agreement)
    elif not _is_set(source.name):
        raise UserError(f"{source.name}: there is no such folder, CSV file or data set")
    else:
        return _named(source, agreement, progress)
    return _decoded(listed[0], agreement, progress), _decoded(listed[1], agreement, progress)


def _check_given(source: PackSource, path: Path) -> None:
    """Raise ``UserError`` for what is given with images in files, where it would not count."""
    given = [*(["--root"] if source.root is not None else []), *(f"--set {key}" for key in source.options)]
    if given and (path.is_file() or path.is_dir()):
        raise UserError(
            f"{given[0]}: counts only for a data set by name, and {source.name} is a "
            f"{'folder' if path.is_dir() else 'file'}; leave it out"
        )


def _decoded(listing: Listing, agreement: Agreement, progress: Progress | None) -> PackedImages:
    pixels, remarks = decode(listing.files, agreement.side, progress)
    return PackedImages(pixels, listing.labels, remarks, Counter(listing.left_out))


def _is_set(name: str) -> bool:
    return ":" in name or name in names("data")


def _nothing() -> Listing:
    return Listing([], np.zeros(0, dtype=np.int64), {})


def _folders(folder: Path, agreement: Agreement) -> tuple[Listing, Listing]:
    """List class folders, or those in ``train`` and ``val`` where ``train`` is no class."""
    parts = [folder / name for name in ("train", "val")]
    if not parts[0].is_dir() or "train" in agreement.classes:
        return list_agreed(folder, agreement.classes), _nothing()
    tested = list_agreed(parts[1], agreement.classes) if parts[1].is_dir() else _nothing()
    return list_agreed(parts[0], agreement.classes), tested


def _table(path: Path, agreement: Agreement) -> tuple[Listing, Listing]:
    """List the images that a CSV file names, by paths that start from its folder."""
    places = {name: label for label, name in enumerate(agreement.classes)}
    files: dict[str, list[Path]] = {part: [] for part in PARTS}
    labels: dict[str, list[int]] = {part: [] for part in PARTS}
    for line, row in _rows(path):
        where, part = f"{path}:{line}", row.get(PART) or "train"
        label, image = spelt(row["label"]), path.parent / row["file"]
        if label not in places:
            raise UserError(
                f"{where}: label = {row['label']!r}: not among the agreed classes "
                f"({first_few(agreement.classes)}); spell it as they are, or leave the line out"
            )
        if part not in PARTS:
            raise UserError(f"{where}: part = {part!r}: must be train or test")
        if not image.is_file():
            raise UserError(f"{where}: file = {row['file']!r}: there is no file {image}")
        files[part].append(image)
        labels[part].append(places[label])
    train, test = (Listing(files[part], np.array(labels[part], dtype=np.int64), {}) for part in PARTS)
    return train, test


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the lines of a CSV file by their numbers; raises ``UserError`` for any other file.

    Lines and cells without any content are none, as spreadsheets leave them.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restkey=BEYOND, strict=True, skipinitialspace=True)
            if missing := sorted(COLUMNS - set(reader.fieldnames or ())):
                raise UserError(
                    f"{path}: has no column {missing[0]!r}: its first line must be file,label or "
                    "file,label,part"
                )
            if other := [name for name in reader.fieldnames or () if name and name not in {*COLUMNS, PART}]:
                raise UserError(
                    f"{path}: column {other[0]!r}: is not known; allowed: file, label, part; rename it, or "
                    "leave it out"
                )
            for row in reader:
                beyond = [cell for cell in row.pop(BEYOND, None) or () if cell.strip()]
                if not beyond and not any(cell and cell.strip() for cell in row.values()):
                    continue
                if beyond or None in row.values():
                    raise UserError(f"{path}:{reader.line_num}: has not as many fields as the first line")
                yield reader.line_num, row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: is no CSV file: {error}") from None


def _named(
    source: PackSource, agreement: Agreement, progress: Progress | None
) -> tuple[PackedImages, PackedImages]:
    """Read a data set by name, and call its classes by the agreed labels."""
    fixed = source.name in FIXED_SIZE
    if fixed:
        _check_side(source.name, (FIXED_SIDE, FIXED_SIDE), agreement)
    request = DataRequest(
        name=source.name,
        root=source.root or Path("data"),
        image_size=None if fixed else agreement.side,
        options=dict(source.options),
    )
    for key in source.options:
        if not takes("data", source.name, key) or takes("data", source.name, "request"):
            raise UserError(f"--set {key}: the data set {source.name} has no such argument")
    from fedfmd.data.datasets import read_dataset  # brings PyTorch, which images in files do not need

    with as_input():
        data = read_dataset(request, progress)
    _check_side(source.name, data.input_size, agreement)
    if data.in_channels not in (1, CHANNELS):
        raise UserError(
            f"{source.name}: its images have {data.in_channels} channels; packs have 1 or {CHANNELS}"
        )
    if unknown := [name for name in map(spelt, data.classes) if name not in agreement.classes]:
        raise UserError(
            f"{source.name}: its class {unknown[0]!r} is not among the agreed classes "
            f"({first_few(agreement.classes)})"
        )
    places = np.array([agreement.classes.index(spelt(name)) for name in data.classes], dtype=np.int64)
    parts = ((data.train_images, data.train_labels), (data.test_images, data.test_labels))
    train, test = (
        PackedImages(_as_agreed(images, agreement.side), places[labels], Counter(), Counter())
        for images, labels in parts
    )
    return train, test


def _check_side(name: str, size: tuple[int, int], agreement: Agreement) -> None:
    height, width = size
    if size != (agreement.side, agreement.side):
        raise UserError(
            f"{name}: its images have {height} x {width} pixels, and agreed is image_size = "
            f"{agreement.side}; all clients have to agree on {height} for this set to fit"
        )


def _as_agreed(images: Bytes, side: int) -> Bytes:
    """Return uint8 (N, 3, side, side), black around smaller images, as networks would see them."""
    above, left = (side - images.shape[2]) // 2, (side - images.shape[3]) // 2
    below, right = side - images.shape[2] - above, side - images.shape[3] - left
    padded = np.pad(images, ((0, 0), (0, 0), (above, below), (left, right)))
    return np.ascontiguousarray(np.broadcast_to(padded, (len(padded), CHANNELS, side, side)))


def _dataset(
    agreement: Agreement, normalisation: Normalisation | None, train: PackedImages, test: PackedImages
) -> Dataset:
    return Dataset(
        name="packs",
        train_images=train.images,
        train_labels=train.labels,
        test_images=test.images,
        test_labels=test.labels,
        classes=agreement.classes,
        mean=normalisation.mean if normalisation else (),
        std=normalisation.std if normalisation else (),
        input_shape=(CHANNELS, agreement.side, agreement.side),
        note="; ".join(remarks_on(train.remarks + test.remarks, train.left_out + test.left_out)),
    )


def _origin(source: str, dataset: Dataset) -> dict[str, Any]:
    """Describe where a pack is from; the hash is of its images, labels and classes."""
    digest = hashlib.sha256(repr(dataset.classes).encode())
    arrays = (dataset.train_images, dataset.train_labels, dataset.test_images, dataset.test_labels)
    for array in arrays:
        digest.update(f"{list(array.shape)}".encode())
        digest.update(array.tobytes())
    return {
        "source": source,
        "sha256": digest.hexdigest(),
        "train": _counts(dataset.train_labels, dataset.classes),
        "test": _counts(dataset.test_labels, dataset.classes),
        "fedfmd": fedfmd.__version__,
    }


def _counts(labels: IntArray, classes: Sequence[str]) -> dict[str, int]:
    counts = np.bincount(labels, minlength=len(classes)).tolist()
    return {name: count for name, count in zip(classes, counts, strict=True) if count}
