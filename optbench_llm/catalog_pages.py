"""The catalog as people read it in a terminal, and as programs read it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from optbench_llm.catalog import OptimizerInfo, list_optimizers, optimizer_info

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

MISSING = "–"
UNBOUNDED = 1000


def list_json(pattern: str, category: str | None, scope: str | None) -> list[dict[str, Any]]:
    """The matching optimizers as plain values.

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
            "schedule": info.schedule,
            "program": info.program,
            "published_name": info.published_name,
            "published_loss": info.published_loss,
            "year": info.year,
            "paper": info.paper,
            "url": info.url,
            "aliases": list(info.aliases),
        }
        for info in _matching(pattern, category, scope)
    ]


def print_list(pattern: str, category: str | None, scope: str | None) -> None:
    """Print the matching optimizers as a table.

    Raises:
        ValueError: nothing matches.
    """
    rows = list_json(pattern, category, scope)
    console = _console()
    console.print(fitting_table(rows, console))
    console.print(
        "lr: the declared one. *: train loss of GPT-2 on Alpaca as LMFlow published it in 2024.",
        style="dim",
        highlight=False,
    )
    console.print("optbench-llm info NAME tells more about one of them.", highlight=False)


def fitting_table(rows: list[dict[str, Any]], console: Console) -> Table:
    """The rows of ``list_json``; where they are too wide, the least telling columns go, whole."""
    unbounded = console.options.update(max_width=UNBOUNDED)
    headings = list(_COLUMNS)
    for heading in _FIRST_TO_GO:
        table = _table(rows, headings)
        if console.measure(table, options=unbounded).maximum <= console.width:
            return table
        headings.remove(heading)
    return _table(rows, headings)


def _table(rows: list[dict[str, Any]], headings: Sequence[str]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    for heading in headings:
        style = "bold" if heading == "name" else ""
        justify = "right" if heading in _NUMBERS else "left"
        table.add_column(heading, no_wrap=True, style=style, justify=justify)
    for row in rows:
        table.add_row(*[_COLUMNS[heading](row) for heading in headings])
    return table


def _published(row: dict[str, Any]) -> str:
    loss = row["published_loss"]
    return MISSING if loss is None else f"{loss:.4f}"


_COLUMNS: dict[str, Callable[[dict[str, Any]], str]] = {
    "name": lambda row: row["name"],
    "title": lambda row: row["title"],
    "category": lambda row: row["category"],
    "scope": lambda row: row["scope"],
    "lr": lambda row: f"{row['lr']:g}",
    "published*": _published,
    "year": lambda row: str(row["year"]),
}
_NUMBERS = ("lr", "published*", "year")
_FIRST_TO_GO = ("title", "year", "category", "scope", "published*")


def _console() -> Console:
    """As wide as the terminal; in a file or a pipe, lines end where the text does."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=UNBOUNDED)


def print_info(name: str) -> None:
    """Print all that the catalog knows of one optimizer.

    Raises:
        ValueError: no optimizer of that name.
    """
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    info = optimizer_info(name)
    console = _console()
    console.print(Text(info.name, style="bold") + Text(f"   {info.title}"))
    grid = Table.grid(padding=(0, 2, 0, 0))
    for key, value in _facts(info):
        grid.add_row(Text(key, style="dim"), Text(value))
    console.print(Padding.indent(grid, 2))
    if info.rule:
        console.print()
        console.print(Padding.indent(Text(info.equations.strip()), 2))


def _facts(info: OptimizerInfo) -> list[tuple[str, str]]:
    defaults = (f"{key}={value!r}" for key, value in info.defaults.items() if key != "lr")
    category = f"{info.category}{' (our reading)' if info.category_is_ours else ''}"
    facts = [
        ("paper", f"{info.paper} ({info.year})"),
        ("", info.url or ""),
        ("category", category),
        ("scope", _scope(info)),
        ("needs", _needs(info)),
        ("declared lr", f"{info.lr:g}"),
        ("defaults", ", ".join(defaults)),
        ("state", _state(info)),
    ]
    if info.published_loss is not None:
        published = f"{info.published_loss:.4f} as {info.published_name}"
        facts.append(("published loss", f"{published} (GPT-2 on Alpaca, train loss, 2024)"))
    if info.aliases:
        facts.append(("also known as", ", ".join(info.aliases)))
    if info.notes:
        facts.append(("note", info.notes))
    return [(key, value) for key, value in facts if value]


def _scope(info: OptimizerInfo) -> str:
    sees = {
        "element": "each element by itself",
        "tensor": "sums over a whole tensor",
        "matrix": "whole matrices",
        "model": "sums over all parameters",
    }
    return f"{info.scope}: sees {sees[info.scope]}"


def _needs(info: OptimizerInfo) -> str:
    needs = []
    if info.program:
        needs.append(f"program {info.program}: extra passes over the batch")
    if info.schedule == "constant":
        needs.append("a constant learning rate")
    return "; ".join(needs) or "nothing beyond gradients"


def _state(info: OptimizerInfo) -> str:
    if info.provider:
        return f"kept by {info.provider}"
    if not info.slots:
        return "none"
    return ", ".join(
        f"{slot.name} ({slot.shape}{', >= 0' if slot.positive else ''})" for slot in info.slots
    )


def _matching(pattern: str, category: str | None, scope: str | None) -> list[OptimizerInfo]:
    names = list_optimizers(pattern, category=category, scope=scope)
    if not names:
        wanted = [f"name {pattern}"]
        wanted += [f"category {category}"] if category else []
        wanted += [f"scope {scope}"] if scope else []
        raise ValueError(
            f"no optimizer with {', '.join(wanted)}; optbench-llm list shows all of them"
        )
    return [optimizer_info(name) for name in names]
