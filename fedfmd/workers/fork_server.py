"""A process that has imported what workers need and forks one whenever it is asked.

Importing PyTorch takes seconds and 300 MB. Here that is done once for all workers, while the server prepares
its data; a worker that takes another's place is there at once. Nothing is computed in this process, so it has
no threads that a fork would lose.
"""

import gc
import os
import signal
import socket
import subprocess
import sys
from multiprocessing.connection import Connection
from typing import Self

from fedfmd.errors import RunError
from fedfmd.machine.children import module_command
from fedfmd.machine.processes import end_with_parent

ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1"}
"""NumPy's library would start its threads when it is imported."""


class ForkServer:
    """The server's side: starts the process, and asks it for workers."""

    def __init__(self) -> None:
        self.door, theirs = socket.socketpair()
        with theirs:
            number = theirs.fileno()
            command = [*module_command("fedfmd.workers.fork_server"), str(number)]
            self.process = subprocess.Popen(command, pass_fds=(number,), env=os.environ | ONE_THREAD)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """End the process, and with it the workers that are left."""
        self.door.close()
        self.process.kill()
        self.process.wait()

    def fork(self) -> Connection:
        """Start a worker; gives the connection to it. Raises ``RunError`` when the process has ended."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                socket.send_fds(self.door, [b"1"], [theirs.fileno()])
            except OSError:
                ours.close()
                code = self.process.wait()
                raise RunError(f"the process that starts workers has ended (exit code {code})") from None
        return Connection(ours.detach())


def main() -> None:
    """Fork workers until the server is gone."""
    from fedfmd.workers.process import serve  # brings PyTorch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the server's to answer
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel forgets the dead by itself
    gc.freeze()  # or collecting garbage would copy what workers share
    with socket.socket(fileno=int(sys.argv[1])) as door:
        while received := socket.recv_fds(door, 1, 1)[1]:
            if os.fork() == 0:
                door.close()
                end_with_parent()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                serve(Connection(received[0]))
                os._exit(0)
            os.close(received[0])


if __name__ == "__main__":
    main()
