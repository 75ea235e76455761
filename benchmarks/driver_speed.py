"""What a board's driver costs: 64 simulated workers, and trials of no length on a Ray cluster.

    python benchmarks/driver_speed.py
    python benchmarks/driver_speed.py --workers 16 --trial-s 5 --empty-trials 200

The first part runs the whole catalog, tuned, with workers that only wait: what is measured is how
long a worker stands idle from a trial's end until it has the next, while there is one, as a share
of the trials. Losses are those of parabolas; store, search and tables are the real ones. The
second runs real actors whose worker answers at once. Writes
``benchmarks/results/driver_speed.json``.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import queue
import random
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from optbench_llm.catalog import list_optimizers
from optbench_llm.leaderboard.board import run_leaderboard
from optbench_llm.leaderboard.environment import describe_environment
from optbench_llm.leaderboard.executor import Event, Executor, Finished, Source
from optbench_llm.leaderboard.plan import Plan
from optbench_llm.leaderboard.pool import WorkerPool
from optbench_llm.leaderboard.ray_site import connected
from optbench_llm.leaderboard.ray_workers import RayExecutor, Share
from optbench_llm.leaderboard.recipe import load_recipe, override
from optbench_llm.leaderboard.standing import Standing
from optbench_llm.leaderboard.trial import Inputs, TrialSpec, trial_of
from optbench_llm.run_record import Curves, RunRecord

RESULT = Path(__file__).parent / "results" / "driver_speed.json"
IDLE_BOUND, EMPTY_BOUND_S = 0.01, 60.0
FACTS = {
    "device": "cpu", "device_type": "cpu", "threads": 1, "processes": 1, "steps": 150, "data": "",
}  # fmt: skip
STEPS = 150
#: A worker that answers at once.
EMPTY = """
import json, sys
json.loads(sys.stdin.readline())
def send(**event):
    print(json.dumps(event), flush=True)
send(event="ready", facts=%r)
for line in sys.stdin:
    trial = json.loads(line)["trial"]
    send(event="result", record=dict(status="done", reason=None, optimizer=trial["spec"],
         lr=trial["lr"], seed=trial["seed"], steps=1))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--trial-s", type=float, default=20.0)
    parser.add_argument("--empty-trials", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    simulated = simulate(options.workers, options.trial_s)
    empty = empty_trials(options.empty_trials)
    report = {
        "command": "python benchmarks/driver_speed.py",
        "environment": describe_environment(),
        "simulated": simulated,
        "empty_trials_of_ray": empty,
        "bounds": {"idle_share": IDLE_BOUND, "empty_trials_s": EMPTY_BOUND_S},
    }
    options.out.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))
    if simulated["idle_share"] > IDLE_BOUND or empty["wall_s"] > EMPTY_BOUND_S:
        raise SystemExit("a bound is missed")


@dataclass(frozen=True)
class Idle:
    """Simulated workers as a site."""

    workers: int
    trial_s: float
    gaps: list[float]
    in_words: str | None = None

    def threads(self, processes: int) -> int:
        return 1

    def executor(
        self,
        setup: dict[str, Any],
        *,
        processes: int,
        log_folder: Path,
        trial_timeout_s: float | None,
    ) -> Executor:
        return IdlePool(setup, self.workers, log_folder, trial_s=self.trial_s, gaps=self.gaps)


@dataclass
class IdlePool(WorkerPool):
    """Workers that only wait, and note how long they have nothing to wait for."""

    trial_s: float = 20.0
    gaps: list[float] = field(default_factory=list)

    def _hire(self, number: int, setup: dict[str, Any], inbox: queue.Queue) -> IdleWorker:
        return IdleWorker(number, inbox, self)

    def is_waiting(self) -> bool:
        return self._source.waiting() > 0


