"""One run of a study in its own process, ``python -m fedfmd.studies.child``, told by standard input what.

The first line is a JSON object with the run's ``path`` and its ``config``; a run that is there goes on, for
more rounds if the config has more. After it the pipe stays open for as long as the study lives: when it
closes, this process ends, between two writes.
"""

import json
import os
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from fedfmd.config.experiment import ExperimentConfig, dump_config, parse_config
from fedfmd.errors import RunError, UserError
from fedfmd.records.rundir import RunDirectory
from fedfmd.registry import Origin, bring
from fedfmd.rounds.lifecycle import execute, start_run
from fedfmd.rounds.resumption import take_changes
from fedfmd.workers.start import workers_here

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
        bring_to_end(path, parse_config(order["config"], source=path.name), directory)
    except (RunError, UserError, OSError) as error:
        print(error, file=sys.stderr)
        sys.exit(1)


def bring_to_end(path: Path, planned: ExperimentConfig, directory: RunDirectory) -> None:
    """Run a new, interrupted or shorter run directory to the rounds that are planned."""
    if not path.exists():
        start_run(planned, path, beside={PLANNED: dump_config(planned)})
    elif RunDirectory.open(path).config.server.rounds < planned.server.rounds:
        take_changes(directory, [f"server.rounds={planned.server.rounds}"], accept=False)
    with workers_here(directory.config.backend) as make_executor:
        execute(directory, make_executor)


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
