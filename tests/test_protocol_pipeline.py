"""The whole way of a tuned board under a known truth: agenda, search, store, rows, claims."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_board import HERE, UNTOUCHED, record, result, tuned_recipe

from optbench_llm.leaderboard.agenda import Agenda
from optbench_llm.leaderboard.make_rows import build_board
from optbench_llm.leaderboard.plan import Plan
from optbench_llm.leaderboard.store import Store
from optbench_llm.leaderboard.trial import Inputs, TrialSpec
from optbench_llm.run_record import Curves, RunRecord

ROWS, WORSE, BOARDS = 24, 3, 100
#: The noise between seeds, in loss, and how much worse three rows are.
SIGMA, EFFECT = 0.005, 4.0


class Truth:
    """Rows that are one optimizer, but for three, their declared lrs off by up to a decade.

    ``curvature`` is the loss that a decade from the best lr costs, in noises, three times as much
    above it. All noise is a trial's own, but for what a seed does to all rows.
    """

    def __init__(self, seed: int, curvature: float) -> None:
        chance = np.random.default_rng(seed)
        self.curvature, self._seed = curvature, seed
        self.entries: list[Any] = [
            {
                "spec": "adamw",
                "lr": float(10 ** (-3 + chance.uniform(-1, 1))),
                "args": {"eps": 1e-9 * (i + 1)},
            }
            for i in range(ROWS)
        ]

    def mean(self, place: int, lr: float) -> float:
        off = math.log10(lr) + 3
        loss = self.curvature * off**2 * (3 if off > 0 else 1)
        return loss + (EFFECT if 1 <= place <= WORSE else 0.0)

    def record(self, trial: TrialSpec) -> RunRecord:
        place = round(trial.hyperparameters["eps"] / 1e-9) - 1
        own = np.random.default_rng([self._seed, int(trial.id, 16) % 2**32]).standard_normal(2)
        shared = np.random.default_rng([self._seed, 7, trial.seed]).standard_normal(2)
        validation, test = 3 + SIGMA * (self.mean(place, trial.lr) + own + shared)
        return record(
            trial, train_loss=3.0, eval_loss=float(validation), test_loss=float(test),
            batches_hash=f"{trial.seed} {trial.max_steps}", curves=Curves(losses=[3.0]),
        )  # fmt: skip


def rows_of(truth: Truth, store: Path | None) -> tuple[Plan, list[dict[str, Any]], dict[str, Any]]:
    """The rows of a board of this truth, by place, its results from a store on the disk or not."""
    recipe = tuned_recipe(*truth.entries)
    plan = Plan(recipe, Inputs("m", "d"))
    results: dict[str, Any] = {}
    agenda = Agenda(plan, results)
    while (trial := agenda.take(0)) is not None:
        results[trial.id] = result(trial, truth.record(trial))
        agenda.finished(trial)
    if store is not None:
        with Store.open(store, plan.identity) as opened:
            for one in results.values():
                opened.put(one.trial, replace(one.record, curves=one.curves()), 1.0, HERE)
        results = Store.read(store, plan.identity).by_id
    rows = [plan.row(entry, results, is_a_a=twin) for entry, twin in plan.entries()]
    board = build_board(recipe, rows, results, HERE, UNTOUCHED).to_dict()
    of_place = {
        round(row["arguments"]["eps"] / 1e-9) - 1: row for row in board["rows"] if not row["a_a"]
    }
    return plan, [of_place[place] for place in range(ROWS)], board


def judged(truth: Truth, store: Path | None = None) -> tuple[bool, float, float]:
    """Whether a board claims what is not so, and the shares that it finds and covers."""
    _, rows, _ = rows_of(truth, store)
    base = truth.mean(0, rows[0]["lr"])
    false = any(row["differs"] for row in rows[1 + WORSE :])
    found = float(np.mean([row["differs"] for row in rows[1 : 1 + WORSE]]))
    covered = []
    for place, row in enumerate(rows[1:], start=1):
        low, high = row["difference_interval"]
        covered.append(low <= SIGMA * (truth.mean(place, row["lr"]) - base) <= high)
    return false, found, float(np.mean(covered))


# Sixty boards of 24 rows, whole.
@pytest.mark.slow
@pytest.mark.parametrize("curvature", [5.0, 20.0])
def test_a_board_claims_little_that_is_not_so_and_finds_four_sigma(tmp_path, curvature):
    """At most 5 % of boards with a false claim, 93 to 97 % coverage, power of at least 0.7."""
    boards = [
        judged(Truth(seed, curvature), tmp_path / f"{seed}" if seed < 2 else None)
        for seed in range(BOARDS)
    ]
    false, power, coverage = np.mean(boards, axis=0)
    print(f"c={curvature:g}: false {false:.3f}, power {power:.3f}, coverage {coverage:.3f}")
    assert false <= 0.05
    assert power >= 0.7
    assert 0.93 <= coverage <= 0.97


def test_a_store_between_changes_no_row(tmp_path):
    """Rows of what was written and read again are those of what was never on a disk."""
    truth = Truth(3, 20.0)
    assert rows_of(truth, tmp_path / "store")[2] == rows_of(truth, None)[2]
