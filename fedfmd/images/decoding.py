"""Many image files to 8-bit RGB, by as many processes as there are cores.

Threads would wait for each other: most of the time that a small image takes is Python's. A process is started
by ``python -m fedfmd.images.decoding SOCKET SIDE`` and answers a list of files with their pixels.
"""

import signal
import socket
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedfmd.errors import UserError
from fedfmd.images.reading import read_image
from fedfmd.machine.children import module_command
from fedfmd.machine.processes import available_cores

FEW = 1000
"""Up to so many images a process is not worth its start."""
CHUNK_BYTES = 1 << 21
"""Pixels that a process sends at a time."""
Progress = Callable[[int, int], None]


class Decoded(NamedTuple):
    """Pixels uint8 (n, 3, side, side), and how often what was done to the images."""

    pixels: NDArray[np.uint8]
    remarks: Counter[str]


def decode(files: Sequence[Path], side: int, progress: Progress | None = None) -> Decoded:
    """Decode every file as ``read_image`` does, in their order.

    ``progress(done, total)`` is called as it goes. Raises ``UserError`` that names a damaged file.
    """
    decoded = Decoded(np.empty((len(files), 3, side, side), np.uint8), Counter())
    size = max(1, CHUNK_BYTES // (3 * side * side))
    starts = range(0, len(files), size)
    chunks = {start: list(files[start : start + size]) for start in starts}
    by_others = len(files) > FEW and available_cores() > 1
    done = 0
    for start, part in _by_processes(chunks, side) if by_others else _here(chunks, side):
        decoded.pixels[start : start + size] = part.pixels
        decoded.remarks.update(part.remarks)
        done += len(part.pixels)
        if progress:
            progress(done, len(files))
    return decoded


def _here(chunks: dict[int, list[Path]], side: int) -> Iterator[tuple[int, Decoded]]:
    for start, files in chunks.items():
        yield start, _read(files, side)


def _read(files: Sequence[Path], side: int) -> Decoded:
    pixels, remarks = np.empty((len(files), 3, side, side), np.uint8), Counter[str]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for place, file in enumerate(files):
            picture, changes = read_image(file, side)
            pixels[place] = picture.transpose(2, 0, 1)
            remarks.update(changes)
    return Decoded(pixels, remarks)


def _by_processes(chunks: dict[int, list[Path]], side: int) -> Iterator[tuple[int, Decoded]]:
    """Share the chunks out; gives each once it is done. Raises ``UserError`` as ``decode`` does."""
    waiting = iter(chunks.items())
    with ExitStack() as stack:
        at_work: dict[Connection, int] = {}
        for _, (start, files) in zip(range(available_cores()), waiting, strict=False):
            process = stack.enter_context(_process(side))
            _ask(process, files)
            at_work[process] = start
        while at_work:
            ready = wait(list(at_work))
            for process in [process for process in at_work if process in ready]:
                start = at_work.pop(process)
                yield start, _answer(process, chunks[start])
                for following, files in waiting:
                    _ask(process, files)
                    at_work[process] = following
                    break


def _ask(process: Connection, files: Sequence[Path]) -> None:
    with suppress(OSError):  # of one that died, which is seen when its answer is looked for
        process.send(files)


def _answer(process: Connection, files: Sequence[Path]) -> Decoded:
    try:
        answer = process.recv()
    except (EOFError, OSError):
        raise UserError(f"{files[0]} to {files[-1]}: the process that decodes these images died") from None
    if isinstance(answer, str):
        raise UserError(answer)
    return Decoded(*answer)


@contextmanager
def _process(side: int) -> Iterator[Connection]:
    ours, theirs = socket.socketpair()
    with theirs:
        number = theirs.fileno()
        command = [*module_command("fedfmd.images.decoding"), str(number), str(side)]
        started = subprocess.Popen(command, pass_fds=(number,))
    try:
        with Connection(ours.detach()) as connection:
            yield connection
    finally:
        started.kill()
        started.wait()


def main() -> None:
    """Decode what is asked for until nobody is there to ask."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks
    connection, side = Connection(int(sys.argv[1])), int(sys.argv[2])
    while True:
        try:
            files = connection.recv()
        except EOFError:
            return
        try:
            connection.send(tuple(_read(files, side)))
        except UserError as error:
            connection.send(str(error))


if __name__ == "__main__":
    main()
