"""The table of the page: the board's own columns, with what they sort and filter by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from optbench_llm.leaderboard.columns import Column, columns
from optbench_llm.leaderboard.rows import Row
from optbench_llm.leaderboard.table import Board

#: What the catalog does not know.
THIRD_PARTY = "third-party"


@dataclass(frozen=True)
class Cell:
    """What a cell shows, and the number that it sorts by; None sorts last."""

    key: str
    text: str
    number: float | None


@dataclass(frozen=True)
class RankBar:
    """Where a rank interval lies, in per cent of all ranks."""

    left: float
    width: float


@dataclass(frozen=True)
class PageRow:
    """A row of the page: its cells, and what it is found by."""

    label: str
    cells: tuple[Cell, ...]
    category: str
    scope: str
    year: str
    status: str
    failed: bool
    differs: bool
    rank_bar: RankBar | None


@dataclass(frozen=True)
class PageTable:
    """Columns, rows, and what each filter offers."""

    columns: tuple[Column, ...]
    rows: tuple[PageRow, ...]
    filters: dict[str, tuple[str, ...]]


def page_table(board: Board) -> PageTable:
    """Every column of the Markdown table, in its order, but for ranks without an interval."""
    shown = [column for column in columns(board.recipe, board.rows) if column.key != "rank"]
    rows = tuple(_row(board, row, shown) for row in board.rows)
    filters = {
        name: tuple(sorted({getattr(row, name) for row in rows}))
        for name in ("category", "scope", "year", "status")
    }
    return PageTable(tuple(shown), rows, {k: v for k, v in filters.items() if len(v) > 1})


def _row(board: Board, row: Row, shown: Sequence[Column]) -> PageRow:
    values = row.to_dict()
    info = None if row.spec is None else row.spec.info
    return PageRow(
        label=row.label,
        cells=tuple(_cell(board, row, column, values) for column in shown),
        category=THIRD_PARTY if info is None else info.category,
        scope=THIRD_PARTY if info is None else info.scope,
        year=THIRD_PARTY if info is None else str(info.year),
        status=row.status,
        failed=not row.done and row.status != "interrupted",
        differs=bool(row.verdict.differs),
        rank_bar=_rank_bar(board, row),
    )


def _cell(board: Board, row: Row, column: Column, values: dict[str, Any]) -> Cell:
    if column.key == "difference" and row.label == board.baseline:
        return Cell(column.key, "baseline", 0.0)
    return Cell(column.key, column.cell(row).strip(), _number(column.key, row, values))


def _number(key: str, row: Row, values: dict[str, Any]) -> float | None:
    if key.startswith("with_"):
        return (row.tuning.with_tries or {}).get(key.removeprefix("with_"))
    value = values.get(key)
    match value:
        case bool() | str():
            return None
        case [int() as low, int() as high]:
            return low + high / 1e6
        case int() | float():
            return float(value)
    return None


def _rank_bar(board: Board, row: Row) -> RankBar | None:
    ranks, count = row.verdict.rank_interval, len(board.took_part)
    if ranks is None or not count:
        return None
    return RankBar(100 * (ranks[0] - 1) / count, 100 * (ranks[1] - ranks[0] + 1) / count)
