"""Run commands in a terminal of 80 columns and draw what they left on it: docs/images/tutorial.svg.

    python benchmarks/record.py docs/images/tutorial.svg "fedfmd simulate --rounds 3" "fedfmd runs"

What is drawn is what a terminal shows in the end: a bar that was written over is gone. Nothing is edited.
"""

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import SVG_EXPORT_THEME
from rich.text import Text

COLUMNS, LINES = 80, 40
CONTROL = re.compile(r"\x1b\[(\??[\d;]*)([A-Za-z])|\r|\n")
# The drawing names fonts of the reader's machine: it loads nothing.
FONT = re.compile(r"@font-face \{.*?\}", re.DOTALL)


def main() -> None:
    """Run the commands one after another and write the picture."""
    target, *commands = sys.argv[1:]
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    for command in commands:
        console.print(Text(f"$ {command}", style="bold"))
        for line in screen(output(command)):
            console.print(Text.from_ansi(line), soft_wrap=True)
    svg = console.export_svg(title="fedfmd", theme=SVG_EXPORT_THEME)
    Path(target).write_text(re.sub(FONT, "", svg).replace("Fira Code", "ui-monospace"))


def output(command: str) -> str:
    """Return what a command writes to a terminal, stdout and stderr together; raises if it fails."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(COLUMNS)}
    with subprocess.Popen(command, shell=True, stdout=slave, stderr=slave, env=environment) as process:
        os.close(slave)
        parts = []
        while chunk := _read(master):
            parts.append(chunk)
    if process.returncode:
        raise SystemExit(f"{command}: code {process.returncode}\n{b''.join(parts).decode()}")
    return b"".join(parts).decode()


def _read(master: int) -> bytes:
    try:
        return os.read(master, 65536)
    except OSError:  # the other end is closed
        return b""


def screen(text: str) -> list[str]:
    """Return the lines that stay, with their colours; of cursor movements those of a live bar are known."""
    lines, row, over = [""], 0, False
    for control, words in _split(text):
        if not control:
            lines[row], over = (words if over else lines[row] + words), False
        elif control == "\r":
            over = True
        elif control == "K":
            lines[row] = ""
        elif control == "A":
            row = max(row - int(words or 1), 0)
        elif control == "\n":
            row, over = row + 1, False
            lines += [""] * (row + 1 - len(lines))
    return "\n".join(lines).rstrip("\n").split("\n")


def _split(text: str) -> list[tuple[str, str]]:
    """Return controls with their numbers, and the texts between them; colours stay in the texts."""
    found: list[tuple[str, str]] = []
    start = 0
    for match in CONTROL.finditer(text):
        if match[2] == "m":
            continue
        found += [("", text[start : match.start()])] if match.start() > start else []
        found.append((match[2] or match[0], match[1] or ""))
        start = match.end()
    return [*found, ("", text[start:])]


if __name__ == "__main__":
    main()
