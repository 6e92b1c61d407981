"""Folders of a process: what lives stays, what was killed is removed by the next start."""

import os
import subprocess
import sys
from pathlib import Path

from fedfmd.workers.folders import OwnFolder, remove_left_over


def test_a_folder_lives_as_long_as_its_process_and_no_longer(tmp_path: Path) -> None:
    """Its owner is another process, killed with kill -9: nobody could have tidied up behind it."""
    code = f"""
from pathlib import Path
from fedfmd.workers.folders import OwnFolder
folder = OwnFolder(Path({str(tmp_path)!r}), "kind")
(folder.path / "file").touch()
print(folder.path, flush=True)
input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        path = Path(owner.stdout.readline().strip())
        remove_left_over(tmp_path, "kind")
        assert (path / "file").exists()
        owner.kill()
    remove_left_over(tmp_path, "kind")
    assert not path.exists()


def test_folders_of_others_are_left_alone(tmp_path: Path) -> None:
    names = [f"other-{os.getuid()}-abc", f"kind-{os.getuid() + 1}-abc", "kind"]
    for name in names:
        (tmp_path / name).mkdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / f"kind-{os.getuid()}-link").symlink_to(elsewhere)
    remove_left_over(tmp_path, "kind")
    assert all((tmp_path / name).exists() for name in names)
    assert elsewhere.exists()


def test_two_folders_of_one_process_do_not_disturb_each_other(tmp_path: Path) -> None:
    with OwnFolder(tmp_path, "kind") as one, OwnFolder(tmp_path, "kind") as two:
        assert one.path != two.path
        assert one.path.exists()
        assert two.path.exists()
    assert not list(tmp_path.iterdir())
