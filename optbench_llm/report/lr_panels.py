"""Was it tuned? A panel for each row: validation loss over the learning rates that were tried."""

from __future__ import annotations

from typing import Any

from optbench_llm.leaderboard.rows import Row
from optbench_llm.leaderboard.table import Board
from optbench_llm.report.figure import ALIKE, BETTER, OTHER, WORSE, Figure, Plot, spec_of

_WIDTH, _HEIGHT = 150, 90


def lr_panels(board: Board) -> Figure | None:
    """None where no row has been searched."""
    searched = [row for row in board.rows if len(row.tuning.search) > 1]
    if not searched:
        return None
    top, noise = _top(board, searched), board.noise_between_seeds
    known = board.untouched is not None and board.untouched.eval_loss is not None
    records = [record for row in searched for record in _records(row, top)]
    return Figure(
        "lr-panels",
        "Was it tuned?",
        "Each panel is one optimizer: validation loss at every learning rate that its search "
        "tried, all on one scale. Dashed is the declared lr, solid the chosen one; a cross failed"
        + (", and a triangle at the top is worse than the untouched model" if known else "")
        + ". A curve whose lowest point is an end may go on falling beyond it.",
        "Each point is one seed"
        + ("." if noise is None else f", with a noise of about {noise:.2g} from seed to seed."),
        (Plot("", _spec([row.label for row in searched])),),
        {"tried": records},
    )


def _top(board: Board, rows: list[Row]) -> float:
    """Failures, and losses above this, are drawn at it: the untouched model's, or the highest."""
    if board.untouched is not None and board.untouched.eval_loss is not None:
        return board.untouched.eval_loss
    losses = [run.validation_loss for row in rows for run in row.tuning.search]
    return max((loss for loss in losses if loss is not None), default=1.0)


def _records(row: Row, top: float) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    for run in row.tuning.search:
        loss = run.validation_loss
        what = "failed" if loss is None else "worse than untouched" if loss > top else "tried"
        records.append(
            {
                "label": row.label,
                "lr": run.lr,
                "loss": top if loss is None else min(loss, top),
                "line": loss if what == "tried" else None,
                "what": what,
                "told": run.status if loss is None else f"{loss:.4f}",
            }
        )
    for what, lr in (("declared", row.tuning.declared_lr), ("chosen", row.lr)):
        if lr is not None:
            records.append({"label": row.label, "lr": lr, "what": what, "told": f"{what} {lr:.3g}"})
    return records


def _spec(labels: list[str]) -> dict[str, Any]:
    import altair as alt

    x = alt.X(
        "lr:Q",
        title=None,
        scale=alt.Scale(type="log", nice=False, padding=8),
        axis=alt.Axis(format=".0e", tickCount=3, labelFlush=True, grid=False, ticks=False),
    )
    y = alt.Y("loss:Q", title=None, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=3))
    base = alt.Chart().encode(x=x)
    tried = base.transform_filter("isValid(datum.loss)")
    line = tried.mark_line(color=ALIKE, strokeWidth=1.2).encode(y=alt.Y("line:Q", title=None))
    kinds = ["tried", "failed", "worse than untouched"]
    legend = alt.Legend(title=None, orient="top")
    points = tried.mark_point(filled=True, size=34, opacity=1).encode(
        y=y,
        color=alt.Color(
            "what:N", scale=alt.Scale(domain=kinds, range=[BETTER, WORSE, WORSE]), legend=legend
        ),
        shape=alt.Shape(
            "what:N",
            scale=alt.Scale(domain=kinds, range=["circle", "cross", "triangle-up"]),
            legend=legend,
        ),
        tooltip=[
            alt.Tooltip("label:N", title="optimizer"),
            alt.Tooltip("lr:Q", format=".3g"),
            alt.Tooltip("told:N", title="validation loss"),
        ],
    )
    rules = [_rule(base, "declared", [3, 3]), _rule(base, "chosen", [1, 0])]
    panel = alt.layer(*rules, line, points).properties(width=_WIDTH, height=_HEIGHT)
    facet = alt.Facet("label:N", sort=labels, title=None, header=alt.Header(labelLimit=_WIDTH))
    chart = panel.facet(facet, columns=5, data=alt.NamedData("tried"))
    return spec_of(chart.resolve_scale(x="independent"))


def _rule(base: Any, what: str, dash: list[int]) -> Any:
    """A line at the lr of this kind. Other records stay, unseen: no panel's layer may be empty."""
    import altair as alt

    seen = alt.condition(f"datum.what == '{what}'", alt.value(1), alt.value(0))
    tooltip = [alt.Tooltip("label:N", title="optimizer"), alt.Tooltip("told:N", title="lr")]
    return base.mark_rule(color=OTHER, strokeDash=dash, strokeWidth=1.5).encode(
        opacity=seen, tooltip=tooltip
    )
