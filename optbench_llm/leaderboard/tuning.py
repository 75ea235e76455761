"""What a row's search for its lr tells beside the lr: how much it matters, and what it cost."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from optbench_llm.leaderboard import lr_curves
from optbench_llm.leaderboard.gathered import Gathered
from optbench_llm.leaderboard.recipe import Recipe
from optbench_llm.leaderboard.result import TrialResult
from optbench_llm.leaderboard.rows import Edge, SearchRun, Tuning
from optbench_llm.leaderboard.search import COARSE

if TYPE_CHECKING:
    from optbench_llm.leaderboard.store import Untouched

TRIES = (1, 3, 5)


def tuning(
    row: Gathered, baseline: Gathered | None, recipe: Recipe, untouched: Untouched | None
) -> Tuning:
    """Sum up a row's search; ``baseline`` is the row whose gain is the measure of tolerance."""
    declared = recipe.lr_of(row.planned.entry)
    found = row.planned.found
    if recipe.its_track != "tuned" or found is None:
        return Tuning(declared_lr=declared, search=_runs(row))
    curve = {result.trial.lr: result.validation_loss for result in row.search}
    initial = _initial_loss(row, untouched)
    gain = _gain(baseline, initial)
    reached: tuple[tuple[Edge, bool], ...] = (
        ("lower", found.at_lower_edge),
        ("upper", found.at_upper_edge),
    )
    return Tuning(
        declared_lr=declared,
        lr_margin=found.lr_margin,
        edges=tuple(edge for edge, is_best in reached if is_best),
        loss_at_declared_lr=_loss_at_first(row),
        sensitivity=(None if initial is None else lr_curves.sensitivity(curve, found.lr, initial)),
        lr_tolerance=None if gain is None else lr_curves.lr_tolerance(curve, gain),
        with_tries=_with_tries(row.search[: len(COARSE)], untouched),
        search=_runs(row),
    )


def _runs(row: Gathered) -> tuple[SearchRun, ...]:
    runs = (
        SearchRun(r.trial.lr, r.record.eval_loss, r.record.test_loss, r.record.status, r.trial.id)
        for r in row.search
    )
    return tuple(sorted(runs, key=lambda run: run.lr))


def _loss_at_first(row: Gathered) -> float | None:
    """The test loss where the search began: in the middle of the coarse lrs."""
    at = row.planned.search[COARSE.index(0)].id
    (middle,) = (result for result in row.search if result.trial.id == at)
    return middle.record.test_loss if middle.record.status == "done" else None


def _initial_loss(row: Gathered, untouched: Untouched | None) -> float | None:
    if untouched is not None:
        return untouched.eval_loss
    told = (result.record.initial_eval_loss for result in row.search)
    return next((loss for loss in told if loss is not None), None)


def _gain(baseline: Gathered | None, initial: float | None) -> float | None:
    """How much the baseline's best validation loss is below the untouched model's."""
    if baseline is None or baseline.planned.found is None or initial is None:
        return None
    gain = initial - min(result.validation_loss for result in baseline.search)
    return gain if gain > 0 else None


def _with_tries(
    coarse: tuple[TrialResult, ...], untouched: Untouched | None
) -> dict[str, float | None]:
    """By how many lrs are tried, the expected test loss of the one that is kept.

    None where a failed trial may be kept, and what the untouched model has is not known.
    """
    at_failure = None if untouched is None else untouched.test_loss
    validation = [result.validation_loss for result in coarse]
    test = [r.record.test_loss if r.record.status == "done" else at_failure for r in coarse]
    losses = [math.inf if loss is None else loss for loss in test]
    tries: dict[str, float | None] = {}
    for k in TRIES:
        loss = lr_curves.best_of(k, validation, losses)
        tries[str(k)] = loss if math.isfinite(loss) else None
    return tries
