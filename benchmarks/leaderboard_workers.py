"""Trials a minute of one worker and of two, and how much of a trial is training and evaluation.

    python benchmarks/leaderboard_workers.py
    python benchmarks/leaderboard_workers.py --trials 4 --workers 1 2 4

Runs the first rows of ``tiny-tuned``, one trial each, with one worker and then with more, twice
in turns, one thread a worker. The clock begins when the first trial does, with all workers warm.
Writes ``benchmarks/results/leaderboard_workers.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path
from statistics import median
from typing import Any

from optbench_llm.leaderboard.environment import describe_environment
from optbench_llm.leaderboard.executor import Finished, Ready
from optbench_llm.leaderboard.local import LocalExecutor, worker_setup
from optbench_llm.leaderboard.plan import Plan, make_plan
from optbench_llm.leaderboard.recipe import load_recipe
from optbench_llm.leaderboard.trial import TrialSpec, trial_of

BOUND = 1.5
RESULT = Path(__file__).parent / "results" / "leaderboard_workers.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    plan = make_plan(load_recipe("tiny-tuned"))
    rounds = [
        measure(plan, options.trials, workers)
        for workers in chain.from_iterable(repeat(options.workers, options.rounds))
    ]
    report = summary(options, rounds)
    options.out.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))
    if report["times_one_worker"] < BOUND:
        raise SystemExit(f"{report['times_one_worker']:.2f} times one worker, less than {BOUND}")


@dataclass
class Held:
    """Trials that are given out once all workers are ready for them."""

    trials: list[TrialSpec]
    workers: int
    ready: int = 0
    began: float | None = None

    def take(self, worker: int) -> TrialSpec | None:
        if self.ready < self.workers or not self.trials:
            return None
        if self.began is None:
            self.began = time.monotonic()
        return self.trials.pop(0)

    def waiting(self) -> int:
        return len(self.trials)


def measure(plan: Plan, count: int, workers: int) -> dict[str, Any]:
    """One round: seconds, and the share of each trial that is training and evaluation."""
    recipe = plan.recipe
    rows = recipe.optimizers[:count]
    source = Held(
        [trial_of(recipe, row, recipe.lr_of(row), recipe.all_seeds[0]) for row in rows], workers
    )
    shares = []
    with tempfile.TemporaryDirectory() as folder:
        executor = LocalExecutor(
            setup=worker_setup(plan, Path(folder), untouched=False),
            workers=workers,
            processes=1,
            log_folder=Path(folder),
            trial_timeout_s=None,
        )
        for event in executor.run(source):
            if isinstance(event, Ready):
                source.ready += 1
            elif isinstance(event, Finished):
                record = event.record
                assert record.status == "done", record.reason
                shares.append((record.train_wall_s + record.eval_wall_s) / event.wall_s)
        wall_s = time.monotonic() - source.began
    return {
        "workers": workers,
        "trials": len(shares),
        "wall_s": wall_s,
        "trials_a_minute": 60 * len(shares) / wall_s,
        "training_and_evaluation": median(shares),
    }


def summary(options: argparse.Namespace, rounds: list[dict[str, Any]]) -> dict[str, Any]:
    rates = {
        workers: median(r["trials_a_minute"] for r in rounds if r["workers"] == workers)
        for workers in options.workers
    }
    fewest, most = min(rates), max(rates)
    return {
        "command": "python benchmarks/leaderboard_workers.py",
        "environment": describe_environment(),
        "threads_a_worker": 1,
        "rounds": rounds,
        "trials_a_minute": rates,
        "times_one_worker": rates[most] / rates[fewest],
        "bound": BOUND,
    }


if __name__ == "__main__":
    main()
