"""Differences to the baseline with their intervals, row under row."""

from __future__ import annotations

import json
from typing import Any

from optbench_llm.leaderboard.columns import DIFFERS, difference_text
from optbench_llm.leaderboard.rows import Row
from optbench_llm.leaderboard.table import Board
from optbench_llm.report.figure import ALIKE, BETTER, OTHER, WORSE, Figure, Plot, spec_of
from optbench_llm.report.scales import axis_limit

_KINDS = {
    "better": (BETTER, "triangle-left"),
    "worse": (WORSE, "triangle-right"),
    "not told apart": (ALIKE, "circle"),
    "baseline": (OTHER, "square"),
    "A/A check": (OTHER, "diamond"),
}
_ROW_HEIGHT = 19


def forest(board: Board) -> Figure | None:
    """None where the board has no intervals to show."""
    limit = axis_limit(board)
    if limit is None or board.baseline is None:
        return None
    records = [_record(board, row, limit) for row in board.rows]
    metric = board.recipe.ranked_by.replace("_", " ")
    off = any(record["off"] for record in records)
    banded = any(row.verdict.claim_margin for row in board.rows)
    return Figure(
        "forest",
        f"Difference to {board.baseline}",
        f"Left of 0 is a lower {metric} than {board.baseline}'s. The line is the 95 % interval; "
        + ("a difference within the grey band is never claimed, and " if banded else "")
        + "only triangles are claims. Beside the number stands the interval of ranks."
        + (" A row whose mark stands at the edge lies beyond it: read its number." if off else ""),
        "A row that is not told apart is not shown to be equal: more seeds might tell.",
        (Plot("", _spec(board, records, limit), _spec(board, records, limit, narrow=True)),),
        {"rows": records},
    )


def _record(board: Board, row: Row, limit: float) -> dict[str, Any]:
    verdict = row.verdict
    is_baseline = row.label == board.baseline
    kind = _kind(board, row)
    center = 0.0 if is_baseline else verdict.difference
    low, high = verdict.difference_interval or (None, None)
    margin = verdict.claim_margin or 0.0
    ranks = verdict.rank_interval
    return {
        "label": row.label,
        "kind": kind,
        "difference": _clamp(center, limit),
        "low": _clamp(low, limit),
        "high": _clamp(high, limit),
        "band_low": -min(margin, limit),
        "band_high": min(margin, limit),
        "off": center is not None and abs(center) > limit,
        "numbers": _numbers(row, is_baseline),
        "short": _short(row, is_baseline),
        "ranks": "–" if ranks is None else f"{ranks[0]} to {ranks[1]}",
        "finished": f"{row.finished[0]} of {row.finished[1]} seeds",
    }


def _kind(board: Board, row: Row) -> str:
    if row.a_a:
        return "A/A check"
    if row.label == board.baseline:
        return "baseline"
    if row.verdict.difference is None:
        return "no claim" if row.done else "not done"
    if not row.verdict.differs:
        return "not told apart"
    return "better" if row.verdict.difference < 0 else "worse"


def _numbers(row: Row, is_baseline: bool) -> str:
    if not row.done:
        return f"{row.status} {row.finished[0]}/{row.finished[1]}"
    told = "baseline" if is_baseline else difference_text(row) or "no claim"
    ranks = row.verdict.rank_interval
    return told if ranks is None else f"{told:<15} {ranks[0]}–{ranks[1]}"


def _short(row: Row, is_baseline: bool) -> str:
    """The same in the width that a phone has for it."""
    difference = row.verdict.difference
    if difference is None or is_baseline:
        return row.status if not row.done else "0"
    return f"{difference:+.3f}{DIFFERS if row.verdict.differs else ''}"


def _clamp(value: float | None, limit: float) -> float | None:
    return None if value is None else max(-limit, min(limit, value))


def _spec(
    board: Board, records: list[dict[str, Any]], limit: float, *, narrow: bool = False
) -> dict[str, Any]:
    import altair as alt

    order = [record["label"] for record in records]
    y = alt.Y("label:N", sort=order, title=None, axis=alt.Axis(labelLimit=110 if narrow else 190))
    told = "short" if narrow else "numbers"
    numbers = json.dumps({record["label"]: record[told] for record in records})
    right = alt.Axis(
        orient="right", labelExpr=f"{numbers}[datum.value]", labelFont="monospace", ticks=False,
        domain=False, labelLimit=190,
    )  # fmt: skip
    title = f"difference in {board.recipe.ranked_by.replace('_', ' ')} (lower is better)"
    scale = alt.Scale(domain=[-limit, limit], nice=False, zero=False)
    x = alt.X("difference:Q", title=title, scale=scale, axis=alt.Axis(tickCount=7))
    kinds = [kind for kind in _KINDS if any(record["kind"] == kind for record in records)]
    colour = alt.Scale(domain=kinds, range=[_KINDS[kind][0] for kind in kinds])
    shape = alt.Scale(domain=kinds, range=[_KINDS[kind][1] for kind in kinds])
    legend = alt.Legend(title=None, orient="top", columns=3 if narrow else 0, symbolOpacity=1)
    tooltip = [
        alt.Tooltip("label:N", title="optimizer"),
        alt.Tooltip("kind:N", title="verdict"),
        alt.Tooltip("numbers:N", title="difference"),
        alt.Tooltip("ranks:N", title="rank"),
        alt.Tooltip("finished:N", title="done"),
    ]
    base = alt.Chart(alt.NamedData("rows")).encode(y=y)
    band = base.mark_bar(color=ALIKE, opacity=0.18, height=_ROW_HEIGHT).encode(
        x=alt.X("band_low:Q", scale=scale, title=title), x2="band_high:Q"
    )
    lines = base.mark_rule(strokeWidth=1.6).encode(
        x=alt.X("low:Q", scale=scale, title=title),
        x2="high:Q",
        color=alt.Color("kind:N", scale=colour, legend=legend),
    )
    points = base.mark_point(filled=True, size=70, opacity=1).encode(
        x=x,
        color=alt.Color("kind:N", scale=colour, legend=legend),
        shape=alt.Shape("kind:N", scale=shape, legend=legend),
        tooltip=tooltip,
    )
    zero = (
        alt.Chart(alt.InlineData(values=[{"zero": 0}]))
        .mark_rule(color=OTHER, strokeDash=[3, 3])
        .encode(x=alt.X("zero:Q", scale=scale, title=title))
    )
    layers = [band, zero, lines, points]
    size = {"width": "container", "height": _ROW_HEIGHT * len(records)}
    texts = base.mark_point(opacity=0).encode(
        x=x, y=alt.Y("label:N", sort=order, title=None, axis=right)
    )
    both = alt.layer(texts, alt.layer(*layers)).resolve_scale(y="independent")
    return spec_of(both.properties(**size))
