"""One run of a study in its own process, ``python -m fedfmd.studies.child``, told by standard input what.

The first line is a JSON object with the run's ``path``, and its ``config`` when the run is new. After it the
pipe stays open for as long as the study lives: when it closes, this process ends, between two writes.
"""

import json
import os
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from fedfmd.config.experiment import dump_config, parse_config
from fedfmd.errors import RunError, UserError
from fedfmd.records.rundir import RunDirectory
from fedfmd.registry import Origin, bring
from fedfmd.rounds.lifecycle import InlineExecutor, execute, start_run

PLANNED = "planned.toml"
"""The config as the study gave it; the run's own has its control and its backend worked in."""


def main() -> None:
    """Run to the end; exit code 0, or 1 with the reason as the last line of standard error."""
    order = json.loads(sys.stdin.buffer.readline())
    path = Path(order["path"])
    directory = RunDirectory(path)
    threading.Thread(target=_end_with_parent, args=(directory,), daemon=True).start()
    signal.signal(signal.SIGTERM, lambda *_: _end(directory))
    try:
        for part in order["parts"]:
            bring(Origin(**part))
        if not path.exists():
            planned = parse_config(order["config"], source=path.name)
            start_run(planned, path, beside={PLANNED: dump_config(planned)})
        execute(directory, InlineExecutor)
    except (RunError, UserError, OSError) as error:
        print(error, file=sys.stderr)
        sys.exit(1)


def _end_with_parent(directory: RunDirectory) -> None:
    with suppress(OSError):
        while os.read(0, 1):
            pass
    _end(directory)


def _end(directory: RunDirectory) -> NoReturn:
    with directory.writing():
        os._exit(143)


if __name__ == "__main__":
    main()
