"""A run's record survives JSON, and what is no record is refused by the key at fault."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from typing import Any

import pytest

from optbench_llm.run_record import Curves, RunRecord

FAILED = RunRecord(status="oom", reason="killed", optimizer="adamw", lr=1e-3, seed=42, steps=7)
DONE = RunRecord(
    status="done", reason=None, optimizer="adamw", lr=1e-3, seed=42, steps=2, test_loss=2.5,
    hyperparameters=[{"lr": 1e-3, "betas": [0.9, 0.999]}],
    curves=Curves([3.0, 2.75], [1.0, 2.0], [2.0, 3.0], [5, 5]),
)  # fmt: skip


@pytest.mark.parametrize("record", [FAILED, DONE])
def test_a_record_read_from_json_is_the_one_that_was_written(record):
    """Every field, and the curves as such."""
    written = json.dumps(record.to_dict(), allow_nan=False)
    assert RunRecord.from_dict(json.loads(written)) == record


def test_a_loss_that_is_not_finite_is_none():
    """Strict JSON has no word for it; the step keeps its place in the curve."""
    record = RunRecord(**{**vars(FAILED), "curves": Curves([1.0, math.nan, math.inf])})
    assert RunRecord.from_dict(record.to_dict()).curves.losses == [1.0, None, None]


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in DONE.to_dict().items() if key != name}


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({**DONE.to_dict(), "eval_los": 1.0}, r"eval_los: unknown key"),
        (without("seed"), r"seed: this key is missing"),
        ({**DONE.to_dict(), "steps": "2"}, r"steps: expected a valid integer, got '2'"),
        ({**DONE.to_dict(), "seed": True}, r"seed: expected a valid integer, got True"),
        ({**DONE.to_dict(), "status": "fine"}, r"status: expected 'done', .*got 'fine'"),
        ({**DONE.to_dict(), "curves": {"losses": [1.0, "2"]}}, r"curves\.losses\.1: expected"),
        ({**DONE.to_dict(), "curves": {"loss": []}}, r"curves\.loss: unknown key"),
        ([1], r"the record: expected"),
    ],
)
def test_what_is_no_record_is_refused_with_the_key(values, fault):
    """A ValueError: such a file was edited, or another version wrote it."""
    with pytest.raises(ValueError, match=rf"no record of a run: {fault}"):
        RunRecord.from_dict(values)


def test_records_cost_no_torch():
    """The command line reads thousands of them."""
    code = "import sys, optbench_llm.run_record; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
