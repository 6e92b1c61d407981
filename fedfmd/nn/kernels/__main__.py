"""`python -m fedfmd.nn.kernels` builds the compiled kernel ahead of its first use and prints where it is."""

import sys

from fedfmd.nn.kernels import BuildError, build

if __name__ == "__main__":
    try:
        print(build())
    except (BuildError, OSError) as error:
        sys.exit(f"fedfmd: the dynamic convolution's kernel was not built: {error}")
