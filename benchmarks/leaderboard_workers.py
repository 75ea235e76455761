"""Trials a minute of one worker, of two, and of two of a Ray cluster; what of a trial is training.

    python benchmarks/leaderboard_workers.py
    python benchmarks/leaderboard_workers.py --trials 4 --sites local-1 local-4

Runs the first rows of ``tiny-tuned``, one trial each, at each site, twice in turns, one thread a
worker. The clock begins when the first trial does, with all workers warm.
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
from optbench_llm.leaderboard.placement import Placement
from optbench_llm.leaderboard.plan import Plan, make_plan
from optbench_llm.leaderboard.pool import worker_setup
from optbench_llm.leaderboard.recipe import load_recipe
from optbench_llm.leaderboard.trial import TrialSpec, trial_of

#: Two workers over one, and two of a cluster on this machine over two without it.
BOUNDS = {"local-2 over local-1": 1.5, "ray-2 over local-2": 0.9}
RESULT = Path(__file__).parent / "results" / "leaderboard_workers.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--sites", nargs="+", default=["local-1", "local-2", "ray-2"])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    plan = make_plan(load_recipe("tiny-tuned"))
    rounds = [
        measure(plan, options.trials, site)
        for site in chain.from_iterable(repeat(options.sites, options.rounds))
    ]
    report = summary(options, rounds)
    options.out.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))
    missed = [f"{what}: {ratio:.2f}, less than {BOUNDS[what]}"
              for what, ratio in report["ratios"].items() if ratio < BOUNDS[what]]  # fmt: skip
    if missed:
        raise SystemExit("; ".join(missed))


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


def measure(plan: Plan, count: int, site_name: str) -> dict[str, Any]:
    """One round: seconds, and the share of each trial that is training and evaluation."""
    recipe = plan.recipe
    kind, _, number = site_name.partition("-")
    workers = int(number)
    placement = Placement(kind, workers, ray_address="local" if kind == "ray" else None)
    rows = recipe.optimizers[:count]
    source = Held(
        [trial_of(recipe, row, recipe.lr_of(row), recipe.all_seeds[0]) for row in rows], workers
    )
    shares = []
    with tempfile.TemporaryDirectory() as folder, placement.open(1) as site:
        executor = site.executor(
            worker_setup(plan, Path(folder), untouched=False),
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
        "site": site_name,
        "trials": len(shares),
        "wall_s": wall_s,
        "trials_a_minute": 60 * len(shares) / wall_s,
        "training_and_evaluation": median(shares),
    }


def summary(options: argparse.Namespace, rounds: list[dict[str, Any]]) -> dict[str, Any]:
    rates = {
        site: median(r["trials_a_minute"] for r in rounds if r["site"] == site)
        for site in options.sites
    }
    pairs = {what: what.split(" over ") for what in BOUNDS}
    return {
        "command": "python benchmarks/leaderboard_workers.py",
        "environment": describe_environment(),
        "threads_a_worker": 1,
        "rounds": rounds,
        "trials_a_minute": rates,
        "ratios": {
            what: rates[one] / rates[other]
            for what, (one, other) in pairs.items()
            if one in rates and other in rates
        },
        "bounds": BOUNDS,
    }


if __name__ == "__main__":
    main()
