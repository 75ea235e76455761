"""What a row gains over the untouched model against what it takes: time, memory, passes, tries."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from optbench_llm.leaderboard.rows import Row
from optbench_llm.leaderboard.table import Board
from optbench_llm.report.figure import ALIKE, BETTER, OTHER, Figure, Plot, Records, spec_of
from optbench_llm.report.scales import axis_limit, initial_loss

_HEIGHT = 360
#: The height of a name and the width of its letters, of the plot's.
_NAME, _LETTER = 0.045, 0.0095
_KINDS = ["baseline", "other", "below this plot"]
#: Each cost: how it is called, its axis, and its value of a row.
_COSTS: tuple[tuple[str, str, Callable[[Row], float | None]], ...] = (
    ("time", "seconds of training of one run", lambda r: r.costs.train_wall_s),
    (
        "state",
        "optimizer state, bytes per parameter",
        lambda r: r.costs.state_bytes_per_param,
    ),
    ("peak memory", "peak memory, MiB", lambda r: _scaled(r.costs.peak_mem_bytes, 2**-20)),
    ("passes", "forward and backward passes a step", lambda r: r.costs.passes_per_step),
)


def gain_cost(board: Board) -> Figure | None:
    """None where no row is done, or the untouched model's loss is not known."""
    initial = initial_loss(board)
    if initial is None:
        return None
    gains = [
        (row, initial - loss)
        for row in board.rows
        if row.done and not row.a_a and (loss := row.loss(board.recipe.ranked_by)) is not None
    ]
    if not gains:
        return None
    metric = board.recipe.ranked_by.replace("_", " ")
    lowest = _lowest(board, [gain for _, gain in gains])
    lengths = _other_lengths(board, initial)
    plots: list[Plot] = []
    data: dict[str, Records] = {"lengths": lengths} if lengths else {}
    for name, axis, cost in _COSTS:
        known = [(row, gain, cost(row)) for row, gain in gains]
        points = [
            (row, gain, value)
            for row, gain, value in known
            if value is not None and (value > 0 or name == "state")
        ]
        if points:
            data[name] = _records(board, points, lowest, lengths)
            plots.append(Plot(name, _spec(name, axis, metric, with_lengths=bool(lengths))))
    tries = _tries(board, initial)
    if tries:
        data["tries"] = tries
        plots.append(Plot("tries", _tries_spec(metric)))
    return Figure(
        "gain-cost",
        "Gain against cost",
        f"Higher is more {metric} won over the untouched model, left is cheaper; the line joins "
        "the rows that no other beats in both. The baseline is a square; a triangle lies below the "
        "plot: point at it. "
        + ("Dashed: what the baseline gains in shorter and longer runs. " if lengths else "")
        + "Under tries: what is gained by who can afford one, three or five "
        "learning rates.",
        "Times and memory are of this machine, model and batch; on another, the order along the "
        "axis may be another one.",
        tuple(plots),
        data,
    )


def _lowest(board: Board, gains: Sequence[float]) -> float:
    """The lowest gain that is drawn in its place."""
    limit = axis_limit(board)
    return min(gains) if limit is None else max(min(gains), median(gains) - limit)


def _records(
    board: Board,
    points: Sequence[tuple[Row, float, float]],
    lowest: float,
    lengths: Sequence[dict[str, Any]],
) -> list[dict[str, Any]]:
    front = _front(points)
    drawn = [(row, max(gain, lowest), cost) for row, gain, cost in points]
    heights = [gain for _, gain, _ in drawn] + [length["gain"] for length in lengths]
    named = _named(drawn, front, max(heights) - min(heights))
    return [
        {
            "label": row.label,
            "gain": max(gain, lowest),
            "told": f"{gain:.4f}",
            "cost": cost,
            "kind": _kind(board, row, gain < lowest),
            "front": row.label in front,
            "named": row.label in named,
            "steps": _equivalent(row),
        }
        for row, gain, cost in points
    ]


def _kind(board: Board, row: Row, is_below: bool) -> str:
    if is_below:
        return "below this plot"
    return "baseline" if row.label == board.baseline else "other"


def _front(points: Sequence[tuple[Row, float, float]]) -> list[str]:
    """Rows that none beats in both gain and cost, the cheapest first."""
    found: list[str] = []
    best = -math.inf
    for row, gain, _ in sorted(points, key=lambda point: (point[2], -point[1])):
        if gain > best:
            found.append(row.label)
            best = gain
    return found


