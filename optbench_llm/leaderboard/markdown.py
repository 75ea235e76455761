"""A board as Markdown: every column, and a sentence on each that is not obvious."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from optbench_llm.leaderboard.columns import columns
from optbench_llm.leaderboard.notes import headline, notes, warnings

if TYPE_CHECKING:
    from optbench_llm.leaderboard.table import Board


def markdown(board: Board) -> str:
    """Headline and doubts, the table, its notes."""
    recipe = board.recipe
    shown = columns(recipe, board.rows)
    lines = [f"# {recipe.name}", "", headline(recipe), ""]
    for warning in warnings(board):
        lines += [f"**{_escape(warning)}**", ""]
    lines += [recipe.description.strip(), ""]
    lines.append(_line([_escape(column.title) for column in shown]))
    lines.append(_line([":--" if column.text else "--:" for column in shown]))
    lines += [_line([_escape(c.cell(row).strip()) for c in shown]) for row in board.rows]
    lines += ["", *[f"- {_escape(note)}" for note in notes(board, shown)]]
    return "\n".join(lines) + "\n"


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*").replace("\n", " ")


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
