"""What the containers' image is built from: the installed package itself, so that no repository is needed.

Dockerfile, requirements.txt, scripts      as in ``fedfmd/deployment/image``
app/                                       what `flwr run` sends: names, no code
site/                                      the package, and the metadata that says its version
wheels/                                    optional, the user's: wheels for a machine without an index
"""

import shutil
from pathlib import Path

import fedfmd
from fedfmd.files import copy_folder

PACKAGE = Path(fedfmd.__file__).parent
WHEELS = "wheels"


def write_context(folder: Path) -> None:
    """Write the context of the image's build to ``folder``, in the place of an older one; ``wheels`` stay.

    Raises ``OSError`` as the file system does.
    """
    for old in folder.iterdir() if folder.is_dir() else ():
        if old.name != WHEELS:
            shutil.rmtree(old) if old.is_dir() else old.unlink()
    here = PACKAGE / "deployment"
    copy_folder(here / "image", folder, "__pycache__")
    copy_folder(here / "app", folder / "app", "__pycache__")
    copy_folder(PACKAGE, folder / "site" / "fedfmd", "__pycache__")
    metadata = folder / "site" / f"fedfmd-{fedfmd.__version__}.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Metadata-Version: 2.1\nName: fedfmd\nVersion: {fedfmd.__version__}\n")
