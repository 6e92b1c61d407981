"""``python -m fedfmd`` is ``fedfmd``; ``torchrun -m fedfmd train ...`` needs it."""

from fedfmd.cli import main

main()
