"""Tuned boards as their ``leaderboard-tuned.json`` tells them: which lr each row found.

Imports neither torch nor what runs boards.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parent
BOARD = "leaderboard-tuned.json"


@dataclass(frozen=True)
class TunedRow:
    """A row with the lr that its search found, and the edges of what was tried that it lies at."""

    optimizer: str
    lr: float
    test_loss: float
    finished: tuple[int, int]
    edges: tuple[str, ...]
    curve: dict[float, float]
    test_losses: tuple[float, ...]


@dataclass(frozen=True)
class TunedBoard:
    """A tuned board: what it ran, and its rows that found an lr, at default arguments."""

    path: Path
    recipe: str
    model: str
    data: str
    steps: int | None
    epochs: float | None
    batch_size: int
    block_size: int
    untouched: float | None
    rows: tuple[TunedRow, ...]

    def row(self, optimizer: str) -> TunedRow | None:
        """The row of an optimizer by its canonical spec."""
        return next((row for row in self.rows if row.optimizer == optimizer), None)

    @property
    def in_words(self) -> str:
        """What was run: ``tiny-tuned (tiny-gpt2 on pydocs, 150 steps of 8 x 64)``."""
        length = f"{self.epochs:g} epochs" if self.steps is None else f"{self.steps} steps"
        model, data = (name.removeprefix("optbench:") for name in (self.model, self.data))
        shape = f"{length} of {self.batch_size} x {self.block_size}"
        return f"{self.recipe} ({model} on {data}, {shape})"


Found = tuple[list[TunedBoard], list[str]]


def tuned_boards(stores: Sequence[Path] | None = None) -> Found:
    """The boards of these stores, or of those in ``runs`` with those that ship, and warnings.

    A warning names a board that is damaged.

    Raises:
        ValueError: a store that was named holds no tuned board.
    """
    if stores is None:
        here, warnings = _read(sorted(Path("runs").glob(f"*/{BOARD}")))
        shipped, more = shipped_boards()
        return [*here, *shipped], [*warnings, *more]
    for store in stores:
        if not (store / BOARD).is_file():
            raise ValueError(f"--store {store}: holds no tuned board (no {BOARD})")
    return _read(store / BOARD for store in stores)


def shipped_boards() -> Found:
    """The boards that come with the package, in a wheel or in a checkout."""
    in_wheel = sorted((PACKAGE / "boards").glob("*.json"))
    return _read(in_wheel or sorted((PACKAGE.parent / "benchmarks" / "boards").glob(f"*/{BOARD}")))


def _read(paths: Iterable[Path]) -> Found:
    boards: list[TunedBoard] = []
    warnings: list[str] = []
    for path in paths:
        try:
            boards.append(_board(path, json.loads(path.read_text(encoding="utf-8"))))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            warnings.append(f"{path}: is no whole tuned board: {type(error).__name__}: {error}")
    return boards, warnings


def _board(path: Path, values: Any) -> TunedBoard:
    recipe = values["recipe"]
    training = recipe["training"]
    return TunedBoard(
        path=path,
        recipe=str(recipe["name"]),
        model=str(recipe["model"]),
        data=str(recipe["data"]["source"]),
        steps=training["max_steps"],
        epochs=training["num_train_epochs"],
        batch_size=int(training["batch_size"]) * int(training["gradient_accumulation_steps"]),
        block_size=int(recipe["data"]["block_size"]),
        untouched=(values.get("untouched") or {}).get("test_loss"),
        rows=tuple(_row(row) for row in values["rows"] if _has_found_an_lr(row)),
    )


def _has_found_an_lr(row: dict[str, Any]) -> bool:
    """Whether it did, and is neither the baseline's twin nor at arguments of its own."""
    usual = not row.get("a_a") and not row.get("arguments")
    return usual and row["lr"] is not None and row["test_loss"] is not None


def _row(row: dict[str, Any]) -> TunedRow:
    done, of = row["finished"]
    searched = {float(run["lr"]): run["validation_loss"] for run in row.get("search") or ()}
    losses = [run["test_loss"] for run in row.get("seeds") or ()]
    return TunedRow(
        optimizer=str(row["optimizer"]),
        lr=float(row["lr"]),
        test_loss=float(row["test_loss"]),
        finished=(int(done), int(of)),
        edges=tuple(row.get("edges") or ()),
        curve={lr: float(loss) for lr, loss in searched.items() if loss is not None},
        test_losses=tuple(float(loss) for loss in losses if loss is not None),
    )
