"""The compiled CPU kernels: the dynamic convolution, and single passes for what PyTorch does in several.

They are built once, at first use or by `python -m fedfmd.nn.kernels`, and cached for the user under a name
made of the CPU's vectors and a hash of the sources, the flags and torch's version: a new torch, another kind
of CPU or an edited source builds anew, and any number of processes share one cache.  Where the library is not
in the cache and there is no C++ compiler, `available()` is False, says so once, and the PyTorch formulations
take over.  `python -m fedfmd.nn.kernels --portable` fills a cache that serves every CPU of this architecture,
for an image without a compiler.

Environment: FEDFMD_KERNELS=0 turns it off; FEDFMD_KERNELS_DIR moves the cache; CXX names the compiler.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from fedfmd.files import locked

SOURCES = sorted(Path(__file__).parent.glob("*.cpp"))
HEADERS = sorted(Path(__file__).parent.glob("*.h"))

# ATen's vector classes are chosen by these macros; the flags are those ATen's own kernels are built with.
_X86_FLAGS = {
    "AVX512": "-DCPU_CAPABILITY=AVX512 -DCPU_CAPABILITY_AVX512 "
    "-mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx2 -mfma",
    "AVX2": "-DCPU_CAPABILITY=AVX2 -DCPU_CAPABILITY_AVX2 -mavx2 -mfma",
}
_ARM_FLAGS = {"NEON": ""}  # every 64-bit ARM has it
_FLAGS = {"x86_64": _X86_FLAGS, "AMD64": _X86_FLAGS, "aarch64": _ARM_FLAGS, "arm64": _ARM_FLAGS}


class BuildError(RuntimeError):
    """The kernel could not be built; the message is one line."""


def available() -> bool:
    """Whether the kernel is loaded, building it if it has to be; announces once why it is not."""
    return _load()


# What `torch.compiler.assume_constant_result` does, which would load all of PyTorch's compiler to do it.
available._dynamo_marked_constant = True  # type: ignore[attr-defined]


@functools.cache
def built() -> bool:
    """Whether the kernels could be had without building them when this process first asked."""
    if _turned_off():
        return False
    try:
        return library_path().exists() and available()
    except BuildError:
        return False


def expected() -> str | None:
    """The name of the library that is used here, built or to be built; None where there is none to be had."""
    if _turned_off():
        return None
    try:
        library = library_path()
        if not library.exists():
            _compiler()
    except BuildError:
        return None
    return library.stem


def _turned_off() -> bool:
    return os.environ.get("FEDFMD_KERNELS") == "0"


@functools.cache
def _load() -> bool:
    if _turned_off():
        return False
    try:
        torch.ops.load_library(str(build()))
    except (BuildError, OSError) as error:
        reason = str(error).splitlines()[0]
        warnings.warn(f"no compiled kernels, using slower operations: {reason}", stacklevel=3)
        return False
    torch.library.register_fake("fedfmd::mixed_conv2d", _result_shape)
    torch.library.register_fake("fedfmd::mixed_conv2d_backward", _gradient_shapes)
    return True


def build(vectors: str | None = None) -> Path:
    """The path of the library for these sources, torch and `vectors`, compiled if it is not in the cache.

    `vectors` is one of `buildable()`, and what this machine computes with when it is left out; raises
    BuildError where there is no library and none can be made.
    """
    vectors = vectors or _own_vectors()
    library = library_path(vectors)
    if not library.exists():
        command = _compile_command(vectors)
        library.parent.mkdir(parents=True, exist_ok=True)
        with locked(library.with_suffix(".lock")):
            if not library.exists():  # another process may have built it while this one waited
                _compile(command, library)
    return library


def buildable() -> list[str]:
    """The kinds of vectors that the kernels can use on this architecture; raises BuildError if none."""
    if platform.machine() not in _FLAGS:
        raise BuildError(f"it needs AVX2, AVX-512 or NEON, and this is {platform.machine()}")
    return list(_FLAGS[platform.machine()])


def library_path(vectors: str | None = None) -> Path:
    """Where the library is once it is built; raises BuildError where it cannot be."""
    if not SOURCES:  # as in the bundle that `flwr run` sends, which carries Python alone
        raise BuildError("its sources are not beside this package")
    if sys.platform == "win32":
        raise BuildError("not supported on Windows")
    vectors = vectors or _own_vectors()
    # The compiler counts only where it was chosen: a finished library is used where there is none.
    made_of = [torch.__version__, platform.machine(), os.environ.get("CXX", ""), *_options(vectors)]
    sources = b"".join(path.read_bytes() for path in [*SOURCES, *HEADERS])
    digest = hashlib.sha256("\0".join(made_of).encode() + sources).hexdigest()[:16]
    return _cache_directory() / f"kernels-{vectors.lower()}-{digest}.so"


def _cache_directory() -> Path:
    if chosen := os.environ.get("FEDFMD_KERNELS_DIR"):
        return Path(chosen)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fedfmd"
    except RuntimeError as error:  # no home folder, as in a container whose user has no name
        raise BuildError(f"{error} Set FEDFMD_KERNELS_DIR to a folder") from None


def _own_vectors() -> str:
    if buildable() == ["NEON"]:
        return "NEON"
    vectors = torch.backends.cpu.get_cpu_capability()
    if vectors not in buildable():
        raise BuildError(f"it needs AVX2, AVX-512 or NEON, and torch sees {vectors}")
    return vectors


def _options(vectors: str) -> list[str]:
    flags = _FLAGS[platform.machine()][vectors].split()
    abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"
    # Not -ffast-math: every sum keeps its order, and NaN stays NaN.  Nobody asks for floating-point traps;
    # without them conditions become vector masks.  OpenMP's run-time is the one torch has loaded.
    return ["-O3", "-fno-trapping-math", "-std=c++20", "-fPIC", "-shared", "-fopenmp", abi, *flags]


def _compiler() -> str:
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++") or shutil.which("clang++")
    if not compiler:
        raise BuildError("no C++ compiler found (g++, c++ or clang++; or set CXX)")
    return compiler


def _compile_command(vectors: str) -> list[str]:
    root = Path(torch.__file__).parent
    include = root / "include"
    headers = [f"-isystem{include}", f"-isystem{include / 'torch/csrc/api/include'}"]
    libraries = [f"-L{root / 'lib'}", "-ltorch_cpu", "-ltorch", "-lc10"]
    return [_compiler(), *_options(vectors), *headers, *libraries]


def _compile(command: list[str], library: Path) -> None:
    """Compile every source in a process of its own, all at once, and link them."""
    with tempfile.TemporaryDirectory(dir=library.parent) as scratch:
        objects = [Path(scratch) / f"{source.stem}.o" for source in SOURCES]
        result = Path(scratch) / library.name
        compiler, *options = command
        steps = [
            [compiler, "-c", str(source), "-o", str(made), *options]
            for source, made in zip(SOURCES, objects, strict=True)
        ]
        with ThreadPoolExecutor(len(steps)) as threads:
            list(threads.map(_run, steps))
        _run([compiler, *map(str, objects), "-o", str(result), *options])
        result.replace(library)


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise BuildError(f"{command[0]}: {error.strerror}") from error
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if "error" in line]
        raise BuildError(f"{command[0]} failed: {(errors or ['see its output'])[0]}")


# What torch.compile needs to know: the shapes of the operators' results.


def _result_shape(
    x: Tensor,
    weight: Tensor,
    mix: Tensor,
    bias: Tensor | None,
    input_scale: Tensor | None,
    output_scale: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    del mix, bias, input_scale, output_scale, groups
    geometry = zip(x.shape[2:], weight.shape[3:], stride, padding, dilation, strict=True)
    pixels = [
        (size + 2 * pad - apart * (window - 1) - 1) // step + 1 for size, window, step, pad, apart in geometry
    ]
    return x.new_empty([x.shape[0], weight.shape[1], *pixels])


def _gradient_shapes(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    mix: Tensor,
    bias: Tensor | None,
    input_scale: Tensor | None,
    output_scale: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    needs: list[bool],
) -> tuple[Tensor, ...]:
    del stride, padding, dilation, groups
    for_input, for_weight = needs
    results = [
        (x, for_input),
        (weight, for_weight),
        (mix, for_weight),
        (bias, for_weight),
        (input_scale, for_input),
        (output_scale, for_weight),
    ]
    return tuple(
        grad.new_empty([0] if like is None or not wanted else like.shape) for like, wanted in results
    )
