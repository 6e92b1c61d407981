"""Files that grow by whole lines, read as they grow."""

from pathlib import Path


class Tail:
    """The whole lines that a growing file has gained since it was last read."""

    def __init__(self, path: Path):
        self.path = path
        self.offset = 0

    def read(self) -> tuple[bool, list[bytes]]:
        """Return whether the file was cut back or replaced, and the lines that are new since."""
        try:
            with self.path.open("rb") as file:
                cut = file.seek(0, 2) < self.offset
                self.offset = 0 if cut else self.offset
                file.seek(self.offset)
                whole, newline, _ = file.read().rpartition(b"\n")
        except OSError:
            cut, self.offset = self.offset > 0, 0
            return cut, []
        self.offset += len(whole) + len(newline)
        return cut, whole.split(b"\n") if newline else []
