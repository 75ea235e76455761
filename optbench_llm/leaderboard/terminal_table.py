"""A board for a terminal: as many columns as it has room for, those first that tell most."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from optbench_llm.leaderboard.columns import Column, columns
from optbench_llm.leaderboard.notes import headline, warnings
from optbench_llm.leaderboard.rows import Row
from optbench_llm.terminal import plain_table

if TYPE_CHECKING:
    from rich.console import Console, Group
    from rich.table import Table

    from optbench_llm.leaderboard.table import Board

#: Where there is no room for all, columns go in this order.
_FIRST_TO_GO = {
    "tuned": (
        "peak_mem_bytes",
        "tokens_per_s",
        "eval_loss",
        "lr_tolerance",
        "state_bytes_per_param",
        "train_loss",
        "sensitivity",
        "equivalent_baseline_steps",
        "passes_per_step",
        "optimizer_step_ms",
        "lr",
    ),
    "untuned": (
        "steps",
        "peak_mem_bytes",
        "optimizer_step_ms",
        "state_bytes_per_param",
        "loss_at_equal_time",
        "lr",
        "loss_at_equal_passes",
        "passes_per_step",
        "tokens_per_s",
        "published_loss",
    ),
}


def shown_columns(board: Board, console: Console) -> list[Column]:
    """Those that ``console`` has room for."""
    shown = _of_terminal(board)
    widths = {column.key: _width(column, board.rows) for column in shown}
    first_to_go = _FIRST_TO_GO["tuned" if board.recipe.its_track == "tuned" else "untuned"]
    for key in first_to_go:
        if sum(widths[column.key] for column in shown) <= console.width:
            break
        shown = [column for column in shown if column.key != key]
    return shown


def rich_board(board: Board, console: Console) -> Group:
    """What kind of board it is, what puts it in doubt, and the table."""
    from rich.console import Group
    from rich.text import Text

    shown = shown_columns(board, console)
    table = _table(shown, board.rows)
    keys = {column.key for column in shown}
    hidden = [column.title for column in _of_terminal(board) if column.key not in keys]
    if hidden:
        table.caption = f"Columns hidden, see leaderboard.md: {', '.join(hidden)}"
        table.caption_justify = "left"
    above = [Text(headline(board.recipe)), *(Text(w, style="bold red") for w in warnings(board))]
    return Group(*above, table)


def _of_terminal(board: Board) -> list[Column]:
    """All but those that stand in files alone.

    What became of a row that is not done stands where its difference would, if there are any.
    """
    found = [column for column in columns(board.recipe, board.rows) if not column.wide]
    if not any(column.key == "difference" for column in found):
        return found

    def difference_or_status(row: Row, show: Callable[[Row], str | None]) -> str | None:
        if not row.done:
            return f"{row.status} {row.finished[0]}/{row.finished[1]} "
        return "baseline " if row.label == board.baseline else show(row)

    return [
        replace(column, show=partial(difference_or_status, show=column.show))
        if column.key == "difference"
        else column
        for column in found
        if column.key != "status"
    ]


def _width(column: Column, rows: Sequence[Row]) -> int:
    """What a column takes of a `plain_table`: its longest text, and two spaces."""
    from rich.cells import cell_len

    return 2 + max(cell_len(text) for text in (*column.heading, *map(column.cell, rows)))


def _table(shown: Sequence[Column], rows: Sequence[Row]) -> Table:
    from rich.text import Text

    table = plain_table()
    for column in shown:
        justify = "left" if column.text else "right"
        table.add_column("\n".join(column.heading), justify=justify, no_wrap=True)
    for row in rows:
        first = row.rank == 1 and row.verdict.rank_interval is None
        style = "red" if not row.done else "bold" if first or row.verdict.differs else ""
        table.add_row(*[Text(column.cell(row)) for column in shown], style=style)
    return table
