"""What a board may claim of its rows, and which of them may take part in claims."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np

from optbench_llm.leaderboard import lr_curves, statistics
from optbench_llm.leaderboard.gathered import Gathered
from optbench_llm.leaderboard.rows import Interval, Row, Verdict
from optbench_llm.run_record import Curves


@dataclass(frozen=True)
class AA:
    """The baseline against its second row: the same optimizer, its lr searched from elsewhere.

    ``differs`` is of this one comparison alone, so that it is not adjusted for all the others.
    """

    rows: tuple[str, str]
    difference: float
    difference_interval: Interval
    p: float
    p_adjusted: float
    differs: bool


@dataclass(frozen=True)
class Judgement:
    """One verdict a row, in their order, and what belongs to the board as a whole.

    ``took_part`` are the labels of the rows that the statistics rest on.
    """

    verdicts: tuple[Verdict, ...]
    took_part: tuple[str, ...] = ()
    noise_between_seeds: float | None = None
    aa: AA | None = None


def judge(
    rows: Sequence[Row],
    metric: str,
    baseline: int | None,
    others_data: Sequence[str] = (),
) -> Judgement:
    """Compare the rows by ``metric``, the loss that ranks them.

    Those that are not done, and those of ``others_data``, labels of rows that were trained on other
    batches, take no part. With one seed nothing can be told.
    """
    verdicts = [Verdict(test_loss_interval=_test_interval(row)) for row in rows]
    places = [i for i, row in enumerate(rows) if row.done and row.label not in others_data]
    losses = {i: rows[i].seed_losses(metric) for i in places}
    matrix = {i: found for i, found in losses.items() if found is not None and len(found) > 1}
    if not matrix:
        return Judgement(tuple(verdicts))
    places = list(matrix)
    values = list(matrix.values())
    margins = [rows[i].tuning.lr_margin or 0.0 for i in places]
    for i, interval in zip(places, statistics.rank_intervals(values, margins), strict=True):
        verdicts[i] = replace(verdicts[i], rank_interval=interval)
    aa = None
    if baseline in matrix:
        compared = statistics.compare(values, places.index(baseline), margins)
        for i, found in zip(places, compared, strict=True):
            if found is not None:
                verdicts[i] = _with_difference(verdicts[i], found)
                if rows[i].a_a:
                    aa = _aa(rows[baseline], rows[i], found)
    return Judgement(
        tuple(verdicts),
        tuple(rows[i].label for i in places),
        statistics.noise_between_seeds(values),
        aa,
    )


def interval_with_records(row: Row, curves: Sequence[Curves]) -> Interval | None:
    """The interval of the test loss over seeds and records; ``curves`` are those of its seeds."""
    losses = row.seed_losses("test_loss")
    if losses is None or len(losses) < 2 or len(curves) != len(losses):
        return None
    tokens = curves[0].test_tokens
    per_record = [curve.test_losses for curve in curves]
    if tokens is None or any(curve.test_tokens != tokens for curve in curves):
        return None
    if any(losses is None or None in losses for losses in per_record):
        return None
    if sum(count > 0 for count in tokens) < 2:
        return None
    means = np.array(per_record, float).mean(0)
    (interval,) = statistics.loss_intervals_with_records([losses], [means], tokens)
    return interval


def equivalent_steps(
    row: Row, baseline: Row, at_steps: Mapping[int, float]
) -> lr_curves.EquivalentSteps | None:
    """After how many steps the baseline has the row's test loss; ``at_steps`` are its other runs'.

    None where it was run at one length alone.
    """
    if not (row.done and baseline.done) or not at_steps:
        return None
    if baseline.costs.steps is None or baseline.test_loss is None or row.test_loss is None:
        return None
    measured = sorted({**at_steps, baseline.costs.steps: baseline.test_loss}.items())
    steps, losses = zip(*measured, strict=True)
    return lr_curves.equivalent_steps(steps, losses, row.test_loss)


def budget_losses(baseline: Gathered, seeds: int) -> dict[int, float]:
    """The baseline's mean test losses by steps, of the lengths that all its seeds have run."""
    losses: dict[int, float] = {}
    for steps, results in baseline.budgets.items():
        done = [r.record.test_loss for r in results if r.record.status == "done"]
        known = [loss for loss in done if loss is not None]
        if len(known) == seeds:
            losses[steps] = fmean(known)
    return losses


def trained_on_other_data(
    rows: Sequence[tuple[str, Gathered]], baseline: int | None
) -> tuple[str, ...]:
    """Labels of rows that saw other batches than most did, at the same seed and for as many steps.

    Where as many saw one as the other, the baseline saw the right ones.
    """
    seen: dict[tuple[int, int | None], dict[str, list[int]]] = defaultdict(dict)
    for place, (_, row) in enumerate(rows):
        for result in row.results:
            seen_hash = result.record.batches_hash
            if result.record.status == "done" and seen_hash is not None:
                runs = seen[result.trial.seed, result.trial.max_steps]
                runs.setdefault(seen_hash, []).append(place)
    others: set[int] = set()
    for places in seen.values():
        count = Counter({batches: len(set(at)) for batches, at in places.items()})
        right = max(count, key=lambda batches: (count[batches], baseline in places[batches]))
        others |= {place for batches, at in places.items() if batches != right for place in at}
    return tuple(rows[place][0] for place in sorted(others))


def _test_interval(row: Row) -> Interval | None:
    losses = row.seed_losses("test_loss")
    if losses is None or len(losses) < 2:
        return None
    (interval,) = statistics.loss_intervals([losses])
    return interval


def _with_difference(verdict: Verdict, found: statistics.Difference) -> Verdict:
    return replace(
        verdict,
        difference=found.difference,
        difference_interval=(found.low, found.high),
        claim_margin=found.margin,
        p_adjusted=found.p_adjusted,
        differs=found.differs,
    )


def _aa(first: Row, second: Row, found: statistics.Difference) -> AA:
    return AA(
        rows=(first.label, second.label),
        difference=found.difference,
        difference_interval=(found.low, found.high),
        p=found.p,
        p_adjusted=found.p_adjusted,
        differs=statistics.a_a(found),
    )
