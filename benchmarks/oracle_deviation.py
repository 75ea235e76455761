"""How far every rule strays from its float64 oracle and from other people's code.

    python benchmarks/oracle_deviation.py

A deviation is the largest difference of any parameter at any of 20 steps over the parameter's
largest displacement. The cases, oracles and second opinions are those of the tests; the worst case
counts. Compiled runs take each rule's first case, fp32, two shapes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from oracles import CASES  # noqa: E402
from oracles.comparison import compiled_shapes, deviation  # noqa: E402
from oracles.second_opinion import (  # noqa: E402
    TORCH_ROWS,
    TRACES,
    load_trace,
    torch_deviation,
    trace_deviation,
)

from optbench_llm.catalog import published_optimizers  # noqa: E402
from optbench_llm.leaderboard.environment import describe_environment  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "oracle_deviation.json"


def measure(name: str) -> dict[str, Any]:
    """The worst deviations of one rule, over all its cases."""
    cases = CASES[name]
    return {
        "optimizer": name,
        "fp32_eager": max(deviation(name, case) for case in cases),
        "fp32_compiled": deviation(name, cases[0], shapes=compiled_shapes(name), engine="compiled"),
        "float64_eager": max(deviation(name, case, dtype=torch.float64) for case in cases),
        **second_opinion(name),
    }


def second_opinion(name: str) -> dict[str, Any]:
    """Deviations from torch's code or the authors' numbers, and where those come from."""
    sources, found = [], []
    for row in TORCH_ROWS:
        if row[0] == name:
            sources.append(f"torch.optim.{row[2]}")
            found.append([torch_deviation(row, d) for d in (torch.float32, torch.float64)])
    for path in TRACES:
        trace = load_trace(path)
        if trace["optimizer"] == name:
            source = trace["source"]
            version = source.get("commit", source.get("version", ""))[:10]
            sources.append(f"{source['repository'].removeprefix('https://')} {version}")
            for run in trace["runs"]:
                dtypes = (torch.float32, torch.float64)
                found.append([trace_deviation(trace, run, dtype) for dtype in dtypes])
    fp32, float64 = (max(column) for column in zip(*found, strict=True))
    return {
        "second_opinion": "; ".join(dict.fromkeys(sources)),
        "second_opinion_fp32": fp32,
        "second_opinion_float64": float64,
    }


def main() -> None:
    """Print a line a rule and write all to the result file."""
    columns = "fp32_eager", "fp32_compiled", "float64_eager"
    columns += "second_opinion_fp32", "second_opinion_float64"
    print(f"{'optimizer':20}" + "".join(f"{column:>24}" for column in columns), flush=True)
    rows = []
    for name in published_optimizers():
        row = measure(name)
        rows.append(row)
        numbers = "".join(f"{row[column]:>24.1e}" for column in columns)
        print(f"{name:20}{numbers}  {row['second_opinion']}", flush=True)
    document = {
        "command": "python benchmarks/oracle_deviation.py",
        "environment": describe_environment(),
        "rows": rows,
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
