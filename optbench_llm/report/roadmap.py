"""The catalog as a picture: optimizers by year and category, with their papers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from optbench_llm.catalog import OptimizerInfo
from optbench_llm.catalog.info import ADAPTIVE, ADAPTIVE_PLAIN, ESTIMATED, MOMENTUM
from optbench_llm.report.figure import ALIKE, LINES, Figure, Plot, spec_of
from optbench_llm.report.page import render

_CATEGORIES = (MOMENTUM, ADAPTIVE, ESTIMATED, ADAPTIVE_PLAIN)
_COLUMN, _LINE = 235, 17


def roadmap_page(rows: Sequence[OptimizerInfo]) -> str:
    """A page of the picture, and of the same as lists."""
    figure = roadmap(rows)
    by_category = {
        category: sorted(
            (r for r in rows if r.category == category), key=lambda r: (r.year, r.name)
        )
        for category in _categories(rows)
    }
    data = {
        figure.id: {
            "plots": [{"spec": plot.spec, "narrow": plot.narrow} for plot in figure.plots],
            "data": figure.data,
        }
    }
    title = f"{len(rows)} optimizers"
    return render("roadmap.html", data=data, title=title, figure=figure, by_category=by_category)


def roadmap(rows: Sequence[OptimizerInfo]) -> Figure:
    """Years from top to bottom, a column for each category; a name leads to its paper."""
    records, years = _records(rows)
    return Figure(
        "roadmap",
        "The catalog by year and kind",
        "Each name stands in the year of its paper, in the column of how it comes by its step: "
        "from a fixed lr, one adapted to each weight, or one that it estimates. A click opens the "
        "paper.",
        "A later year does not mean a better optimizer: that is what the boards are for.",
        (Plot("", _spec(_categories(rows), records[-1]["line"] + 1)),),
        {"rows": records, "years": years},
    )


def _categories(rows: Sequence[OptimizerInfo]) -> list[str]:
    there = {row.category for row in rows}
    return [c for c in _CATEGORIES if c in there] + sorted(there.difference(_CATEGORIES))


def _records(rows: Sequence[OptimizerInfo]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A line for each name, and the line that each year begins at."""
    cells: dict[int, dict[str, list[OptimizerInfo]]] = defaultdict(lambda: defaultdict(list))
    for row in sorted(rows, key=lambda row: row.name):
        cells[row.year][row.category].append(row)
    records: list[dict[str, Any]] = []
    years: list[dict[str, Any]] = []
    line = 0
    for year in sorted(cells):
        years.append({"year": str(year), "line": line})
        for category, infos in cells[year].items():
            for place, info in enumerate(infos):
                records.append(
                    {
                        "name": info.name,
                        "title": info.title,
                        "paper": info.paper,
                        "url": info.url,
                        "year": year,
                        "category": category,
                        "line": line + place,
                    }
                )
        line += max(map(len, cells[year].values()))
    return sorted(records, key=lambda record: record["line"]), years


def _spec(categories: list[str], lines: int) -> dict[str, Any]:
    import altair as alt

    y = alt.Y(
        "line:Q",
        title=None,
        axis=None,
        scale=alt.Scale(domain=[-0.7, lines], reverse=True, nice=False),
    )
    x = alt.X(
        "category:N",
        title=None,
        scale=alt.Scale(domain=categories),
        axis=alt.Axis(
            orient="top", labelAngle=0, ticks=False, domain=False, labelFontWeight="bold"
        ),
    )
    names = alt.Chart(alt.NamedData("rows")).encode(y=y, x=x)
    colour = alt.Color(
        "category:N",
        scale=alt.Scale(domain=categories, range=list(LINES[: len(categories)])),
        legend=None,
    )
    shape = alt.Shape("category:N", scale=alt.Scale(domain=categories), legend=None)
    tooltip = [
        alt.Tooltip("title:N", title="optimizer"),
        alt.Tooltip("paper:N"),
        alt.Tooltip("year:O"),
    ]
    marks = names.mark_point(filled=True, size=45, xOffset=-92, opacity=1).encode(
        color=colour, shape=shape
    )
    texts = names.mark_text(align="left", dx=-82).encode(
        text="name:N", href="url:N", tooltip=tooltip
    )
    years = alt.Chart(alt.NamedData("years")).encode(y=y)
    rules = years.mark_rule(color=ALIKE, opacity=0.35, yOffset=-_LINE / 2)
    labels = years.mark_text(align="right", dx=-12, fontWeight="bold").encode(
        x=alt.value(0), text="year:N"
    )
    chart = alt.layer(rules, labels, marks, texts)
    return spec_of(
        chart.properties(
            width=_COLUMN * len(categories), height=_LINE * lines, padding={"left": 40}
        )
    )
