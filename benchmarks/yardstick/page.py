"""The results as Markdown, and their place in the folder's README."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from yardstick.bounds import bounds_of, fastest_library, libraries_of, ours_of, speed_up

NONE = "–"
COLUMNS = (
    "optimizer",
    "scope",
    "bytes/param",
    "compiled ms",
    "GB/s",
    "× roofline",
    "eager × roofline",
    "fastest library",
    "ours is faster",
    "than pytorch_optimizer",
    "extra memory %",
    "first step s",
)


def insert(readme: Path, name: str, tables: str) -> None:
    """Put tables between the markers of this name in the README.

    Raises ValueError where it has no such markers.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    text = readme.read_text(encoding="utf-8")
    if begin not in text or end not in text:
        raise ValueError(f"{readme}: expected the lines {begin} and {end} around the tables")
    head, tail = text.split(begin)[0], text.split(end)[1]
    readme.write_text(f"{head}{begin}\n\n{tables}\n\n{end}{tail}", encoding="utf-8")


def section(document: dict[str, Any]) -> str:
    """All of one size: where it was measured, bounds, rows, and what could not be measured."""
    lines = [
        f"### GPT-2 {document['params']}: {document['parameters']:,} parameters in"
        f" {document['tensors']} tensors",
        "",
        *(about(run) for run in document["runs"]),
        "",
        *bounds_table(document),
        "",
        f"| {' | '.join(COLUMNS)} |",
        "|---|---|" + "---:|" * 5 + "---|" + "---:|" * 4,
        *(_line(row, document["params"]) for row in document["rows"] if "scope" in row),
        "",
        *_failures(document["rows"]),
    ]
    return "\n".join(lines).rstrip()


def bounds_table(document: dict[str, Any]) -> list[str]:
    """Every bound with the measured figure beside it."""
    verdicts = {True: "met", False: "**missed**", None: "not measured"}
    return [
        "| bound | | measured | |",
        "|---|---|---|---|",
        *(
            f"| {b.what} | {b.bound} | {b.measured} | {verdicts[b.met]} |"
            for b in bounds_of(document)
        ),
    ]


def about(run: dict[str, Any]) -> str:
    """The line of a run: command, date, machine and versions."""
    where = run["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    return (
        f"- `{run['command']}`, {run['date']}: {where['processor']},"
        f" {run['capability']}, {where['cores']} cores,"
        f" {run['threads']} threads, Python {where['python']}, {versions}."
    )


def _line(row: dict[str, Any], size: str) -> str:
    own = {one["label"]: one for one in row["implementations"] if "reason" not in one}
    compiled, eager = own.get("ours, compiled", {}), own.get("ours, eager", {})
    library = fastest_library(row)
    first = row.get("first_step", {})
    others = [one.get("extra_peak_percent") for one in libraries_of(row)]
    memory = [_percent(one.get("extra_peak_percent")) for one in (compiled, eager)] + [
        _span([other for other in others if other is not None])
    ]
    cells = (
        row["optimizer"],
        row["scope"],
        _number(row["bytes_per_param"], 1),
        _number(compiled.get("step_ms"), 1 if size != "1M" else 2),
        _number(compiled.get("gb_per_s"), 1),
        _number(compiled.get("ratio_to_roofline"), 2),
        _number(eager.get("ratio_to_roofline"), 2),
        library["label"] if library else NONE,
        _times(speed_up(row, size)) if ours_of(row, size) else NONE,
        _times(speed_up(row, size, "pytorch_optimizer:")),
        " / ".join(memory) if set(memory) != {NONE} else NONE,
        f"{first['cold_s']:.1f} / {first['warm_s']:.1f}" if "warm_s" in first else NONE,
    )
    return f"| {' | '.join(cells)} |"


def _failures(rows: list[dict[str, Any]]) -> list[str]:
    """What is missing from the table, and why."""
    missing: list[str] = []
    for row in rows:
        missing += [
            f"- {row['optimizer']}, {one['label']}: {one['reason']}"
            for one in row.get("implementations", ())
            if "reason" in one
        ]
        reason = row.get("first_step", {}).get("reason")
        missing += [f"- {row['optimizer']}, first step: {reason}"] if reason else []
    return ["Not measured:", "", *missing] if missing else []


def _number(value: float | None, digits: int) -> str:
    return NONE if value is None else f"{value:.{digits}f}"


def _times(value: float | None) -> str:
    return NONE if value is None else f"{value:.1f}×"


def _percent(value: float | None) -> str:
    return NONE if value is None else f"{value:.1f}"


def _span(values: list[float]) -> str:
    if not values:
        return NONE
    low, high = f"{min(values):.0f}", f"{max(values):.0f}"
    return low if low == high else f"{low}…{high}"
