"""Boards of trials that never ran: their losses are whatever a test says."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from optbench_llm.leaderboard.environment import Environment
from optbench_llm.leaderboard.make_rows import build_board
from optbench_llm.leaderboard.plan import Plan, RowTrials
from optbench_llm.leaderboard.recipe import Recipe, load_recipe, override
from optbench_llm.leaderboard.result import TrialResult
from optbench_llm.leaderboard.store import Store, Untouched
from optbench_llm.leaderboard.table import Board
from optbench_llm.leaderboard.trial import Inputs, TrialSpec
from optbench_llm.run_record import Curves, RunRecord

HERE = Environment(
    versions={"torch": "2.13"},
    python="3.11",
    platform="Linux",
    processor="Some CPU",
    cores=2,
    device="cpu",
    device_type="cpu",
    threads=1,
)
UNTOUCHED = Untouched(4.2, 4.25)

Outcome = Callable[[TrialSpec], RunRecord]


def record(trial: TrialSpec, **values: Any) -> RunRecord:
    """A record of this trial: done, unless ``values`` say otherwise."""
    told = {"status": "done", "reason": None, "steps": trial.max_steps or 150, **values}
    return RunRecord(optimizer=trial.spec, lr=trial.lr, seed=trial.seed, **told)


def failed(trial: TrialSpec, status: str = "diverged", reason: str = "loss is nan at step 3"):
    """The record of a trial that failed."""
    return record(trial, status=status, reason=reason, steps=3)


def result(trial: TrialSpec, its_record: RunRecord, environment: Environment = HERE) -> TrialResult:
    """What a store gives: curves apart from the record."""
    curves = its_record.curves
    return TrialResult(
        trial, replace(its_record, curves=Curves()), 1.0, environment, lambda: curves
    )


def tuned_recipe(*optimizers: Any, **changes: Any) -> Recipe:
    """The shipped tuned recipe with these rows."""
    return override(load_recipe("tiny-tuned"), {"optimizers": list(optimizers), **changes})


@dataclass
class Fake:
    """All trials of a recipe, as its plan asks for them, with the outcomes that a test wants."""

    recipe: Recipe
    outcome: Outcome
    results: dict[str, TrialResult] = field(default_factory=dict)

    def __post_init__(self) -> None:
        plan = Plan(self.recipe, Inputs("m", "d"))
        self.rows: list[RowTrials] = []
        for entry, is_a_a in plan.entries():
            while True:
                row = plan.row(entry, self.results, is_a_a=is_a_a)
                missing = [trial for trial in row.trials if trial.id not in self.results]
                if not missing:
                    break
                for trial in missing:
                    self.results[trial.id] = result(trial, self.outcome(trial))
            self.rows.append(row)

    def forget(self, keep: Callable[[TrialSpec], bool]) -> Fake:
        """The same with only some of the results, as a board that is still running has them."""
        self.results = {id: one for id, one in self.results.items() if keep(one.trial)}
        plan = Plan(self.recipe, Inputs("m", "d"))
        self.rows = [plan.row(r.entry, self.results, is_a_a=r.is_a_a) for r in self.rows]
        return self

    def board(
        self, untouched: Untouched | None = UNTOUCHED, environment: Environment = HERE
    ) -> Board:
        """The board of what there is."""
        return build_board(self.recipe, self.rows, self.results, environment, untouched)


def printed(board: Board, width: int) -> str:
    """Table and notes as a terminal of this width shows them."""
    console = Console(file=io.StringIO(), width=width)
    console.print(board.to_rich(console))
    for note in board.notes(console):
        console.print(note, highlight=False, markup=False)
    return console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]


def cells(board: Board, label: str) -> dict[str, str]:
    """A row of the Markdown table by the titles of its columns."""
    lines = [line for line in board.to_markdown().splitlines() if line.startswith("| ")]
    split: Sequence[list[str]] = [[c.strip() for c in x.split("|")[1:-1]] for x in lines]
    titles = split[0]
    (found,) = [line for line in split[2:] if label in line[:2]]
    return dict(zip(titles, found, strict=True))


def write_store(fake: Fake, path: Path, board: Board | None = None) -> Board:
    """A store on the disk of all the trials, with the tables of ``board`` or of them all."""
    board = fake.board() if board is None else board
    with Store.open(path, Plan(fake.recipe, Inputs("m", "d")).identity) as store:
        store.add_rows(fake.recipe.optimizers)
        for one in fake.results.values():
            store.put(one.trial, replace(one.record, curves=one.curves()), 1.0, one.environment)
        store.write(f"leaderboard-{board.recipe.its_track}.json", board.to_json())
    return board
