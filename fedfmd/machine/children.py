"""How processes of this package are started."""

import sys


def module_command(module: str) -> list[str]:
    """Return the command that runs a module of this installation in a process of its own.

    With ``-P``, so that nothing is imported from the working directory: a user's own ``server.py`` or
    ``datasets.py`` there is not ours.
    """
    return [sys.executable, "-P", "-m", module]


def main_command(module: str) -> list[str]:
    """Return the command that calls ``main`` of a module, in a process whose children do not import it again.

    What Python's ``multiprocessing`` starts runs the module that ``module_command`` names once more.
    """
    return [sys.executable, "-P", "-c", f"from {module} import main; main()"]
