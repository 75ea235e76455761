"""This board's order beside the published one."""

from __future__ import annotations

from typing import Any

from optbench_llm.leaderboard.notes import published_compares
from optbench_llm.leaderboard.table import Board
from optbench_llm.report.agreement import agreement
from optbench_llm.report.figure import ALIKE, BETTER, Figure, Plot, spec_of

_HEIGHT = 380


def published(board: Board) -> Figure | None:
    """None of fewer than two rows that both have."""
    metric = board.recipe.ranked_by
    rows = [
        (row.label, row.published_loss, loss)
        for row in board.rows
        if row.done and not row.a_a and row.published_loss is not None
        if (loss := row.loss(metric)) is not None
    ]
    if len(rows) < 2:
        return None
    theirs, ours = [row[1] for row in rows], [row[2] for row in rows]
    agree = agreement(theirs, ours)
    records = [
        {
            "label": label,
            "published": a,
            "here": b,
            "place": _place(a, theirs),
            "rank": _place(b, ours),
        }
        for label, a, b in rows
    ]
    title = "Beside the published order"
    return Figure(
        "published",
        title,
        "Each point is one optimizer of the published table: its place there against its place "
        "among the same rows here. On the diagonal, both agree"
        + (f": {agree.in_words}." if agree else "."),
        "The published losses are single untuned runs at one lr. "
        + published_compares(board.recipe),
        (Plot("", _spec(len(rows), metric.replace("_", " "))),),
        {"rows": records},
    )


def _place(loss: float, losses: list[float]) -> int:
    return 1 + sum(other < loss for other in losses)


def _spec(count: int, metric: str) -> dict[str, Any]:
    import altair as alt

    scale = alt.Scale(domain=[0.5, count + 0.5], nice=False)
    x = alt.X("place:Q", title="place in the published table", scale=scale)
    y = alt.Y("rank:Q", title="place here", scale=alt.Scale(**scale.to_dict(), reverse=True))
    base = alt.Chart(alt.NamedData("rows")).encode(x=x, y=y)
    points = base.mark_point(filled=True, size=60, color=BETTER, opacity=1).encode(
        tooltip=[
            alt.Tooltip("label:N", title="optimizer"),
            alt.Tooltip("published:Q", title="published train loss", format=".4f"),
            alt.Tooltip("here:Q", title=f"{metric} here", format=".4f"),
        ]
    )
    names = base.mark_text(align="left", dx=7).encode(text="label:N")
    ends = alt.InlineData(values=[{"place": 1, "rank": 1}, {"place": count, "rank": count}])
    diagonal = alt.Chart(ends).mark_line(color=ALIKE, strokeDash=[4, 4]).encode(x=x, y=y)
    chart = alt.layer(diagonal, points, names)
    return spec_of(chart.properties(width="container", height=_HEIGHT))
