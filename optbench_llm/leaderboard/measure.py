"""Time a few steps of each kind of row, in workers as a board's own."""

from __future__ import annotations

import tempfile
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

from optbench_llm.leaderboard.executor import Facts, Finished, Ready, Site, Started, Stepped
from optbench_llm.leaderboard.plan import Plan
from optbench_llm.leaderboard.pool import worker_setup
from optbench_llm.leaderboard.recipe import OptimizerEntry, Recipe
from optbench_llm.leaderboard.trial import TrialSpec, trial_of
from optbench_llm.run_record import RunRecord

STEPS = 3
#: A large model's rows are measured as far as this goes.
LIMIT_S = 120.0
#: Batches of each split that a measured trial evaluates.
_EVAL_BATCHES = 2


@dataclass(frozen=True)
class Measured:
    """What a trial of one row costs: each step in all, and what does not grow with the steps."""

    step_s: float
    other_s: float
    peak_mem_bytes: int | None = None

    def trial_s(self, steps: int) -> float:
        """Seconds of a trial of so many steps."""
        return self.other_s + steps * self.step_s


@dataclass(frozen=True)
class Measurement:
    """Costs by kind of row; reasons of rows that failed; rows in neither came too late.

    ``steps`` are those of a whole trial, ``start_s`` is what a worker took before its first.
    """

    of_kind: Mapping[str, Measured]
    failed: Mapping[str, str]
    steps: int
    start_s: float


@dataclass
class _Trials:
    """The trials to measure (see `executor.Source`), the first also as each worker's warm-up.

    A worker's first trial takes longer: it loads what the later ones have.
    """

    to_measure: deque[tuple[str, TrialSpec]]
    warm: set[int] = field(default_factory=set)
    at: dict[int, str | None] = field(default_factory=dict)

    def take(self, worker: int) -> TrialSpec | None:
        if not self.to_measure:
            return None
        if worker not in self.warm:
            self.warm.add(worker)
            self.at[worker] = None
            return replace(self.to_measure[0][1], max_steps=1)
        self.at[worker], trial = self.to_measure.popleft()
        return trial

    def waiting(self) -> int:
        return len(self.to_measure)


@dataclass(frozen=True)
class _Timed:
    """One measured trial."""

    step_s: float
    eval_s: float
    rest_s: float
    peak_mem_bytes: int | None


def measure(
    plan: Plan,
    of_kind: Mapping[str, OptimizerEntry],
    site: Site,
    tell: Callable[[str], None] = lambda text: None,
    limit_s: float = LIMIT_S,
) -> Measurement:
    """Run three eager steps of every kind of row, as the board will run, and time the last two.

    What is evaluated is scaled up to the whole splits.

    Raises:
        ValueError: the workers cannot start, with the reason.
    """
    recipe = plan.recipe
    trials = _Trials(deque((kind, _few_steps(recipe, entry)) for kind, entry in of_kind.items()))
    few_blocks = min(
        _EVAL_BATCHES * recipe.training.eval_batch_size * recipe.processes_per_trial,
        recipe.training.max_eval_blocks or 10**9,
    )
    timed: dict[str, _Timed] = {}
    failed: dict[str, str] = {}
    facts: Facts | None = None
    began, start_s = time.monotonic(), 0.0
    step_times: dict[int, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="optbench-measure-") as folder:
        executor = site.executor(
            worker_setup(_evaluating(plan, few_blocks), Path(folder), untouched=False),
            processes=recipe.processes_per_trial,
            log_folder=Path(folder),
            trial_timeout_s=limit_s,
        )
        tell("starting a worker")
        with closing(executor.run(trials)) as events:
            for event in events:
                if isinstance(event, Ready):
                    facts = event.facts
                    start_s = start_s or time.monotonic() - began
                elif isinstance(event, Started):
                    step_times[event.worker] = []
                    tell(f"{event.trial.spec} ({len(timed) + len(failed) + 1} of {len(of_kind)})")
                elif isinstance(event, Stepped):
                    step_times[event.worker].append(time.monotonic())
                elif isinstance(event, Finished):
                    kind = trials.at.get(event.worker)
                    if kind is not None and event.record.status in ("done", "diverged"):
                        timed[kind] = _timed(event, step_times[event.worker], facts)
                    elif kind is not None:
                        failed[kind] = _why(event.record, limit_s)
                    if time.monotonic() - began - start_s > limit_s:
                        break
    scale = _blocks(recipe, recipe.training.max_eval_blocks) / max(1, _blocks(recipe, few_blocks))
    assert facts is not None or not of_kind
    return Measurement(_costs(timed, scale), failed, (facts.steps or 0) if facts else 0, start_s)


def _why(record: RunRecord, limit_s: float) -> str:
    if record.status == "timeout":
        return f"{STEPS} steps took more than {limit_s:g} s"
    return record.reason or record.status


def _few_steps(recipe: Recipe, entry: OptimizerEntry) -> TrialSpec:
    trial = trial_of(recipe, entry, recipe.lr_of(entry), recipe.all_seeds[0], max_steps=STEPS)
    # Code is compiled for many steps, which takes seconds.
    return replace(trial, engine="eager", planned_steps=STEPS)


def _evaluating(plan: Plan, blocks: int) -> Plan:
    """The same plan, of which trials evaluate so many blocks."""
    recipe = plan.recipe
    training = recipe.training.model_copy(update={"max_eval_blocks": blocks})
    return replace(plan, recipe=recipe.model_copy(update={"training": training}))


def _timed(event: Finished, ended: list[float], facts: Facts | None) -> _Timed:
    record: RunRecord = event.record
    step_s = (record.train_wall_s or 0.0) / max(1, record.steps)
    # On a GPU losses are told when the trainer logs, so late and all at once.
    if facts is not None and facts.device_type == "cpu" and len(ended) > 1:
        step_s = (ended[-1] - ended[0]) / (len(ended) - 1)
    eval_s = record.eval_wall_s or 0.0
    rest_s = max(0.0, event.wall_s - eval_s - record.steps * step_s)
    return _Timed(step_s, eval_s, rest_s, record.peak_mem_bytes)


def _costs(timed: Mapping[str, _Timed], eval_scale: float) -> dict[str, Measured]:
    """Evaluation and all beside the steps are nearly the same for all rows: medians."""
    if not timed:
        return {}
    eval_s = median(one.eval_s for one in timed.values()) * eval_scale
    other_s = eval_s + median(one.rest_s for one in timed.values())
    return {kind: Measured(one.step_s, other_s, one.peak_mem_bytes) for kind, one in timed.items()}


def _blocks(recipe: Recipe, most: int | None) -> int:
    """Blocks of the validation and test splits that a trial evaluates, at most so many of each."""
    from optbench_llm.data import load_data
    from optbench_llm.models import load_tokenizer

    splits = load_data(recipe.data, load_tokenizer(recipe.model))
    lengths = (len(splits.validation), len(splits.test))
    return sum(length if most is None else min(length, most) for length in lengths)
