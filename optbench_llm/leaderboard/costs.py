"""What a row's trials took, and what its loss was when every row had paid as much."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from optbench_llm.leaderboard.gathered import Gathered
from optbench_llm.leaderboard.rows import AtEqualCost, Costs
from optbench_llm.run_record import Curves, RunRecord


def costs(row: Gathered) -> Costs:
    """Medians over all trials of the row that are done, at any lr and seed; without any, over all.

    The baseline's runs of other lengths are left out: they take other times.
    """
    records = [result.record for result in (*row.search, *row.seeds)]
    done = [record for record in records if record.status == "done"]
    records = done or [result.record for result in row.seeds] or records
    extra = _median(record.extra_passes for record in done)
    return Costs(
        steps=_middle(record.steps for record in records),
        tokens=_middle(record.tokens for record in records),
        tokens_per_s=_median(record.tokens_per_s for record in records),
        optimizer_step_ms=_median(record.optimizer_step_ms for record in records),
        first_step_ms=_median(record.first_step_ms for record in records),
        compile_s=_median(record.compile_s for record in records),
        passes_per_step=None if extra is None else 1 + extra,
        extra_passes=_median(record.extra_passes for record in records),
        state_bytes=_middle(record.state_bytes for record in records),
        state_bytes_per_param=_median(record.state_bytes_per_param for record in records),
        peak_mem_bytes=_middle(record.peak_mem_bytes for record in records),
        train_wall_s=_median(record.train_wall_s for record in records),
        eval_wall_s=_median(record.eval_wall_s for record in records),
        parameters=_middle(record.parameters for record in records),
    )


def seconds(row: Gathered) -> float | None:
    """What the training of one of its finished seeds takes, without compilation: their median."""
    return _median(_training_s(result.record) for result in row.finished)


def at_equal_cost(
    curves: Sequence[Curves], seconds: float | None, budget: float | None
) -> AtEqualCost:
    """The mean over a row's seeds of what their curves were worth at the same cost as all others'.

    ``seconds`` is what a run of this row takes, ``budget`` what that of the fastest row does. A
    loss counts for the passes, or for the seconds, of its step.
    """
    by_passes: list[float | None] = []
    by_seconds: list[float | None] = []
    for curve in curves:
        losses = [loss for loss in curve.losses if loss is not None]
        passes = curve.step_passes or [1.0] * len(losses)
        if not losses or len(passes) != len(losses):
            return AtEqualCost()
        by_passes.append(_mean_loss_within(len(passes), losses, passes))
        if seconds is not None and budget is not None:
            second = seconds / sum(passes)
            spent = [count * second for count in passes]
            by_seconds.append(_mean_loss_within(budget, losses, spent))
    return AtEqualCost(mean_of_all(by_passes), mean_of_all(by_seconds))


def _mean_loss_within(
    budget: float, losses: Sequence[float], costs: Sequence[float]
) -> float | None:
    """Mean of the losses over the first ``budget`` of cost, each weighted by its share of it.

    None where that does not pay for a single step.
    """
    if costs[0] > budget:
        return None
    total = spent = 0.0
    for loss, cost in zip(losses, costs, strict=True):
        share = min(cost, budget - spent)
        total += share * loss
        spent += share
    return total / spent


def _training_s(record: RunRecord) -> float | None:
    if record.train_wall_s is None:
        return None
    return record.train_wall_s - (record.compile_s or 0.0)


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _middle(values: Iterable[int | None]) -> int | None:
    """A median that is one of the values."""
    known = [value for value in values if value is not None]
    return statistics.median_low(known) if known else None


def mean_of_all(values: Iterable[float | None]) -> float | None:
    """The mean; None where there are none, or one is missing."""
    found = list(values)
    known = [value for value in found if value is not None]
    return statistics.fmean(known) if known and len(known) == len(found) else None
