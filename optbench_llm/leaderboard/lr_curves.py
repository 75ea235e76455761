"""What a row's losses at several lrs, and the baseline's at several lengths, tell a reader.

A curve maps lrs to losses, infinite for a trial that failed. Distances are decades of lr.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

#: Half of the last digit of an lr of three significant ones, in decades.
ROUNDING = 0.0025
#: The part of the baseline's gain that is lost at the ends of the tolerated lrs.
TOLERATED = 0.05


def sensitivity(curve: Mapping[float, float], best_lr: float, initial_loss: float) -> float:
    """What a wrong lr costs: the mean loss within a decade of ``best_lr``, less the best loss.

    No lr counts as worse than ``initial_loss``, the untouched model's; failures count as that.

    Raises:
        ValueError: No lr of the curve is within a decade of ``best_lr``.
    """
    near = [
        min(loss, initial_loss) if math.isfinite(loss) else initial_loss
        for lr, loss in curve.items()
        if abs(math.log10(lr / best_lr)) <= 1 + ROUNDING
    ]
    if not near:
        raise ValueError(f"no lr was measured within a decade of {best_lr:g}")
    return math.fsum(near) / len(near) - min(near)


def lr_tolerance(curve: Mapping[float, float], gain_of_baseline: float) -> float:
    """Decades around the best lr at which a row loses at most 5 % of the baseline's gain.

    ``gain_of_baseline`` is the initial loss less the baseline's best one. The curve is linear in
    log10 of lr between measured points. It ends where the curve does and beside an lr that failed,
    so that the row may tolerate more than this.
    """
    lrs = sorted(curve)
    x, y = [math.log10(lr) for lr in lrs], [curve[lr] for lr in lrs]
    best = min(range(len(y)), key=lambda i: y[i] if math.isfinite(y[i]) else math.inf)
    if not math.isfinite(y[best]):
        return 0.0
    highest = y[best] + TOLERATED * gain_of_baseline
    return sum(
        _reach(x, y, range(best, end, step), highest) for end, step in ((-1, -1), (len(x), 1))
    )


def best_of(k: int, validation: Sequence[float], test: Sequence[float]) -> float:
    r"""The expected test loss of who tries ``k`` of the lrs and keeps the one best on validation.

    .. math:: E_k = \sum_i \binom{N-i}{k-1} \Big/ \binom{N}{k} \; t_{(i)}

    with test losses :math:`t_{(i)}` in the order of validation losses. An infinite test loss makes
    it infinite where it may be the one kept.

    Raises:
        ValueError: ``k`` is not between 1 and the number of lrs.
    """
    n = len(validation)
    if not 1 <= k <= n:
        raise ValueError(f"k is {k}, expected 1 to {n}, the number of lrs")
    ranked = np.asarray(test, float)[np.argsort(validation, kind="stable")]
    kept = n - k + 1  # the others are never the best of k
    chances = [math.comb(n - i, k - 1) / math.comb(n, k) for i in range(1, kept + 1)]
    return float(np.dot(chances, ranked[:kept]))


@dataclass(frozen=True)
class EquivalentSteps:
    """Steps at which the baseline reaches a loss, or what is known of them."""

    steps: float
    bound: Literal["at most", "at least"] | None


def equivalent_steps(steps: Sequence[int], losses: Sequence[float], loss: float) -> EquivalentSteps:
    """The fewest steps at which the baseline has ``loss``.

    ``losses`` are the baseline's after ``steps``, which rise; between them loss is linear in the
    logarithm of steps. A loss outside of what was measured gives a bound.
    """
    if losses[0] <= loss:
        exact = losses[0] == loss
        return EquivalentSteps(float(steps[0]), None if exact else "at most")
    for i in range(1, len(steps)):
        if losses[i] <= loss:
            part = (losses[i - 1] - loss) / (losses[i - 1] - losses[i])
            between = steps[i - 1] * (steps[i] / steps[i - 1]) ** part
            return EquivalentSteps(between, None)
    return EquivalentSteps(float(steps[-1]), "at least")


def _reach(x: Sequence[float], y: Sequence[float], order: range, highest: float) -> float:
    """How far from the first of ``order`` the curve stays at most at ``highest``."""
    start = before = order[0]
    for i in order[1:]:
        if not math.isfinite(y[i]):
            break
        if y[i] > highest:
            part = (highest - y[before]) / (y[i] - y[before])
            return abs(x[before] - x[start] + part * (x[i] - x[before]))
        before = i
    return abs(x[before] - x[start])
