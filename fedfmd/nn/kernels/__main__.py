"""`python -m fedfmd.nn.kernels [--portable]` builds the compiled kernels ahead of use, and prints where."""

import argparse
import sys
from concurrent.futures import ThreadPoolExecutor

from fedfmd.nn.kernels import BuildError, build, buildable

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m fedfmd.nn.kernels", description="Build the compiled kernels."
    )
    parser.add_argument(
        "--portable", action="store_true", help="for every CPU of this architecture, not this machine's alone"
    )
    try:
        wanted = buildable() if parser.parse_args().portable else [None]
        with ThreadPoolExecutor() as compilers:
            print(*compilers.map(build, wanted), sep="\n")
    except (BuildError, OSError) as error:
        sys.exit(f"fedfmd: the compiled kernels were not built: {error}")
