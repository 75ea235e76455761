"""What a board may claim: noise between seeds, differences to a baseline, rank intervals.

Losses are arrays of rows x seeds, the same seeds for all rows. What seeds share, such as an easier
order of the data, moves all rows alike and is taken out of differences. A claim needs more than a
small p: a difference has to exceed half the noise between seeds, and what the search for the lr may
hide.

Noise is assumed to be normal. Everything is computed from losses alone, without random numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Indices = NDArray[np.intp]

#: Of smaller boards the variances say too little about each other to be moderated.
MODERATED_ROWS = 10
#: A difference must exceed so much of the noise between seeds.
OF_NOISE = 0.5
ALPHA = 0.05


@dataclass(frozen=True)
class Moderated:
    """Each row's variance between seeds, its degrees of freedom, the variance that rows share."""

    variances: Array
    df: float
    common: float


@dataclass(frozen=True)
class Difference:
    """A row's mean loss less the baseline's, with its 95 % interval.

    ``margin`` is what a difference must exceed to be claimed; ``p`` is of the hypothesis that it is
    within it, ``p_adjusted`` after Holm over all rows; the row differs where that is below 0.05.
    """

    difference: float
    low: float
    high: float
    margin: float
    p: float
    p_adjusted: float
    differs: bool


def moderated(losses: ArrayLike) -> Moderated:
    r"""Variances between seeds without what seeds share, shrunk to a common one.

    Smyth (2004), "Linear models and empirical Bayes methods", sec. 6.2: with variances
    :math:`s_i^2` of :math:`d` degrees of freedom, :math:`d_0` and :math:`s_0^2` are fitted to the
    mean and the variance of :math:`\log s_i^2`, and

    .. math:: \tilde s_i^2 = (d_0 s_0^2 + d s_i^2) / (d_0 + d)

    has :math:`d_0 + d` of them. The fitted :math:`d_0` is at most that of all rows together, and is
    then halved: so the intervals stay honest where the noise of rows differs.

    Of one row nothing tells what seeds share, which stays in its variance. Two rows have one
    variance between them, half that of their difference. Nothing is shrunk there.

    Raises:
        ValueError: There are fewer than two seeds, or a loss is not finite.
    """
    losses = _checked(losses)
    rows, seeds = losses.shape
    d = seeds - 1
    if rows == 1:
        variances = losses.var(1, ddof=1)
    else:
        effects = losses.mean(1, keepdims=True) + losses.mean(0) - losses.mean()
        variances = rows / (rows - 1) * ((losses - effects) ** 2).sum(1) / d
    variances = np.maximum(variances, _rounding(losses) ** 2)
    if rows < 3:
        return Moderated(variances, float(d), float(variances.mean()))
    prior, common = _prior(variances, d, most=(rows - 1) * d)
    prior /= 2
    return Moderated((prior * common + d * variances) / (prior + d), prior + d, common)


def noise_between_seeds(losses: ArrayLike) -> float:
    """The standard deviation between seeds that is common to rows, without what seeds share."""
    return float(np.sqrt(moderated(losses).common))


def holm(p: ArrayLike) -> Array:
    """p-values adjusted so that the chance of any false claim among them is bounded (Holm 1979)."""
    p = np.asarray(p, float)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    steps = np.minimum(1, p[order] * np.arange(len(p), 0, -1))
    adjusted[order] = np.maximum.accumulate(steps)
    return adjusted


def compare(
    losses: ArrayLike, baseline: int, lr_margins: Sequence[float]
) -> list[Difference | None]:
    """Each row against the row ``baseline``, whose own place in the list is None.

    ``lr_margins`` holds, for each row, the loss that its search for the lr may hide; of a pair the
    mean counts.

    Raises:
        ValueError: There are fewer than two seeds, or a loss is not finite.
    """
    losses = _checked(losses)
    others = np.delete(np.arange(len(losses)), baseline)
    pairs = _compare_pairs(losses, np.asarray(lr_margins), others, np.full_like(others, baseline))
    compared: list[Difference | None] = [None] * len(losses)
    columns = (pairs.difference, pairs.half_width, pairs.margin, pairs.p, holm(pairs.p))
    for row, (difference, half, margin, p, adjusted) in zip(
        others, np.array(columns).T, strict=True
    ):
        numbers = (difference, difference - half, difference + half, margin, p, adjusted)
        compared[row] = Difference(*map(float, numbers), differs=bool(adjusted < ALPHA))
    return compared


