"""``fedfmd doctor``: what is missing here, and how to get it."""

from pathlib import Path
from typing import Annotated

import typer

from fedfmd.cli.voice import console


def doctor(
    folder: Annotated[
        Path | None, typer.Argument(help="Folder of a deployment or of a client, to check as well.")
    ] = None,
) -> None:
    """Check this machine: what it has, what is missing, and how to get it.

    For a deployment, also check versions, ports and certificates; on a client, also the server and the pack.

    Example: `fedfmd doctor`
    """
    from fedfmd.machine.doctor import examined
    from fedfmd.terminal.doctor import findings_table

    findings = examined()
    if folder is not None:
        from fedfmd.deployment.doctor import findings_on

        findings += findings_on(folder)
    console.print(findings_table(findings))
    if not all(finding.found for finding in findings if finding.needed):
        raise typer.Exit(1)
