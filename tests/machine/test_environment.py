"""What a run says of its source."""

import shutil
import subprocess
import sys
from pathlib import Path

import fedfmd

ASK = "from fedfmd.machine.environment import source_commit; print(source_commit())"


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", "-C", folder, *identity, *words], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def asked(folder: Path) -> str:
    """Ask the package that lies in a folder."""
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(folder)!r}); {ASK}"]
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder).stdout.strip()


def test_the_commit_of_a_users_project_is_not_that_of_the_package_installed_in_it(tmp_path: Path) -> None:
    """A project with its environment in it; then the same files as the package's own repository."""
    installed = tmp_path / ".venv" / "site-packages"
    shutil.copytree(Path(fedfmd.__file__).parent, installed / "fedfmd", ignore=shutil.ignore_patterns("*.so"))
    (tmp_path / ".gitignore").write_text(".venv\n__pycache__\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "mine")
    assert asked(installed) == "None"
    git(tmp_path, "add", "--force", ".venv")
    git(tmp_path, "commit", "-qm", "its own")
    assert asked(installed).removesuffix("+changes") == git(tmp_path, "rev-parse", "HEAD")
