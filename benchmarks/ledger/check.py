"""Whether what was counted is what the plan says, to the byte."""

from __future__ import annotations

from typing import Any

from ledger.plan import Plan, Share, plans

PLANNED = ("sent_bytes", "received_bytes", "state_bytes")


def counted_plans(rows: list[dict[str, Any]]) -> dict[tuple[str, int], Plan]:
    """The plan of each step that was counted, by optimizer and number of processes."""
    found = {}
    for processes in sorted({int(n) for row in rows for n in row["fsdp2"]}):
        for shapes in sorted({row["shapes"] for row in rows}):
            specs = [row["optimizer"] for row in rows if row["shapes"] == shapes]
            for spec, plan in plans(shapes, processes, specs).items():
                found[spec, processes] = plan
    return found


def deviations(rows: list[dict[str, Any]], planned: dict[tuple[str, int], Plan]) -> list[str]:
    """What differs between counts and plans, in words; nothing where all agree."""
    found = []
    for row in rows:
        spec = row["optimizer"]
        for processes, counts in row["fsdp2"].items():
            plan = planned[spec, int(processes)]
            for rank, (count, share) in enumerate(zip(counts, plan.shares, strict=True)):
                found += [
                    f"{spec} on {processes}, rank {rank}: {name} {count[name]}, planned {value}"
                    for name, value in _planned(plan, share).items()
                    if count[name] != value
                ]
        (alone,) = plans(row["replicated_shapes"], 1, [spec])[spec].shares
        for rank, count in enumerate(row["replicated"]):
            expected = {**dict.fromkeys(count, 0), "state_bytes": alone.state_bytes}
            found += [
                f"{spec} replicated, rank {rank}: {name} {count[name]}, expected {value}"
                for name, value in expected.items()
                if name not in ("flops", "peak_bytes") and count[name] != value
            ]
    return found


def _planned(plan: Plan, share: Share) -> dict[str, int]:
    expected = {name: getattr(share, name) for name in PLANNED}
    expected |= {
        "all_reduces": int(plan.sums > 0),
        "payload_bytes": plan.payload_bytes,
        "exchanges": 3 * plan.turns,
    }
    # Only of Newton-Schulz are the products planned.
    return expected | ({"flops": share.flops} if share.flops else {})