def _named(
    points: Sequence[tuple[Row, float, float]], front: Sequence[str], span: float
) -> set[str]:
    """Rows whose names do not stand on each other's: those of the front first, then the best.

    ``span`` is how much gain the plot is high.
    """
    across = [math.log1p(cost) for _, _, cost in points]
    width = max(across) - min(across)
    kept: dict[str, tuple[float, float, float]] = {}
    for row, gain, cost in sorted(points, key=lambda p: (p[0].label not in front, -p[1])):
        left, height = math.log1p(cost) / (width or 1.0), gain / (span or 1.0)
        right = left + _LETTER * len(row.label)
        if all(
            abs(height - other) > _NAME or right < its_left or left > its_right
            for its_left, its_right, other in kept.values()
        ):
            kept[row.label] = (left, right, height)
    return set(kept)


def _other_lengths(board: Board, initial: float) -> list[dict[str, Any]]:
    """What the baseline gains in runs of other lengths: known of the test loss alone."""
    if board.recipe.ranked_by != "test_loss":
        return []
    return [
        {"gain": initial - loss, "told": f"{board.baseline}, {steps} steps"}
        for steps, loss in board.baseline_loss_at_steps.items()
    ]


def _tries(board: Board, initial: float) -> list[dict[str, Any]]:
    return [
        {
            "label": row.label,
            "tries": int(k),
            "gain": initial - loss,
            "kind": "baseline" if row.label == board.baseline else "other",
        }
        for row in board.rows
        if not row.a_a
        for k, loss in (row.tuning.with_tries or {}).items()
        if loss is not None
    ]


def _equivalent(row: Row) -> str:
    steps, bound = (
        row.verdict.equivalent_baseline_steps,
        row.verdict.equivalent_baseline_steps_bound,
    )
    return "–" if steps is None else f"{f'{bound} ' if bound else ''}{steps:.0f}"


def _scaled(value: int | None, scale: float) -> float | None:
    return None if value is None else value * scale


def _spec(name: str, axis: str, metric: str, *, with_lengths: bool) -> dict[str, Any]:
    import altair as alt

    base = alt.Chart(alt.NamedData(name)).encode(
        x=alt.X(
            "cost:Q",
            title=axis,
            scale=alt.Scale(type="symlog" if name == "state" else "log", padding=20, nice=False),
            axis=alt.Axis(tickCount=6, format="~g"),
        ),
        y=alt.Y("gain:Q", title=f"gain in {metric}", scale=alt.Scale(zero=False, padding=14)),
    )
    tooltip = [
        alt.Tooltip("label:N", title="optimizer"),
        alt.Tooltip("told:N", title="gain"),
        alt.Tooltip("cost:Q", title=axis, format=".4g"),
        alt.Tooltip("steps:N", title="equivalent baseline steps"),
    ]
    points = base.mark_point(filled=True, size=60, opacity=0.9).encode(
        color=_colour(), shape=_shape(), tooltip=tooltip
    )
    front = base.transform_filter("datum.front")
    line = front.mark_line(interpolate="step-after", color=BETTER, strokeWidth=1.2)
    names = base.transform_filter("datum.named").mark_text(align="left", dx=7, dy=-7)
    layers = [line, points, names.encode(text="label:N")]
    if with_lengths:
        lengths = alt.Chart(alt.NamedData("lengths")).encode(y="gain:Q")
        layers.insert(0, lengths.mark_rule(strokeDash=[5, 4], color=ALIKE))
        words = lengths.mark_text(align="right", dy=-6, color=ALIKE)
        layers.insert(1, words.encode(x=alt.value("width"), text="told:N"))
    chart = alt.layer(*layers)
    return spec_of(chart.properties(width="container", height=_HEIGHT))


def _tries_spec(metric: str) -> dict[str, Any]:
    import altair as alt

    hover = alt.selection_point(
        name="hover", fields=["label"], on="pointerover", nearest=True, empty=False
    )
    base = alt.Chart(alt.NamedData("tries")).encode(
        x=alt.X("tries:O", title="learning rates tried", axis=alt.Axis(labelAngle=0)),
        y=alt.Y("gain:Q", title=f"expected gain in {metric}"),
        detail="label:N",
        color=_colour(),
    )
    lines = base.mark_line().encode(strokeWidth=alt.condition(hover, alt.value(3.5), alt.value(1)))
    points = base.mark_point(filled=True, size=45).encode(
        shape=_shape(),
        tooltip=[
            alt.Tooltip("label:N", title="optimizer"),
            alt.Tooltip("tries:O"),
            alt.Tooltip("gain:Q", format=".4f"),
        ],
    )
    chart = alt.layer(lines, points.add_params(hover))
    return spec_of(chart.properties(width="container", height=_HEIGHT))


def _colour() -> Any:
    import altair as alt

    scale = alt.Scale(domain=_KINDS, range=[OTHER, ALIKE, ALIKE])
    return alt.Color("kind:N", scale=scale, legend=alt.Legend(title=None, orient="top"))


def _shape() -> Any:
    import altair as alt

    scale = alt.Scale(domain=_KINDS, range=["square", "circle", "triangle-down"])
    return alt.Shape("kind:N", scale=scale, legend=alt.Legend(title=None, orient="top"))
