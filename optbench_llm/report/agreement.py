"""How far two orders of the same rows agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

#: Fewer rows have no order to speak of.
FEWEST = 4
_RESAMPLES = 2000


@dataclass(frozen=True)
class Agreement:
    """Rank correlations of two lists of losses of the same rows, with 95 % intervals over rows.

    Spearman's rho and Kendall's tau-b are 1 for the same order, 0 for none in common, -1 for the
    reverse. The intervals are of a percentile bootstrap over rows, which are few: they are rough.
    """

    rows: int
    spearman: float
    spearman_interval: tuple[float, float]
    kendall: float
    kendall_interval: tuple[float, float]

    @property
    def in_words(self) -> str:
        """Both, with their intervals."""
        (a, b), (c, d) = self.spearman_interval, self.kendall_interval
        return (
            f"Spearman's ρ {self.spearman:.2f} ({a:.2f} to {b:.2f}), "
            f"Kendall's τ {self.kendall:.2f} ({c:.2f} to {d:.2f}), {self.rows} rows"
        )


def agreement(first: Sequence[float], second: Sequence[float]) -> Agreement | None:
    """None of fewer than four rows, or where one list is all ties."""
    x, y = np.asarray(first, float), np.asarray(second, float)
    assert x.shape == y.shape
    if len(x) < FEWEST or len(set(first)) < 2 or len(set(second)) < 2:
        return None
    random = np.random.default_rng(0)
    drawn = random.integers(0, len(x), (_RESAMPLES, len(x)))
    spearman, kendall = [], []
    for places in drawn:
        a, b = x[places], y[places]
        if len(np.unique(a)) > 1 and len(np.unique(b)) > 1:
            spearman.append(_spearman(a, b))
            kendall.append(_kendall(a, b))
    return Agreement(len(x), _spearman(x, y), _middle(spearman), _kendall(x, y), _middle(kendall))


def _middle(values: Sequence[float]) -> tuple[float, float]:
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def _spearman(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.corrcoef(_ranks(x), _ranks(y))[0, 1])


def _ranks(x: np.ndarray) -> np.ndarray:
    """Ranks, of equal values their mean."""
    return (x[:, None] > x).sum(1) + ((x[:, None] == x).sum(1) - 1) / 2


def _kendall(x: np.ndarray, y: np.ndarray) -> float:
    """tau-b, which takes ties into account."""
    a, b = np.sign(x[:, None] - x), np.sign(y[:, None] - y)
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))
