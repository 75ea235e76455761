"""The yardstick keeps up with the package: it knows every row and measures one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import optbench_llm as ob

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def test_the_yardstick_knows_every_row(monkeypatch):
    """Each row of the catalog once, and has an implementation to measure."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from yardstick.contenders import all_specs, contenders

    specs = all_specs()
    assert len(specs) == len(set(specs))
    assert set(ob.list_optimizers()) <= set(specs)
    assert all(list(contenders(spec)) for spec in specs)


# Starts a process and compiles.
@pytest.mark.slow
def test_the_yardstick_measures_a_row(tmp_path):
    """Ours by both engines beside torch's, and the bounds below it; tables stay as they are."""
    table = (BENCHMARKS / "README.md").read_bytes()
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "step_time.py"), "--params", "1M", "--optim", "sgd",
         "--repetitions", "3", "--seconds", "0.1", "--results", str(tmp_path)],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    assert "element scope, worst row" in done.stdout
    (row,) = json.loads((tmp_path / "step_time_1M.json").read_text())["rows"]
    measured = {one["label"] for one in row["implementations"] if one.get("step_ms", 0) > 0}
    assert {"ours, compiled", "ours, eager", "torch:SGD"} <= measured
    assert (BENCHMARKS / "README.md").read_bytes() == table
