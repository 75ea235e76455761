"""A board of many rows and trials that never ran."""

from __future__ import annotations

import math

from fake_board import Fake, record, tuned_recipe

from optbench_llm.leaderboard.trial import TrialSpec
from optbench_llm.run_record import Curves, RunRecord

SEEDS = 42


def large_board(rows: int) -> Fake:
    """A tuned board of so many rows, eight search trials and `SEEDS` seeds each."""
    specs = [{"spec": "adamw", "args": {"eps": 1e-9 * (i + 1)}} for i in range(rows)]
    return Fake(tuned_recipe(*specs, seeds=list(range(1, SEEDS + 1))), outcome)


def outcome(trial: TrialSpec) -> RunRecord:
    """A parabola over the lr, another for each row."""
    off = math.log10(trial.lr / 1e-3)
    loss = 3 + 1e6 * trial.hyperparameters.get("eps", 0) + 0.3 * off**2
    return record(
        trial, eval_loss=loss, test_loss=loss, train_loss=loss, train_wall_s=10.0, tokens=150,
        curves=Curves(losses=[loss + 1 / (1 + step) for step in range(150)]),
    )  # fmt: skip
