"""The page of an optimizer's memory: its columns and units."""

from __future__ import annotations

import pytest
from command_line import run_here

from optbench_llm.memory_page import memory_json


@pytest.mark.parametrize("model", ["optbench:tiny-gpt2", "gpt2"])
def test_the_table_has_the_bytes_of_the_json_in_millions(model):
    """Each storage under its name; bytes a parameter and the total are of the first one."""
    rows = {
        (row["optimizer"], row["storage"]): row
        for row in memory_json(model, ["lion", "sgd"])["optimizers"]
    }
    shown = run_here("memory", "--model", model, "--optim", "lion,sgd").stdout.splitlines()
    ((*cells, per_param, total),) = (line.split()[1:] for line in shown if "lion" in line)
    millions = [float(cell.replace(",", "")) for cell in (*cells, total)]
    kept = [rows["lion", storage]["state_bytes"] for storage in ("fp32", "bf16", "int8")]
    whole = rows["lion", "fp32"]["total_bytes"]
    assert millions == pytest.approx([count / 1e6 for count in (*kept, whole)], rel=5e-3)
    assert per_param == "4.00"
    assert "State in MB (10^6 bytes)" in " ".join(shown)