class IdleWorker:
    """Ends each trial after about the same time, and says ten of its steps."""

    def __init__(self, number: int, inbox: queue.Queue, pool: IdlePool) -> None:
        self.number, self.log, self.began = number, Path(f"worker-{number}.log"), 0.0
        self._inbox, self._pool, self._ended = inbox, pool, None
        inbox.put((self, {"event": "ready", "facts": FACTS}))

    def send(self, command: dict[str, Any]) -> None:
        if self._ended is not None:
            self._pool.gaps.append(time.monotonic() - self._ended)
        trial = TrialSpec(**command["trial"])
        lasts_s = self._pool.trial_s * random.Random(trial.id).uniform(0.8, 1.2)
        timer = threading.Timer(lasts_s, self._end, [trial])
        timer.daemon = True
        timer.start()

    def kill(self) -> None:
        pass

    def _end(self, trial: TrialSpec) -> None:
        # What is not there yet is nobody's fault: the search goes on from this very result.
        self._ended = time.monotonic() if self._pool.is_waiting() else None
        for step in range(1, STEPS + 1, STEPS // 10):
            self._inbox.put((self, {"event": "step", "step": step, "loss": 3.0}))
        self._inbox.put((self, {"event": "result", "record": outcome(trial).to_dict()}))


class Silent:
    """A display that shows nothing."""

    def __enter__(self) -> Silent:
        return self

    def __exit__(self, *exception: object) -> None:
        return None

    def say(self, text: str) -> None: ...

    def plan(self, trials: int, steps: int | None) -> None: ...

    def show(self, event: Event) -> None: ...

    def stand(self, standing: Standing) -> None: ...


def outcome(trial: TrialSpec) -> RunRecord:
    """A parabola over the lr with noise."""
    noise = random.Random(trial.id).gauss(0, 0.01)
    loss = 3.0 + 0.2 * (math.log10(trial.lr) % 1 - 0.5) ** 2 + noise
    return RunRecord(
        status="done", reason=None, optimizer=trial.spec, lr=trial.lr, seed=trial.seed, steps=STEPS,
        train_loss=loss + 0.2, eval_loss=loss, test_loss=loss, first_loss=4.2, last_loss=loss,
        tokens=STEPS * 512, train_wall_s=20.0, eval_wall_s=2.0, compile_s=0.0, extra_passes=0.0,
        batches_hash=f"{trial.seed} {trial.max_steps}", engine="eager",
        curves=Curves([loss] * STEPS, None, [loss] * 200, [64] * 200),
    )  # fmt: skip


def simulate(workers: int, trial_s: float) -> dict[str, Any]:
    """The whole catalog, tuned: how long workers stand idle for the driver."""
    recipe = override(load_recipe("tiny-tuned"), {"optimizers": list_optimizers("*")})
    plan, gaps = Plan(recipe, Inputs("m", "d")), []
    began, used = time.monotonic(), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        site = Idle(workers, trial_s, gaps)
        run = run_leaderboard(plan, Path(folder) / "store", Silent(), site)
        trials = run.board.trials_planned
        assert run.left == 0
    return {
        "workers": workers,
        "trials": trials,
        "trial_s": trial_s,
        "wall_s": time.monotonic() - began,
        "driver_cpu_s": time.process_time() - used,
        "idle_s_median": median(gaps),
        "idle_s_worst": max(gaps),
        "idle_share": sum(gaps) / (trials * trial_s),
    }


@dataclass
class Listed:
    """Trials, each once."""

    trials: list[TrialSpec]

    def take(self, worker: int) -> TrialSpec | None:
        return self.trials.pop() if self.trials else None

    def waiting(self) -> int:
        return len(self.trials)


def empty_trials(count: int) -> dict[str, Any]:
    """Trials of no length through two actors of a cluster of this machine's own."""
    recipe = load_recipe("tiny-tuned")
    entry = recipe.optimizers[0]
    source: Source = Listed([trial_of(recipe, entry, 0.1, seed) for seed in range(count)])
    with tempfile.TemporaryDirectory() as folder, connected("local", workers=2) as site:
        executor = RayExecutor(
            {"untouched": False}, 2, Path(folder), share=Share(1, 0), program=EMPTY % FACTS
        )
        began = time.monotonic()
        ended = sum(isinstance(event, Finished) for event in executor.run(source))
        wall_s = time.monotonic() - began
    assert ended == count, site
    return {"trials": count, "wall_s": wall_s, "trials_a_second": count / wall_s}


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
