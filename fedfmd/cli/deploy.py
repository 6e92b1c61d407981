"""``fedfmd deploy``: keys and settings, then the containers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from fedfmd.cli.command import App, Set
from fedfmd.cli.voice import console
from fedfmd.config.templates import QUICKSTART
from fedfmd.deployment import layout
from fedfmd.errors import UserError, pasted
from fedfmd.machine.signals import stoppable
from fedfmd.records import filenames

app = App(help="Deploy real clients.")
Folder = Annotated[Path, typer.Option("--dir", help="Folder of the deployment.")]
HERE = Path("deploy")


@app.command()
def init(
    config: Annotated[Path | None, typer.Argument(help="Experiment file; default the quickstart.")] = None,
    set_: Set = None,
    clients: Annotated[
        int | None, typer.Option(min=1, help="Number of clients; default one per tier, or 4.")
    ] = None,
    tier: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CPUS:MEMORY",
            help="CPU and memory limit, such as 0.5:768m; repeatable; clients take turns.",
        ),
    ] = None,
    server_name: Annotated[
        list[str] | None, typer.Option(help="Host name or address of the server, for its certificate.")
    ] = None,
    no_data: Annotated[
        bool, typer.Option("--no-data", help="Clients have their own images; needs --classes.")
    ] = False,
    classes: Annotated[
        Path | None, typer.Option(help="With --no-data: the file from `fedfmd data classes`.")
    ] = None,
    client: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="With --no-data: name of a client; repeatable.")
    ] = None,
    places: Annotated[
        int | None, typer.Option(min=1, help="With --no-data: most clients that a run can have.")
    ] = None,
    test: Annotated[
        Path | None, typer.Option(help="With --no-data: folder of test images for the server.")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="With --no-data: port for clients; default 8000."),
    ] = None,
    out: Folder = HERE,
) -> None:
    """Create a deployment: keys, certificates, settings, the compose file, and each client's images.

    With `--no-data`, clients have their own images, and the server has only those of `--test`.

    Example: `fedfmd deploy init configs/quickstart.toml --clients 4 --tier 1:1g --tier 0.5:768m`

    Example: `fedfmd deploy init --no-data --classes classes.txt --client north --client south
    --server-name hub.example.org`
    """
    from fedfmd.deployment.setup import check_folder, config_for, make_deployment, tiers_for

    config = config or QUICKSTART
    check_folder(out)
    if no_data:
        _check_exclusive(
            {"--clients": clients, "--tier": tier}, "not with --no-data, whose clients have names"
        )
        _init_open(
            out,
            config,
            set_ or [],
            classes,
            client or [],
            places,
            server_name or [],
            port or layout.GATE_PORT,
            test,
        )
        return
    own = {"--classes": classes, "--client": client, "--places": places, "--test": test, "--port": port}
    _check_exclusive(own, "only with --no-data")
    chosen = tiers_for(tier or [], clients)
    settings = config_for(config, len(chosen), set_ or [])
    with console.status("making keys and images ..."):
        make_deployment(out, settings, chosen, server_name or [])
    console.say(f"deployment: {out}; start it with: fedfmd deploy up --dir {pasted(out)}")


def _init_open(
    out: Path,
    config: Path,
    changes: list[str],
    classes: Path | None,
    names: list[str],
    places: int | None,
    server_names: list[str],
    port: int,
    test: Path | None,
) -> None:
    """Make a deployment whose clients bring their images."""
    from fedfmd.data.agreement import Agreement
    from fedfmd.deployment.setup import config_for, make_open_deployment

    if classes is None:
        raise UserError("--no-data: needs --classes FILE; make it with: fedfmd data classes cat dog ...")
    agreement = Agreement.read(classes)
    settings = config_for(config, max(places or 1, len(names)), changes)
    with console.status("making keys ..."):
        made = make_open_deployment(
            out,
            settings,
            agreement,
            names,
            places=places,
            server_names=server_names,
            port=port,
            tested_on=test,
        )
    for name in names:
        console.say(f"to client {name}: {out / 'clients' / name}, which holds its key")
    if made.partition.holdout and test is None:
        console.say(
            f"no --test images: clients keep {made.partition.holdout:.0%} of theirs to measure the model on"
        )
    elif test is None:
        console.say("no --test images: under the privacy section nobody measures the model")
    console.say(
        f"deployment: {out}; start it with: fedfmd deploy serve --dir {pasted(out)}, or in containers: "
        f"fedfmd deploy up --dir {pasted(out)}; then: fedfmd deploy statistics --dir {pasted(out)}"
    )


def _check_exclusive(options: Mapping[str, object], why: str) -> None:
    for name, value in options.items():
        if value is not None:
            raise UserError(f"{name}: {why}")


@app.command("add-client")
def add_client(
    name: Annotated[str, typer.Argument(help="Name of the new client.")], folder: Folder = HERE
) -> None:
    """Add a client: make its keys and the folder to hand over; a running server admits it at once.

    Example: `fedfmd deploy add-client west`
    """
    from fedfmd.deployment.members import Deployed
    from fedfmd.deployment.serving import tell_who_belongs

    member = Deployed(folder).add(name)
    tell_who_belongs(folder)
    console.say(f"client {member.number} is {name}: hand over {Deployed(folder).handed(name)}")


@app.command("remove-client")
def remove_client(
    name: Annotated[str, typer.Argument(help="Name of the client, as in `fedfmd deploy status`.")],
    folder: Folder = HERE,
) -> None:
    """Remove a client: revoke its key; its number is never reused.

    Example: `fedfmd deploy remove-client west`
    """
    from fedfmd.deployment.members import Deployed
    from fedfmd.deployment.serving import tell_who_belongs

    member = Deployed(folder).remove(name)
    tell_who_belongs(folder)
    console.say(f"client {member.number}, {name}, is out; what it has packed stays with it")


@app.command()
def renew(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Clients, or `server`.")],
    folder: Folder = HERE,
) -> None:
    """Renew keys and certificates, which are valid for a year; the old ones are revoked.

    Example: `fedfmd deploy renew server north`
    """
    from fedfmd.deployment.members import SERVER, Deployed
    from fedfmd.deployment.serving import tell_who_belongs

    deployed = Deployed(folder)
    for name in deployed.renew(names):
        then = "start it again" if name == SERVER else f"hand over {deployed.handed(name)} anew"
        console.say(f"{name}: new keys; {then}")
    tell_who_belongs(folder)


@app.command()
def serve(
    folder: Folder = HERE,
    listen: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT", help="Address for clients; default 0.0.0.0 and the deployment's port."
        ),
    ] = None,
    inside: Annotated[
        int, typer.Option(min=1, max=65535, help="The SuperLink's port, on this machine's loopback.")
    ] = 9000,
) -> None:
    """Run the server without Docker, until Ctrl-C: SuperLink, gate and registration of clients.

    Example: `fedfmd deploy serve --listen 0.0.0.0:8000`
    """
    from fedfmd.deployment.local import LocalServer

    server = LocalServer(folder)
    where = listen or f"0.0.0.0:{server.deployed.gate_port}"
    try:
        with stoppable():
            for line in server.serve(where, inside):
                console.say(line)
    except KeyboardInterrupt:
        console.say("the server has ended; runs go on when it is back, by their names")


@app.command()
def up(
    folder: Folder = HERE,
    build: Annotated[bool, typer.Option(help="Build the image first.")] = True,
) -> None:
    """Build the image if it is missing or out of date, and start the containers.

    Example: `fedfmd deploy up`
    """
    from fedfmd.deployment.serving import containers_of

    stack = containers_of(folder)
    if build:
        stack.build()
    stack.call("up", "-d")


@app.command()
def status(folder: Folder = HERE) -> None:
    """List the registered clients, who is connected, and how long certificates are valid.

    Example: `fedfmd deploy status`
    """
    from fedfmd.deployment.serving import operator_of

    operator = operator_of(folder)
    operator.show()
    table = Table("client", "name", "status", "certificate")
    for client in operator.clients():
        days = "" if client.valid_days is None else f"{client.valid_days} days"
        table.add_row(str(client.number), client.name, client.status, days)
    console.print(table)
    left = operator.deployed.server_days
    console.say(f"the server's certificates: {left} days left; fedfmd deploy renew server makes new ones")


@app.command()
def logs(
    service: Annotated[
        list[str] | None, typer.Argument(help="Service, such as client-2; default all.")
    ] = None,
    folder: Folder = HERE,
    follow: Annotated[bool, typer.Option(help="Keep printing until Ctrl-C.")] = False,
) -> None:
    """Show the containers' logs; without Docker, those of the server's superlink and gate.

    Example: `fedfmd deploy logs client-2 --follow`
    """
    from fedfmd.deployment.serving import operator_of

    operator_of(folder).logs(service or [], follow=follow)


@app.command()
def statistics(
    folder: Folder = HERE,
    min_clients: Annotated[
        int | None, typer.Option(min=1, help="Number of clients that must answer; default all.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Also write the statistics to this JSON file.")] = None,
) -> None:
    """Compute the clients' mean and standard deviation from exact sums; no image leaves a client.

    Example: `fedfmd deploy statistics`
    """
    import json

    from fedfmd.deployment.serving import operator_of
    from fedfmd.files import check_file, write_atomic

    if out is not None:
        check_file("--out", out)
    agreed = operator_of(folder).agree(min_clients)
    pairs = zip(agreed["mean"], agreed["std"], strict=True)
    figures = ", ".join(f"{mean:.4f} ± {std:.4f}" for mean, std in pairs)
    labels = ", ".join(f"{count} {name}" for name, count in agreed["labels"].items())
    console.say(f"{agreed['images']} images of {len(agreed['clients'])} clients: {figures}; {labels}")
    if out is not None:
        write_atomic(out, json.dumps(agreed, indent=1) + "\n")


@app.command()
def run(
    set_: Set = None,
    name: Annotated[
        str, typer.Option(help="Name of the run; an interrupted run of this name continues.")
    ] = "run",
    min_clients: Annotated[
        int | None, typer.Option(min=1, help="Number of connected clients needed to start; default all.")
    ] = None,
    round_timeout: Annotated[
        int,
        typer.Option(
            metavar="SECONDS",
            min=1,
            max=layout.MOST_ROUND_SECONDS,
            help="How long a round waits; it then goes on without the clients that have not answered.",
        ),
    ] = layout.ROUND_SECONDS,
    folder: Folder = HERE,
) -> None:
    """Submit a run and wait until it ends.

    Example: `fedfmd deploy run --name first --set server.rounds=5`
    """
    from fedfmd.config.experiment import check_name
    from fedfmd.deployment.serving import operator_of
    from fedfmd.terminal.rounds import figures

    check_name(name, "--name")
    operator = operator_of(folder)
    number = operator.submit(name, set_ or [], min_clients, round_timeout)
    console.say(f"run {number} is submitted")
    operator.follow(
        number,
        name,
        on_round=lambda row: console.say(f"round {row['round']}: {figures(row)}"),
        on_wait=console.say,
    )
    console.say(f"finished; copy it out with: fedfmd deploy results --dir {pasted(folder)}")


@app.command()
def gate(
    to: Annotated[str, typer.Option(metavar="HOST:PORT", help="The SuperLink, or the server's gate.")],
    authority: Annotated[Path, typer.Option(help="CA of the certificate that --to presents (PEM).")],
    certificate: Annotated[Path, typer.Option(help="Certificate to present to clients (PEM).")],
    key: Annotated[Path, typer.Option(help="Private key of the certificate (PEM).")],
    listen: Annotated[str, typer.Option(metavar="HOST:PORT", help="Address for clients.")] = "0.0.0.0:8000",
    client_authority: Annotated[
        Path | None, typer.Option(help="Require client certificates of this CA (PEM).")
    ] = None,
    present: Annotated[
        bool,
        typer.Option(
            "--present", help="Also present the certificate to --to, for a gate on a client's machine."
        ),
    ] = False,
) -> None:
    """Run the gate, a proxy that exposes to clients only what they need of the SuperLink.

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
    out: Annotated[Path, typer.Option(help="Folder for the run directories.")] = Path(filenames.RUNS),
) -> None:
    """Copy finished and interrupted runs from the server, and write their reports.

    Example: `fedfmd deploy results --out runs`
    """
    from fedfmd.deployment.serving import operator_of
    from fedfmd.pages.report import write_report

    copied = operator_of(folder).results(out)
    for path in copied:
        console.say(f"report: {write_report([path])}")
    if not copied:
        console.say(f"nothing new: {out} has all that the server has")


@app.command()
def down(
    folder: Folder = HERE,
    volumes: Annotated[bool, typer.Option(help="Also delete state and results.")] = False,
) -> None:
    """Stop and remove the containers; state and results stay.

    Example: `fedfmd deploy down`
    """
    from fedfmd.deployment.serving import containers_of

    containers_of(folder).call("down", *(["--volumes"] if volumes else []))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def node(context: typer.Context) -> None:
    """Run a client: Flower's SuperNode, restricted to the installed app; takes SuperNode's options.

    Example: `fedfmd deploy node --superlink hub.example.org:8000 --root-certificates keys/ca.crt
    --auth-supernode-private-key keys/node.key --node-config 'client-id=2 data="/home/me/pictures.safetensors"
    state="/home/me/state"'`
    """
    from fedfmd.flower.node import main

    main(context.args)
