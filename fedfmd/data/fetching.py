"""Download the published files of a set; what is no published file is refused before and after."""

from pathlib import Path

from fedfmd.data import idx
from fedfmd.data.datasets import check_published
from fedfmd.data.requests import FIXED_SIZE, DataRequest, cifar_class, cifar_files
from fedfmd.errors import UserError, as_input


def fetch(name: str, root: Path) -> None:
    """Download a dataset through torchvision and check it; nothing to do for ``embedded``.

    An archive that is in ``root`` already is unpacked without a network. Raises ``UserError`` for one that is
    not the published one, which is then not unpacked, and for unpacked files that are damaged.
    """
    request = DataRequest(name=name, root=root, image_size=32 if name == "imagefolder" else None)
    if request.name == "imagefolder":
        places = f"{root}/train/CLASS and {root}/val/CLASS"
        raise UserError(f"imagefolder: nothing to fetch; put images in {places}")
    if request.name == "embedded":
        return
    if request.name not in FIXED_SIZE:
        raise UserError(f"{name}: nothing to fetch; its own code finds its files")
    check_published(name, [(path, md5) for path, md5 in _archives(name, root) if path.exists()])
    _download(name, root)
    if name == "fashion-mnist":
        with as_input():
            for pair in idx.find_fashion_mnist(root):
                idx.read_labelled(*pair, 10)
    else:
        check_published(name, cifar_files(root, cifar_class(name)))


def _archives(name: str, root: Path) -> list[tuple[Path, str]]:
    """List where torchvision puts the archives of a set, with their MD5."""
    from torchvision.datasets import FashionMNIST

    if name == "fashion-mnist":
        raw = root / "FashionMNIST" / "raw"
        return [(raw / file, md5) for file, md5 in FashionMNIST.resources]
    source = cifar_class(name)
    return [(root / source.filename, source.tgz_md5)]


def _download(name: str, root: Path) -> None:
    from torchvision.datasets import FashionMNIST

    source = FashionMNIST if name == "fashion-mnist" else cifar_class(name)
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--root {root}: cannot be made a folder: {error.strerror}; choose another") from None
    try:
        source(root, train=True, download=True)
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{name}: cannot be fetched into {root}: {reason}; is this machine offline?"
        ) from None
