"""``python -m fedfmd`` is ``fedfmd``; ``torchrun -m fedfmd train ...`` needs it."""

from fedfmd.cli.app import main

main()