def a_a(twin: Difference) -> bool:
    """Whether the second row of the baseline's optimizer differs from the first one.

    Then the board tells apart what is the same. This is one comparison, planned beforehand, and the
    more telling the stricter it is: its p is not adjusted for the other rows.
    """
    return twin.p < ALPHA


def rank_intervals(losses: ArrayLike, lr_margins: Sequence[float]) -> list[tuple[int, int]]:
    """The ranks that each row may have: from 1 + better rows to all rows - worse rows.

    Better and worse are those that differ from it significantly, among all pairs after Holm.

    Raises:
        ValueError: There are fewer than two seeds, or a loss is not finite.
    """
    losses = _checked(losses)
    rows = len(losses)
    first, second = np.triu_indices(rows, 1)
    pairs = _compare_pairs(losses, np.asarray(lr_margins), first, second)
    differs = holm(pairs.p) < ALPHA
    lower = pairs.difference < 0
    best, worst = np.where(lower, first, second)[differs], np.where(lower, second, first)[differs]
    better = np.bincount(worst, minlength=rows)
    worse = np.bincount(best, minlength=rows)
    return [(1 + int(b), rows - int(w)) for b, w in zip(better, worse, strict=True)]


def loss_intervals(losses: ArrayLike) -> list[tuple[float, float]]:
    """The 95 % t interval of each row's expected loss over seeds, on these test records.

    What seeds share belongs to it, since other seeds would have moved the row's own loss. Its
    variance is that of the row alone: all rows met the same seeds, so that other rows, however
    many, tell nothing of how other seeds would have gone.

    Raises:
        ValueError: There are fewer than two seeds, or a loss is not finite.
    """
    losses = _checked(losses)
    return _intervals(losses.mean(1), *_mean_variances(losses))


def loss_intervals_with_records(
    losses: ArrayLike, record_losses: ArrayLike, record_tokens: ArrayLike
) -> list[tuple[float, float]]:
    r"""The 95 % interval of each row's expected loss over seeds and over other records like these.

    ``record_losses`` are rows x records, each record's loss per token averaged over the row's
    seeds, and ``record_tokens`` the tokens of each record. A loss is the ratio
    :math:`R = \sum w_r l_r / \sum w_r`, whose variance over records (Cochran 1977, sec. 2.11) is
    added to that over seeds:

    .. math:: \frac{n}{n-1} \frac{\sum w_r^2 (l_r - R)^2}{(\sum w_r)^2}

    Degrees of freedom of the sum are Welch's and Satterthwaite's.

    Raises:
        ValueError: There are fewer than two seeds or records with tokens, or a loss is not finite.
    """
    losses, per_record = _checked(losses), np.asarray(record_losses, float)
    tokens = np.asarray(record_tokens, float)
    per_record, tokens = per_record[:, tokens > 0], tokens[tokens > 0]
    n = len(tokens)
    if n < 2:
        raise ValueError(f"{n} records with tokens have no variance, expected at least 2")
    if not np.isfinite(per_record).all():
        raise ValueError("losses of records must be finite")
    weights = tokens / tokens.sum()
    residuals = weights * (per_record - (per_record @ weights)[:, None])
    of_records = n / (n - 1) * (residuals**2).sum(1)
    of_seeds, df = _mean_variances(losses)
    both = of_seeds + of_records
    return _intervals(losses.mean(1), both, both**2 / (of_seeds**2 / df + of_records**2 / (n - 1)))


