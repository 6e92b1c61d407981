"""``fedfmd data``: fetch sets, look at them, and pack a client's own images."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from fedfmd.cli.command import App, Set
from fedfmd.cli.voice import console
from fedfmd.errors import UserError

app = App(help="Prepare and inspect data.")


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="cifar10, cifar100 or fashion-mnist.")],
    root: Annotated[Path, typer.Option(help="Folder to download into.")] = Path("data"),
) -> None:
    """Download a dataset and check it.

    Example: `fedfmd data fetch cifar10 --root data`
    """
    from fedfmd.data.fetching import fetch as fetch_dataset

    fetch_dataset(name, root)
    console.say(f"{name} is in {root}")


@app.command()
def inspect(
    config: Annotated[Path, typer.Argument(help="Experiment file (TOML).")],
    set_: Set = None,
    out: Annotated[Path | None, typer.Option(help="File of the figure; default NAME-partition.png.")] = None,
) -> None:
    """Show how the images are partitioned over the clients, as a table and a figure.

    Example: `fedfmd data inspect configs/quickstart.toml`
    """
    from fedfmd.config.experiment import load_config
    from fedfmd.data.configured import partition_data, prepare_data
    from fedfmd.data.prepared import open_prepared
    from fedfmd.devices import check_devices
    from fedfmd.devices.budgets import told_device
    from fedfmd.files import check_file
    from fedfmd.pages.partition import check_format, draw_partition
    from fedfmd.terminal.data import partition_tables

    settings = load_config(config, set_ or [])
    check_devices(settings)
    picture = out or Path(f"{settings.name}-partition.png")
    check_file("--out", picture)
    check_format("--out", picture)
    dataset = open_prepared(prepare_data(settings))
    partition = partition_data(settings, dataset.train_labels, dataset.owners)
    console.print(partition_tables(dataset, partition, partial(told_device, settings)))
    draw_partition(dataset, partition, picture)
    console.say(f"figure: {picture}")


@app.command()
def classes(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[CLASS]...", help="Names of the classes, in the order of the labels."),
    ] = None,
    like: Annotated[
        Path | None, typer.Option(help="Use the sorted names of the class folders in this folder.")
    ] = None,
    image_size: Annotated[int, typer.Option(help="Side of the square images in pixels.")] = 64,
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("classes.txt"),
) -> None:
    """Write the file of classes and image size that all clients pack their images by.

    Example: `fedfmd data classes cat dog bird --image-size 64 --out classes.txt`
    """
    from fedfmd.data.agreement import Agreement
    from fedfmd.data.folders import class_folders
    from fedfmd.files import check_file, write_atomic

    if bool(names) == (like is not None):
        raise UserError("fedfmd data classes: name the classes, or a folder that has them with --like")
    check_file("--out", out)
    found = sorted(class_folders(like)) if like else names or []
    agreement = Agreement.of(found, image_size, "fedfmd data classes")
    write_atomic(out, agreement.text)
    console.say(
        f"{out}: {len(agreement.classes)} classes, {image_size} x {image_size} pixels; for all clients"
    )


@app.command()
def pack(
    source: Annotated[
        str, typer.Argument(help="Folder of class folders, CSV file (file,label), or name of a dataset.")
    ],
    classes: Annotated[
        Path, typer.Option(help="The file from `fedfmd data classes` that all clients share.")
    ],
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("client.safetensors"),
    stats: Annotated[
        Path | None,
        typer.Option(help="JSON file with the mean and std of each channel, if already agreed."),
    ] = None,
    root: Annotated[
        Path | None, typer.Option(help="For a dataset by name: the folder with its files; default data.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="For a dataset by name: a further argument; repeatable."
        ),
    ] = None,
) -> None:
    """Pack a client's own images, on its own machine; the pack never leaves it.

    Example: `fedfmd data pack photos --classes classes.txt --out client.safetensors`
    """
    from fedfmd.config.documents import split_override
    from fedfmd.data.agreement import Agreement, Normalisation
    from fedfmd.data.packs import PackSource, described
    from fedfmd.data.packs import pack as pack_images

    agreed = Agreement.read(classes)
    normalisation = Normalisation.read(stats) if stats else None
    options = dict(split_override(text) for text in set_ or [])
    with console.status("reading images ..."):
        packed = pack_images(PackSource(source, root, options), agreed, normalisation, out)
    console.say(f"{out}: {described(packed)}")


@app.command()
def show(file: Annotated[Path, typer.Argument(help="A pack written by `fedfmd data pack`.")]) -> None:
    """Show what a pack holds: images per class, source, hash and normalisation.

    Example: `fedfmd data show client.safetensors`
    """
    from fedfmd.data.packs import described, open_pack, seen_by
    from fedfmd.terminal.data import counts_table

    packed = open_pack(file)
    console.print(counts_table(packed))
    for line in (described(packed), seen_by(packed)):
        console.say(line)
