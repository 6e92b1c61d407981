"""The compiled kernel: how it is built, and that its results depend on nothing but its arguments."""

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fedfmd.machine.environment import describe_environment
from fedfmd.nn import kernels
from fedfmd.nn.functional import dynamic_conv2d

needs_kernel = pytest.mark.skipif(not kernels.available(), reason="no compiled kernel here")

REPORT = """
import warnings
from fedfmd.nn import kernels
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    print(kernels.available(), kernels.available(), [str(w.message) for w in caught])
"""


def in_new_process(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def gradients(batch: slice, *, size: int = 8) -> list[Tensor]:
    """Per-sample results, then the weight's gradient, for a slice of nine samples."""
    rng = torch.Generator().manual_seed(0)
    x, weight = torch.randn(9, 20, size, size, generator=rng), torch.randn(4, 40, 20, 3, 3, generator=rng)
    attention = torch.rand(9, 4, generator=rng)
    scales = (
        torch.rand(9, 20, generator=rng),
        torch.rand(9, 40, generator=rng),
        torch.rand(9, 9, generator=rng),
    )
    samples = [t[batch].clone().requires_grad_() for t in (x, attention, *scales)]
    weight.requires_grad_()
    x, attention, c, f, s = samples
    y = dynamic_conv2d(
        x,
        weight,
        attention,
        input_scale=c,
        output_scale=f,
        spatial_scale=s,
        padding=1,
        formulation="compiled",
    )
    grad = torch.randn(9, 40, size, size, generator=rng)[batch]
    return [y.detach(), *torch.autograd.grad(y, [*samples, weight], grad)]


@needs_kernel
@pytest.mark.parametrize("size", [4, 8, 17])
def test_a_sample_does_not_depend_on_its_batch(size: int) -> None:
    *together, _ = gradients(slice(0, 9), size=size)
    for part in (slice(0, 1), slice(1, 3), slice(2, 9)):
        *apart, _ = gradients(part, size=size)
        assert all(torch.equal(a[part], b) for a, b in zip(together, apart, strict=True))


@needs_kernel
@pytest.mark.parametrize("size", [4, 17])
def test_results_are_bit_identical_for_any_number_of_threads(size: int) -> None:
    threads = torch.get_num_threads()
    try:
        runs = []
        for count in (1, 2, 3, 1):
            torch.set_num_threads(count)
            runs.append(gradients(slice(0, 9), size=size))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(runs[0], run, strict=True))


@needs_kernel
def test_wrong_shapes_are_refused() -> None:
    weight, attention = torch.randn(2, 4, 3, 3, 3), torch.rand(1, 2)
    with pytest.raises(RuntimeError, match="input channels 5 do not match"):
        dynamic_conv2d(torch.randn(1, 5, 6, 6), weight, attention, formulation="compiled")
    with pytest.raises(RuntimeError, match="does not fit"):
        dynamic_conv2d(torch.randn(1, 3, 2, 2), weight, attention, formulation="compiled")
    with pytest.raises(RuntimeError, match="mix must be"):
        dynamic_conv2d(torch.randn(2, 3, 6, 6), weight, attention, formulation="compiled")


@needs_kernel
def test_double_backward_is_refused_by_name() -> None:
    weight = torch.randn(2, 4, 3, 3, 3, requires_grad=True)
    y = dynamic_conv2d(torch.randn(1, 3, 6, 6), weight, torch.rand(1, 2), formulation="compiled")
    with pytest.raises(RuntimeError, match="formulation='plain'"):
        torch.autograd.grad(y.sum(), weight, create_graph=True)


@needs_kernel
def test_the_cache_knows_an_edited_source(monkeypatch: pytest.MonkeyPatch) -> None:
    included = set(
        re.findall(r'#include "(.+)"', "".join(p.read_text() for p in [*kernels.SOURCES, *kernels.HEADERS]))
    )
    assert included == {header.name for header in kernels.HEADERS}
    before = kernels.library_path()
    monkeypatch.setattr(kernels, "HEADERS", kernels.HEADERS[1:])
    assert kernels.library_path() != before


@needs_kernel
def test_the_library_in_use_has_a_name_which_goes_into_run_directories(tmp_path: Path) -> None:
    name = kernels.build().stem
    assert kernels.expected() == describe_environment()["kernels"] == name
    code = "from fedfmd.nn import kernels; print(kernels.expected())"
    nothing = {"FEDFMD_KERNELS_DIR": str(tmp_path), "PATH": "/nowhere"}
    assert in_new_process(code, FEDFMD_KERNELS_DIR=str(tmp_path)) == name  # it would be built
    assert in_new_process(code, **nothing) == in_new_process(code, FEDFMD_KERNELS="0") == "None"


