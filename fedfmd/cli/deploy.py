"""``fedfmd deploy``: keys and settings, then the containers."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fedfmd.config.templates import QUICKSTART

app = typer.Typer(help="Deploy real clients in containers.", no_args_is_help=True)
console = Console()
Folder = Annotated[Path, typer.Option("--dir", help="Folder of the deployment.")]
HERE = Path("deploy")


@app.command()
def init(
    config: Annotated[Path | None, typer.Argument(help="Experiment file; default the quickstart.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE")] = None,
    clients: Annotated[int | None, typer.Option(min=1, help="Default one a tier, or 4.")] = None,
    tier: Annotated[
        list[str] | None, typer.Option(metavar="CPUS:MEMORY", help="A client's limits, as 0.5:768m; cycled.")
    ] = None,
    server_name: Annotated[
        list[str] | None, typer.Option(help="Host name or address of the server, for its certificate.")
    ] = None,
    out: Folder = HERE,
) -> None:
    """Make keys, certificates, pictures, settings and the compose file.

    Example: `fedfmd deploy init configs/quickstart.toml --clients 4 --tier 1:1g --tier 0.5:768m`
    """
    from fedfmd.config.experiment import load_config
    from fedfmd.deployment.setup import DEFAULT_TIERS, check_folder, make_deployment, parse_tier

    config = config or QUICKSTART
    check_folder(out)
    tiers = [parse_tier(text) for text in tier or []] or list(DEFAULT_TIERS)
    count = clients or len(tiers)
    chosen = [tiers[client % len(tiers)] for client in range(count)]
    settings = load_config(config, [*_fitted(config, count), *(set_ or [])])
    with console.status("making keys and pictures ..."):
        make_deployment(out, settings, chosen, server_name or [])
    console.print(f"deployment: {out}; start it with: fedfmd deploy up --dir {out}", soft_wrap=True)


@app.command()
def up(
    folder: Folder = HERE,
    build: Annotated[bool, typer.Option(help="Build the image first.")] = True,
) -> None:
    """Build the image where it is missing or old, and start the containers.

    Example: `fedfmd deploy up`
    """
    from fedfmd.deployment.stack import Stack

    stack = Stack(folder)
    if build:
        stack.build()
    stack.call("up", "-d")


@app.command()
def status(folder: Folder = HERE) -> None:
    """List the containers.

    Example: `fedfmd deploy status`
    """
    from fedfmd.deployment.stack import Stack

    Stack(folder).call("ps")


@app.command()
def logs(
    service: Annotated[list[str] | None, typer.Argument(help="As client-2; default all.")] = None,
    folder: Folder = HERE,
    follow: Annotated[bool, typer.Option(help="Go on until Ctrl-C.")] = False,
) -> None:
    """Show what the containers print.

    Example: `fedfmd deploy logs client-2 --follow`
    """
    from fedfmd.deployment.stack import Stack

    Stack(folder).call("logs", *(["-f"] if follow else []), *(service or []))


@app.command()
def run(
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE")] = None,
    name: Annotated[str, typer.Option(help="Name of the run directory; an interrupted one goes on.")] = "run",
    folder: Folder = HERE,
) -> None:
    """Submit a run and wait for its end.

    Example: `fedfmd deploy run --name first --set server.rounds=5`
    """
    from fedfmd.config.experiment import check_name
    from fedfmd.deployment.stack import Stack
    from fedfmd.terminal.rounds import figures

    check_name(name, "--name")
    stack = Stack(folder)
    number = stack.submit(name, set_ or [])
    console.print(f"run {number} is submitted")
    stack.follow(number, name, lambda row: console.print(f"round {row['round']}: {figures(row)}"))
    console.print(f"finished; copy it out with: fedfmd deploy results --dir {folder}", soft_wrap=True)


@app.command()
def gate(
    to: Annotated[str, typer.Option(metavar="HOST:PORT", help="The SuperLink, or the server's gate.")],
    authority: Annotated[Path, typer.Option(help="Authority of the certificate that --to shows (PEM).")],
    certificate: Annotated[Path, typer.Option(help="Certificate to show to clients (PEM).")],
    key: Annotated[Path, typer.Option(help="Its key (PEM).")],
    listen: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where clients connect.")] = "0.0.0.0:8000",
    client_authority: Annotated[
        Path | None, typer.Option(help="Admit only who shows a certificate of this authority (PEM).")
    ] = None,
    present: Annotated[
        bool, typer.Option("--present", help="Show the certificate to --to as well: beside a client.")
    ] = False,
) -> None:
    """Run the door that lets clients reach what clients need, and nothing else of the SuperLink.

    Example: `fedfmd deploy gate --to 127.0.0.1:9000 --authority keys/gate/inside.crt --certificate
    keys/gate/gate.crt --key keys/gate/gate.key`
    """
    from fedfmd.deployment.gate import Endpoint, serve

    shown = Endpoint(certificate=certificate, key=key, authority=client_authority)
    identity = {"certificate": certificate, "key": key} if present else {}
    serve(listen, to, shown, Endpoint(authority=authority, **identity))


@app.command()
def results(
    folder: Folder = HERE,
    out: Annotated[Path, typer.Option(help="Where the run directories go.")] = Path("runs"),
) -> None:
    """Copy finished and interrupted runs out of the server's volume, and write their reports.

    Example: `fedfmd deploy results --out runs`
    """
    from fedfmd.deployment.stack import Stack
    from fedfmd.pages.report import write_report

    for path in Stack(folder).results(out):
        console.print(f"report: {write_report([path])}", soft_wrap=True)


@app.command()
def down(
    folder: Folder = HERE,
    volumes: Annotated[bool, typer.Option(help="Also delete state and results.")] = False,
) -> None:
    """Stop and remove the containers; state and results stay.

    Example: `fedfmd deploy down`
    """
    from fedfmd.deployment.stack import Stack

    Stack(folder).call("down", *(["--volumes"] if volumes else []))


def _fitted(config: Path, clients: int) -> list[str]:
    """Give overrides that lower what cannot be above the number of clients."""
    import tomllib

    try:
        server = tomllib.loads(config.read_text(encoding="utf-8")).get("server", {})
        cohort = min(int(server.get("cohort", clients)), clients)
        completed = min(int(server.get("min_completed", 1)), cohort)
    except (OSError, ValueError, AttributeError, TypeError):
        return []  # the config's own reader says what is wrong
    return [
        f"partition.clients={clients}",
        f"server.cohort={cohort}",
        f"server.min_completed={completed}",
    ]
