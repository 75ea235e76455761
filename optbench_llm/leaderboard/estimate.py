"""What the trials that a board still lacks will cost: time row by row, and memory a worker."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from optbench_llm.leaderboard.agenda import Agenda
from optbench_llm.leaderboard.environment import Environment, this_environment
from optbench_llm.leaderboard.measure import Measured, Measurement
from optbench_llm.leaderboard.plan import Plan, RowTrials
from optbench_llm.leaderboard.recipe import OptimizerEntry, Recipe
from optbench_llm.leaderboard.result import TrialResult

#: What a worker takes to load its libraries, model and data, where no one has measured it.
START_S = 8.0


class Unmeasured(ValueError):
    """Not one row is known to cost anything, with the reasons."""


@dataclass(frozen=True)
class RowLeft:
    """The trials of one row that are still to run, by their steps; None: as many as the recipe's.

    Those that a search has yet to choose are among them. ``place`` is the row's in the recipe; that
    of the baseline's twin is the baseline's.
    """

    entry: OptimizerEntry
    place: int
    steps: tuple[int | None, ...]


@dataclass(frozen=True)
class Costs:
    """What trials cost here, by the kind of their row (see `kind_of`), and what that rests on.

    ``steps`` are those of a trial that has no number of its own.
    """

    of_kind: Mapping[str, Measured]
    steps: int
    start_s: float
    basis: tuple[str, ...] = ()

    def trials_s(self, row: RowLeft) -> list[float]:
        """Seconds of each trial of a row that is still to run; a complete row costs nothing."""
        if not row.steps:
            return []
        cost = self.of_kind[kind_of(row.entry)]
        return [cost.trial_s(steps or self.steps) for steps in row.steps]

    def row_s(self, row: RowLeft) -> float:
        """Seconds that all of them take, one after another."""
        return sum(self.trials_s(row))

    def wall_s(self, rows: Iterable[RowLeft], workers: int) -> float:
        """Seconds until ``workers`` have run all trials of these rows, at most.

        They share the work evenly but for the end, when all but one may wait for the longest.
        """
        trials = [seconds for row in rows for seconds in self.trials_s(row)]
        if not trials:
            return 0.0
        return self.start_s + sum(trials) / workers + (1 - 1 / workers) * max(trials)

    def peak_mem_bytes(self, rows: Iterable[RowLeft], processes: int) -> int | None:
        """Memory of the worker that needs most, where that has been measured."""
        costs = (self.of_kind[kind_of(row.entry)] for row in rows if row.steps)
        peaks = [cost.peak_mem_bytes for cost in costs if cost.peak_mem_bytes is not None]
        return max(peaks) * processes if peaks else None


def kind_of(entry: OptimizerEntry) -> str:
    """Spec and arguments of a row: rows that differ only in lr cost the same."""
    return f"{entry.spec} {json.dumps(entry.args, sort_keys=True, default=str)}"


def kinds(entries: Iterable[OptimizerEntry]) -> dict[str, OptimizerEntry]:
    """One row of each kind, in their order."""
    of_kind: dict[str, OptimizerEntry] = {}
    for entry in entries:
        of_kind.setdefault(kind_of(entry), entry)
    return of_kind


def rows_left(plan: Plan, agenda: Agenda) -> list[RowLeft]:
    """What every row of the agenda has still to run; rows that are complete have no trials."""
    seen: set[str] = set()
    left: list[RowLeft] = []
    place = -1
    for row in agenda.rows:
        place += not row.is_a_a
        known = [t for t in row.trials if agenda.is_to_run(t) and t.id not in seen]
        seen |= {trial.id for trial in known}
        steps = [trial.max_steps for trial in known]
        if known and plan.recipe.its_track == "tuned" and row.lr is None:
            steps += _not_yet_chosen(plan, row)
        left.append(RowLeft(row.entry, place, tuple(steps)))
    return left


def _not_yet_chosen(plan: Plan, row: RowTrials) -> list[int | None]:
    """The trials that follow from a search that goes on, by their steps."""
    recipe = plan.recipe
    searched = max(0, recipe.search.trials - len(row.search))
    lengths: list[int | None] = [None, *plan.lengths(row.entry, is_a_a=row.is_a_a)]
    seeds = [steps for steps in lengths for _ in recipe.all_seeds]
    return [*[None] * searched, *seeds]


def stored_costs(
    recipe: Recipe, results: Collection[TrialResult], threads: int
) -> dict[str, Measured]:
    """By kind, the medians of the finished trials that ran on such a machine and as many threads.

    Each is taken apart into its training, which grows with the steps, and all else.
    """
    here = this_environment()
    usable = [r for r in results if _costs_as_here(r, here, threads)]
    found: dict[str, Measured] = {}
    for kind, entry in kinds(recipe.optimizers).items():
        trials = [
            r
            for r in usable
            if r.trial.spec == entry.spec and r.trial.hyperparameters == dict(entry.args)
        ]
        if trials:
            found[kind] = _median_cost(trials)
    return found


def _costs_as_here(result: TrialResult, here: Environment, threads: int) -> bool:
    there = result.environment
    return (
        result.record.status == "done"
        and result.record.steps > 0
        and result.record.train_wall_s is not None
        and there.processor == here.processor
        and there.threads in (None, threads)
    )


def _median_cost(results: Sequence[TrialResult]) -> Measured:
    training = [(r.record.train_wall_s or 0.0, r.record.steps, r.wall_s) for r in results]
    peaks = [r.record.peak_mem_bytes for r in results if r.record.peak_mem_bytes is not None]
    return Measured(
        step_s=median(train_s / steps for train_s, steps, _ in training),
        other_s=median(max(0.0, wall_s - train_s) for train_s, _, wall_s in training),
        peak_mem_bytes=max(peaks, default=None),
    )


def all_costs(
    wanted: Mapping[str, OptimizerEntry],
    stored: Mapping[str, Measured],
    measurement: Measurement | None,
    steps: int,
) -> Costs:
    """The costs of every wanted kind: stored, else measured, else those of the slowest.

    Raises:
        Unmeasured: not one row is known to cost anything.
    """
    measured = measurement.of_kind if measurement else {}
    of_kind = {kind: c for kind in wanted if (c := stored.get(kind) or measured.get(kind))}
    basis: list[str] = []
    from_store = sum(kind in stored for kind in of_kind)
    if from_store:
        basis.append(f"{_rows(from_store)} from finished trials")
    if len(of_kind) > from_store:
        basis.append(
            f"{_rows(len(of_kind) - from_store)} from two eager steps each (compiled ones take "
            "less)"
        )
    unknown = [kind for kind in wanted if kind not in of_kind]
    if unknown:
        known = [*of_kind.values(), *stored.values()]
        if not known:
            failed = "; ".join(measurement.failed.values()) if measurement else ""
            raise Unmeasured(f"no row could be measured: {failed or 'the time was too short'}")
        slowest = max(known, key=lambda cost: cost.trial_s(steps))
        of_kind |= dict.fromkeys(unknown, slowest)
        failed = measurement.failed if measurement else {}
        basis += [f"{wanted[k].spec} as the slowest, its steps failed: {failed[k]}"
                  for k in unknown if k in failed]  # fmt: skip
        late = [wanted[kind].spec for kind in unknown if kind not in failed]
        if late:
            basis.append(f"as the slowest, for want of time: {', '.join(late)}")
    start_s = measurement.start_s if measurement else START_S
    return Costs(of_kind, steps, start_s, tuple(basis))


def _rows(count: int) -> str:
    return f"{count} row{'' if count == 1 else 's'}"


def duration(seconds: float) -> str:
    """A rough time in words: ``about 12 min``."""
    if seconds < 90:
        return f"about {max(1, round(seconds))} s"
    if seconds < 5400:
        return f"about {seconds / 60:.0f} min"
    return f"about {seconds / 3600:.1f} h"
