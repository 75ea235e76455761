"""How an optimizer's standing changes with the model: the same rows on several boards."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from optbench_llm.leaderboard.columns import difference_text
from optbench_llm.leaderboard.rows import Row
from optbench_llm.leaderboard.table import Board
from optbench_llm.report.agreement import agreement
from optbench_llm.report.figure import LINES, Figure, Plot, spec_of
from optbench_llm.report.scales import initial_loss
from optbench_llm.report.sources import Source, names
from optbench_llm.terminal import MISSING

_ROW_HEIGHT = 19
_SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down")


def coupling(sources: Sequence[Source]) -> Figure | None:
    """None of fewer than two boards with rows in common."""
    called = _called(sources)
    standings = {
        name: _standings(source.board, called)
        for name, source in zip(names(sources), sources, strict=True)
        if source.board.baseline
    }
    shared = {
        label
        for label in set().union(*standings.values())
        if sum(label in standing for standing in standings.values()) > 1
    }
    if len(standings) < 2 or not shared:
        return None
    spread = {label: _spread(label, standings) for label in shared}
    order = sorted(shared, key=lambda label: (-spread[label], label))
    records = [
        {"label": label, "board": name, "standing": standing[label], "spread": spread[label]}
        for label in order
        for name, standing in standings.items()
        if label in standing
    ]
    models = {source.board.recipe.model for source in sources}
    return Figure(
        "coupling",
        f"The same optimizers on {'other models' if len(models) > 1 else 'several boards'}",
        "Each mark is an optimizer's difference to the baseline on one board, in per cent of what "
        "the baseline gains there over the untouched model: left of 0 is better. Rows whose "
        "standing changes most from board to board come first. " + _agreements(standings),
        "Boards may differ in data, steps and tuning as well as in the model, and the noise of "
        "each is part of the spread.",
        (Plot("", _spec(order, list(standings))),),
        {"standings": records},
    )


@dataclass(frozen=True)
class SideBySide:
    """What each board says of each row that several have: its difference to the baseline."""

    boards: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]


def side_by_side(sources: Sequence[Source]) -> SideBySide:
    """Rows in the order of the first board that has them; empty where none is on two boards."""
    called = _called(sources)
    told = [
        {called[_which(row)]: _told(one.board, row) for row in one.board.rows} for one in sources
    ]
    labels = dict.fromkeys(label for board in told for label in board)
    shared = [label for label in labels if sum(label in board for board in told) > 1]
    rows = tuple((label, tuple(board.get(label, MISSING) for board in told)) for label in shared)
    return SideBySide(tuple(names(sources)), rows)


def _which(row: Row) -> str:
    """What tells optimizers apart over boards; a label does so on its own board alone."""
    return json.dumps([row.optimizer, row.arguments, row.a_a], sort_keys=True)


def _called(sources: Sequence[Source]) -> dict[str, str]:
    """A name for each: its label, with its arguments where another has that label."""
    labels: dict[str, str] = {}
    for source in sources:
        for row in source.board.rows:
            label = row.label
            if label in labels.values() and labels.get(_which(row)) != label:
                told = " ".join(f"{key}={value}" for key, value in row.arguments.items())
                label = f"{row.optimizer} {told or '(its defaults)'}"
            labels.setdefault(_which(row), label)
    return labels


def _told(board: Board, row: Row) -> str:
    if not row.done:
        return row.status
    return "baseline" if row.label == board.baseline else difference_text(row) or MISSING


def _standings(board: Board, called: Mapping[str, str]) -> dict[str, float]:
    """By row, the difference to the baseline in per cent of the baseline's gain."""
    metric = board.recipe.ranked_by
    base = next((row for row in board.rows if row.label == board.baseline), None)
    loss = None if base is None else base.loss(metric)
    initial = initial_loss(board)
    if loss is None or initial is None or initial <= loss:
        return {}
    return {
        called[_which(row)]: 100 * (found - loss) / (initial - loss)
        for row in board.rows
        if row.done and not row.a_a and (found := row.loss(metric)) is not None
    }


def _spread(label: str, standings: dict[str, dict[str, float]]) -> float:
    found = [standing[label] for standing in standings.values() if label in standing]
    return max(found) - min(found)


def _agreements(standings: dict[str, dict[str, float]]) -> str:
    told = []
    for (first, one), (second, other) in combinations(standings.items(), 2):
        both = [label for label in one if label in other]
        found = agreement([one[label] for label in both], [other[label] for label in both])
        if found is not None:
            told.append(f"{first} and {second}: {found.in_words}.")
    return " ".join(told)


def _spec(order: list[str], boards: list[str]) -> dict[str, Any]:
    import altair as alt

    def among(values: Sequence[str]) -> Any:
        return alt.Scale(
            domain=boards, range=[values[place % len(values)] for place in range(len(boards))]
        )

    legend = alt.Legend(title=None, orient="top", columns=1, labelLimit=300)
    y = alt.Y("label:N", sort=order, title=None, axis=alt.Axis(labelLimit=150))
    base = alt.Chart(alt.NamedData("standings")).encode(y=y)
    points = base.mark_point(filled=True, size=65, opacity=0.9).encode(
        x=alt.X("standing:Q", title="difference to the baseline, % of its gain"),
        color=alt.Color("board:N", scale=among(LINES), legend=legend),
        shape=alt.Shape("board:N", scale=among(_SHAPES), legend=legend),
        tooltip=[
            alt.Tooltip("label:N", title="optimizer"),
            alt.Tooltip("board:N"),
            alt.Tooltip("standing:Q", title="% of the baseline's gain", format="+.2f"),
            alt.Tooltip("spread:Q", title="spread over boards", format=".2f"),
        ],
    )
    return spec_of(points.properties(width="container", height=_ROW_HEIGHT * len(order)))