@dataclass(frozen=True)
class _Pairs:
    difference: Array
    half_width: Array
    margin: Array
    p: Array


def _compare_pairs(losses: Array, lr_margins: Array, first: Indices, second: Indices) -> _Pairs:
    """Rows ``first`` less rows ``second``, by moderated t, or paired t on small boards."""
    rows, seeds = losses.shape
    assert len(lr_margins) == rows
    noise = moderated(losses)
    if rows < MODERATED_ROWS:
        paired = losses[first] - losses[second]
        variance = np.maximum(paired.var(1, ddof=1), _rounding(losses) ** 2)
        df = np.full(len(first), seeds - 1.0)
    else:
        one, other = noise.variances[first], noise.variances[second]
        variance = one + other
        df = noise.df * variance**2 / (one**2 + other**2)
    mean = losses.mean(1)
    difference = mean[first] - mean[second]
    error = np.sqrt(variance / seeds)
    margin = np.maximum(
        OF_NOISE * np.sqrt(noise.common), (lr_margins[first] + lr_margins[second]) / 2
    )
    p = np.minimum(1, 2 * _t_tail((np.abs(difference) - margin) / error, df))
    return _Pairs(difference, _t_975(df) * error, margin, p)


def _prior(variances: Array, d: int, most: float) -> tuple[float, float]:
    """Smyth's fit: degrees of freedom of the prior, at most ``most``, and the common variance."""
    from scipy.special import digamma, polygamma

    # One row without noise must not pass for proof that nothing is common (as in limma).
    variances = np.maximum(variances, 1e-5 * np.median(variances))
    logs = np.log(variances) - digamma(d / 2) + np.log(d / 2)
    excess = logs.var(ddof=1) - polygamma(1, d / 2)
    prior = most
    if excess > polygamma(1, most / 2):
        prior = min(most, 2 * _inverse_trigamma(excess))
    common = np.exp(logs.mean() + digamma(prior / 2) - np.log(prior / 2))
    return float(prior), float(common)


def _inverse_trigamma(value: float) -> float:
    """Newton's method of Smyth (2004), appendix, which rises to the solution from below."""
    from scipy.special import polygamma

    x = 0.5 + 1 / value
    for _ in range(50):
        trigamma = polygamma(1, x)
        step = trigamma * (1 - trigamma / value) / polygamma(2, x)
        x += step
        if abs(step) < 1e-9 * x:
            break
    return float(x)


def _checked(losses: ArrayLike) -> Array:
    losses = np.asarray(losses, float)
    if losses.ndim != 2 or losses.shape[1] < 2:
        raise ValueError(f"losses of shape {losses.shape}, expected rows x at least 2 seeds")
    if not np.isfinite(losses).all():
        raise ValueError("losses must be finite: leave out rows that failed")
    return losses


def _rounding(losses: Array) -> float:
    """What rounding leaves of a loss: no noise is taken to be less, so that none is zero."""
    return max(float(np.finfo(float).eps * np.abs(losses).max(initial=0)), 1e-60)


def _mean_variances(losses: Array) -> tuple[Array, float]:
    """Variance of each row's mean over seeds, from that row alone, and its degrees of freedom."""
    seeds = losses.shape[1]
    variances = np.maximum(losses.var(1, ddof=1), _rounding(losses) ** 2)
    return variances / seeds, seeds - 1.0


def _intervals(center: Array, variances: Array, df: Array | float) -> list[tuple[float, float]]:
    half = _t_975(df) * np.sqrt(variances)
    return [(float(c - h), float(c + h)) for c, h in zip(center, half, strict=True)]


def _t_tail(t: Array, df: Array | float) -> Array:
    """Chance of a value of Student's t above ``t``. scipy.stats says the same and loads slowly."""
    from scipy.special import stdtr

    return stdtr(df, -t)


def _t_975(df: Array | float) -> Array:
    from scipy.special import stdtrit

    return stdtrit(df, 0.975)
