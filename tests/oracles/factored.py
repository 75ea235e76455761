"""AdaFactor: row and column means in place of a second moment."""

from __future__ import annotations

import math

import numpy as np

from oracles.step import Path, Steps


def _rms(x: np.ndarray) -> float:
    return math.sqrt(float(np.mean(np.square(x))))


def adafactor(
    theta: np.ndarray,
    steps: Steps,
    *,
    eps: tuple[float, float],
    clip_threshold: float,
    decay_rate: float,
    beta1: float | None,
    weight_decay: float,
    scale_parameter: bool,
    relative_step: bool,
) -> Path:
    """Shazeer & Stern 2018 (1804.04235), algorithms 4 and 5; weight decay as in torch."""
    factored = theta.ndim >= 2
    row, column, full, m = 0.0, 0.0, 0.0, np.zeros_like(theta)
    for t, step in enumerate(steps, 1):
        beta2 = 1 - t ** (-decay_rate)
        square = step.g**2 + eps[0]
        if factored:
            row = beta2 * row + (1 - beta2) * square.mean(axis=-1)
            column = beta2 * column + (1 - beta2) * square.mean(axis=-2)
            # Rank one with the right row and column means; leading axes are a batch of matrices.
            outer = row[..., :, None] * column[..., None, :]
            v = outer / row.mean(axis=-1)[..., None, None]
        else:
            v = full = beta2 * full + (1 - beta2) * square
        u = step.g / np.sqrt(v)
        u = u / max(1.0, _rms(u) / clip_threshold)
        rate = min(step.lr, 1 / math.sqrt(t)) if relative_step else step.lr
        if scale_parameter:
            rate = rate * max(eps[1], _rms(theta))
        update = rate * u
        if beta1 is not None:
            update = m = beta1 * m + (1 - beta1) * update
        theta = theta - step.lr * weight_decay * theta - update
        yield theta
