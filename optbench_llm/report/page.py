"""The page: one file that opens from a disk, with everything in it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cache
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Any

from optbench_llm.cache import cache_dir, read_checked, write_checked
from optbench_llm.leaderboard.columns import columns
from optbench_llm.leaderboard.notes import explanations, headline, warnings
from optbench_llm.leaderboard.rows import Row
from optbench_llm.report.coupling import SideBySide, coupling, side_by_side
from optbench_llm.report.figure import DASHES, LINES, Figure
from optbench_llm.report.forest import forest
from optbench_llm.report.gain_cost import gain_cost
from optbench_llm.report.loss_curves import loss_curves
from optbench_llm.report.lr_panels import lr_panels
from optbench_llm.report.page_table import PageTable, page_table
from optbench_llm.report.published import published
from optbench_llm.report.sources import Source, names
from optbench_llm.strict_json import finite_only

INDEX = "index.html"
#: Above the table.
_FIRST = ("forest", "lr-panels", "gain-cost")


@dataclass(frozen=True)
class Section:
    """One board of the page."""

    id: str
    name: str
    source: Source
    headline: str
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    first: tuple[Figure, ...]
    later: tuple[Figure, ...]
    table: PageTable
    failed: tuple[Row, ...]
    under_way: tuple[Row, ...]
    recipe: str
    command: str
    facts: dict[str, str]

    @property
    def progress(self) -> str:
        """How far its sweep is, where it is under way."""
        left, planned = self.source.board.trials_left, self.source.board.trials_planned
        return f"{planned - left} of {planned} trials have ended" if left else ""

    @property
    def figures(self) -> tuple[Figure, ...]:
        """All of them, above the table and below it."""
        return (*self.first, *self.later)

    @property
    def has_curves(self) -> bool:
        """Whether there are lines to choose by the ticks of the table."""
        return any(figure.chosen for figure in self.later)


@dataclass(frozen=True)
class Page:
    """Boards with their figures, and what is told of several together."""

    sections: tuple[Section, ...]
    coupling: Figure | None
    side_by_side: SideBySide

    def text(self, *, live: bool = False) -> str:
        """The page itself; a ``live`` one loads itself again while it is looked at."""
        recipes = (section.source.board.recipe.name for section in self.sections)
        return render(
            "page.html",
            title=" and ".join(dict.fromkeys(recipes)),
            sections=self.sections,
            coupling=self.coupling,
            side_by_side=self.side_by_side,
            data=_data(self.sections, self.coupling),
            live=live,
            made=datetime.now(timezone.utc),
        )


def assemble(sources: Sequence[Source]) -> Page:
    """The page of these boards: all that is computed for it, once."""
    sections = (
        _section(f"board-{place}", name, source)
        for place, (name, source) in enumerate(zip(names(sources), sources, strict=True))
    )
    return Page(tuple(sections), coupling(sources), side_by_side(sources))


def make_page(sources: Sequence[Source], *, live: bool = False) -> str:
    """The text of the page of these boards; see `Page.text`."""
    return assemble(sources).text(live=live)


def render(template: str, *, data: Any, **values: Any) -> str:
    """A page of ``templates``, with its styles, scripts and data within it."""
    return (
        _templates()
        .get_template(template)
        .render(
            css=_text("page.css"),
            script=_text("page.js"),
            vega=_vega(),
            data=_in_script(data),
            **values,
        )
    )


def figures_of(source: Source) -> tuple[tuple[Figure, ...], list[str]]:
    """The figures that the board has something to show in, and what could not be read for them."""
    board = source.board
    curves, faults = loss_curves(source)
    found = (forest(board), lr_panels(board), gain_cost(board), curves, published(board))
    return tuple(figure for figure in found if figure is not None), faults


def _section(id: str, name: str, source: Source) -> Section:
    board = source.board
    figures, faults = figures_of(source)
    not_done = [row for row in board.rows if not row.done]
    return Section(
        id=id,
        name=name,
        source=source,
        headline=headline(board.recipe),
        warnings=tuple(warnings(board)),
        notes=(
            *explanations(board, columns(board.recipe, board.rows)),
            *(f"Not in the loss curves: {fault}" for fault in faults),
        ),
        first=tuple(figure for figure in figures if figure.id in _FIRST),
        later=tuple(figure for figure in figures if figure.id not in _FIRST),
        table=page_table(board),
        failed=tuple(row for row in not_done if row.status != "interrupted"),
        under_way=tuple(row for row in not_done if row.status == "interrupted"),
        recipe=_yaml(board.recipe_values()),
        command=_command(source),
        facts=_facts(source),
    )


def _yaml(recipe: dict[str, Any]) -> str:
    """The recipe as a file that the command takes."""
    import yaml

    values = {key: value for key, value in recipe.items() if key != "hash" and value is not None}
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _facts(source: Source) -> dict[str, str]:
    """Hashes of what was compared, the machine and the versions."""
    identity = source.identity
    facts = {"recipe's hash": source.board.recipe_values()["hash"]}
    if identity is not None:
        facts["model's hash"] = identity.inputs.model_fingerprint
        facts["data's hash"] = identity.inputs.data_fingerprint
    environment = source.board.environment.to_dict()
    versions = environment.pop("versions", {})
    facts |= {key.replace("_", " "): str(value) for key, value in environment.items()}
    return facts | {"versions": ", ".join(f"{name} {number}" for name, number in versions.items())}


def _command(source: Source) -> str:
    recipe = source.board.recipe
    return f"optbench-llm leaderboard recipe.yaml --track {recipe.its_track} --store NEW"


def _data(sections: Sequence[Section], shared: Figure | None) -> dict[str, Any]:
    """Plots and their records by the place that shows them."""
    figures = {f"{s.id}-{figure.id}": figure for s in sections for figure in s.figures}
    if shared is not None:
        figures[shared.id] = shared
    told: dict[str, Any] = {"lines": {"lines": LINES, "dashes": DASHES}}
    return told | {
        place: {
            "plots": [{"spec": plot.spec, "narrow": plot.narrow} for plot in figure.plots],
            "data": figure.data,
            "chosen": figure.chosen,
        }
        for place, figure in figures.items()
    }


def _in_script(data: Any) -> str:
    """JSON that nothing in it ends before its end, whatever its strings are."""
    text = json.dumps(finite_only(data), separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


@cache
def _vega() -> str:
    """Vega's scripts; bundling them takes seconds, so the user's cache keeps them."""
    memo = cache_dir() / "vega" / f"{version('vl-convert-python')}.js"
    if known := read_checked(memo):
        return known.decode()
    import vl_convert

    bundle: Any = vl_convert.javascript_bundle  # its stub asks for what it does without
    text = bundle().replace("</script", "<\\/script")
    write_checked(memo, text.encode())
    return text


@cache
def _templates() -> Any:
    import jinja2

    return jinja2.Environment(
        loader=jinja2.PackageLoader("optbench_llm.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _text(name: str) -> str:
    return (resources.files("optbench_llm.report") / "templates" / name).read_text("utf-8")


def write_page(path: Path, text: str) -> None:
    """Write a page, whole or not at all.

    Raises:
        ValueError: the disk is full or the folder cannot be written.
    """
    from optbench_llm.leaderboard.durable import refusing, write_file

    with refusing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, text.encode())
