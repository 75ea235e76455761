"""Every row on the device against the CPU: three shapes, five steps, eagerly and by Triton."""

from __future__ import annotations

from yardstick.contenders import all_specs

from gpu.lanes import in_lanes
from gpu.report import Report
from gpu.tolerances import findings_of
from optbench_llm.catalog import parse_spec
from optbench_llm.leaderboard.cores import usable_cores

ENGINES = ("eager", "triton")
MOST_LANES = 8
#: Of one row by one engine: a GPU's kernels are compiled, a CPU's interpreted.
ROW_LIMIT_S = {"cuda": 60, "cpu": 300}


def run(report: Report, device: str) -> None:
    """Put all rows of ours through both engines, several at a time."""
    specs = [spec for spec in all_specs() if not parse_spec(spec).info.provider]
    tasks = [{"spec": s, "engine": e, "device": device} for e in ENGINES for s in specs]
    lanes = min(MOST_LANES, usable_cores())
    refused: dict[str, list[str]] = {}
    limit_s = ROW_LIMIT_S[device]
    for task, result in in_lanes(tasks, "gpu.row_process", lanes=lanes, limit_s=limit_s):
        row = f"{task['spec']}, {task['engine']}"
        report.record(row, result)
        if "refused" in result:
            refused.setdefault(result["refused"], []).append(row)
        elif "error" in result:
            report.find(f"{row}: {result['error']}")
        else:
            for finding in findings_of(task["spec"], task["engine"], result):
                report.find(finding)
    for reason, rows in refused.items():
        refusal = f"refused {len(rows)} rows ({'; '.join(sorted(rows))}): {reason}"
        # A CPU need not have every engine, a GPU must.
        if device == "cpu":
            print(f"    {refusal}")
        else:
            report.find(refusal)
