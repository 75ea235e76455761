"""The list of the catalog, as people read it in a terminal and as programs read it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from optbench_llm.catalog import OptimizerInfo, list_optimizers, optimizer_info, parse_spec
from optbench_llm.terminal import MISSING, UNBOUNDED, make_console, plain_table

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


@dataclass(frozen=True)
class Selection:
    """Which rows to show; None asks for nothing.

    ``since`` is the first year; ``max_state_bytes`` the state per parameter of a large matrix.
    """

    pattern: str = "*"
    category: str | None = None
    scope: str | None = None
    year: int | None = None
    since: int | None = None
    max_state_bytes: float | None = None

    def rows(self) -> list[OptimizerInfo]:
        """The matching rows, sorted by name.

        Raises:
            ValueError: nothing matches, or a category or scope that no row has.
        """
        names = list_optimizers(self._name(), category=self.category, scope=self.scope)
        found = [info for info in map(optimizer_info, names) if self._takes(info)]
        if not found:
            raise ValueError(f"no optimizer with {self}; optbench-llm list shows all of them")
        return found

    def _name(self) -> str:
        """The pattern, or the row's name where it is another spelling of one."""
        try:
            return parse_spec(self.pattern).canonical
        except ValueError:
            return self.pattern

    def _takes(self, info: OptimizerInfo) -> bool:
        if self.year not in (None, info.year) or info.year < (self.since or info.year):
            return False
        if self.max_state_bytes is None:
            return True
        state = info.state_bytes_per_param
        return state is not None and state <= self.max_state_bytes

    def __str__(self) -> str:
        limit = self.max_state_bytes
        wishes = {
            "name": self.pattern,
            "category": self.category,
            "scope": self.scope,
            "year": self.year,
            "year at least": self.since,
            "state bytes per parameter at most": None if limit is None else f"{limit:g}",
        }
        return ", ".join(f"{name} {wish}" for name, wish in wishes.items() if wish is not None)


def list_json(selection: Selection) -> list[dict[str, Any]]:
    """The matching optimizers as plain values; a row that cannot run yet says so.

    Raises:
        ValueError: nothing matches.
    """
    return [
        {
            "name": info.name,
            "title": info.title,
            "category": info.category,
            "scope": info.scope,
            "lr": info.lr,
            "state_bytes_per_param": info.state_bytes_per_param,
            "schedule": info.schedule,
            "program": info.program,
            "published_name": info.published_name,
            "published_loss": info.published_loss,
            "year": info.year,
            "paper": info.paper,
            "url": info.url,
            "aliases": list(info.aliases),
            "variant_of": info.variant_of,
        }
        for info in selection.rows()
    ]


def print_list(selection: Selection) -> None:
    """Print the matching optimizers as a table.

    Raises:
        ValueError: nothing matches.
    """
    rows = list_json(selection)
    out = make_console()
    out.print(fitting_table(rows, out))
    for note in _notes(rows):
        out.print(note, style="dim", highlight=False)
    out.print("optbench-llm info NAME tells more about one of them.", highlight=False)


def _notes(rows: list[dict[str, Any]]) -> list[str]:
    notes = [
        "lr: the declared one. state: bytes per parameter of a large matrix, in fp32. *: train loss"
        " of GPT-2 on Alpaca as LMFlow published it in 2024."
    ]
    variants = [f"{row['name']} (of {row['variant_of']})" for row in rows if row["variant_of"]]
    if variants:
        notes.append(f"variants: {', '.join(variants)}.")
    return notes


def fitting_table(rows: list[dict[str, Any]], out: Console) -> Table:
    """The rows of ``list_json``; where they are too wide, the least telling columns go, whole."""
    unbounded = out.options.update(max_width=UNBOUNDED)
    headings = list(_COLUMNS)
    for heading in _FIRST_TO_GO:
        table = _table(rows, headings)
        if out.measure(table, options=unbounded).maximum <= out.width:
            return table
        headings.remove(heading)
    return _table(rows, headings)


def _table(rows: list[dict[str, Any]], headings: Sequence[str]) -> Table:
    table = plain_table()
    for heading in headings:
        style = "bold" if heading == "name" else ""
        justify = "right" if heading in _NUMBERS else "left"
        table.add_column(heading, no_wrap=True, style=style, justify=justify)
    for row in rows:
        table.add_row(*[_COLUMNS[heading](row) for heading in headings])
    return table


def _number(key: str, form: str) -> Callable[[dict[str, Any]], str]:
    return lambda row: MISSING if row[key] is None else format(row[key], form)


_COLUMNS: dict[str, Callable[[dict[str, Any]], str]] = {
    "name": lambda row: row["name"],
    "title": lambda row: row["title"],
    "category": lambda row: row["category"],
    "scope": lambda row: row["scope"],
    "lr": _number("lr", ".3g"),
    "state": _number("state_bytes_per_param", ".3g"),
    "published*": _number("published_loss", ".4f"),
    "year": lambda row: str(row["year"]),
}
_NUMBERS = ("lr", "state", "published*", "year")
_FIRST_TO_GO = ("title", "year", "category", "scope", "state", "published*")
