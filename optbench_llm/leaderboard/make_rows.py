"""From the trials of a recipe's rows to its board: a pure function of what there is of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from optbench_llm.catalog import parse_spec
from optbench_llm.leaderboard.costs import at_equal_cost, costs, mean_of_all, seconds
from optbench_llm.leaderboard.environment import Environment
from optbench_llm.leaderboard.gathered import Gathered, gather, status
from optbench_llm.leaderboard.judgement import (
    budget_losses,
    equivalent_steps,
    interval_with_records,
    judge,
    trained_on_other_data,
)
from optbench_llm.leaderboard.labels import labels
from optbench_llm.leaderboard.plan import RowTrials, baseline_place
from optbench_llm.leaderboard.recipe import Recipe
from optbench_llm.leaderboard.result import TrialResult
from optbench_llm.leaderboard.rows import Row, SeedRun
from optbench_llm.leaderboard.table import Board
from optbench_llm.leaderboard.tuning import tuning

if TYPE_CHECKING:
    from optbench_llm.leaderboard.store import Untouched


def build_board(
    recipe: Recipe,
    plan_rows: Sequence[RowTrials],
    results: Mapping[str, TrialResult],
    environment: Environment,
    untouched: Untouched | None,
) -> Board:
    """Rank what ``results``, by trial id, hold of the rows, and judge it.

    A row of which nothing has run is named and shown as none. Only the curves of rows that are done
    are read, and of these only the seeds'. Rows that were not measured with ``environment`` are
    counted.
    """
    names = labels(recipe, plan_rows)
    gathered = [gather(row, results) for row in plan_rows]
    begun = [place for place, row in enumerate(gathered) if row.results]
    found = [gathered[place] for place in begun]
    baseline = _baseline(recipe, found)
    rows = [_row(recipe, row, names[place]) for place, row in zip(begun, found, strict=True)]
    rows = _tuned(recipe, rows, found, baseline, untouched)
    other_data = trained_on_other_data(
        [(row.label, trials) for row, trials in zip(rows, found, strict=True)], baseline
    )
    judgement = judge(rows, recipe.ranked_by, baseline, other_data)
    rows = [replace(row, verdict=v) for row, v in zip(rows, judgement.verdicts, strict=True)]
    rows = _with_curves(rows, found)
    at_steps = {}
    if baseline is not None:
        at_steps = budget_losses(found[baseline], len(recipe.all_seeds))
        rows = _with_equivalent_steps(rows, rows[baseline], at_steps)
    return Board(
        recipe=recipe,
        entries=tuple(row.entry for row in plan_rows if not row.is_a_a),
        environment=environment,
        rows=tuple(ranked(rows, recipe.ranked_by)),
        untouched=untouched,
        baseline=None if baseline is None else rows[baseline].label,
        baseline_loss_at_steps=at_steps,
        noise_between_seeds=judgement.noise_between_seeds,
        aa=judgement.aa,
        took_part=judgement.took_part,
        other_data=other_data,
        not_begun=tuple(name for place, name in enumerate(names) if place not in begun),
        measured_elsewhere=sum(_is_from_elsewhere(row, environment) for row in found),
    )


def _baseline(recipe: Recipe, found: Sequence[Gathered]) -> int | None:
    """The place of the baseline's first row."""
    places = [place for place, row in enumerate(found) if not row.planned.is_a_a]
    first = baseline_place(recipe, [found[place].planned.entry for place in places])
    return None if first is None else places[first]


def ranked(rows: Iterable[Row], metric: str) -> list[Row]:
    """The rows with their ranks, best first; those not done share the rank after the last that is.

    Equal losses share a rank; a row without the loss to rank by comes after those with one.
    """

    def key(row: Row) -> tuple[bool, bool, float]:
        loss = row.loss(metric)
        return (not row.done, loss is None, 0.0 if loss is None or not row.done else loss)

    in_order = sorted(rows, key=key)
    done = [key(row) for row in in_order if row.done]
    return [
        replace(row, rank=1 + (done.index(key(row)) if row.done else len(done))) for row in in_order
    ]


