"""``fedfmd new``: a folder to start from."""

from pathlib import Path
from typing import Annotated

import typer

from fedfmd.cli.voice import console
from fedfmd.errors import pasted
from fedfmd.records import filenames


def new(
    folder: Annotated[
        Path, typer.Argument(help="Folder to make; its name becomes the name of the runs and the study.")
    ],
    data_: Annotated[
        Path | None,
        typer.Option(
            "--data", help="Your images: FOLDER/train/CLASS/* or train/CLIENT/CLASS/*, and val/CLASS/*."
        ),
    ] = None,
) -> None:
    """Write a commented experiment and a study to start from.

    Example: `fedfmd new my-study`
    """
    from fedfmd.studies.starter import make_starter

    make_starter(folder, data_)
    console.say(f"made {folder}: look at it, change it, then")
    for command in ("plan", "simulate"):
        console.say(f"  fedfmd {command} {pasted(folder / 'experiment.toml')}")
    console.say(f"  fedfmd study {pasted(folder / filenames.STUDY)}")
