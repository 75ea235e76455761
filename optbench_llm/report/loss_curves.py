"""Train loss on the way: means over seeds, by step, pass, second or token."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from statistics import fmean, median
from typing import Any

from optbench_llm.leaderboard.rows import Row
from optbench_llm.report.figure import ALIKE, DASHES, LINES, Figure, Plot, spec_of
from optbench_llm.report.sources import Source
from optbench_llm.run_record import Curves

#: Of each curve.
POINTS = 60
_SHOWN_FIRST = 6
_HEIGHT = 380
_AXES = {
    "step": "step",
    "pass": "forward and backward passes",
    "second": "seconds",
    "token": "tokens",
}


def loss_curves(source: Source) -> tuple[Figure | None, list[str]]:
    """The figure, None where no row has a finished seed, and what could not be read."""
    board = source.board
    found: dict[str, dict[int, Curves]] = {}
    faults: list[str] = []
    for row in board.rows:
        try:
            found[row.label] = source.curves(row)
        except ValueError as error:
            faults.append(str(error))
    baseline = board.baseline or ""
    base = found.get(baseline, {})
    records = [
        record
        for row in board.rows
        if (runs := found.get(row.label))
        for record in _records(row, runs, {} if row.label in board.other_data else base)
    ]
    if not records:
        return None, faults
    labels: list[str] = list(dict.fromkeys(record["label"] for record in records))
    first = labels[:_SHOWN_FIRST]
    chosen = list(dict.fromkeys([baseline, *first])) if base else first
    known = [key for key in _AXES if any(record[key] is not None for record in records)]
    shapes = [_Shape(key, f"by {key}", "loss", "train loss", _highest(records)) for key in known]
    if base:
        title = f"train loss less {baseline}'s"
        shapes.insert(0, _Shape("step", f"less {baseline}'s", "less", title, None))
    paired = (
        "All rows see the same batches, so that hard ones raise all curves at once: what is left "
        "of a curve less the baseline's, over the seeds that both have done, is the optimizer's. "
    )
    figure = Figure(
        "loss-curves",
        "Loss curves",
        "Train loss on the way, each point the mean over seeds of a stretch of steps. "
        + (paired if base and not board.other_data else "")
        + "Coloured are the rows that are ticked in the table; point at any other to see its name.",
        "Train loss is no test loss: a row that learns its batches fast need not be the best.",
        tuple(
            Plot(shape.name, _spec(shape, chosen), still=partial(_spec, shape, chosen, still=True))
            for shape in shapes
        ),
        {"curves": records},
        chosen=tuple(chosen),
    )
    return figure, faults


@dataclass(frozen=True)
class _Shape:
    """What a plot has along its axes, and the highest loss that it shows."""

    along: str
    name: str
    value: str
    title: str
    highest: float | None


def _highest(records: Sequence[dict[str, Any]]) -> float:
    """The highest of all, but at most twice what most begin with: beyond it a row diverged."""
    begun = {record["label"]: record["loss"] for record in reversed(records)}
    return min(max(record["loss"] for record in records), 2 * median(begun.values()))


def _records(
    row: Row, runs: Mapping[int, Curves], base: Mapping[int, Curves]
) -> list[dict[str, Any]]:
    """A row's mean curve in at most `POINTS` points, each the mean of a stretch of steps.

    ``base`` are the baseline's runs, by seed as well.
    """
    runs = {seed: run for seed, run in runs.items() if run.losses}
    if not runs:
        return []
    steps = min(len(run.losses) for run in runs.values())
    passes = list(accumulate(next(iter(runs.values())).step_passes or [1.0] * steps))
    seconds = row.costs.train_wall_s
    if seconds is not None:
        seconds = max(0.0, seconds - (row.costs.compile_s or 0.0))
    shared = [seed for seed in runs if seed in base and len(base[seed].losses) >= steps]
    records: list[dict[str, Any]] = []
    for begin, end in _stretches(steps):
        loss = _mean(runs.values(), begin, end)
        if loss is None:
            continue
        part = passes[end - 1] / passes[steps - 1]
        own = _mean([runs[seed] for seed in shared], begin, end)
        others = _mean([base[seed] for seed in shared], begin, end)
        records.append(
            {
                "label": row.label,
                "loss": _six(loss),
                "less": None if own is None or others is None else _six(own - others),
                "step": end,
                "pass": _six(passes[end - 1]),
                "second": None if seconds is None else _six(seconds * part),
                "token": None if not row.costs.tokens else row.costs.tokens * end // steps,
            }
        )
    return records


def _stretches(steps: int) -> list[tuple[int, int]]:
    count = min(POINTS, steps)
    return [(k * steps // count, (k + 1) * steps // count) for k in range(count)]


def _mean(runs: Iterable[Curves], begin: int, end: int) -> float | None:
    """The mean of the losses that are finite; None of none."""
    found = [loss for run in runs for loss in run.losses[begin:end] if loss is not None]
    return fmean(found) if found else None


def _six(value: float) -> float:
    """Six digits: a page is to be small."""
    return float(f"{value:.6g}")


def _spec(shape: _Shape, chosen: list[str], *, still: bool = False) -> dict[str, Any]:
    import altair as alt

    key, value = shape.along, f"{shape.value}:Q"
    picked = alt.param(name="chosen", value=chosen)
    hover = alt.selection_point(
        name="hover", fields=["label"], on="pointerover", nearest=True, empty=False
    )
    place = "indexof(chosen, datum.label)"
    base = alt.Chart(alt.NamedData("curves")).encode(
        x=alt.X(f"{key}:Q", title=_AXES[key]),
        y=alt.Y(value, title=shape.title, scale=_scale(shape)),
        detail="label:N",
    )
    others = base.mark_line(color=ALIKE, strokeWidth=1, opacity=0.3, clip=True)
    coloured = base.transform_filter(f"{place} >= 0").mark_line(strokeWidth=1.8, clip=True)
    if still:
        colours = alt.Scale(domain=chosen, range=[*LINES])
        legend = alt.Legend(title=None, orient="bottom", columns=4)
        coloured = coloured.encode(color=alt.Color("label:N", scale=colours, legend=legend))
    else:
        coloured = coloured.transform_calculate(
            colour=f"{json.dumps(LINES)}[{place} % {len(LINES)}]",
            dash=f"{json.dumps(DASHES)}[floor({place} / {len(LINES)}) % {len(DASHES)}]",
        ).encode(
            color=alt.Color("colour:N", scale=None), strokeDash=alt.StrokeDash("dash:N", scale=None)
        )
    near = base.mark_point(size=40, filled=True, color=ALIKE, clip=True).encode(
        opacity=alt.condition(hover, alt.value(1), alt.value(0)),
        tooltip=[
            alt.Tooltip("label:N", title="optimizer"),
            alt.Tooltip(value, title=shape.title, format=".4f"),
            alt.Tooltip(f"{key}:Q", title=_AXES[key], format=".6g"),
        ],
    )
    chart = alt.layer(others, coloured, near.add_params(hover)).add_params(picked)
    return spec_of(chart.properties(width="container", height=_HEIGHT))


def _scale(shape: _Shape) -> Any:
    import altair as alt

    if shape.highest is None:
        return alt.Scale(zero=False)
    return alt.Scale(zero=False, domainMax=shape.highest)
