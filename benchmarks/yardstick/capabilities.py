"""8-bit state beside fp32's, by the vector instructions that the code may use."""

from __future__ import annotations

from typing import Any

from yardstick.bounds import fastest_library, ours_of
from yardstick.page import about

#: Folders of results, one for each run on the same machine.
CAPABILITIES = ("avx512", "avx2")
NONE = "–"


def capabilities_section(documents: dict[str, list[dict[str, Any]]]) -> str:
    """Runs and one table of all sizes; ``documents`` are those of each capability's folder."""
    runs = [run for found in documents.values() for document in found for run in document["runs"]]
    columns = ["GPT-2", "optimizer"]
    for name in documents:
        columns += [f"{name}: ms", "times fused AdamW", "times its fp32", "bitsandbytes' time"]
    lines = [
        *(about(run) for run in runs),
        "",
        f"| {' | '.join(columns)} |",
        "|---|---|" + "---:|" * (len(columns) - 2),
    ]
    by_size = [{d["params"]: _rows(d) for d in found} for found in documents.values()]
    for size, first in by_size[0].items():
        for spec in first:
            cells = [cell for rows in by_size for cell in _cells(rows.get(size, {}), spec, size)]
            lines.append(f"| {size} | {spec} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _rows(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["optimizer"]: row for row in document["rows"] if "scope" in row}


def _cells(rows: dict[str, dict[str, Any]], spec: str, size: str) -> list[str]:
    """Of one capability; the library's time is in times of ours."""
    row = rows.get(spec, {})
    ours, fp32 = ours_of(row, size), ours_of(rows.get(spec.partition("@")[0], {}), size)
    library = fastest_library(row) if "@" in spec else None
    if ours is None:
        return [NONE] * 4
    ratio = ours["ratio_to_fused"]
    return [
        f"{ours['step_ms']:.1f}" if size != "1M" else f"{ours['step_ms']:.2f}",
        f"{ratio:.2f}",
        f"{ratio / fp32['ratio_to_fused']:.2f}" if fp32 and "@" in spec else NONE,
        f"{library['ratio_to_fused'] / ratio:.1f}×" if library else NONE,
    ]
