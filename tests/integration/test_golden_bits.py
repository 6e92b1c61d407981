"""The bits of a tiny run, on every instruction set that its hash is known for.

A hash depends on torch's version, and on the instructions that torch and oneDNN may use: one thread and a
fixed order make it the same on any machine that has these. An unknown key prints its hash, to be added to
`golden_hashes.json`, and skips.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HASHES = Path(__file__).with_name("golden_hashes.json")
ISA = {
    "native": {},
    "oneDNN AVX2": {"ONEDNN_MAX_CPU_ISA": "AVX2"},
    "oneDNN SSE4.1": {"ONEDNN_MAX_CPU_ISA": "SSE41"},
    "oneDNN AVX-512": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"},
    "ATen AVX2": {"ATEN_CPU_CAPABILITY": "avx2"},
    "both AVX2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"},
}
CI = ("native", "both AVX2")
PROGRAM = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import torch
from tiny_runs import run_inline
from fedfmd.nn.model_file import load_model, state_sha256
from fedfmd.nn import kernels
run = run_inline(Path(sys.argv[2]), server={"rounds": 2}, model={"norm": "bn"})
print(torch.__version__.split("+")[0], torch.backends.cpu.get_cpu_capability(), sep=", ", end="|")
print("compiled kernels" if kernels.built() else "no compiled kernels", state_sha256(load_model(run.path).state_dict()), sep="|")
"""  # noqa: E501


def hashed(folder: Path, environment: dict[str, str]) -> tuple[str, str]:
    """Return what the bits depend on, and their hash."""
    command = [sys.executable, "-c", PROGRAM, str(Path(__file__).parent), str(folder / "run")]
    shown = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, check=True, timeout=300
    ).stdout
    versions, built, digest = shown.splitlines()[-1].split("|")
    return f"{versions}, {built}", digest


@pytest.mark.parametrize(
    "isa", [isa if isa in CI else pytest.param(isa, marks=pytest.mark.slow) for isa in ISA]
)
def test_a_tiny_run_has_its_golden_bits(tmp_path: Path, isa: str) -> None:
    machine, digest = hashed(tmp_path, ISA[isa])
    key = f"{machine}, {isa}"
    known = json.loads(HASHES.read_text())
    if key not in known:
        print(f"no golden hash for {key}: {digest}")
        (tmp_path / "again").mkdir()
        assert hashed(tmp_path / "again", ISA[isa])[1] == digest
    assert known.get(key, digest) == digest
