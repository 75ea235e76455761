"""What Triton makes of kernels for GPUs that are not there, in a process that compiles them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton", reason="Triton has no wheel for this machine")

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
MEASURE = """
import json, sys
sys.path.insert(0, sys.argv[1])
from triton_code import measure
print(json.dumps(measure(sys.argv[2], sys.argv[3:])))
"""


def measured(spec: str, *targets: str) -> dict[str, Any]:
    """All kernels of a row; compiled, which the interpreter's process cannot."""
    env = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    run = [sys.executable, "-W", "ignore", "-c", MEASURE, str(BENCHMARKS), spec, *targets]
    done = subprocess.run(run, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("spec", "loads", "stores"),
    [("lion", 6, 4), pytest.param("adamw@bf16", 6, 4, marks=pytest.mark.slow)],
)
def test_whole_tiles_are_read_and_written_by_128_bits(spec, loads, stores):
    """A thread has 8 elements: two such loads of fp32 for each tensor, one of bf16."""
    (kernel,) = measured(spec, "sm_90")["sm_90"]["kernels"]
    assert kernel["loads_by_bits"]["128"] == loads
    assert kernel["stores_by_bits"]["128"] == stores


@pytest.mark.slow
@pytest.mark.parametrize("spec", ["lamb", "adamw@int8", "adamp", "novograd", "sophia", "prodigy"])
def test_kernels_keep_their_numbers_in_registers(spec):
    """For NVIDIA's and AMD's; every kind of kernel compiles."""
    found = measured(spec, "sm_80", "sm_90", "gfx942")
    assert found["kernels"] > 0
    for target in ("sm_80", "sm_90", "gfx942"):
        assert found[target]["spilled_bytes"] == 0