@needs_kernel
def test_a_user_without_a_home_folder_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs with the number of a user whom it does not know."""
    for name in ("FEDFMD_KERNELS_DIR", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 5)
    with pytest.raises(kernels.BuildError, match="Set FEDFMD_KERNELS_DIR to a folder"):
        kernels.library_path()
    monkeypatch.setenv("FEDFMD_KERNELS_DIR", "/somewhere")
    assert kernels.library_path().parent == Path("/somewhere")


def test_the_environment_turns_the_kernel_off_without_a_word() -> None:
    assert in_new_process(REPORT, FEDFMD_KERNELS="0") == "False False []"


def test_without_a_compiler_says_so_once_and_goes_on(tmp_path: Path) -> None:
    code = REPORT + "\nfrom tests.nn import test_kernels as t; print(t.plain_result())"
    *_, report, result = in_new_process(
        code, FEDFMD_KERNELS_DIR=str(tmp_path), CXX="/no/such/compiler", PYTHONPATH=str(Path.cwd())
    ).splitlines()
    assert report.startswith("False False ['no compiled kernels, using slower operations: /no/such/compiler")
    assert report.count("compiled kernels") == 1
    assert result == plain_result()
    assert not list(tmp_path.glob("*.so"))


def plain_result() -> str:
    x, weight = torch.arange(50.0).view(2, 1, 5, 5), torch.arange(36.0).view(2, 2, 1, 3, 3)
    return str(dynamic_conv2d(x, weight, torch.ones(2, 2)).sum().item())


def test_a_compiler_that_fails_is_a_one_line_reason(tmp_path: Path) -> None:
    script = tmp_path / "broken"
    script.write_text("#!/bin/sh\necho 'first: error: no such thing' >&2\necho more >&2\nexit 1\n")
    script.chmod(0o755)
    report = in_new_process(REPORT, FEDFMD_KERNELS_DIR=str(tmp_path), CXX=str(script))
    assert "first: error: no such thing" in report
    assert "more" not in report


@pytest.mark.skipif(platform.machine() != "x86_64", reason="other machines have their vectors by default")
def test_without_vector_instructions_says_so_and_goes_on() -> None:
    assert "needs AVX2, AVX-512 or NEON, and torch sees DEFAULT" in in_new_process(
        REPORT, ATEN_CPU_CAPABILITY="default"
    )


@pytest.mark.slow
@needs_kernel
@pytest.mark.skipif(platform.machine() != "x86_64", reason="one kind of vectors is all there is")
def test_portable_kernels_serve_other_vectors_where_there_is_no_compiler(tmp_path: Path) -> None:
    cache, own = tmp_path / "cache", kernels.build()
    cache.mkdir()
    shutil.copy(own, cache)
    done = subprocess.run(
        [sys.executable, "-m", "fedfmd.nn.kernels", "--portable"],
        env={**os.environ, "FEDFMD_KERNELS_DIR": str(cache)},
        capture_output=True,
        text=True,
        check=True,
    )
    built = [Path(line) for line in done.stdout.splitlines()]
    assert len(built) == len(kernels.buildable()) == len(list(cache.glob("*.so")))
    assert own.name in {path.name for path in built}
    code = REPORT + "\nfrom tests.nn import test_kernels as t; print(t.own_vectors(), t.plain_result())"
    for vectors in ("avx2", own.name.split("-")[1]):
        report, result = in_new_process(
            code,
            FEDFMD_KERNELS_DIR=str(cache),
            ATEN_CPU_CAPABILITY=vectors,
            PATH="/nowhere",
            PYTHONPATH=str(Path.cwd()),
        ).splitlines()
        assert report == "True True []"
        assert result == f"{vectors.upper()} {plain_result()}"


def own_vectors() -> str:
    return torch.backends.cpu.get_cpu_capability()


@needs_kernel
def test_concurrent_first_uses_build_once(tmp_path: Path) -> None:
    """A stand-in compiler counts what it links, and delivers the library that is already built."""
    script = tmp_path / "counting"
    script.write_text(
        f'#!/bin/sh\n[ "$1" = -c ] && exit\necho run >> {tmp_path}/calls\nsleep 1\n'
        'while [ "$1" != -o ]; do shift; done\n'
        f'cp {kernels.build()} "$2"\n'
    )
    script.chmod(0o755)
    code = "from fedfmd.nn import kernels; print(kernels.available())"
    environment = {**os.environ, "FEDFMD_KERNELS_DIR": str(tmp_path / "cache"), "CXX": str(script)}
    started = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    assert [process.communicate()[0].strip() for process in started] == [b"True"] * 2
    assert (tmp_path / "calls").read_text() == "run\n"
    assert len(list((tmp_path / "cache").glob("*.so"))) == 1
