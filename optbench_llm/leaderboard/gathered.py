"""A row's trials with what there is of them: how far it is, how it ended, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from optbench_llm.leaderboard.plan import RowTrials
from optbench_llm.leaderboard.recipe import Recipe
from optbench_llm.leaderboard.result import TrialResult
from optbench_llm.leaderboard.trial import TrialSpec
from optbench_llm.run_record import RunStatus

#: Of a row whose seeds failed in several ways, the first of these is its status.
_WORST_FIRST: tuple[RunStatus, ...] = ("diverged", "error", "oom", "timeout")


@dataclass(frozen=True)
class Gathered:
    """The planned trials of a row, and those of them that have a result, in the same order."""

    planned: RowTrials
    search: tuple[TrialResult, ...]
    seeds: tuple[TrialResult, ...]
    budgets: Mapping[int, tuple[TrialResult, ...]]

    @property
    def finished(self) -> tuple[TrialResult, ...]:
        """The seeds that ran to their end."""
        return tuple(result for result in self.seeds if result.record.status == "done")

    @property
    def results(self) -> tuple[TrialResult, ...]:
        """All of them."""
        return (*self.search, *self.seeds, *(r for of in self.budgets.values() for r in of))


def gather(planned: RowTrials, results: Mapping[str, TrialResult]) -> Gathered:
    """Look up a row's trials."""

    def known(trials: tuple[TrialSpec, ...]) -> tuple[TrialResult, ...]:
        return tuple(results[trial.id] for trial in trials if trial.id in results)

    budgets = {steps: known(trials) for steps, trials in planned.budgets.items()}
    return Gathered(planned, known(planned.search), known(planned.seeds), budgets)


def status(row: Gathered, recipe: Recipe) -> tuple[RunStatus, str | None]:
    """The row's status, and the reason where it is not done.

    Done are rows whose seeds all are. One failed seed fails its row, which takes the status of the
    worst. A search that found nothing fails it likewise; what has not ended yet is interrupted.
    """
    if row.planned.lr is None:
        failed, over = row.search, _has_found_nothing(row)
    else:
        failed = tuple(r for r in row.seeds if r.record.status in _WORST_FIRST)
        over = bool(failed)
    if over:
        return _worst(failed, searched=row.planned.lr is None, seeds=len(recipe.all_seeds))
    if len(row.finished) == len(recipe.all_seeds):
        return "done", None
    return "interrupted", _progress(row, recipe)


def _has_found_nothing(row: Gathered) -> bool:
    """Whether the search is over without an lr: all that it asked for has failed."""
    asked = row.planned.search
    return len(row.search) == len(asked) and all(
        r.record.status in _WORST_FIRST for r in row.search
    )


def _worst(failed: tuple[TrialResult, ...], *, searched: bool, seeds: int) -> tuple[RunStatus, str]:
    statuses = {result.record.status for result in failed}
    worst: RunStatus = next(status for status in _WORST_FIRST if status in statuses)
    like_it = [result for result in failed if result.record.status == worst]
    why = like_it[0].record.reason or worst
    if searched:
        every = "every" if len(like_it) == len(failed) else f"{len(like_it)} of {len(failed)}"
        return worst, f"at {every} lr of the search; at {like_it[0].trial.lr:g}: {why}"
    if seeds == 1:
        return worst, why
    named = ", ".join(str(result.trial.seed) for result in like_it)
    return worst, f"seed{'s' if len(like_it) > 1 else ''} {named} of {seeds}: {why}"


def _progress(row: Gathered, recipe: Recipe) -> str:
    seeds = len(recipe.all_seeds)
    stopped = [r.record.reason for r in row.seeds if r.record.status == "interrupted"]
    if recipe.its_track != "tuned" and seeds == 1 and stopped and stopped[0]:
        return stopped[0]
    done = f"{len(row.finished)} of {seeds} seeds"
    if recipe.its_track != "tuned":
        return done
    searched = sum(result.record.status != "interrupted" for result in row.search)
    planned = len(row.planned.search) if row.planned.lr else recipe.search.trials
    return f"{searched} of {planned} search trials, {done}"
