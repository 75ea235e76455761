"""The yardstick keeps up with the package: it knows every row and measures one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

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


def test_first_steps_may_be_measured_apart(monkeypatch):
    """They name their own run, and runs that nothing stems from any more are left out."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from yardstick.results import with_first_step, with_row

    runs = [{"command": str(number)} for number in range(4)]
    order = ["a", "b"]
    both = {"optimizer": "a", "first_step": {"warm_s": 1.0}}
    document = with_row(None, {}, runs[0], both, order)
    document = with_row(document, {}, runs[1], {"optimizer": "b"}, order)
    document = with_first_step(document, runs[2], "b", {"warm_s": 2.0})
    document = with_row(document, {}, runs[3], {"optimizer": "a"}, order)
    assert document["runs"] == runs
    document = with_first_step(document, runs[3], "a", {"warm_s": 3.0})
    assert document == {
        "runs": runs[1:],
        "rows": [
            {"optimizer": "a", "first_step": {"warm_s": 3.0, "run": 2}, "run": 2},
            {"optimizer": "b", "first_step": {"warm_s": 2.0, "run": 1}, "run": 0},
        ],
    }


def test_instruction_sets_stand_beside_each_other(monkeypatch):
    """Times of fp32's and of the library's step are those of the same capability."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from yardstick.capabilities import capabilities_section

    def document(capability: str, low: float, library: float) -> dict:
        def one(label: str, ratio: float) -> dict:
            ours = label.startswith("ours")
            return {"label": label, "ours": ours, "ratio_to_fused": ratio, "step_ms": 10 * ratio}

        rows = {
            "lion": [one("ours, compiled", 0.8)],
            "lion@int8": [one("ours, compiled", low), one("bnb:Lion8bit", library)],
        }
        where = {"versions": {}, "processor": "Some CPU", "cores": 2, "python": "3.11"}
        run = {"command": "c", "date": "d", "threads": 1, "capability": capability}
        return {
            "params": "124M",
            "runs": [{**run, "environment": where}],
            "rows": [
                {"optimizer": name, "scope": "element", "implementations": found}
                for name, found in rows.items()
            ],
        }

    section = capabilities_section(
        {"avx512": [document("AVX512", 1.2, 12.0)], "avx2": [document("AVX2", 1.6, 8.0)]}
    )
    assert "Some CPU, AVX512, 2 cores" in section
    assert "Some CPU, AVX2, 2 cores" in section
    assert section.splitlines()[-1] == (
        "| 124M | lion@int8 | 12.0 | 1.20 | 1.50 | 10.0× | 16.0 | 1.60 | 2.00 | 5.0× |"
    )


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
    (run,) = json.loads((tmp_path / "step_time_1M.json").read_text())["runs"]
    assert run["capability"] == torch.backends.cpu.get_cpu_capability()
    measured = {one["label"] for one in row["implementations"] if one.get("step_ms", 0) > 0}
    assert {"ours, compiled", "ours, eager", "torch:SGD"} <= measured
    assert (BENCHMARKS / "README.md").read_bytes() == table
