"""How far every rule strays from its float64 oracle and from other people's code.

    python benchmarks/oracle_deviation.py [NAME...]

A deviation is the largest difference of any parameter at any of 20 steps over the parameter's
largest displacement. The cases, oracles, traces and libraries are those of the tests; the worst
case counts. Compiled runs take each rule's first case, fp32, two shapes. Libraries are those that
are installed (the extra ``providers``) and compute the same thing; ``optbench-llm audit NAME`` says
what the others do instead. Names on the command line run these alone and write no file.
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

from optbench_llm.audit.deviation import deviations  # noqa: E402
from optbench_llm.audit.implementations import Implementation, theirs  # noqa: E402
from optbench_llm.leaderboard.environment import describe_environment  # noqa: E402

DTYPES = (torch.float32, torch.float64)
STEPS = 20
RESULT = ROOT / "benchmarks" / "results" / "oracle_deviation.json"


def measure(name: str) -> dict[str, Any]:
    """The worst deviations of one rule, over all its cases and all others' implementations."""
    cases = CASES[name]
    return {
        "optimizer": name,
        "oracle_cases": len(cases),
        "fp32_eager": max(deviation(name, case) for case in cases),
        "fp32_compiled": deviation(name, cases[0], shapes=compiled_shapes(name), engine="compiled"),
        "float64_eager": max(deviation(name, case, dtype=torch.float64) for case in cases),
        **traces(name),
        **libraries(name),
    }


def traces(name: str) -> dict[str, Any]:
    """Deviations from numbers that others' code left, and whose code that was."""
    sources, found = [], []
    for path in TRACES:
        trace = load_trace(path)
        if trace["optimizer"] == name:
            source = trace["source"]
            version = source.get("commit", source.get("version", ""))[:10]
            sources.append(f"{source['repository'].removeprefix('https://')} {version}")
            found += [
                [trace_deviation(trace, run, dtype) for dtype in DTYPES] for run in trace["runs"]
            ]
    return _worst("trace", sources, found)


def libraries(name: str) -> dict[str, Any]:
    """Deviations from torch's and libraries' code that computes the same, and which that is."""
    sources, found = [], []
    for row in TORCH_ROWS:
        if row[0] == name:
            sources.append(f"torch:{row[2]}")
            found.append([torch_deviation(row, dtype) for dtype in DTYPES])
    for one in theirs(name):
        if isinstance(one, Implementation) and one.agrees:
            sources.append(one.label)
            found.append([max(deviations(name, one, STEPS, dtype)) for dtype in DTYPES])
    return _worst("library", sources, found)


def _worst(kind: str, sources: list[str], found: list[list[float]]) -> dict[str, Any]:
    fp32, float64 = (max(column) for column in zip(*found, strict=True)) if found else (None, None)
    return {
        kind: "; ".join(dict.fromkeys(sources)) or None,
        f"{kind}_fp32": fp32,
        f"{kind}_float64": float64,
    }


def main() -> None:
    """Print a line a rule and write all to the result file."""
    columns = ["fp32_eager", "fp32_compiled", "float64_eager", "trace_fp32", "library_fp32"]
    print("| optimizer |" + " | ".join(columns) + " | trace | libraries |", flush=True)
    print("|---" * (len(columns) + 3) + "|", flush=True)
    rows = []
    for name in sys.argv[1:] or CASES:
        row = measure(name)
        rows.append(row)
        numbers = " | ".join("–" if row[c] is None else f"{row[c]:.1e}" for c in columns)
        print(
            f"| {name} | {numbers} | {row['trace'] or '–'} | {row['library'] or '–'} |", flush=True
        )
    if sys.argv[1:]:
        return
    document = {
        "command": "python benchmarks/oracle_deviation.py",
        "environment": describe_environment(),
        "rows": rows,
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
