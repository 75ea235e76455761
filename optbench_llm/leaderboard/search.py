"""The equal search over learning rates, as a pure function of the losses measured so far.

Every row spends the same number of trials: five coarse lrs, half a decade apart, around the
declared one; while the best is at an edge, one more beyond that edge; what is left at the vertex of
the parabola through the best three and to its sides. Nothing is remembered between calls: the path
is replayed from the losses, so that it is the same for any order in which trials finish, any number
of workers and after any crash.

Distances between lrs are in decades, as differences of their log10.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

SPACING = 0.5
COARSE = (-2, -1, 0, 1, 2)
#: The last trials, from the vertex: as many as are left, without those on the path already.
FINE = (-0.2, 0.2, 0.0, -0.1, 0.1, -0.3, 0.3, -0.15, 0.15)
MOST_TRIALS = 12
#: Points that the last parabola is fitted to are so near to the best one.
NEAR = 0.55
FARTHEST = 0.3
#: Half of the 0.2 decades between the last trials, squared: the loss that this hides is that times
#: the curvature.
HIDDEN = 0.01


@dataclass(frozen=True)
class Found:
    """What a finished search found.

    ``lr_margin`` is the loss that the search's resolution may hide. At an edge, the best lr is the
    lowest or highest that was tried, and a better one may lie beyond it.
    """

    lr: float
    lr_margin: float
    at_lower_edge: bool
    at_upper_edge: bool


def rounded(lr: float) -> float:
    """``lr`` to three significant digits, so that every machine asks for the same one."""
    return float(f"{lr:.2e}")


def next_lrs(losses: Mapping[float, float], declared: float, trials: int = 8) -> tuple[float, ...]:
    """The lrs to try next, in any order or all at once; empty when the search is over.

    ``losses`` maps lrs to validation losses, infinite or NaN for a trial that failed. Lrs that are
    running must be absent, and are told again. Lrs that are not on this search's path are ignored.

    A failed trial is infinitely bad. Where all have failed, the search goes lower. No parabola goes
    through a failed neighbour of the best lr: its vertex is then the best lr itself.

    Raises:
        ValueError: ``declared`` is no positive number, or ``trials`` are not 5 to 12.
    """
    *_, stage = _stages(losses, declared, trials)
    return tuple(lr for lr in stage if lr not in losses)


def path(losses: Mapping[float, float], declared: float, trials: int = 8) -> tuple[float, ...]:
    """The measured lrs that are on the search's path, in the order in which it asks for them."""
    asked = (lr for stage in _stages(losses, declared, trials) for lr in stage)
    return tuple(lr for lr in asked if lr in losses)


def found(losses: Mapping[float, float], declared: float, trials: int = 8) -> Found | None:
    """The lr that a finished search found; None while it goes on and where every lr has failed.

    It is the vertex of a parabola through all points within 0.55 decades of the best, at most 0.3
    decades from it and half-way to an lr that failed. This takes four such points and a parabola
    that opens upwards; else the vertex is that of the best three, of which nothing tells how much
    they hide.
    """
    if next_lrs(losses, declared, trials):
        return None
    curve = _curve(losses, path(losses, declared, trials))
    best = _best(curve)
    if math.isinf(curve[best]):
        return None
    log_lr, lr_margin = _fitted(curve) or (_vertex(curve), 0.0)
    return Found(rounded(10**log_lr), lr_margin, best == min(curve), best == max(curve))


def _stages(
    losses: Mapping[float, float], declared: float, trials: int
) -> Iterator[tuple[float, ...]]:
    """Lrs that are asked for together; the last that is yielded is unfinished, or empty."""
    if not (math.isfinite(declared) and declared > 0):
        raise ValueError(f"the declared lr is {declared}, expected a positive number")
    if not len(COARSE) <= trials <= MOST_TRIALS:
        raise ValueError(f"a search of {trials} trials, expected {len(COARSE)} to {MOST_TRIALS}")
    asked: tuple[float, ...] = ()
    stage = tuple(_coarse(declared, i) for i in COARSE)
    while stage:
        yield stage
        if not all(lr in losses for lr in stage):
            return
        asked += stage
        stage = _next_stage(_curve(losses, asked), declared, trials - len(asked))
    yield ()


def _next_stage(curve: dict[float, float], declared: float, left: int) -> tuple[float, ...]:
    if left == 0:
        return ()
    best = _best(curve)
    if best in (min(curve), max(curve)):
        i = round(math.log10(best / declared) / SPACING)
        return (_coarse(declared, i - 1 if best == min(curve) else i + 1),)
    vertex = _vertex(curve)
    around = (rounded(10 ** (vertex + offset)) for offset in FINE)
    return tuple(lr for lr in around if lr not in curve)[:left]


def _coarse(declared: float, i: int) -> float:
    return rounded(rounded(declared) * 10 ** (i * SPACING))


def _curve(losses: Mapping[float, float], lrs: tuple[float, ...]) -> dict[float, float]:
    """Losses over ``lrs`` in rising order, all that are not finite made infinite."""
    return {lr: losses[lr] if math.isfinite(losses[lr]) else math.inf for lr in sorted(lrs)}


def _best(curve: dict[float, float]) -> float:
    """The lr of the lowest loss, the lowest lr of equal ones."""
    return min(curve, key=lambda lr: curve[lr])


def _vertex(curve: dict[float, float]) -> float:
    """The log10 of the lr at the minimum of the parabola through the best point and its neighbours.

    At most half-way to either neighbour, since neither is better.
    """
    x, y = [math.log10(lr) for lr in curve], list(curve.values())
    i = y.index(min(y))
    if i in (0, len(x) - 1) or math.isinf(y[i - 1]) or math.isinf(y[i + 1]):
        return x[i]
    left, right = x[i] - x[i - 1], x[i + 1] - x[i]
    falling, rising = (y[i] - y[i - 1]) / left, (y[i + 1] - y[i]) / right
    curvature = (rising - falling) / (left + right)
    if curvature <= 0:
        return x[i]
    return x[i] - (falling + curvature * left) / (2 * curvature)


def _fitted(curve: dict[float, float]) -> tuple[float, float] | None:
    """Log10 of the lr and the hidden loss, from the parabola through all points near the best."""
    best = math.log10(_best(curve))
    from_best = {math.log10(lr) - best: loss for lr, loss in curve.items()}
    near = {x: y for x, y in from_best.items() if abs(x) <= NEAR and math.isfinite(y)}
    if len(near) < 4:
        return None
    curvature, slope, _ = np.polyfit(list(near), list(near.values()), 2)
    if curvature <= 0:
        return None
    failed = [x / 2 for x, loss in from_best.items() if math.isinf(loss)]
    lowest = max([-FARTHEST, *[x for x in failed if x < 0]])
    highest = min([FARTHEST, *[x for x in failed if x > 0]])
    offset = min(max(-slope / (2 * curvature), lowest), highest)
    return best + float(offset), HIDDEN * float(curvature)
