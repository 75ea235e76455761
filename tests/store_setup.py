"""A recipe's trials with invented results, for tests of stores."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from optbench_llm.leaderboard.environment import Environment
from optbench_llm.leaderboard.identity import identity
from optbench_llm.leaderboard.recipe import load_recipe
from optbench_llm.leaderboard.store import Store
from optbench_llm.leaderboard.trial import Inputs, TrialSpec, trial_of
from optbench_llm.run_record import Curves, RunRecord

RECIPE = load_recipe("tiny-gpt2")
INPUTS = Inputs("model-a", "data-a")
IDENTITY = identity(RECIPE, INPUTS)
ENTRY = RECIPE.optimizers[0]
TRIAL = trial_of(RECIPE, ENTRY, 0.1, 42)
ENVIRONMENT = Environment(
    {"torch": "2.13.0"}, "3.11.7", "Linux", "Some CPU", 2, workers=1, device="cpu",
    device_type="cpu", threads=1, processes=1,
)  # fmt: skip


def seeded(seed: int) -> TrialSpec:
    """The same trial with another seed."""
    return replace(TRIAL, seed=seed)


def record(losses: tuple[float, ...] = (3.0, 2.0), **changes: Any) -> RunRecord:
    """A finished run with these losses."""
    values: dict[str, Any] = {
        "status": "done", "reason": None, "optimizer": TRIAL.spec, "lr": 0.1, "seed": 42,
        "steps": len(losses), "train_loss": 2.5, "eval_loss": 2.25, "test_loss": 2.125,
        "tokens_per_s": 1000.0, "engine": "eager", "curves": Curves(list(losses), None, [1.5], [7]),
    }  # fmt: skip
    return RunRecord(**{**values, **changes})


def put(store: Store, trial: TrialSpec = TRIAL, **changes: Any) -> None:
    """Keep a finished run of ``trial``."""
    store.put(trial, record(**changes), 1.5, ENVIRONMENT)