def _row(recipe: Recipe, row: Gathered, label: str) -> Row:
    """One row, as far as it can be told without the others."""
    entry = row.planned.entry
    its_status, reason = status(row, recipe)
    results = row.finished or row.seeds or row.search
    records = [result.record for result in results]
    only = row.seeds[0] if len(recipe.all_seeds) == 1 and row.seeds else None
    engines = {record.engine for record in records if record.engine is not None}
    finished = [result.record for result in row.finished]
    return Row(
        rank=None,
        optimizer=entry.spec,
        label=label,
        status=its_status,
        reason=reason,
        test_loss=mean_of_all(record.test_loss for record in finished),
        train_loss=mean_of_all(record.train_loss for record in finished),
        eval_loss=mean_of_all(record.eval_loss for record in finished),
        published_loss=_published_loss(entry.spec),
        lr=row.planned.lr,
        seed=only.trial.seed if only else None,
        finished=(len(finished), len(recipe.all_seeds)),
        seeds=tuple(_seed_run(result) for result in row.seeds),
        schedule=recipe.schedule_of(entry),
        weight_decay=_weight_decay(results[0]) if results else None,
        arguments=dict(entry.args),
        hyperparameters=records[0].hyperparameters if records else None,
        initial_eval_loss=mean_of_all(record.initial_eval_loss for record in records),
        first_loss=mean_of_all(record.first_loss for record in records),
        last_loss=mean_of_all(record.last_loss for record in records),
        engine=", ".join(sorted(engines)) or None,
        rule_version=results[0].trial.rule_version if results else "",
        batches_hash=only.record.batches_hash if only else None,
        trial=only.trial.id if only else None,
        a_a=row.planned.is_a_a,
        costs=costs(row),
    )


def _seed_run(result: TrialResult) -> SeedRun:
    record = result.record
    return SeedRun(
        seed=result.trial.seed,
        test_loss=record.test_loss,
        train_loss=record.train_loss,
        eval_loss=record.eval_loss,
        status=record.status,
        trial=result.trial.id,
    )


def _tuned(
    recipe: Recipe,
    rows: Sequence[Row],
    found: Sequence[Gathered],
    baseline: int | None,
    untouched: Untouched | None,
) -> list[Row]:
    measure = None if baseline is None else found[baseline]
    return [
        replace(row, tuning=tuning(trials, measure, recipe, untouched))
        for row, trials in zip(rows, found, strict=True)
    ]


def _with_curves(rows: Sequence[Row], found: Sequence[Gathered]) -> list[Row]:
    """Fill in what only curves tell of the rows that are done, each read once."""
    taken = [seconds(trials) if row.done else None for row, trials in zip(rows, found, strict=True)]
    budget = min((s for s in taken if s is not None), default=None)
    filled: list[Row] = []
    for row, trials, its_seconds in zip(rows, found, taken, strict=True):
        if row.done:
            curves = [result.curves() for result in trials.finished]
            interval = interval_with_records(row, curves)
            row = replace(
                row,
                at_equal_cost=at_equal_cost(curves, its_seconds, budget),
                verdict=replace(row.verdict, test_loss_interval_records=interval),
            )
        filled.append(row)
    return filled


def _with_equivalent_steps(
    rows: Sequence[Row], baseline: Row, at_steps: Mapping[int, float]
) -> list[Row]:
    filled: list[Row] = []
    for row in rows:
        steps = equivalent_steps(row, baseline, at_steps)
        if steps is not None:
            verdict = replace(
                row.verdict,
                equivalent_baseline_steps=steps.steps,
                equivalent_baseline_steps_bound=steps.bound,
            )
            row = replace(row, verdict=verdict)
        filled.append(row)
    return filled


def _published_loss(text: str) -> float | None:
    """The published figure of a plain catalog name: other storages and providers were not in it."""
    spec = parse_spec(text)
    return spec.info.published_loss if spec.info and not spec.storage else None


def _weight_decay(result: TrialResult) -> float | None:
    """What the optimizer got: from recipe or arguments, else the largest of its groups' own."""
    asked = result.trial.settings.get("weight_decay")
    if asked is not None:
        return float(asked)
    own = [group.get("weight_decay") for group in result.record.hyperparameters or []]
    return max((float(decay) for decay in own if decay is not None), default=None)


def _is_from_elsewhere(row: Gathered, environment: Environment) -> bool:
    return any(not result.environment.measures_like(environment) for result in row.results)
