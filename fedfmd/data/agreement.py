"""What all clients of a federation agree on before any of them packs its images: classes and image size.

The operator makes the file, every client packs by it: a line ``image_size = 64``, then one class per line,
in the order of the labels. Empty lines and those that begin with # do not count.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unicodedata import normalize

from fedfmd.config.documents import read_json, read_text
from fedfmd.errors import UserError

CHANNELS = 3
"""Images are packed as RGB, grey ones with their channel repeated."""
SMALLEST_SIDE, LARGEST_SIDE = 8, 512
MOST_CLASSES = 100_000
_SIZE = re.compile(r"image_size\s*=\s*(.*)")


@dataclass(frozen=True)
class Agreement:
    """Class names in the order of their labels, and the side of the square images in pixels."""

    classes: tuple[str, ...]
    side: int

    @classmethod
    def of(cls, names: Iterable[str], side: int, source: str) -> "Agreement":
        """Check an agreement; raises ``UserError`` that begins with ``source``."""
        if not SMALLEST_SIDE <= side <= LARGEST_SIDE:
            raise UserError(
                f"{source}: image_size = {side}: must be {SMALLEST_SIDE} to {LARGEST_SIDE} pixels"
            )
        classes = [spelt(name) for name in names]
        for name in classes:
            if not name or not name.isprintable() or "/" in name or name.startswith((".", "#")):
                raise UserError(
                    f"{source}: class {name!r}: must be what a folder can be called, without / and not "
                    "beginning with . or #"
                )
        if repeated := [name for name, times in Counter(classes).items() if times > 1]:
            raise UserError(f"{source}: class {repeated[0]!r}: is there twice")
        if not 2 <= len(classes) <= MOST_CLASSES:
            raise UserError(f"{source}: names {len(classes)} classes; at least two, one per line")
        return cls(tuple(classes), side)

    @classmethod
    def read(cls, path: Path) -> "Agreement":
        """Read a file that ``write`` or a person wrote; raises ``UserError``."""
        text = read_text(path, "file of agreed classes (fedfmd data classes makes one)")
        lines = [line.strip() for line in text.splitlines()]
        lines = [line for line in lines if line and not line.startswith("#")]
        sizes = [found[1] for line in lines if (found := _SIZE.fullmatch(line))]
        if len(sizes) != 1 or not sizes[0].isdecimal():
            raise UserError(f"{path}: must have one line image_size = PIXELS, as image_size = 64")
        return cls.of([line for line in lines if not _SIZE.fullmatch(line)], int(sizes[0]), str(path))

    @property
    def text(self) -> str:
        """The file's content."""
        head = "# Agreed by all clients: images become squares of so many pixels; then the classes, in order."
        return "\n".join([head, f"image_size = {self.side}", *self.classes]) + "\n"


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation per channel, 0..1, by which all clients see their images."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, document: Mapping[str, Any], source: str) -> "Normalisation":
        """Take it from plain data; raises ``UserError`` that begins with ``source``."""
        figures = []
        for key, low in (("mean", 0.0), ("std", 1e-6)):
            values = document.get(key)
            if not isinstance(values, list | tuple) or len(values) != CHANNELS:
                raise UserError(f"{source}: {key} = {values!r}: must be {CHANNELS} numbers, of R, G and B")
            if any(type(v) not in (int, float) or not low <= v <= 1 for v in values):
                raise UserError(f"{source}: {key} = {list(values)}: must be from {low:g} to 1")
            figures.append(tuple(float(value) for value in values))
        return cls(*figures)

    @classmethod
    def read(cls, path: Path) -> "Normalisation":
        """Read ``mean`` and ``std`` of a JSON file; raises ``UserError``."""
        document = read_json(path)
        if not isinstance(document, dict):
            raise UserError(f"{path}: must be a JSON object with mean and std")
        return cls.of(document, str(path))


def spelt(name: str) -> str:
    """Return a class name as all spell it: macOS writes an accent as a character of its own."""
    return normalize("NFC", name.strip())
